# SPDX-License-Identifier: Apache-2.0
"""A figure as bars: one group for each metric, one bar for each contender, with the spread. Plain SVG.

Ours are blue and what they are beside is grey; where none is ours, each has a colour. A dashed line is a goal. A bar
that would make the others too small to be told apart is cut, and one below nothing is drawn hollow, to the right.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from bench.suite.figure import Goal

WIDTH, LABEL, BAR, GAP, HEAD = 760, 250, 16, 14, 34
WIDEST = 30
"""Between the largest and the smallest of metrics that share a scale."""
OUTLIER = 4
"""A bar of so many times the next smaller one is cut."""
OURS = ("#1d5a85", "#4a8fbf", "#86b9dc")
THEIRS = ("#7d838c", "#a9aeb6")
COLOURS = ("#2a6f97", "#8d99ae", "#e09f3e", "#6a994e", "#9e2a2b", "#7b2d8b", "#bc6c25", "#457b9d")
ROOM = WIDTH - LABEL - 130


def svg(found: dict[str, Any], goals: Iterable[Goal] = ()) -> str:
    """The picture. Metrics of one unit have one scale, as far as the smallest of them would still be seen on it."""
    colour = colours(list(dict.fromkeys(name for by in found["values"].values() for name in by)))
    most, limits = _scales(found), _limits(found, goals)
    body, y = [], HEAD
    for metric, by in found["values"].items():
        unit = _unit(found, metric)
        body.append(_text(8, y + 12, metric if metric.endswith(unit) else f"{metric} ({unit})", weight="bold"))
        y += 20
        top, numbers = y, []
        for name, value in by.items():
            body.append(_text(LABEL - 6, y + 12, name, anchor="end"))
            body += _bar(y, value, most[metric], colour[name])
            numbers.append(_number(y, value, most[metric]))
            y += BAR
        for limit in limits.get(metric, []):
            if limit <= most[metric] * 1.05:
                body.append(_goal(limit * ROOM / most[metric], top, y))
        body += numbers
        y += GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="12">'
    title = _text(8, 20, found["title"], weight="bold")
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>', title, *body, "</svg>", ""])


def colours(names: list[str]) -> dict[str, str]:
    """Of each contender."""
    ours = [name for name in names if name.startswith("mizar")]
    theirs = [name for name in names if name not in ours]
    if not ours or not theirs:
        return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    of = {name: OURS[place % len(OURS)] for place, name in enumerate(ours)}
    return of | {name: THEIRS[place % len(THEIRS)] for place, name in enumerate(theirs)}


def _bar(y: int, value: dict[str, float], most: float, colour: str) -> list[str]:
    middle, low, high = _lengths(value, most)
    length = min(middle, ROOM)
    fill = f'fill="none" stroke="{colour}"' if value["median"] < 0 else f'fill="{colour}"'
    drawn = [f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR - 3}" {fill}/>']
    if middle > length:
        at = LABEL + ROOM - 24
        return [*drawn, f'<path d="M{at} {y + BAR} l8 -{BAR + 2} m6 0 l-8 {BAR + 2}" stroke="#fff" stroke-width="3"/>']
    line = f'x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}" y1="{y + 6}" y2="{y + 6}"'
    return [*drawn, f'<line {line} stroke="#222" stroke-width="2"/>']


def _number(y: int, value: dict[str, float], most: float) -> str:
    middle, _, high = _lengths(value, most)
    x = LABEL + (ROOM if middle > ROOM else max(middle, high)) + 6
    return _text(x, y + 11, shown(value["median"]), halo=True)


def _lengths(value: dict[str, float], most: float) -> tuple[float, float, float]:
    """Of the bar, which may be too long; where the line of the spread begins and ends."""
    middle, low, high = (abs(value[key]) * ROOM / most for key in ("median", "low", "high"))
    return middle, min(low, high), min(max(low, high), ROOM + 20)


def _goal(x: float, top: int, bottom: int) -> str:
    line = f'x1="{LABEL + x:.1f}" x2="{LABEL + x:.1f}" y1="{top - 3}" y2="{bottom}"'
    return f'<line {line} stroke="#b3261e" stroke-dasharray="4 3"><title>the goal</title></line>'


def _limits(found: dict[str, Any], goals: Iterable[Goal]) -> dict[str, list[float]]:
    """What goals ask for, by metric; those over another contender as its value makes them."""
    limits: dict[str, list[float]] = {}
    for goal in goals:
        below = found["values"].get(goal.metric, {}).get(goal.over, {"median": 0.0})["median"] if goal.over else 1.0
        if goal.limit * below and goal.limit * below not in limits.setdefault(goal.metric, []):
            limits[goal.metric].append(goal.limit * below)
    return limits


def _scales(found: dict[str, Any]) -> dict[str, float]:
    """What fills the width, by metric."""
    most = {metric: _widest(by) for metric, by in found["values"].items()}
    scales = {}
    for metric in most:
        same = [size for other, size in most.items() if _unit(found, other) == _unit(found, metric)]
        scales[metric] = max(same) if max(same) <= WIDEST * min(same) else most[metric]
    return scales


def _widest(by: dict[str, dict[str, float]]) -> float:
    """The largest of a group, without one that is an outlier among three or more."""
    ordered = sorted(by.values(), key=lambda value: abs(value["median"]))
    if len(ordered) > 2 and abs(ordered[-1]["median"]) > OUTLIER * abs(ordered[-2]["median"]) > 0:
        ordered.pop()
    return max([abs(value[key]) for value in ordered for key in ("low", "high")], default=0.0) or 1e-9


def _unit(found: dict[str, Any], metric: str) -> str:
    return str(found["units"].get(metric, found["unit"]))


def shown(value: float) -> str:
    """A number as people read it."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", halo: bool = False) -> str:
    around = ' stroke="#fff" stroke-width="3" paint-order="stroke"' if halo else ""
    return f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}"{around}>{escape(text)}</text>'
