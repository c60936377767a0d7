# SPDX-License-Identifier: Apache-2.0
"""The maps of a gateway, each with its types, as the comments of contracts/gateway.h tell.

Called by the gateway's process and by tests. Reading and writing is done by maps.py; `create` makes maps without any
program, of the same shape, for who wants to try what fills them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import close

from mizar.kernel import libbpf
from mizar.kernel.connection_table import ConnectionTable, settle
from mizar.kernel.layout import U32, Fields, constant, size, struct_codec
from mizar.kernel.maps import Table
from mizar.model.errors import InvalidError

_HASH, _ARRAY, _TRIE, _NO_PREALLOC, _MMAPABLE = 1, 2, 11, 1, 1 << 10
_COARSE = 6  # CLOCK_MONOTONIC_COARSE, the clock of bpf_ktime_get_coarse_ns()
_SHAPES = {
    "connections4": (_HASH, "connection4_key", "connection4", 1 << 16),
    "connections6": (_HASH, "connection6_key", "connection6", 1 << 16),
    "lines4": (_ARRAY, "", "connection4_line", 1),
    "lines6": (_ARRAY, "", "connection6_line", 1),
    "connection_places": (_ARRAY, "", "connection_places", 1),
    "nat_settings": (_ARRAY, "", "nat_settings", 1),
    "nat_sources": (_TRIE, "nat_source_key", "nat_source", 1 << 16),
    "nat_pools": (_ARRAY, "", "nat_pool", 1024),
    "nat_addresses": (_ARRAY, "", "nat_address", 1 << 16),
    "nat_ends": (_TRIE, "nat_end_key", "nat_end", 1 << 16),
    "nat_mappings": (_HASH, "nat_mapping_key", "nat_mapping", 1 << 16),
    "nat_tenants": (_HASH, "", "nat_tenant", 1 << 16),
}
"""Kind, key ("" for uint32_t), value, entries."""


@dataclass(frozen=True)
class GatewayTables:
    """What connections there are, and what they are made by."""

    connections4: ConnectionTable
    connections6: ConnectionTable
    nat_settings: Table[int, Fields]
    nat_sources: Table[Fields, Fields]
    nat_pools: Table[int, Fields]
    nat_addresses: Table[int, Fields]
    nat_ends: Table[Fields, Fields]
    nat_mappings: Table[Fields, Fields]
    nat_tenants: Table[int, Fields]
    maps: Mapping[str, int]
    """The open maps."""

    @classmethod
    def of(cls, maps: Mapping[str, int]) -> GatewayTables:
        """Tables over open maps by name; new maps are made ready for use.

        Raises InvalidError when one is missing or has other sizes.
        """
        missing = _SHAPES.keys() - maps.keys()
        if missing:
            raise InvalidError(f"the gateway's program has no map {', '.join(sorted(missing))}")

        def numbered(name: str) -> Table[int, Fields]:
            return Table(name, maps[name], U32, struct_codec(_SHAPES[name][2]))

        def keyed(name: str) -> Table[Fields, Fields]:
            _, key, value, _ = _SHAPES[name]
            return Table(name, maps[name], struct_codec(key), struct_codec(value))

        settle(maps)
        return cls(
            connections4=ConnectionTable(4, maps),
            connections6=ConnectionTable(6, maps),
            nat_settings=numbered("nat_settings"),
            nat_sources=keyed("nat_sources"),
            nat_pools=numbered("nat_pools"),
            nat_addresses=numbered("nat_addresses"),
            nat_ends=keyed("nat_ends"),
            nat_mappings=keyed("nat_mappings"),
            nat_tenants=numbered("nat_tenants"),
            maps=dict(maps),
        )


def is_translating(maps: Mapping[str, int]) -> bool:
    """Whether a program with these maps has connections at all."""
    return maps.keys() >= _SHAPES.keys()


@contextmanager
def created(entries: Mapping[str, int] | None = None) -> Iterator[GatewayTables]:
    """Maps of their own for the length of a block; `entries`: of some by name, how many they hold."""
    maps: dict[str, int] = {}
    try:
        for name, (kind, key, value, most) in _SHAPES.items():
            flags = _MMAPABLE if name.startswith("lines") else 0 if kind == _ARRAY else _NO_PREALLOC
            key_size = size(key) if key else 4
            maps[name] = libbpf.make_map(kind, key_size, size(value), (entries or {}).get(name, most), flags)
        yield GatewayTables.of(maps)
    finally:
        for fd in maps.values():
            close(fd)


def tick(now_ns: int | None = None) -> int:
    """A time of the kernel's coarse clock in ticks; without one, now."""
    found = time.clock_gettime_ns(_COARSE) if now_ns is None else now_ns
    return (found >> constant("GATEWAY_TICK_SHIFT")) & 0xFFFFFFFF


def ticks(seconds: float) -> int:
    """A length of time in ticks, rounded up."""
    return -(-round(seconds * 1_000_000_000) >> constant("GATEWAY_TICK_SHIFT"))
