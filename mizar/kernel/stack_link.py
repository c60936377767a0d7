# SPDX-License-Identifier: Apache-2.0
"""The veth pair between the data plane and the host's own stack, and the stack's routes to endpoints over it.

Owns making, adjusting and deleting both; whose a pair is, its group and alias tell. One pair for each instance, both
ends in the namespace of the droplet. It must never touch an interface or a route that it did not make.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel import interfaces
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, Interface, no_link_local, set_link
from mizar.kernel.netlink import CREATE, EXCL, Message, Netlink, Order
from mizar.model.errors import ConflictError, NotFoundError

Address = IPv4Address | IPv6Address

STACK_MAC = bytes.fromhex("024d5a000004")
"""Of the stack's end, as the data plane writes it (dataplane/lib/substrate.h)."""

_GROUP = 0x4D5B
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6
_MAIN_TABLE, _UNICAST, _SCOPE_LINK = 254, 1, 253
_PROTOCOL = 77
"""By which `ip route` tells these routes; free in /etc/iproute2/rt_protos."""
_IFF_NOARP = 0x80
_SWITCHES = ("ipv4/conf/{}/accept_redirects", "ipv6/conf/{}/accept_redirects", "ipv6/conf/{}/accept_ra",
             "ipv4/conf/{}/send_redirects", "ipv4/conf/{}/accept_source_route")  # fmt: skip


def names(instance: str) -> tuple[str, str]:
    """Of the data plane's end and of the stack's, which routes name."""
    tail = hashlib.sha256(instance.encode()).hexdigest()[:8]
    return f"mzsubp{tail}", f"mzsub{tail}"


def ensure(
    netlink: Netlink, instance: str, mtu: int, guard: Callable[[Interface], None]
) -> tuple[Interface, Interface]:
    """Makes the pair, or adjusts what is there; returns the data plane's end and the stack's.

    `guard` is called with the data plane's end before it is up; what it raises is raised. Raises ConflictError when a
    name is another's.
    """
    own, stack = names(instance)
    if _held(netlink, instance) is None:
        _create(netlink, instance, mtu)
    guard(interfaces.get(netlink, own))
    for switch in _SWITCHES:  # what endpoints send shall not change how the host routes
        with contextlib.suppress(OSError):
            Path("/proc/sys/net", switch.format(stack)).write_text("0")
    orders: list[Order] = []
    for name in (own, stack):
        facts = interfaces.get(netlink, name)
        if not facts.up or facts.mtu != mtu:
            what = f"configure {name}"
            orders += [(no_link_local(name), RTM_SETLINK, 0, what), (_up(name, mtu), RTM_SETLINK, 0, what)]
    if orders:
        netlink.tell(orders)
    return interfaces.get(netlink, own), interfaces.get(netlink, stack)


def remove(netlink: Netlink, instance: str) -> bool:
    """Deletes the pair, and with it the routes; False when there was none."""
    with contextlib.suppress(ConflictError):
        found = _held(netlink, instance)
        if found is not None:
            message = ifinfmsg()
            message["index"] = found.index
            netlink.tell([(message, RTM_DELLINK, 0, f"delete {found.name}")])
            return True
    return False


def routed(netlink: Netlink, stack: Interface) -> set[Address]:
    """The addresses that the stack has routes to over the pair."""
    found = set()
    for version in (4, 6):
        question = rtmsg()
        question["family"], question["table"] = _FAMILY[version], _MAIN_TABLE
        question["attrs"] = [("RTA_OIF", stack.index)]
        with contextlib.suppress(NotFoundError):  # the main table is made with its first route
            for answer in netlink.ask(question, _RTM_GETROUTE, "list routes to endpoints", dump=True):
                if answer["proto"] == _PROTOCOL and answer.get_attr("RTA_OIF") == stack.index:
                    found.add(ip_address(answer.get_attr("RTA_DST")))
    return found


def route(netlink: Netlink, stack: Interface, add: Iterable[Address], drop: Iterable[Address]) -> None:
    """Changes the stack's routes. All are tried; raises ConflictError where the host has such a route of its own."""
    orders = [(_route(stack, one), _RTM_DELROUTE, 0, f"forget the route to {one}") for one in drop]
    orders += [(_route(stack, one), _RTM_NEWROUTE, CREATE | EXCL, f"make a route to endpoint {one}") for one in add]
    if orders:
        netlink.tell(orders)


def _route(stack: Interface, address: Address) -> Message:
    message = rtmsg()
    message["family"], message["table"] = _FAMILY[address.version], _MAIN_TABLE
    message["proto"], message["type"] = _PROTOCOL, _UNICAST
    message["scope"] = _SCOPE_LINK if address.version == 4 else 0
    message["dst_len"] = address.max_prefixlen
    message["attrs"] = [("RTA_DST", str(address)), ("RTA_OIF", stack.index)]
    return message


def _alias(instance: str) -> str:
    return f"mizar-substrate {instance}"


def _held(netlink: Netlink, instance: str) -> Interface | None:
    """The data plane's end; None where there is none. Raises ConflictError when its name is another's."""
    own, _ = names(instance)
    found = interfaces.find(netlink, own)
    if found is not None and found.group != _GROUP:
        raise ConflictError(f"the interface {own} was not made by Mizar and is left alone")
    return found


def _create(netlink: Netlink, instance: str, mtu: int) -> None:
    own, stack = names(instance)
    peer = {
        "attrs": [
            ("IFLA_IFNAME", stack),
            ("IFLA_MTU", mtu),
            ("IFLA_ADDRESS", STACK_MAC.hex(":")),
        ]
    }
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]
    message = ifinfmsg()
    message["attrs"] = [
        ("IFLA_IFNAME", own),
        ("IFLA_MTU", mtu),
        ("IFLA_GROUP", _GROUP),
        ("IFLA_LINKINFO", {"attrs": info}),
    ]
    netlink.tell([
        (message, RTM_NEWLINK, CREATE | EXCL, f"make the link {own} into the host's stack"),
        (set_link(own, alias=_alias(instance)), RTM_SETLINK, 0, f"configure {own}"),
    ])  # fmt: skip


def _up(name: str, mtu: int) -> Message:
    """Without ARP and discovery: there is nobody to ask, and the data plane knows all MACs."""
    message = set_link(name, mtu=mtu, up=True)
    message["flags"] |= _IFF_NOARP
    message["change"] |= _IFF_NOARP
    return message
