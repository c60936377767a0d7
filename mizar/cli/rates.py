# SPDX-License-Identifier: Apache-2.0
"""From two samples of counters to rates per second. Called by mizar.cli.top; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

_KEPT = ("tenant", "name", "droplet", "health", "problem", "endpoints", "reason", "sentence", "verdict")
_NAMING = ("tenant", "name", "droplet", "reason")


def rates(before: Row, after: Row) -> Row:
    """{"seconds", "droplets", "vpcs", "endpoints", "drops"}; counters become rates per second.

    What was not there before has no rate yet: 0; but a reason that was not there had no packets. A counter that went
    back has begun anew.
    """
    seconds = max(after["time"] - before["time"], 0.001)
    found: Row = {"time": after["time"], "seconds": round(seconds, 3)}
    for table in ("droplets", "vpcs", "endpoints", "drops"):
        old = {_key(row): row for row in before[table]}
        none = {"packets": 0, "bytes": 0} if table == "drops" else None
        found[table] = [_rate(old.get(_key(row), none), row, seconds) for row in after[table]]
    return found


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(name, "")) for name in _NAMING)


def _rate(before: Row | None, after: Row, seconds: float) -> Row:
    row: Row = {}
    for name, value in after.items():
        if name in _KEPT:
            row[name] = value
            continue
        last = before.get(name, value) if before else value
        row[f"{name}PerSecond"] = round((value - last if value >= last else value) / seconds, 1)
    return row


SORTS = {"packets": "p", "bytes": "b", "drops": "d", "name": "n"}
"""What tables may be sorted by, and the key for it."""


def sort(rows: Iterable[Row], by: str) -> list[Row]:
    """Rows by what is wanted, the most first; equal ones, and all of them by "name", by their names."""
    named = sorted(rows, key=_key)
    if by == "name":
        return named
    return sorted(named, key=lambda row: _amount(row, by), reverse=True)


def _amount(row: Row, by: str) -> float:
    names = {
        "packets": ("sentPacketsPerSecond", "deliveredPacketsPerSecond", "bouncedPacketsPerSecond"),
        "bytes": ("sentBytesPerSecond", "deliveredBytesPerSecond", "bouncedBytesPerSecond"),
        "drops": ("droppedPacketsPerSecond",),
    }[by]
    return sum(float(row.get(name, 0)) for name in names)


def total(rows: Iterable[Row], name: str) -> float:
    """The sum of one rate."""
    return sum(float(row.get(f"{name}PerSecond", 0)) for row in rows)


def short(value: float) -> str:
    """A number for a narrow column: 0, 7, 1.2k, 35M."""
    if value < 1:
        return "0" if not value else f"{value:.1f}"
    for unit in ("", "k", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            return f"{value:.0f}{unit}" if value >= 10 or not unit else f"{value:.1f}{unit}"
        value /= 1000
    raise AssertionError("unreachable")
