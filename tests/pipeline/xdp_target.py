# SPDX-License-Identifier: Apache-2.0
"""A pipeline as a loaded XDP program, beside the interpreter: the same frame through both, and what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from mizar.kernel.clang import compile_program
from mizar.kernel.gateway_program import GatewayProgram, load_gateway
from mizar.kernel.test_run import run_xdp
from mizar.pipeline.description import Pipeline
from mizar.pipeline.interpreter.machine import Machine, Verdict
from mizar.pipeline.xdp.generate import Program, generate

WAYS = {0x10000: Verdict.EGRESS, 0x10001: Verdict.KERNEL, 0x10002: Verdict.DROP}
QUEUE = 0x20000
XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4
SMALL = {"gateway_meta_counters": 256, "gateway_meta_buckets": 256, "gateway_tables": 4096, "lines4": 16, "lines6": 16}
Counts = dict[tuple[str, int | None], tuple[int, int]]


@dataclass(frozen=True)
class End:
    """How a frame ended: comparable between targets."""

    verdict: Verdict
    frame: bytes
    meta: int | None
    queue: int | None
    reason: str


@dataclass
class Target:
    """The loaded program of a pipeline."""

    program: Program
    loaded: GatewayProgram

    def run(self, frame: bytes, now_ns: int = 0) -> End:
        """One frame at a time."""
        self.loaded.set_clock(now_ns)
        done = run_xdp(self.loaded.fd, frame)
        outcome = self.loaded.take_outcome()
        assert outcome is not None
        verdict = WAYS.get(outcome.way, Verdict.QUEUE)
        expected = {Verdict.EGRESS: XDP_TX, Verdict.KERNEL: XDP_PASS, Verdict.DROP: XDP_DROP, Verdict.QUEUE: XDP_DROP}
        assert done.retval == expected[verdict]
        queue = outcome.way - QUEUE if verdict is Verdict.QUEUE else None
        reason = self.program.counters[outcome.counter] if verdict is Verdict.DROP else ""
        return End(verdict, done.frame, outcome.meta, queue, reason)

    def counts(self) -> Counts:
        """All counters that the interpreter knows."""
        found: Counts = {(self.program.counters[number], None): tally for number, tally in self.loaded.counters.items()}
        metas = self.loaded.meta_counters
        for (number, meta), tally in metas.items() if metas is not None else ():
            found[self.program.counters[number], meta] = tally
        return {key: tally for key, tally in found.items() if not key[0].endswith("no socket")}


@contextmanager
def target(pipeline: Pipeline, beside: Mapping[str, bytes] | None = None) -> Iterator[Target]:
    """Generated, compiled and loaded, with a clock that the test gives; `beside`: programs that share its maps."""
    program = generate(pipeline)
    data = compile_program(program.text, pipeline.name)
    loaded = load_gateway(data, pipeline.name, watched=True, given_clock=True, beside=beside, max_entries=SMALL)
    try:
        loaded.fill_tables((number, dict(table.entries)) for number, table in program.tables)
        yield Target(program, loaded)
    finally:
        loaded.close()


def interpreted(machine: Machine, frame: bytes, now_ns: int = 0) -> End:
    """The same of the interpreter."""
    one = machine.run(frame, now_ns)
    return End(one.verdict, one.frame, one.meta, one.queue, one.reason)


@dataclass
class Both:
    """The program and the interpreter, which have to agree on every frame."""

    loaded: Target
    machine: Machine
    ends: Counter[str] = field(default_factory=Counter)
    """How many frames ended in which way."""

    def run(self, name: str, frame: bytes, now_ns: int) -> End | None:
        """One frame through both; None for one that the kernel runs no program on, as it is too short."""
        if len(frame) < 14:
            return None
        wanted, found = interpreted(self.machine, frame, now_ns), self.loaded.run(frame, now_ns)
        assert found == wanted, f"{name}: {frame.hex()}"
        self.ends[wanted.reason or wanted.verdict] += 1
        return found

    def agree_on_counters(self) -> None:
        """What was counted until now."""
        counted = {key: (tally.packets, tally.octets) for key, tally in self.machine.counters.items()}
        assert self.loaded.counts() == counted


def compare(pipeline: Pipeline, frames: list[tuple[str, bytes]], step_ns: int = 0) -> Counter[str]:
    """Runs every frame through both and asserts that nothing differs; how many frames ended in which way."""
    with target(pipeline) as loaded:
        both = Both(loaded, Machine(pipeline))
        for number, (name, frame) in enumerate(frames):
            both.run(name, frame, 1 + number * step_ns)
        both.agree_on_counters()
    return both.ends
