# SPDX-License-Identifier: Apache-2.0
"""Route tables of networks, and the sources of appliances, as entries of the map `routes`, and back.

Called by `batch`, `appliances` and `readback`. Pure.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mizar.model.addresses import from_mapped, mapped_length, to_mapped
from mizar.transit.entries import Op
from mizar.transit.state import State
from mizar.transit.values import Network, NextHop, Route, RouteAction, Tunnel

_ACTIONS = frozenset(int(action) for action in RouteAction)


def routes_put(state: State, network: Network) -> list[Op]:
    """All of a network's table."""
    return put(state, network.hops, network.routes)


def routes_delete(network: Network, keep: Network | None = None) -> list[Op]:
    """What of a network's table is not in its next state."""
    return delete(network.hops, network.routes, keep.routes if keep else ())


def put(state: State, table: int, found: Iterable[Route]) -> list[Op]:
    """All of a table."""
    return [Op("routes", _key(table, route), _value(state, route)) for route in found]


def delete(table: int, found: Iterable[Route], keep: Iterable[Route]) -> list[Op]:
    """What of a table is not in its next state."""
    kept = {route[:2] for route in keep}
    return [Op("routes", _key(table, route), None) for route in found if route[:2] not in kept]


def routes_of(items: Iterator[tuple[Any, Any]], droplets: Mapping[int, bytes]) -> dict[int, tuple[Route, ...]]:
    """The tables that the map holds, by number; `droplets`: their addresses by slot."""
    found: dict[int, list[Route]] = {}
    for key, value in items:
        table = int.from_bytes(key["table_be"].to_bytes(4, sys.byteorder), "big")
        address = key["addr"] if table & 1 else from_mapped(key["addr"])
        length = key["prefix_bits"] - 32 - mapped_length(address, 0)
        if value["action"] in _ACTIONS and len(address) == (16 if table & 1 else 4):
            action, via = RouteAction(value["action"]), None
            if action is RouteAction.ENDPOINT:
                host = droplets.get(value["droplet"])
                if host is None:
                    continue
                via = NextHop(value["mac"], host, Tunnel(value["tunnel"]), value["network_id"])
            found.setdefault(table >> 1, []).append(Route(address, length, action, via))
    return {number: tuple(sorted(table, key=lambda route: route[:2])) for number, table in found.items()}


def _value(state: State, route: Route) -> dict[str, Any]:
    if route.via is None:
        return {"action": int(route.action)}
    mac, host, tunnel, network_id = route.via
    slot = state.droplets[host].slot
    return {"action": int(route.action), "mac": mac, "droplet": slot, "tunnel": int(tunnel), "network_id": network_id}


def _key(table: int, route: Route) -> dict[str, Any]:
    number = table << 1 | (len(route.address) == 16)
    return {
        "prefix_bits": 32 + mapped_length(route.address, route.length),
        "table_be": int.from_bytes(number.to_bytes(4, "big"), sys.byteorder),
        "addr": to_mapped(route.address),
    }
