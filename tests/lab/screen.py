# SPDX-License-Identifier: Apache-2.0
"""A screen that remembers what it was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mizar.lab.findings import Cell, Isolation, Member
from mizar.lab.path import Path
from mizar.lab.progress import Progress, silent


@dataclass
class Recorder:
    """`said`: one word for each call."""

    progress: Progress = silent
    said: list[str] = field(default_factory=list)

    def show_switch(self, found: Path) -> None:
        """Nothing."""

    def begin_matrix(self, members: Sequence[Member]) -> None:
        self.said.append("begin")

    def fill(self, cell: Cell) -> None:
        self.said.append("cell")

    def end_matrix(self) -> None:
        self.said.append("end")

    def show_isolation(self, found: Isolation) -> None:
        self.said.append("isolation")

    def show_paths(self, found: Sequence[Path]) -> None:
        self.said.append("paths")
