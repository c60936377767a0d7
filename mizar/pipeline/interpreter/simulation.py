# SPDX-License-Identifier: Apache-2.0
"""Frames through a pipeline, one after the other, each with the way it took. Pure.

Called by `mizar pipeline simulate`. Connections, counters and limits live from frame to frame, in the frames' own time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mizar.pipeline.description import Pipeline, Spot
from mizar.pipeline.interpreter.machine import Machine, Outcome, Packet
from mizar.pipeline.interpreter.nat_connection import Connection
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.labels import step_text
from mizar.pipeline.nat import NatRules
from mizar.pipeline.structure import all_steps


@dataclass(frozen=True, slots=True)
class Passed:
    """One frame: what came, what became of it, and every step it met (`Decap, case 1, step 2: …`)."""

    time_ns: int
    frame: bytes
    outcome: Outcome
    way: tuple[str, ...]

    @property
    def short(self) -> str:
        """The way by its groups and cases: `Decap 1 > NAT 1.2`."""
        places = []
        for step in self.way:
            name, *rest = step.split(": ", 1)[0].split(", ")
            cases = ".".join(part.removeprefix("case ") for part in rest if part.startswith("case "))
            places.append(f"{name} {cases}".strip())
        return " > ".join(dict.fromkeys(places))


@dataclass
class Simulation:
    """A pipeline with its state."""

    pipeline: Pipeline
    machine: Machine = field(init=False)
    table: NatTable = field(init=False)
    _steps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        texts = {spot: step_text(step) for spot, step in all_steps(self.pipeline)}

        def watch(spot: Spot, _packet: Packet) -> None:
            self._steps.append(f"{spot}: {texts[spot]}")

        self.table = NatTable(self.pipeline.nat or NatRules())
        self.machine = Machine(self.pipeline, self.table, watch=watch)

    def run(self, frames: Iterable[tuple[int, bytes]]) -> Iterator[Passed]:
        """Every frame at its time (ns)."""
        for time_ns, frame in frames:
            self._steps.clear()
            outcome = self.machine.run(frame, time_ns)
            yield Passed(time_ns, frame, outcome, tuple(self._steps))

    def connections(self, now_ns: int) -> list[Connection]:
        """Those that live."""
        return list(self.table.connections(now_ns))
