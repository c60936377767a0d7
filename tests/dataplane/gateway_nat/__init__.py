# SPDX-License-Identifier: Apache-2.0
"""The gateway's connections in the kernel, one frame at a time, beside the interpreter's.

nat.c is a program around dataplane/gateway/connection.h; `Gateway` compiles and loads it once, fills its maps from
the rules of a `nat:` section, and gives time by hand. The tenant of a frame stands in its source MAC.
"""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from mizar.gateway import entries, rules
from mizar.gateway.entries import ORIGINAL
from mizar.kernel import programs
from mizar.kernel.bpffs import Pins
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import GatewayTables
from mizar.kernel.layout import U32, Codec, Fields
from mizar.kernel.maps import CounterTable, Table
from mizar.kernel.test_run import run_xdp
from mizar.pipeline.description import State
from mizar.pipeline.interpreter.connection import read
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.interpreter.translate import translated
from mizar.pipeline.nat import NatRules

ROOT = Path(__file__).resolve().parents[3]
STATES = {1: State.NEW, 2: State.ESTABLISHED, 3: State.RELATED, 4: State.INVALID}
CONFIG = struct.pack("IBBH", 0, 1, 1, 0)
"""Watched, with a given clock."""
U64: Codec[int] = Codec("uint64_t", 8, struct.Struct("=Q").pack, lambda data: int(struct.unpack("=Q", data)[0]))
_PACKETS: Codec[Fields] = Codec(
    "packets", 8, lambda fields: U64.pack(fields["packets"]), lambda data: {"packets": U64.unpack(data)}
)
SECOND = 1_000_000_000
BEGIN_NS = 1000 * SECOND


@dataclass(frozen=True)
class Seen:
    """What became of a frame; `meta` is that of a translated one."""

    state: State
    reason: str
    frame: bytes
    meta: int | None


@cache
def compiled(source: Path, *more: str) -> bytes:
    """An object file, with the flags of the real build; made once."""
    build = _build()
    include = [f"-I{ROOT / 'dataplane'}", f"-I{ROOT / 'contracts'}", *build.system_includes()]
    command = [build.find_clang(), *build.C_FLAGS, *build.C_WARNINGS, *include, *more, "-c", str(source), "-o", "-"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def nat_object() -> bytes:
    """The program."""
    return compiled(ROOT / "tests" / "dataplane" / "gateway_nat" / "nat.c")


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dataplane_build", ROOT / "dataplane" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def has_clang() -> bool:
    """Whether the program can be compiled here."""
    return shutil.which("clang") is not None


def reasons() -> Mapping[int, str]:
    """Names of contracts/gateway_reasons.toml by number, as written for the programs."""
    text = (ROOT / "dataplane" / "gateway" / "reasons.h").read_text()
    words = [line.split() for line in text.splitlines() if line.startswith("\tGATEWAY_") and "=" in line]
    return {int(word[2].rstrip(",")): word[0].removeprefix("GATEWAY_") for word in words}


@dataclass
class Gateway:
    """The program and its maps."""

    loaded: programs.Programs
    tables: GatewayTables
    keeper: Keeper
    now_ns: int = BEGIN_NS

    def run(self, frame: bytes, meta: int) -> Seen:
        """One frame of a tenant."""
        Table("gateway_clock", self.loaded.maps["gateway_clock"], U32, U64).put(0, self.now_ns)
        out = run_xdp(self.loaded.programs["nat"].fd, with_meta(frame, meta))
        reason = out.retval >> 8
        found = reasons().get(reason, "")
        state = STATES[out.retval & 0xFF]
        return Seen(state, found if reason else "", out.frame, None if reason else self._meta())

    def write(self, nat: NatRules) -> None:
        """These rules, and no connections."""
        for table in (self.tables.connections4, self.tables.connections6):
            for key, value in list(table.items()):
                if value["flags"] & ORIGINAL:
                    other = entries.key(entries.twin(entries.flow_of(key), value))
                    assert self.keeper.remove(table.version, key, other)
            assert not list(table.items())
        for key, _ in list(self.tables.nat_mappings.items()):
            self.tables.nat_mappings.delete(key)
        for meta, _ in list(self.tables.nat_tenants.items()):
            self.tables.nat_tenants.delete(meta)
        rules.write(self.tables, nat)

    def counted(self, reason: int) -> int:
        """Packets that ended for a reason, by its number."""
        table = CounterTable("gateway_reasons", self.loaded.maps["gateway_reasons"], _PACKETS)
        return int((table.get(reason) or {})["packets"])

    def _meta(self) -> int:
        return Table("nat_meta", self.loaded.maps["nat_meta"], U32, U32).get(0) or 0


def with_meta(frame: bytes, meta: int) -> bytes:
    """The frame with its tenant in the source MAC."""
    return frame[:8] + meta.to_bytes(4, "big") + frame[12:]


@contextmanager
def loaded(max_entries: Mapping[str, int] | None = None, pins: Pins | None = None) -> Iterator[Gateway]:
    """The program in the kernel."""
    with programs.load(CONFIG, objects={"nat": nat_object()}, max_entries=max_entries, pins=pins) as found:
        tables = GatewayTables.of(found.maps)
        with Keeper(found.maps) as keeper:
            yield Gateway(found, tables, keeper)


@dataclass
class Model:
    """The interpreter, asked the same."""

    nat: NatRules
    table: NatTable = field(init=False)

    def __post_init__(self) -> None:
        self.table = NatTable(self.nat)

    def run(self, frame: bytes, meta: int, now_ns: int) -> Seen:
        """One frame of a tenant."""
        frame = with_meta(frame, meta)
        before = self.table.reasons.copy()
        seen = read(frame, meta)
        if seen is None:
            return Seen(State.INVALID, "", frame, None)
        answer = self.table.look(seen, now_ns)
        becomes = answer.becomes
        if answer.state is State.NEW:
            becomes = self.table.allocate(seen, now_ns)
        if becomes is None:
            reason = next(iter(self.table.reasons - before), "")
            return Seen(answer.state, str(reason), frame, None)
        return Seen(answer.state, "", translated(frame, seen, becomes), becomes.meta)
