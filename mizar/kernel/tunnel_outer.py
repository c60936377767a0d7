# SPDX-License-Identifier: Apache-2.0
"""The way from an endpoint's namespace to the outside for one UDP port of the droplet: a veth pair and its translation.

Called by mizar.transit.vpn_engines, on any thread. Both ends have addresses of 169.254.0.0/16 that nobody else sees;
nothing but this port and this peer gets through, and nothing to the host. A host that does not forward is made
to, for this alone: everything else that its interface would forward is dropped, and it forwards no more when the last
pair has gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel import interfaces, nftables
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Netlink
from mizar.model.errors import InvalidError, MizarError, TemporaryError

INNER = "mzouter"
_PREFIX, _GUARD = "mzvo", "mzvo_guard"
_MARK = "made to forward: "
"""On the droplet's end, with the interface that was."""
_NEWROUTE, _MAIN_TABLE, _STATIC, _UNICAST = 24, 254, 4, 1
_PAIRS = 1 << 14


def name_of(uid: str) -> str:
    """Of the droplet's end."""
    return _PREFIX + hashlib.sha256(uid.encode()).hexdigest()[:9]


def ensure(uid: str, namespace: Namespace, uplink: str, own: IPv4Address, peer: IPv4Address, port: int) -> str:
    """Makes the way, or leaves it as it is; the address in the namespace."""
    name = name_of(uid)
    with Namespace.current() as here, Netlink() as outside, Netlink(namespace) as inside:
        if interfaces.find(inside, INNER) is None:
            remove(uid, uplink)
            _refuse_used(own, port)
            _create(outside, name, namespace)
        near = interfaces.get(outside, name)
        held = [one for one in interfaces.addresses(outside, near.index) if one.version == 4]
        address = held[0] if held else _free(outside, uid)
        far = address.ip + 1
        nftables.apply(_rules(name, far, own, peer, port), here)  # before it can lead anywhere
        ends = ((outside, name, address), (inside, INNER, IPv4Interface((far, 30))))
        for netlink, end, own_address in ends:
            interface = interfaces.get(netlink, end)
            if not interface.up or own_address not in interfaces.addresses(netlink, interface.index):
                netlink.tell([(set_link(end, up=True), RTM_SETLINK, 0, f"raise {end}")])
                netlink.tell([interfaces.address_order(interface, own_address)])
        _route(inside, peer, IPv4Address(address.ip))
        _forward(outside, here, name, uplink)
        return str(far)


def is_there(uid: str, namespace: Namespace) -> bool:
    """Whether both ends are where they should be, and the rules: a firewall that starts anew takes away all of them."""
    with Namespace.current() as here, Netlink() as outside, Netlink(namespace) as inside:
        near, far = interfaces.find(outside, name_of(uid)), interfaces.find(inside, INNER)
        if near is None or far is None or not near.up or not far.up:
            return False
        return _has_table(here, near.name) and (not _switched(outside) or _has_table(here, _GUARD))


def remove(uid: str, uplink: str) -> None:
    """The way ends; with the last one the host is as it was."""
    name = name_of(uid)
    with Namespace.current() as here, Netlink() as netlink:
        pairs = [one.name for one in interfaces.listed(netlink) if one.name.startswith(_PREFIX)]
        if set(pairs) <= {name} and ((switched := _switched(netlink)) or _has_table(here, _GUARD)):
            _unguard(here, switched or uplink)
        if name in pairs:  # before its rules: without them it would lead to the host
            netlink.tell([(set_link(name), RTM_DELLINK, 0, f"remove {name}")])
        with contextlib.suppress(MizarError):
            nftables.apply(f"add table ip {name}\ndelete table ip {name}\n", here)


