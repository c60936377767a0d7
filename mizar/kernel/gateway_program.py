# SPDX-License-Identifier: Apache-2.0
"""A gateway's program, loaded: made from a pipeline's C text, with its maps, counters and attachment.

The maps are the state: pinned, they are shared by name with the program before, so that a new program takes over where
attach_xdp() updates the pinned link. Which number means which name is the caller's to keep (pipeline.xdp.Program): a
program is generated with the one before in hand. Called by the gateway and by tests. Knows no pipeline.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mizar.kernel import libbpf
from mizar.kernel.bpffs import Pins
from mizar.kernel.layout import U32, Codec
from mizar.kernel.maps import MapView, Table
from mizar.kernel.programs import Programs, load
from mizar.model.errors import InvalidError, MizarError

NAME = "gateway"
_TALLY = struct.Struct("=QQ")
_PAIR = struct.Struct("=II")
_CONFIG = struct.Struct("=IBBxx")
_OUTCOME = struct.Struct("=IIII")
_METAS, _TABLES = "gateway_meta_counters", "gateway_tables"
_TOO_LARGE = (errno.E2BIG, errno.EFAULT)
"""What the verifier says to a million instructions looked at, and to too many branches at once."""

Tally = tuple[int, int]
"""Packets and bytes."""
Pair = tuple[int, int]

TALLY: Codec[Tally] = Codec(
    "struct gateway_tally", 16, lambda value: _TALLY.pack(*value), lambda data: _two(_TALLY, data)
)
PAIR: Codec[Pair] = Codec(
    "struct gateway_meta_key", 8, lambda value: _PAIR.pack(*value), lambda data: _two(_PAIR, data)
)


@dataclass(frozen=True)
class Outcome:
    """What became of a frame, where the program was loaded `watched`."""

    way: int
    meta: int | None
    counter: int


class MetaCounters(MapView[Pair, Tally]):
    """A per-CPU hash of tallies; read as the sum over CPUs."""

    def items(self) -> Iterator[tuple[Pair, Tally]]:
        """Counter's number and metadata value, and what was counted."""
        for key, data in self._raw_items(16 * libbpf.possible_cpus()):
            yield self._key.unpack(key), _sum(data)

    def get(self, key: Pair) -> Tally:
        """One counter; zeros when it has counted nothing."""
        data = self._raw_get(key, 16 * libbpf.possible_cpus())
        return (0, 0) if data is None else _sum(data)


class Counters(MapView[int, Tally]):
    """A per-CPU array of tallies; read as the sum over CPUs."""

    def items(self) -> Iterator[tuple[int, Tally]]:
        """Numbers that have counted anything."""
        for key, data in self._raw_items(16 * libbpf.possible_cpus()):
            if any(data):
                yield U32.unpack(key), _sum(data)


@dataclass
class GatewayProgram:
    """A loaded program and its maps; closing it releases file descriptors only."""

    programs: Programs
    counters: Counters
    meta_counters: MetaCounters | None
    tables: Table[Pair, int] | None
    """None where the program has none."""

    @classmethod
    def of(cls, programs: Programs) -> GatewayProgram:
        """What load() made of a compiled pipeline and of what was loaded beside it."""
        maps = programs.maps
        return cls(
            programs,
            Counters("gateway_counters", maps["gateway_counters"], U32, TALLY),
            MetaCounters(_METAS, maps[_METAS], PAIR, TALLY) if _METAS in maps else None,
            Table(_TABLES, maps[_TABLES], PAIR, U32) if _TABLES in maps else None,
        )

    @property
    def fd(self) -> int:
        """The program."""
        return self.programs.programs[NAME].fd

    @property
    def statistics(self) -> str:
        """What the verifier said of its work, if load_gateway() was asked for it."""
        return self.programs.programs[NAME].statistics

    def set_clock(self, now_ns: int) -> None:
        """The time of a program that was loaded with a given clock."""
        key, value = U32.pack(0), struct.pack("=Q", now_ns)
        fd = self.programs.maps["gateway_clock"]
        libbpf.check(libbpf.lib().bpf_map_update_elem(fd, key, value, 0), "set the gateway's clock")

    def take_outcome(self) -> Outcome | None:
        """What became of the frame that ran since this was asked last; None: there was none."""
        size = _OUTCOME.size * libbpf.possible_cpus()
        out = libbpf.ffi.new("char[]", size)
        fd = self.programs.maps["gateway_outcomes"]
        libbpf.check(libbpf.lib().bpf_map_lookup_elem(fd, U32.pack(0), out), "read the gateway's outcome")
        libbpf.check(libbpf.lib().bpf_map_update_elem(fd, U32.pack(0), bytes(size), 0), "clear the gateway's outcome")
        for way, meta, has_meta, counter in _OUTCOME.iter_unpack(libbpf.ffi.buffer(out)):
            if way:
                return Outcome(way, meta if has_meta else None, counter)
        return None

    def fill_tables(self, tables: Iterable[tuple[int, Mapping[int, int]]]) -> None:
        """Writes long tables, each by its number; call before attaching."""
        if self.tables is not None:
            self.tables.put_many(((number, key), value) for number, one in tables for key, value in one.items())

    def close(self) -> None:
        """Closes program and maps. May be called twice."""
        self.programs.close()


def load_gateway(
    data: bytes,
    name: str,
    *,
    egress_ifindex: int = 0,
    watched: bool = False,
    given_clock: bool = False,
    beside: Mapping[str, bytes] | None = None,
    max_entries: Mapping[str, int] | None = None,
    pins: Pins | None = None,
    statistics: bool = False,
) -> GatewayProgram:
    """Loads a compiled program of pipeline `name`; see programs.load() for pins and statistics.

    `beside` are objects of programs that share its maps. `max_entries` sets the sizes of those maps that it has.

    Frames of stop leave at `egress_ifindex`, or with 0 where they came from. Raises InvalidError when the kernel's
    verifier finds it too large, in words; ConflictError when pinned maps have another shape.
    """
    config = _CONFIG.pack(egress_ifindex, watched, given_clock)
    sizes = {name: size for name, size in (max_entries or {}).items() if name.encode() in data}
    try:
        programs = load(
            config, max_entries=sizes, pins=pins, objects={NAME: data, **(beside or {})}, statistics=statistics
        )
    except MizarError as error:
        if libbpf.errno_of(error) in _TOO_LARGE:
            raise InvalidError(
                f"pipeline {name} is too large for this kernel's verifier. Write fewer cases and alternatives, "
                "merge ranges, or split the pipeline"
            ) from error
        raise
    return GatewayProgram.of(programs)


def _sum(data: bytes) -> Tally:
    numbers = struct.unpack(f"={len(data) // 8}Q", data)
    return sum(numbers[::2]), sum(numbers[1::2])


def _two(form: struct.Struct, data: bytes) -> tuple[int, int]:
    first, second = form.unpack(data)
    return first, second
