# SPDX-License-Identifier: Apache-2.0
"""The maps of network functions, each with its types, as the comments of contracts/function.h tell.

Called by the daemon's functions and by tests. Beside tables.py because no other part of the daemon writes these.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from mizar.kernel.layout import U32, Codec, Fields, constant, struct_codec
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.maps import CounterTable, Table
from mizar.model.errors import InvalidError

U64: Codec[int] = Codec(
    "uint64_t", 8, lambda value: struct.pack("=Q", value), lambda data: int(struct.unpack("=Q", data)[0])
)
"""A plain uint64_t: bits of functions."""


def held_program(table: int, at: int) -> int:
    """The id of the program at one place of a map of programs; 0: there is none."""
    value = ffi.new("uint32_t *")
    return int(value[0]) if lib().bpf_map_lookup_elem(table, U32.pack(at), value) == 0 else 0


def parked(table: int) -> int:
    """The id of the program that stands at places which nobody enters; 0: there is none."""
    return held_program(table, constant("FUNCTION_END"))


@dataclass(frozen=True)
class FunctionTables:
    """The tables, and the maps of programs (descriptors) by hook."""

    switches: Table[int, Fields]
    vpc_functions: Table[int, int]
    endpoint_functions: Table[int, int]
    network_functions: Table[int, int]
    group_functions: Table[Fields, int]
    counters: CounterTable
    drops: CounterTable
    frames: CounterTable
    heads: Mapping[str, int]

    @classmethod
    def of(cls, maps: Mapping[str, int], *, generic: bool = False) -> FunctionTables:
        """Tables over open maps by name. `generic`: Transit XDP runs in generic mode. Raises InvalidError."""
        wanted = {"xdp": "function_xdp_generic" if generic else "function_xdp", "tc": "function_tc"}
        missing = [name for name in (*wanted.values(), "function_switches") if name not in maps]
        if missing:
            raise InvalidError(f"the programs have no map {', '.join(missing)}")
        bits = {
            name: Table(name, maps[name], U32, U64)
            for name in ("vpc_functions", "endpoint_functions", "network_functions")
        }
        return cls(
            switches=Table("function_switches", maps["function_switches"], U32, struct_codec("function_switches")),
            group_functions=Table("group_functions", maps["group_functions"], struct_codec("group_set_key"), U64),
            counters=CounterTable("function_counters", maps["function_counters"], struct_codec("function_counters")),
            drops=CounterTable("function_drops", maps["function_drops"], struct_codec("drop_counter")),
            frames=CounterTable("function_frames", maps["function_frames"], struct_codec("function_frame")),
            heads={hook: maps[name] for hook, name in wanted.items()},
            **bits,
        )
