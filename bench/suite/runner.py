# SPDX-License-Identifier: Apache-2.0
"""Runs figures: contenders take turns, round after round, so that what changes with time meets all of them alike."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from bench.suite import machine
from bench.suite.figure import Figure, Plan, Turn
from bench.suite.results import told

Say = Callable[[str], None]


class OutOfTimeError(BaseException):
    """A figure takes too long. No `Exception`: who asks again and again shall not take it for an answer."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Ends a block with OutOfTimeError, wherever it waits. For the main thread alone."""

    def ring(*_: object) -> None:
        raise OutOfTimeError(f"given up after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measure(figure: Figure, plan: Plan, say: Say) -> dict[str, Any]:
    """The document of a figure. What a failing contender has told before is kept, and why it failed.

    Raises what hinders a figure from being set up, and OutOfTimeError where it ran out of time and told nothing.
    """
    samples: dict[str, dict[str, list[float]]] = {}
    absent: dict[str, str] = {}
    described, begun = machine.described(), time.monotonic()
    rounds = plan.pick(figure.quick_rounds, figure.rounds)
    say(f"{figure.name}: setting up")
    try:
        with limited(figure.limit_s), figure.open(plan) as turns:
            absent |= {name: turn for name, turn in turns.items() if isinstance(turn, str)}
            for number in range(rounds):
                where = f"{figure.name}: round {number + 1} of {rounds},"
                _round(turns, samples, absent, lambda text, where=where: say(f"{where} {text}"))  # type: ignore[misc]
    except OutOfTimeError as error:
        if not samples:
            raise
        absent["the rest"] = str(error)
        say(f"{figure.name}: {error}")
    if not samples and (faults := [why for why in absent.values() if why.startswith("failed")]):
        raise RuntimeError(faults[0])
    more = {
        "taken": datetime.now(UTC).strftime("%Y-%m-%d"),
        "quick": plan.quick,
        "rounds": rounds,
        "seconds": round(time.monotonic() - begun),
        "machine": described,
        "absent": absent,
    }
    return told(figure, samples, **more)


def _round(
    turns: Mapping[str, Turn | str], samples: dict[str, dict[str, list[float]]], absent: dict[str, str], say: Say
) -> None:
    """Each contender once."""
    for name, turn in turns.items():
        if isinstance(turn, str) or name in absent:
            continue
        say(name)
        try:
            found = turn()
        except Exception as error:  # noqa: BLE001 - one contender's fault is not another's
            absent[name] = f"failed: {type(error).__name__}: {str(error)[:300]}"
            say(f"{name} {absent[name]}")
            continue
        for metric, value in found.items():
            samples.setdefault(metric, {}).setdefault(name, []).append(value)


def missing_packages(figures: Iterable[Figure]) -> list[str]:
    """Debian packages that figures need and that are not there."""
    needed = {command: package for figure in figures for command, package in figure.packages.items()}
    return sorted({package for command, package in needed.items() if machine.found(command) is None})
