# SPDX-License-Identifier: Apache-2.0
"""What was measured, and how it is kept: a JSON document that the table, the plots and the page are made of."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.suite.figure import Figure, Goal

Document = dict[str, Any]
"""{figures: {NAME: {title, unit, taken, quick, rounds, machine, values, absent, failed}}}"""


def summary(samples: Iterable[float]) -> dict[str, float | int]:
    """The middle of some samples, the least and the most, and how many they were."""
    every = list(samples)
    return {
        "median": rounded(statistics.median(every)),
        "low": rounded(min(every)),
        "high": rounded(max(every)),
        "n": len(every),
    }


def rounded(value: float) -> float:
    """To four digits that matter: the rest is noise, and makes each run of the suite a large change."""
    return float(f"{value:.4g}") if abs(value) < 10_000 else float(round(value))


def told(figure: Figure, samples: Mapping[str, Mapping[str, list[float]]], **more: Any) -> dict[str, Any]:
    """The document of one figure. `samples`: by metric and contender."""
    values = {
        metric: {name: summary(found) for name, found in by_contender.items() if found}
        for metric, by_contender in samples.items()
    }
    return {"title": figure.title, "unit": figure.unit, "units": dict(figure.units), **more, "values": values}


def one(document: Document, figure: str, metric: str, contender: str, which: str = "median") -> float | None:
    """One value, if it is there: the median, the least (low) or the most (high)."""
    found = document["figures"].get(figure, {}).get("values", {}).get(metric, {}).get(contender)
    return None if found is None else float(found[which])


def judged(document: Document, figure: str, goal: Goal) -> tuple[float | None, bool]:
    """What a goal looks at (a ratio, where it is over another contender), and whether the goal is reached."""
    which = ("high" if goal.most == goal.worst else "low") if goal.worst or goal.best else "median"
    value = one(document, figure, goal.metric, goal.contender, which)
    if goal.over and value is not None:
        below = one(document, figure, goal.metric, goal.over)
        value = None if not below else value / below
    if value is None:
        return None, False
    return value, value <= goal.limit if goal.most else value >= goal.limit


def possible(document: Document, figure: str, goal: Goal) -> dict[str, float]:
    """The ratio that a goal is about, of those of its limits that were measured."""
    below = one(document, figure, goal.metric, goal.over)
    values = {name: one(document, figure, goal.metric, contender) for name, contender in goal.limits.items()}
    return {name: value / below for name, value in values.items() if value is not None and below}


def read(path: Path) -> Document:
    """A document; an empty one if there is none."""
    if not path.exists():
        return {"figures": {}}
    document: Document = json.loads(path.read_text())
    return document


def write(document: Document, path: Path) -> None:
    """A file that changes line by line; the old one stays whole until the new one is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    new.replace(path)
