# SPDX-License-Identifier: Apache-2.0
"""The way from an endpoint's namespace to the outside for one UDP port of the droplet: a veth pair and its translation.

Called by mizar.transit.vpn_engines, on any thread. Both ends have addresses of 169.254.0.0/16, or of an IPv6 prefix of
their own, that nobody else sees; nothing but this port and this peer gets through, and nothing to the host. A host that
does not forward is made to, for this alone: everything else that its interface would forward is dropped, and it
forwards no more when the last pair has gone. For IPv6 that takes a kernel that lets one interface forward (6.17).
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from pathlib import Path

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel import host_forwarding, interfaces, nftables
from mizar.kernel.host_forwarding import TUNNELS
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Netlink
from mizar.model.errors import InvalidError, MizarError, TemporaryError

INNER = "mzouter"
"""How the names of ends in namespaces begin."""
PREFIX = TUNNELS
_FIRST = {4: ip_address("169.254.0.1"), 6: ip_address("fd6d:697a:6172::1")}
_SHORT = {4: 30, 6: 126}
_TABLE, _WORD = {4: "ip", 6: "ip6"}, {4: "ipv4", 6: "ipv6"}
_SWITCH = {4: "forwarding", 6: "force_forwarding"}
_NEWROUTE, _MAIN_TABLE, _STATIC, _UNICAST = 24, 254, 4, 1
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
Address = IPv4Address | IPv6Address
_PAIRS = 1 << 14


def name_of(uid: str) -> str:
    """Of the droplet's end."""
    return PREFIX + hashlib.sha256(uid.encode()).hexdigest()[:9]


def inner_of(uid: str) -> str:
    """Of the end in the namespace."""
    return INNER + hashlib.sha256(uid.encode()).hexdigest()[:8]


def ensure(uid: str, namespace: Namespace, uplink: str, own: Address, peer: Address, port: int) -> str:
    """Makes the way, or leaves it as it is; the address in the namespace. `own` and `peer` are of one family."""
    name, inner, version = name_of(uid), inner_of(uid), peer.version
    with Namespace.current() as here, Netlink() as outside, Netlink(namespace) as inside:
        if version == 6:
            _refuse_unable(here, uplink)
        if interfaces.find(inside, inner) is None:
            remove(uid, uplink)
            _refuse_used(own, port)
            _create(outside, name, inner, namespace)
        near = interfaces.get(outside, name)
        addresses = interfaces.addresses(outside, near.index)
        held = [one for one in addresses if one.version == version and one.network.prefixlen == _SHORT[version]]
        address = held[0] if held else _free(outside, uid, version)
        far = address.ip + 1
        nftables.apply(_rules(name, far, own, peer, port), here)  # before it can lead anywhere
        ends = ((outside, name, address), (inside, inner, ip_interface((far, _SHORT[version]))))
        for netlink, end, own_address in ends:
            interface = interfaces.get(netlink, end)
            if not interface.up or own_address not in interfaces.addresses(netlink, interface.index):
                netlink.tell([(set_link(end, up=True), RTM_SETLINK, 0, f"raise {end}")])
                netlink.tell([interfaces.address_order(interface, own_address)])
        _route(inside, inner, peer, address.ip)
        _forward(outside, here, name, uplink, version)
        return str(far)


def is_there(uid: str, namespace: Namespace, version: int) -> bool:
    """Whether both ends are where they should be, and the rules: a firewall that starts anew takes away all of them."""
    with Namespace.current() as here, Netlink() as outside, Netlink(namespace) as inside:
        near, far = interfaces.find(outside, name_of(uid)), interfaces.find(inside, inner_of(uid))
        if near is None or far is None or not near.up or not far.up:
            return False
        own = all(_has_table(here, near.name, one) for one in _TABLE)
        return own and host_forwarding.is_guarded(outside, here, version)


def remove(uid: str, uplink: str) -> None:
    """The way ends; with the last one the host is as it was."""
    name = name_of(uid)
    with Namespace.current() as here, Netlink() as netlink:
        host_forwarding.release(netlink, here, name, uplink)
        if interfaces.find(netlink, name) is not None:  # before its rules: without them it would lead to the host
            netlink.tell([(set_link(name), RTM_DELLINK, 0, f"remove {name}")])
        for table in _TABLE.values():
            with contextlib.suppress(MizarError):
                nftables.apply(f"add table {table} {name}\ndelete table {table} {name}\n", here)


