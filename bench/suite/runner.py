# SPDX-License-Identifier: Apache-2.0
"""Runs figures: contenders take turns, round after round, so that what changes with time meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from bench.suite import machine
from bench.suite.figure import Figure, Plan
from bench.suite.results import told

Say = Callable[[str], None]


def measure(figure: Figure, plan: Plan, say: Say) -> dict[str, Any]:
    """The document of a figure. What a failing contender has told before is kept, and why it failed."""
    samples: dict[str, dict[str, list[float]]] = {}
    absent: dict[str, str] = {}
    described, begun = machine.described(), time.monotonic()
    rounds = plan.pick(figure.quick_rounds, figure.rounds)
    say(f"{figure.name}: setting up")
    with figure.open(plan) as turns:
        absent |= {name: turn for name, turn in turns.items() if isinstance(turn, str)}
        for number in range(rounds):
            for name, turn in turns.items():
                if isinstance(turn, str) or name in absent:
                    continue
                say(f"{figure.name}: round {number + 1} of {rounds}, {name}")
                try:
                    found = turn()
                except Exception as error:  # noqa: BLE001 - one contender's fault is not another's
                    absent[name] = f"failed: {type(error).__name__}: {str(error)[:300]}"
                    say(f"{figure.name}: {name} {absent[name]}")
                    continue
                for metric, value in found.items():
                    samples.setdefault(metric, {}).setdefault(name, []).append(value)
    more = {
        "taken": datetime.now(UTC).strftime("%Y-%m-%d"),
        "quick": plan.quick,
        "rounds": rounds,
        "seconds": round(time.monotonic() - begun),
        "machine": described,
        "absent": absent,
    }
    return told(figure, samples, **more)


def missing_packages(figures: Iterable[Figure]) -> list[str]:
    """Debian packages that figures need and that are not there."""
    needed = {command: package for figure in figures for command, package in figure.packages.items()}
    return sorted({package for command, package in needed.items() if machine.found(command) is None})
