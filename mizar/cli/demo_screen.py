# SPDX-License-Identifier: Apache-2.0
"""What `mizar demo` shows while it runs, and what it says at the end. Called by mizar.cli.demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from mizar.cli.matrix import matrix, tick
from mizar.lab import demo as demos
from mizar.lab.findings import Cell, Isolation, Member
from mizar.lab.path import Path, longest
from mizar.lab.progress import Progress
from mizar.lab.traffic import TRANSFER_BYTES


class QuietScreen:
    """Shows nothing: for output that a program reads."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def show_switch(self, found: Path) -> None:
        """Nothing."""

    def begin_matrix(self, members: Sequence[Member]) -> None:
        """Nothing."""

    def fill(self, cell: Cell) -> None:
        """Nothing."""

    def end_matrix(self) -> None:
        """Nothing."""

    def show_isolation(self, found: Isolation) -> None:
        """Nothing."""

    def show_paths(self, found: Sequence[Path]) -> None:
        """Nothing."""


class TextScreen(QuietScreen):
    """Shows the matrices as they fill: in place on a terminal, row by row elsewhere."""

    def __init__(self, progress: Progress, console: Console) -> None:
        super().__init__(progress)
        self._console = console
        self._members: Sequence[Member] = ()
        self._cells: dict[tuple[Member, Member], Cell] = {}
        self._live: Live | None = None

    def show_switch(self, found: Path) -> None:
        """Shows how a way became direct, as the droplets counted it."""
        hops, ends = found.packets - found.direct, f"from {found.source} to {found.destination}"
        words = f"\nThe direct path: of the first {found.packets} packets {ends}, {hops} went over the hops, then "
        words += f"{found.direct} straight from {found.source.droplet} to {found.destination.droplet} "
        self._console.print(Text(words).append_text(tick(found.ok)))
        for hop in found.hops:
            self._console.print(f"  {hop.droplet:<6} {hop.packets:>5}  {hop.did}")
        for problem in found.problems:
            self._console.print(Text(f"  {problem}", style="red"))

    def begin_matrix(self, members: Sequence[Member]) -> None:
        """Explains and draws the empty matrix."""
        self._members = members
        self._console.print(
            "\nEvery endpoint to every other of its VPC, IPv4 and IPv6: ICMP echo, UDP echo, and a TCP transfer of "
            f"{TRANSFER_BYTES / 1e6:.0f} MB, all compared."
        )
        if self._console.is_terminal:
            self._live = Live(self._matrix(), console=self._console, refresh_per_second=10)
            self._live.start()

    def fill(self, cell: Cell) -> None:
        """Draws one cell, or a row that is full."""
        self._cells[cell.source, cell.destination] = cell
        if self._live:
            self._live.update(self._matrix())
            return
        peers = [member for member in self._members if member.group == cell.source.group and member != cell.source]
        row = [self._cells.get((cell.source, peer)) for peer in peers]
        if all(done and done.full for done in row):
            line = Text(f"  {cell.source!s:<16} →")
            for peer, done in zip(peers, row, strict=True):
                line.append(f"  {peer.name} ").append_text(_mark(done))
            self._console.print(line)

    def end_matrix(self) -> None:
        """Leaves the full matrix on the screen, and what is wrong under it."""
        if self._live:
            self._live.stop()
        for cell in self._cells.values():
            for outcome in cell.outcomes:
                if not outcome.ok:
                    words = f"  {cell.source} → {cell.destination} {outcome.way}: {outcome.detail}"
                    self._console.print(Text(words, style="red"))

    def _matrix(self) -> RenderableType:
        return matrix(self._members, lambda one, other: _mark(self._cells.get((one, other)), one == other))

    def show_isolation(self, found: Isolation) -> None:
        """Says what was proven."""
        words = (
            f"\nIsolation: {found.sent} packets to addresses that other tenants have too; {found.heard} of "
            f"{found.expected} expected were heard by their own, {len(found.foreign)} by others "
        )
        self._console.print(Text(words).append_text(tick(found.ok)))
        for problem in (*found.foreign, *found.problems):
            self._console.print(Text(f"  {problem}", style="red"))

    def show_paths(self, found: Sequence[Path]) -> None:
        """Shows the longest way as the droplets counted it, and whatever did not add up on any."""
        shown = longest(found)
        words = f"\n{len(found)} ways of {shown.packets} packets each, as the droplets counted them "
        self._console.print(Text(words).append_text(tick(all(path.ok for path in found))))
        self._console.print(f"  the longest: {shown.source} → {shown.destination}")
        for hop in shown.hops:
            self._console.print(f"  {hop.droplet:<6} {hop.packets:>5}  {hop.did}")
        for path in found:
            for problem in path.problems:
                self._console.print(Text(f"  {path.source} → {path.destination}: {problem}", style="red"))


def _mark(cell: Cell | None, self_: bool = False) -> Text:
    if self_:
        return Text("-", style="dim")
    if cell is None:
        return Text("·", style="dim")
    if wrong := [outcome.way for outcome in cell.outcomes if not outcome.ok]:
        return Text(",".join(wrong), style="bold red")
    return Text("ok", style="green") if cell.full else Text("…", style="yellow")


def verdict(result: demos.Result) -> Text:
    """The last line."""
    good = sum(cell.ok for cell in result.cells)
    words = f"\n{good} of {len(result.cells)} cells are green"
    words += "; tenants never heard one another" if result.isolation.ok else "; isolation is BROKEN"
    words += f" (traffic took {result.elapsed_s:.1f} s)"
    return Text(words, style="bold green" if result.ok else "bold red")


def as_data(result: demos.Result) -> dict[str, Any]:
    """All that was found, as JSON values."""
    return {
        "ok": result.ok,
        "lab": result.lab,
        "elapsed_s": round(result.elapsed_s, 3),
        "switch": asdict(result.switch) | {"ok": result.switch.ok, "direct": result.switch.direct}
        if result.switch
        else None,
        "cells": [
            {
                "from": str(cell.source),
                "to": str(cell.destination),
                "vpc": cell.source.vpc,
                "ok": cell.ok,
                "checks": {outcome.way: asdict(outcome) | {"ok": outcome.ok} for outcome in cell.outcomes},
            }
            for cell in result.cells
        ],
        "isolation": asdict(result.isolation) | {"ok": result.isolation.ok},
        "paths": [asdict(path) | {"ok": path.ok} for path in result.paths],
    }
