# SPDX-License-Identifier: Apache-2.0
"""Route tables of networks as entries of the map `routes`, and back. Called by `batch` and `readback`. Pure."""

import sys
from collections.abc import Iterator
from typing import Any

from mizar.model.addresses import from_mapped, mapped_length, to_mapped
from mizar.transit.entries import Op
from mizar.transit.values import Network, Route, RouteAction

_ACTIONS = frozenset(int(action) for action in RouteAction)


def routes_put(network: Network) -> list[Op]:
    """All of a network's table."""
    return [Op("routes", _key(network, route), {"action": int(route[2])}) for route in network.routes]


def routes_delete(network: Network, keep: Network | None = None) -> list[Op]:
    """What of a network's table is not in its next state."""
    kept = {route[:2] for route in keep.routes} if keep else set()
    return [Op("routes", _key(network, route), None) for route in network.routes if route[:2] not in kept]


def routes_of(items: Iterator[tuple[Any, Any]]) -> dict[int, tuple[Route, ...]]:
    """The tables that the map holds, by the slot of their network."""
    found: dict[int, list[Route]] = {}
    for key, value in items:
        table = int.from_bytes(key["table_be"].to_bytes(4, sys.byteorder), "big")
        address = key["addr"] if table & 1 else from_mapped(key["addr"])
        length = key["prefix_bits"] - 32 - mapped_length(address, 0)
        if value["action"] in _ACTIONS and len(address) == (16 if table & 1 else 4):
            found.setdefault(table >> 1, []).append((address, length, RouteAction(value["action"])))
    return {slot: tuple(sorted(table)) for slot, table in found.items()}


def _key(network: Network, route: Route) -> dict[str, Any]:
    address, length, _ = route
    table = network.hops << 1 | (len(address) == 16)
    return {
        "prefix_bits": 32 + mapped_length(address, length),
        "table_be": int.from_bytes(table.to_bytes(4, "big"), sys.byteorder),
        "addr": to_mapped(address),
    }
