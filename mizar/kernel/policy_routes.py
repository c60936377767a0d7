# SPDX-License-Identifier: Apache-2.0
"""Routes in tables of their own, and the rules that choose a table by mark and interface.

Called by the gateway's kernel slow path, on the one namespace that is its own: `settle` removes all rules of its
priorities and all routes of its tables that are not wanted. It must never touch others.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mizar.kernel.interfaces import get
from mizar.kernel.netlink import CREATE, REPLACE, Message, Netlink, Order
from mizar.model.errors import NotFoundError

_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSION = {2: 4, 10: 6}
_UNICAST, _PROTOCOL, _SCOPE_LINK, _TO_TABLE = 1, 4, 253, 1
FIRST_PRIORITY, LAST_PRIORITY = 1000, 1999
FIRST_TABLE = 1000
"""Tables from here on are the gateway's."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets with `mark`, and where `interface` is given those that came in by it, are routed by `table`."""

    version: int
    priority: int
    mark: int
    table: int
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """To `network` over `interface`, to a neighbour or `via` one."""

    table: int
    network: IPv4Network | IPv6Network
    interface: str
    via: IPv4Address | IPv6Address | None = None


def rules(netlink: Netlink) -> set[Rule]:
    """The gateway's rules that are there."""
    found = set()
    for version, family in _FAMILY.items():
        question = fibmsg()
        question["family"] = family
        for answer in netlink.ask(question, _GETRULE, "list the routing rules", dump=True):
            priority = answer.get_attr("FRA_PRIORITY") or 0
            if answer["family"] == family and FIRST_PRIORITY <= priority <= LAST_PRIORITY:
                interface = answer.get_attr("FRA_IIFNAME") or ""
                mark, table = answer.get_attr("FRA_FWMARK") or 0, answer.get_attr("FRA_TABLE") or answer["table"]
                found.add(Rule(version, priority, mark, table, interface))
    return found


def settle(netlink: Netlink, wanted_rules: Iterable[Rule], wanted_routes: Iterable[Route]) -> None:
    """Makes exactly these; what is as wanted is not touched. Routes are there before the rules that lead to them."""
    routes, rules_wanted = set(wanted_routes), set(wanted_rules)
    have, have_rules = _routes(netlink), rules(netlink)
    direct = sorted(routes - have, key=lambda route: (route.via is not None, str(route)))  # a gateway needs its link
    orders = [_route(netlink, route, remove=False) for route in direct]
    orders += [_rule(rule, remove=False) for rule in sorted(rules_wanted - have_rules, key=str)]
    orders += [_rule(rule, remove=True) for rule in sorted(have_rules - rules_wanted, key=str)]
    netlink.tell(orders)
    for route in have - routes:
        with contextlib.suppress(NotFoundError):  # it went along with another
            netlink.tell([_route(netlink, route, remove=True)])


def _routes(netlink: Netlink) -> set[Route]:
    found = set()
    names: dict[int, str] = {}
    for family in _FAMILY.values():
        question = rtmsg()
        question["family"] = family
        for answer in netlink.ask(question, _GETROUTE, "list the routes", dump=True):
            table, index = answer.get_attr("RTA_TABLE") or answer["table"], answer.get_attr("RTA_OIF")
            if table < FIRST_TABLE or answer["type"] != _UNICAST or not index or answer["family"] != family:
                continue
            name = names.setdefault(index, get(netlink, index).name)
            length = answer["dst_len"]
            network = ip_network(f"{answer.get_attr('RTA_DST') or ('0.0.0.0' if family == 2 else '::')}/{length}")  # noqa: S104
            via = answer.get_attr("RTA_GATEWAY")
            gateway = None if not via else (IPv4Address(via) if _VERSION[family] == 4 else IPv6Address(via))
            found.add(Route(table, network, name, gateway))
    return found


def _route(netlink: Netlink, route: Route, *, remove: bool) -> Order:
    message: Message = rtmsg()
    message["family"], message["dst_len"] = _FAMILY[route.network.version], route.network.prefixlen
    message["proto"], message["type"] = _PROTOCOL, _UNICAST
    message["scope"] = _SCOPE_LINK if route.via is None and route.network.version == 4 else 0
    message["attrs"] = [("RTA_TABLE", route.table), ("RTA_OIF", get(netlink, route.interface).index)]
    if route.network.prefixlen:
        message["attrs"].append(("RTA_DST", str(route.network.network_address)))
    if route.via is not None:
        message["attrs"].append(("RTA_GATEWAY", str(route.via)))
    what = f"the route to {route.network} over {route.interface}"
    if remove:
        return message, _DELROUTE, 0, f"remove {what}"
    return message, _NEWROUTE, CREATE | REPLACE, f"make {what}"


def _rule(rule: Rule, *, remove: bool) -> Order:
    message: Message = fibmsg()
    message["family"], message["action"], message["table"] = _FAMILY[rule.version], _TO_TABLE, 0
    message["attrs"] = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_TABLE", rule.table),
        ("FRA_FWMARK", rule.mark),
        ("FRA_FWMASK", 0xFFFFFFFF),
    ]
    if rule.interface:
        message["attrs"].append(("FRA_IIFNAME", rule.interface))
    what = f"the routing rule for mark {rule.mark:#x}"
    return message, _DELRULE if remove else _NEWRULE, 0 if remove else CREATE, what