def _refuse_used(own: IPv4Address, port: int) -> None:
    """What comes to a port of a process of the host is that process's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trying:
        try:
            trying.bind((str(own), port))
        except OSError as error:
            raise TemporaryError(f"UDP port {port} of the droplet cannot be used: {error.strerror}") from error


def _create(netlink: Netlink, name: str, namespace: Namespace) -> None:
    peer = [("IFLA_IFNAME", INNER), ("IFLA_NET_NS_FD", namespace.fd)]
    pair = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})]
    message = set_link(name)
    message["attrs"].append(("IFLA_LINKINFO", {"attrs": pair}))
    netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, f"make {name}")])


def _free(netlink: Netlink, uid: str) -> IPv4Interface:
    """The first of four addresses that nobody here has."""
    taken = {one.ip for link in interfaces.listed(netlink) for one in interfaces.addresses(netlink, link.index)}
    start = int(hashlib.sha256(uid.encode()).hexdigest()[:8], 16)
    for step in range(_PAIRS):
        address = IPv4Address("169.254.0.1") + 4 * ((start + step) % _PAIRS)
        if address not in taken:
            return IPv4Interface((address, 30))
    raise MizarError("no address of 169.254.0.0/16 is free")


def _route(netlink: Netlink, peer: IPv4Address, via: IPv4Address) -> None:
    message = rtmsg()
    message["family"], message["dst_len"], message["table"] = 2, 32, _MAIN_TABLE
    message["proto"], message["type"] = _STATIC, _UNICAST
    message["attrs"] = [("RTA_DST", str(peer)), ("RTA_GATEWAY", str(via))]
    message["attrs"].append(("RTA_OIF", interfaces.get(netlink, INNER).index))
    netlink.tell([(message, _NEWROUTE, CREATE | REPLACE, f"route {peer} over {INNER}")])


def _rules(name: str, far: IPv4Address, own: IPv4Address, peer: IPv4Address, port: int) -> str:
    """Whole, in one transaction: flows that are there keep their translation."""
    return (
        f"add table ip {name}\ndelete table ip {name}\ntable ip {name} {{\n"
        f"  chain in {{ type nat hook prerouting priority -100; ip saddr {peer} ip daddr {own} udp dport {port} "
        f"dnat to {far}; }}\n"
        f"  chain out {{ type nat hook postrouting priority 100; ip saddr {far} udp sport {port} "
        f"snat to {own}:{port}; }}\n"
        f"  chain through {{ type filter hook forward priority 0; iifname {name} ip saddr {far} ip daddr {peer} "
        f"udp sport {port} accept; iifname {name} drop; oifname {name} ip saddr != {peer} drop; }}\n"
        f"  chain host {{ type filter hook input priority 0; iifname {name} drop; }}\n}}\n"
    )


def _forward(outside: Netlink, here: Namespace, name: str, uplink: str) -> None:
    def forwarding() -> Path:
        return Path(f"/proc/sys/net/ipv4/conf/{uplink}/forwarding")

    def open_own() -> None:
        Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1")
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")

    here.run(open_own)
    off = here.run(lambda: forwarding().read_text().strip() == "0")
    if not off and not _switched(outside) and not _has_table(here, _GUARD):
        return  # the host forwards of its own accord
    # Before all else each pair says whose doing it is: rules can be taken away by whoever restarts a firewall.
    outside.tell([(set_link(name, alias=_MARK + uplink), RTM_SETLINK, 0, f"mark {name}")])
    guard = f'iifname {uplink} oifname != "{_PREFIX}*" drop;'
    chain = f"chain through {{ type filter hook forward priority 0; {guard} }}"
    nftables.apply(f"add table ip {_GUARD}\ndelete table ip {_GUARD}\ntable ip {_GUARD} {{\n{chain}\n}}\n", here)
    if off:
        here.run(lambda: forwarding().write_text("1"))


def _switched(outside: Netlink) -> str:
    """The interface that was made to forward for pairs; empty for none."""
    marks = (one.alias for one in interfaces.listed(outside) if one.name.startswith(_PREFIX))
    return next((mark.removeprefix(_MARK) for mark in marks if mark.startswith(_MARK)), "")


def _has_table(here: Namespace, name: str) -> bool:
    with contextlib.suppress(InvalidError):
        nftables.apply(f"list table ip {name}\n", here)
        return True
    return False


def _unguard(here: Namespace, uplink: str) -> None:
    """The host forwards no more, and then the guard goes: never the one without the other."""

    def close() -> None:
        with contextlib.suppress(FileNotFoundError):  # the interface has gone
            Path(f"/proc/sys/net/ipv4/conf/{uplink}/forwarding").write_text("0")

    here.run(close)
    nftables.apply(f"add table ip {_GUARD}\ndelete table ip {_GUARD}\n", here)
