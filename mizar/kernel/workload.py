# SPDX-License-Identifier: Apache-2.0
"""The workload's end of an endpoint's link, inside of its network namespace.

Owns addresses, routes and offloads there. Called by links alone. It must never change what belongs to another
interface of the namespace; the one exception is the loopback, which is brought up.
"""

from __future__ import annotations

import errno
from ipaddress import ip_address
from pathlib import Path

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel import interfaces, libbpf
from mizar.kernel.endpoint_link import EndpointLink
from mizar.kernel.interfaces import RTM_SETLINK, Interface, no_link_local, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, REPLACE, Message, Netlink, Order
from mizar.model.errors import ConflictError, NotFoundError

_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6
_MAIN_TABLE, _PROTOCOL_STATIC, _UNICAST = 254, 4, 1


def configure(
    link: EndpointLink, namespace: Namespace, inside: Netlink, inner: Interface, *, fresh: bool = False
) -> bool:
    """Brings the workload's end to what `link` says; returns whether anything had to be changed. `fresh`: it was just
    made, and has neither addresses nor routes.

    Raises ConflictError when the namespace has a default route over another interface already.
    """
    left_alone = link.self_configured and not link.takes_over
    bare, unasked = left_alone or link.standby, left_alone or fresh
    want = set() if bare else set(link.addresses)
    gateways = () if bare else link.gateways
    found = [] if unasked else interfaces.addresses(inside, inner.index)
    have = {address for address in found if address in want or not address.is_link_local}  # those are the workload's
    routes = set() if unasked else default_gateways(inside, inner.index)
    orders: list[Order] = []
    if not inner.up:
        namespace.run(lambda: _prepare(link))
        if not link.self_configured:
            orders.append((no_link_local(inner.name), RTM_SETLINK, 0, f"configure {inner.name}"))
        orders.append((set_link("lo", up=True), RTM_SETLINK, 0, "bring up the loopback"))
    if inner.up and inner.mtu != link.mtu:
        namespace.run(lambda: interfaces.set_gro(link.name_inside, not link.bypass))
    if inner.mac != link.mac or inner.mtu != link.mtu:
        facts = set_link(inner.name, mac=link.mac, mtu=link.mtu)
        orders.append((facts, RTM_SETLINK, 0, f"set MAC and MTU of {inner.name}"))
    if not inner.up:
        up = set_link(inner.name, up=True)
        orders.append((up, RTM_SETLINK, 0, f"bring up {inner.name}"))
    for unwanted in sorted(routes - {str(gateway) for gateway in gateways}):
        orders.append(_route_order(_RTM_DELROUTE, 0, inner, unwanted, "remove the default route over"))
    # Remove before adding: the first address of a subnet takes its other ones along (promote_secondaries = 0).
    for address in sorted(have - want, key=str):
        orders.append(interfaces.address_order(inner, address, remove=True))
    for address in sorted(want - have, key=str):
        orders.append(interfaces.address_order(inner, address))
    # Removing an address takes the routes that need it along, so all of them are written whenever addresses change.
    for gateway in gateways:
        if str(gateway) not in routes or want != have:
            flags = CREATE | (REPLACE if str(gateway) in routes or link.takes_over else EXCL)
            orders.append(_route_order(_RTM_NEWROUTE, flags, inner, str(gateway), "set the default route over"))
    if orders:
        try:
            inside.tell(orders)
        except ConflictError as error:
            raise ConflictError(f"{error}; the workload's namespace {namespace.spec} has one already") from error
    return bool(orders)


def take_name(link: EndpointLink, inside: Netlink, inner: Interface) -> bool:
    """Gives the workload's end the name that it should have; returns whether it had another.

    Raises ConflictError when an interface has the name that may not be pushed out of it.
    """
    if inner.name == link.name_inside:
        return False
    holder = interfaces.find(inside, link.name_inside)
    if holder is not None:
        if not link.takes_over or holder.mac != link.mac:
            raise ConflictError(f"the name {link.name_inside} is taken by another interface of the workload")
        _rename(inside, holder, link.name_aside)
    _rename(inside, inner, link.name_inside)
    return True


def _rename(inside: Netlink, interface: Interface, name: str) -> None:
    """Before Linux 6.2 an interface that is up keeps its name: there it is down for a moment."""
    message = ifinfmsg()
    message["index"] = interface.index
    message["attrs"] = [("IFLA_IFNAME", name)]
    what = f"rename {interface.name} to {name}"
    try:
        inside.tell([(message, RTM_SETLINK, 0, what)])
    except ConflictError as error:
        if libbpf.errno_of(error) != errno.EBUSY:
            raise
        down, up = set_link(interface.name, up=False), set_link(name, up=True)
        inside.tell([(down, RTM_SETLINK, 0, what), (message, RTM_SETLINK, 0, what), (up, RTM_SETLINK, 0, what)])


def _prepare(link: EndpointLink) -> None:
    """In the workload's namespace, while the interface is down."""
    interfaces.set_gro(link.name_inside, not link.bypass)
    interfaces.end_encapsulated_segmentation(link.name_inside)
    if any(address.version == 6 for address in link.addresses):
        # Container runtimes switch IPv6 off where they gave no address; this interface gets one.
        switch = Path(f"/proc/sys/net/ipv6/conf/{link.name_inside}/disable_ipv6")
        if switch.exists() and switch.read_text().strip() != "0":
            switch.write_text("0")


def _route_order(kind: int, flags: int, inner: Interface, gateway: str, what: str) -> Order:
    message = _route(ip_address(gateway).version)
    message["attrs"] = [("RTA_OIF", inner.index), ("RTA_GATEWAY", gateway)]
    return message, kind, flags, f"{what} {gateway}"


def _route(version: int) -> Message:
    message = rtmsg()
    message["family"], message["table"] = _FAMILY[version], _MAIN_TABLE
    message["proto"], message["type"], message["scope"] = _PROTOCOL_STATIC, _UNICAST, 0
    return message


def default_gateways(inside: Netlink, index: int) -> set[str]:
    """Gateways of the default routes over an interface."""
    found = set()
    for version in (4, 6):
        question = rtmsg()
        question["family"], question["table"] = _FAMILY[version], _MAIN_TABLE
        question["attrs"] = [("RTA_OIF", index)]
        try:
            answers = inside.ask(question, _RTM_GETROUTE, "list the default routes", dump=True)
        except NotFoundError:
            continue  # the main table is made with its first route
        for answer in answers:
            gateway = answer.get_attr("RTA_GATEWAY")
            if answer["dst_len"] == 0 and answer.get_attr("RTA_OIF") == index and gateway:
                found.add(str(gateway))
    return found
