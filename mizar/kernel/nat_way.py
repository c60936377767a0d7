# SPDX-License-Identifier: Apache-2.0
"""The way of a NAT gateway's packets between its endpoint's interface, its program and the droplet's own stack.

    endpoint's interface ── stack of the namespace ── mznat0 ═ mznat1 [program] mzout1 ═ mznt… ── the droplet's stack

Called by mizar.transit.engines.nat_gateway, on any thread; the program is attached by `mizar gateway run`. The stack of
the namespace keeps tenants from what is not for them (`rules`), before the program. MACs are fixed: the program changes
none, so each side takes the other's end for its router, and the program tells the sides apart by them. What it gives
back, a hairpin's, the namespace's stack takes at mznat1, which has the MAC that it was sent to. It must never touch
an interface, a route or a neighbour that it did not make.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel import interfaces, tunnel_link
from mizar.kernel.host_forwarding import GATEWAYS
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, no_link_local, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Message, Netlink, Order
from mizar.model.errors import ConflictError, NotFoundError

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

NEAR, INNER, OUTER = "mznat0", "mznat1", "mzout1"
"""In the endpoint's namespace: the stack's end, and the two interfaces of the program."""
PREFIX = GATEWAYS
"""Of the droplet's ends."""
INSIDE_MAC, OUTSIDE_MAC = bytes.fromhex("024d5a000011"), bytes.fromhex("024d5a000012")
"""Of NEAR and of the droplet's end: what is for the second comes from inside, what is for the first from outside."""
_NEXT_OUT, _NEXT_IN = {4: "169.254.77.2", 6: "fe80::4d5a:2"}, {4: "169.254.77.1", 6: "fe80::4d5a:1"}
_NEWROUTE, _NEWRULE, _NEWNEIGH, _DELNEIGH, _GETNEIGH = 24, 32, 28, 29, 30
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_MAIN, _OUT, _PROTOCOL, _UNICAST, _ONLINK, _TO_TABLE = 254, 77, 79, 1, 4, 1
_PERMANENT, _PROXY = 0x80, 0x08
_FIRST_RULE, _LAST_RULE = 100, 1000


@dataclass(frozen=True, slots=True)
class Way:
    """Of one gateway. `interface`: the endpoint's own; `inside`: whom it serves; `public`: what it stands for."""

    uid: str
    namespace: Namespace
    interface: str
    uplink: str
    inside: tuple[Prefix, ...]
    public: tuple[Address, ...]


def name_of(uid: str) -> str:
    """Of the droplet's end."""
    return PREFIX + hashlib.sha256(uid.encode()).hexdigest()[:9]


def build(way: Way) -> None:
    """Links and routes in the namespace; nothing comes by yet. What is there stays as it is."""
    with _building(way) as (here, inside, mtu):
        _link(way, here, inside, OUTER, mtu)
        if interfaces.find(inside, NEAR) is None:
            inside.tell(_pair(NEAR, INSIDE_MAC, INNER, mtu, None))
            inside.tell([(set_link(INNER, mac=OUTSIDE_MAC), RTM_SETLINK, 0, f"name {INNER}")])
        # NAPI where the program's redirects arrive, and whole checksums where it reads.
        interfaces.set_gro(name_of(way.uid), on=True)
        interfaces.set_tx_checksum(name_of(way.uid), on=False)
        way.namespace.run(_offloads)
        _raise(inside, [NEAR, INNER, OUTER], mtu)


def build_plain(way: Way) -> None:
    """As `build`, without a program between: the namespace's own stack translates (mizar.kernel.nat_balance)."""
    with _building(way) as (here, inside, mtu):
        if _link(way, here, inside, NEAR, mtu):
            inside.tell([(set_link(NEAR, mac=INSIDE_MAC), RTM_SETLINK, 0, f"name {NEAR}")])
        way.namespace.run(lambda: _from_anywhere(NEAR))
        _raise(inside, [NEAR], mtu)


@contextlib.contextmanager
def _building(way: Way) -> Iterator[tuple[Netlink, Netlink, int]]:
    """The droplet's netlink, the namespace's, and the MTU. Behind it the droplet's end is up, and routes lead there."""
    tunnel_link.prepare(way.namespace, way.interface)
    with Netlink() as here, Netlink(way.namespace) as inside:
        mtu = interfaces.get(here, way.uplink).mtu
        yield here, inside, mtu
        _raise(here, [name_of(way.uid)], mtu)
        _lead(inside, way)


def _link(way: Way, here: Netlink, inside: Netlink, end: str, mtu: int) -> bool:
    """Between the droplet and `end` in the namespace; whether it is new."""
    name = name_of(way.uid)
    if interfaces.find(inside, end) is not None and interfaces.find(here, name) is not None:
        return False
    _delete(here, name)
    here.tell(_pair(name, OUTSIDE_MAC, end, mtu, way.namespace))
    return True


def _lead(inside: Netlink, way: Way) -> None:
    """What is for the VPC goes to its interface, all else out."""
    inside.tell([_neighbour(inside, NEAR, one, OUTSIDE_MAC) for one in _NEXT_OUT.values()])
    for version, via in _NEXT_OUT.items():
        inside.tell([_route(inside, NEAR, None, version, via, _OUT)])
    numbered = enumerate(way.inside, _FIRST_RULE)
    orders = [_rule(prefix.version, number, _MAIN, prefix) for number, prefix in numbered]
    for order in (*orders, *(_rule(version, _LAST_RULE, _OUT) for version in _FAMILY)):
        with contextlib.suppress(ConflictError):  # it is there
            inside.tell([order])


