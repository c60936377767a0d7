# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md and the table on the screen: what was measured, against the goals. Made of the results alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from bench.suite.figure import Figure, Goal
from bench.suite.plot import shown
from bench.suite.results import Document, judged, possible

HEAD = """# What it costs
Made by `./run bench` of what it measured (`bench/results/latest.json`); do not write here. `./run bench --list` names
the figures, `./run bench --only NAME` takes one again, and `./run bench --page` writes this page and its pictures anew.

Contenders take turns, round after round. A value is the median of the rounds, with the least and the most behind it.
Of a program's own cost the least is held against the goal: whatever else happens on the machine only adds to it.
*What is possible* is the same ratio of plain routing, and of programs that only redirect: they do less than an overlay
has to. A goal far beyond theirs is not to be had there.
"""


def page(document: Document, figures: Iterable[Figure]) -> str:
    """The whole page."""
    every = list(figures)
    lines = [HEAD, "## The goals", *_goals(document, every)]
    for figure in (each for each in every if each.name in document["figures"]):
        lines += ["", *_section(figure, document["figures"][figure.name])]
    lines += ["", "## Machines", *(f"- {one}" for one in machines(document))]
    return "\n".join(lines) + "\n"


def _goals(document: Document, figures: list[Figure]) -> list[str]:
    lines = ["| work | reference | goal | measured | reached | what is possible |", "|---|---|---|---|---|---|"]
    for figure in figures:
        for goal in figure.goals:
            value, reached = judged(document, figure.name, goal)
            told = f"not measured: `./run bench --only {figure.name}`"
            if value is not None:
                told = f"[{_with_unit(figure, goal, value)}](#{figure.name})"
            verdict = "yes" if reached else "no" if value is not None else ""
            limit = f"{'≤' if goal.most else '≥'} {_with_unit(figure, goal, goal.limit)}"
            most = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in possible(document, figure.name, goal).items())
            lines.append(f"| {goal.work} | {goal.reference} | {limit} | {told} | {verdict} | {most} |")
    return lines


def _with_unit(figure: Figure, goal: Goal, value: float) -> str:
    return f"{value:.2f}x" if goal.over else f"{shown(value)} {figure.unit_of(goal.metric)}"


def _section(figure: Figure, found: dict[str, Any]) -> list[str]:
    columns = list(dict.fromkeys(name for by in found["values"].values() for name in by))
    quick = " A **quick** run: too short to be quoted." if found["quick"] else ""
    lines = [
        f"## {figure.name}",
        f"{figure.title}. `./run bench --only {figure.name}`: {found['rounds']} rounds, {found['seconds']} s, "
        f"{found['taken']}, load {found['machine']['load']} at the start.{quick}",
        "",
        f"![{figure.title}](../bench/results/{figure.name}.svg)",
        "",
        f"| | unit | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for metric, by in found["values"].items():
        cells = (_cell(by.get(name)) for name in columns)
        lines.append(f"| {metric} | {figure.unit_of(metric)} | {' | '.join(cells)} |")
    lines += [f"- **{name}** is missing: {why}" for name, why in found["absent"].items()]
    lines += ["", f"*Not shown:* {figure.not_shown}"]
    if figure.floor:
        lines += ["", f"*What it is made of, and what was tried:* {figure.floor}."]
    return lines


def machines(document: Document) -> list[str]:
    """Each machine once, with the figures that were taken on it."""
    names: dict[str, list[str]] = {}
    for name, found in document["figures"].items():
        names.setdefault(_machine(found["machine"]), []).append(name)
    return [f"{', '.join(figures)}: {machine}" for machine, figures in names.items()]


def _cell(value: dict[str, float] | None) -> str:
    if value is None:
        return ""
    if value["n"] == 1 or value["low"] == value["high"]:
        return shown(value["median"])
    return f"{shown(value['median'])} ({shown(value['low'])} to {shown(value['high'])})"


def _machine(one: dict[str, Any]) -> str:
    peers = ", ".join(f"{name}: {version}" for name, version in one["peers"].items())
    return (
        f"{one['processor']}, {one['cpus']} CPUs{' (virtual)' if one['virtual'] else ''}, "
        f"{one['memoryGB']} GB, kernel {one['kernel']}, governor {one['governor']}. {peers}."
    )


def table(figure: Figure, found: dict[str, Any]) -> Table:
    """For the screen."""
    columns = list(dict.fromkeys(name for by in found["values"].values() for name in by))
    made = Table("", "unit", *columns, title=f"{figure.name}: {figure.title}", title_justify="left")
    for metric, by in found["values"].items():
        made.add_row(metric, figure.unit_of(metric), *(_cell(by.get(name)) for name in columns))
    return made


def goals(document: Document, figures: Iterable[Figure]) -> Table:
    """The goals of what was measured, for the screen."""
    made = Table("work", "goal", "measured", "", title="goals", title_justify="left")
    for figure in figures:
        for goal in figure.goals:
            value, reached = judged(document, figure.name, goal)
            if value is not None:
                sign = "≤" if goal.most else "≥"
                limit = f"{sign} {_with_unit(figure, goal, goal.limit)}"
                made.add_row(goal.work, limit, _with_unit(figure, goal, value), "reached" if reached else "MISSED")
    return made