def _refuse_unable(here: Namespace, uplink: str) -> None:
    def able() -> bool:
        conf = Path("/proc/sys/net/ipv6/conf")
        return (conf / "all/forwarding").read_text().strip() != "0" or (conf / uplink / _SWITCH[6]).exists()

    if not here.run(able):
        message = "the host forwards no IPv6, and its kernel (before 6.17) has no switch for one interface"
        raise TemporaryError(f"{message}: turn net.ipv6.conf.all.forwarding on, or reach the peer by IPv4")


def _refuse_used(own: Address, port: int) -> None:
    """What comes to a port of a process of the host is that process's."""
    with socket.socket(_FAMILY[own.version], socket.SOCK_DGRAM) as trying:
        try:
            trying.bind((str(own), port))
        except OSError as error:
            raise TemporaryError(f"UDP port {port} of the droplet cannot be used: {error.strerror}") from error


def _create(netlink: Netlink, name: str, inner: str, namespace: Namespace) -> None:
    peer = [("IFLA_IFNAME", inner), ("IFLA_NET_NS_FD", namespace.fd)]
    pair = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})]
    message = set_link(name)
    message["attrs"].append(("IFLA_LINKINFO", {"attrs": pair}))
    netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, f"make {name}")])


def _free(netlink: Netlink, uid: str, version: int) -> IPv4Interface | IPv6Interface:
    """The first of four addresses that nobody here has."""
    taken = {one.ip for link in interfaces.listed(netlink) for one in interfaces.addresses(netlink, link.index)}
    start = int(hashlib.sha256(uid.encode()).hexdigest()[:8], 16)
    for step in range(_PAIRS):
        address = _FIRST[version] + 4 * ((start + step) % _PAIRS)
        if address not in taken:
            return ip_interface((address, _SHORT[version]))
    raise MizarError(f"no address from {_FIRST[version]} on is free")


def _route(netlink: Netlink, inner: str, peer: Address, via: Address) -> None:
    message = rtmsg()
    message["family"], message["dst_len"] = _FAMILY[peer.version], peer.max_prefixlen
    message["table"] = _MAIN_TABLE
    message["proto"], message["type"] = _STATIC, _UNICAST
    message["attrs"] = [("RTA_DST", str(peer)), ("RTA_GATEWAY", str(via))]
    message["attrs"].append(("RTA_OIF", interfaces.get(netlink, inner).index))
    netlink.tell([(message, _NEWROUTE, CREATE | REPLACE, f"route {peer} over {inner}")])


def _rules(name: str, far: Address, own: Address, peer: Address, port: int) -> str:
    """Whole, in one transaction: flows that are there keep their translation."""
    ip, other = _TABLE[peer.version], _TABLE[10 - peer.version]
    outside = f"{own}:{port}" if ip == "ip" else f"[{own}]:{port}"
    solicited = f"iifname {name} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept; "
    neighbours = solicited if ip == "ip6" else ""
    return (
        f"add table {ip} {name}\ndelete table {ip} {name}\ntable {ip} {name} {{\n"
        f"  chain in {{ type nat hook prerouting priority -100; {ip} saddr {peer} {ip} daddr {own} udp dport {port} "
        f"dnat to {far}; }}\n"
        f"  chain out {{ type nat hook postrouting priority 100; {ip} saddr {far} udp sport {port} "
        f"snat to {outside}; }}\n"
        f"  chain through {{ type filter hook forward priority 0; iifname {name} {ip} saddr {far} {ip} daddr {peer} "
        f"udp sport {port} accept; iifname {name} drop; oifname {name} {ip} saddr != {peer} drop; }}\n"
        f"  chain host {{ type filter hook input priority 0; {neighbours}iifname {name} drop; }}\n}}\n"
        # Whoever is in the namespace may speak the other family there as well.
        f"add table {other} {name}\ndelete table {other} {name}\ntable {other} {name} {{\n"
        f"  chain through {{ type filter hook forward priority 0; iifname {name} drop; oifname {name} drop; }}\n"
        f"  chain host {{ type filter hook input priority 0; iifname {name} drop; }}\n}}\n"
    )


def _forward(outside: Netlink, here: Namespace, name: str, uplink: str, version: int) -> None:
    conf, switch = Path("/proc/sys/net", _WORD[version], "conf"), _SWITCH[version]

    def open_own() -> None:
        Path("/proc/sys/net/ipv4/conf", name, "forwarding").write_text(str(int(version == 4)))
        if version == 4:
            Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6").write_text("1")
        elif (path := conf / name / switch).exists():
            path.write_text("1")

    here.run(open_own)
    host_forwarding.allow(outside, here, name, uplink, version)


def _has_table(here: Namespace, name: str, version: int) -> bool:
    with contextlib.suppress(InvalidError):
        nftables.apply(f"list table {_TABLE[version]} {name}\n", here)
        return True
    return False