def attract(way: Way) -> list[Address]:
    """The droplet leads the public addresses to the gateway, and answers for them on its uplink; those that are new."""
    name = name_of(way.uid)
    with Netlink() as here:
        here.tell([_neighbour(here, name, one, INSIDE_MAC) for one in _NEXT_IN.values()])
        here.tell([_route(here, name, one, one.version, _NEXT_IN[one.version], _MAIN) for one in way.public])
        held = _answered(here, way.uplink)
        new = [one for one in way.public if one not in held]
        here.tell([_proxy(here, way.uplink, one) for one in new])
    return new


def remove(uid: str, uplink: str, public: Iterable[Address]) -> None:
    """The droplet attracts nothing for the gateway any more; its links and routes are gone."""
    with Netlink() as here:
        held = _answered(here, uplink) if interfaces.find(here, uplink) else set()
        for address in set(public) & held:
            with contextlib.suppress(NotFoundError):
                order = _proxy(here, uplink, address)
                here.tell([(order[0], _DELNEIGH, 0, f"answer for {address} no more")])
        _delete(here, name_of(uid))


def is_linked(way: Way) -> bool:
    """Whether the link between the namespace and the droplet is there."""
    with Netlink() as here, Netlink(way.namespace) as inside:
        return interfaces.find(here, name_of(way.uid)) is not None and interfaces.find(inside, NEAR) is not None


def missing(way: Way) -> list[str]:
    """The links, by name, of those that `build` makes that are not there."""
    with Netlink() as here, Netlink(way.namespace) as inside:
        own = [name_of(way.uid)] if interfaces.find(here, name_of(way.uid)) is None else []
        return own + [name for name in (NEAR, INNER, OUTER) if interfaces.find(inside, name) is None]


def _offloads() -> None:
    interfaces.set_gro(NEAR, on=True)
    interfaces.set_tx_checksum(NEAR, on=False)
    _from_anywhere(NEAR, INNER)


def _from_anywhere(*names: str) -> None:
    for name in names:
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")


def _pair(name: str, mac: bytes, peer_name: str, mtu: int, namespace: Namespace | None) -> list[Order]:
    """Of one queue each, as XDP wants them."""
    queues = [("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1), ("IFLA_MTU", mtu)]
    peer = [("IFLA_IFNAME", peer_name), *queues]
    peer += [("IFLA_NET_NS_FD", namespace.fd)] if namespace else []
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})]
    message = set_link(name, mac=mac)
    message["attrs"] += [*queues, ("IFLA_LINKINFO", {"attrs": info})]
    return [(message, RTM_NEWLINK, CREATE | EXCL, f"make {name}")]


def _raise(netlink: Netlink, names: Iterable[str], mtu: int) -> None:
    for name in names:
        found = interfaces.get(netlink, name)
        if not found.up or found.mtu != mtu:
            both = no_link_local(name), set_link(name, mtu=mtu, up=True)
            netlink.tell([(one, RTM_SETLINK, 0, f"raise {name}") for one in both])


def _delete(netlink: Netlink, name: str) -> None:
    if interfaces.find(netlink, name) is not None:
        netlink.tell([(set_link(name), RTM_DELLINK, 0, f"remove {name}")])


def _route(netlink: Netlink, name: str, to: Address | None, version: int, via: str, table: int) -> Order:
    message: Message = rtmsg()
    message["family"], message["table"] = _FAMILY[version], table
    message["proto"], message["type"], message["flags"] = _PROTOCOL, _UNICAST, _ONLINK
    message["attrs"] = [("RTA_OIF", interfaces.get(netlink, name).index), ("RTA_GATEWAY", via)]
    if to is not None:
        message["dst_len"] = to.max_prefixlen
        message["attrs"].append(("RTA_DST", str(to)))
    return message, _NEWROUTE, CREATE | REPLACE, f"route {to or 'everything'} over {name}"


def _rule(version: int, priority: int, table: int, to: Prefix | None = None) -> Order:
    message: Message = fibmsg()
    message["family"], message["action"], message["table"] = _FAMILY[version], _TO_TABLE, table
    message["attrs"] = [("FRA_PRIORITY", priority), ("FRA_TABLE", table)]
    if to is not None:
        message["dst_len"] = to.prefixlen
        message["attrs"].append(("FRA_DST", str(to.network_address)))
    return message, _NEWRULE, CREATE | EXCL, f"make the routing rule for {to or 'all else'}"


def _neighbour(netlink: Netlink, name: str, address: str, mac: bytes) -> Order:
    message: Message = ndmsg()
    message["family"], message["ifindex"] = _FAMILY[ip_address(address).version], interfaces.get(netlink, name).index
    message["state"] = _PERMANENT
    message["attrs"] = [("NDA_DST", address), ("NDA_LLADDR", mac.hex(":"))]
    return message, _NEWNEIGH, CREATE | REPLACE, f"name the neighbour {address} of {name}"


def _proxy(netlink: Netlink, uplink: str, address: Address) -> Order:
    message: Message = ndmsg()
    message["family"], message["ifindex"] = _FAMILY[address.version], interfaces.get(netlink, uplink).index
    message["flags"] = _PROXY
    message["attrs"] = [("NDA_DST", str(address))]
    return message, _NEWNEIGH, CREATE | REPLACE, f"answer for {address} on {uplink}"


def _answered(netlink: Netlink, uplink: str) -> set[Address]:
    """What an interface answers for."""
    index = interfaces.get(netlink, uplink).index
    found = set()
    for family in _FAMILY.values():
        question: Message = ndmsg()
        question["family"], question["flags"] = family, _PROXY
        for answer in netlink.ask(question, _GETNEIGH, "list what is answered for", dump=True):
            if answer["ifindex"] == index and answer["flags"] & _PROXY:
                found.add(ip_address(answer.get_attr("NDA_DST")))
    return found
