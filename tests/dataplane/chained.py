# SPDX-License-Identifier: Apache-2.0
"""Functions at the stages of the testbed's droplet: compiled from a few lines of C, chained, scoped by hand."""

from __future__ import annotations

import functools
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from mizar.functions.build import build
from mizar.kernel.function_chains import Chains, Member
from mizar.kernel.function_tables import U64, FunctionTables
from mizar.kernel.functions import HOOKS, Place, Room
from mizar.kernel.layout import U32, struct_codec
from mizar.kernel.maps import Table
from mizar.kernel.programs import Programs
from mizar.model.function_object import STAGES, read_object

from .testbed import Testbed

SOURCES = Path(__file__).parent / "functions"
CONTINUE, DROP, PASS, REDIRECT, TRANSMIT = range(5)
ALL = 2**64 - 1
REASONS = 32  # of each function


@functools.cache
def _compiled(text: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mizar-functions-") as folder:
        source = Path(folder) / "function.c"
        source.write_text(text)
        return build(source).read_bytes()


def compiled(name: str) -> bytes:
    """The object of a source in tests/dataplane/functions."""
    return _compiled((SOURCES / f"{name}.c").read_text())


def from_text(body: str, before: str = "", stages: str = "0x7f", name: str = "trial") -> bytes:
    """The object of a function with this body."""
    return _compiled(f'#include "mizar_function.h"\n{before}\nMIZAR_FUNCTION({name}, {stages})\n{{\n{body}\n}}\n')


def member(data: bytes, number: int = 0, parameters: bytes = b"") -> Member:
    """A function with a bit."""
    return Member(read_object(data), data, number, parameters)


def saying(verdict: int, number: int = 0, *, reason: int = 1, ifindex: int = 0, label: int = 1) -> Member:
    """The function `verdict`, saying one."""
    return member(compiled("verdict"), number, struct.pack("=4I", verdict, reason, ifindex, label))


class Loaded(Protocol):
    """Whoever has loaded the programs of a droplet."""

    @property
    def programs(self) -> Programs:
        """The programs."""


class Chained:
    """The chains of a testbed. What a function is for is said by hand: by default every frame."""

    def __init__(self, testbed: Loaded) -> None:
        self.tables = FunctionTables.of(testbed.programs.maps)
        self.chains = Chains(self.tables, Room(testbed.programs.maps, several_buffers=True))
        self.own: dict[str, dict[str, int]] = {}
        self.numbers: set[int] = set()

    def put(self, stages: Mapping[str, Sequence[Member]], droplet: int = ALL, finer: int = 0) -> None:
        """These chains, and no others."""
        wanted = {Place(stage, hook): members for stage, members in stages.items() for hook in HOOKS[stage]}
        for members in stages.values():
            for one in members:
                self.own.setdefault(one.function.name, {})
                self.numbers.add(one.number)
        self.chains.commit(self.chains.prepare(wanted, self.own), droplet, finer)

    def told(self, stage: str) -> dict[str, Any]:
        """What `verdict` was told of the last frame at a stage."""
        table = Table("told", self.own["verdict"]["told"], U32, struct_codec("function_frame"))
        return table.get(STAGES.index(stage)) or {}

    def trail(self, stage: str) -> int:
        """Labels of those that were asked, as digits."""
        table = Table("seen", self.own["verdict"]["seen"], U32, U64)
        found = table.get(STAGES.index(stage)) or 0
        table.put(STAGES.index(stage), 0)
        return found

    def close(self) -> None:
        """No functions any more, and nothing counted of them."""
        self.put({}, droplet=0)
        for number in self.numbers:
            self.tables.counters.zero([number * len(STAGES) + stage for stage in range(len(STAGES))])
            self.tables.drops.zero([number * REASONS + reason for reason in range(REASONS)])
        self.chains.close()


@contextmanager
def chained(testbed: Testbed) -> Iterator[Chained]:
    """Chains for the length of the block."""
    found = Chained(testbed)
    try:
        yield found
    finally:
        found.close()
