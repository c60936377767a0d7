# SPDX-License-Identifier: Apache-2.0
"""What a figure is: contenders that take turns, what a turn tells, and the goals that DESIGN sets.

Made by the modules of bench/suite/figures, run by runner.py, told by page.py. Nothing here measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

Turn = Callable[[], Mapping[str, float]]
"""Measures everything of one contender once: value by metric. A metric names one thing, such as "TCP, 1 stream"."""


@dataclass(frozen=True)
class Plan:
    """How much is asked for. `cpus`: those that this process may use, in order."""

    quick: bool
    cpus: tuple[int, ...]

    def pick(self, quick: int, whole: int) -> int:
        """A number for a quick run, or for a whole one."""
        return quick if self.quick else whole


Opener = Callable[[Plan], AbstractContextManager[Mapping[str, Turn | str]]]
"""Builds what the contenders stand on, and gives their turns."""


@dataclass(frozen=True)
class Goal:
    """One line of DESIGN's table: a metric of `contender` against a number, or against `times` that of `over`."""

    work: str
    reference: str
    metric: str
    limit: float
    most: bool = True
    """Whether it shall be at most `limit`; else at least."""
    contender: str = "mizar"
    over: str = ""
    limits: Mapping[str, str] = field(default_factory=dict)
    """Contenders that do less than the work needs, by a short name: no more is to be had than they have over `over`."""
    worst: bool = False
    """Whether the worst round counts, and not the median."""
    best: bool = False
    """Whether the best round counts: of a program's own cost, to which all else on the machine only adds."""


@dataclass(frozen=True)
class Figure:
    """A set of things that are measured side by side.

    `open` builds what the contenders stand on, and gives their turns by name. A text in place of a turn says why this
    machine has no such contender. `packages`: a command that must be there, and the Debian package that has it.
    """

    name: str
    title: str
    unit: str
    open: Opener
    not_shown: str
    """What a reader must not take it for."""
    floor: str = ""
    """What its values are made of, and what was tried to bring them down: Markdown, as of a page in docs/."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Of metrics that have another unit."""
    goals: tuple[Goal, ...] = ()
    rounds: int = 5
    quick_rounds: int = 1
    packages: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    """Whether it is measured only when it is asked for by its name: it takes longer than all the others."""
    limit_s: int = 300
    """After so long a figure is given up; what was measured until then is kept."""

    def unit_of(self, metric: str) -> str:
        """In which a metric is told."""
        return self.units.get(metric, self.unit)
