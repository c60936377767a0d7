# SPDX-License-Identifier: Apache-2.0
"""A figure as bars: one group for each metric, one bar for each contender, with the spread. Plain SVG."""

from __future__ import annotations

from html import escape
from typing import Any

WIDTH, LABEL, BAR, GAP, HEAD = 760, 250, 16, 14, 34
WIDEST = 30
"""Between the largest and the smallest of metrics that share a scale."""
COLOURS = ("#2a6f97", "#8d99ae", "#e09f3e", "#6a994e", "#9e2a2b", "#7b2d8b", "#bc6c25", "#457b9d")


def svg(figure: dict[str, Any]) -> str:
    """The picture. Metrics of one unit have one scale, as far as the smallest of them would still be seen on it."""
    names = list(dict.fromkeys(name for by in figure["values"].values() for name in by))
    colour = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    most = _scales(figure)
    body, y = [], HEAD
    for metric, by in figure["values"].items():
        body.append(_text(8, y + 12, f"{metric} ({_unit(figure, metric)})", weight="bold"))
        y += 20
        scale = (WIDTH - LABEL - 130) / most[metric]
        for name, value in by.items():
            middle = abs(value["median"]) * scale
            low, high = sorted(abs(value[key]) * scale for key in ("low", "high"))
            body.append(_text(LABEL - 6, y + 12, name, anchor="end"))
            body.append(f'<rect x="{LABEL}" y="{y}" width="{middle:.1f}" height="{BAR - 3}" fill="{colour[name]}"/>')
            line = f'x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}" y1="{y + 6}" y2="{y + 6}"'
            body.append(f'<line {line} stroke="#222" stroke-width="2"/>')
            body.append(_text(LABEL + max(middle, high) + 6, y + 11, shown(value["median"])))
            y += BAR
        y += GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="12">'
    title = _text(8, 20, figure["title"], weight="bold")
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>', title, *body, "</svg>", ""])


def _scales(figure: dict[str, Any]) -> dict[str, float]:
    """What fills the width, by metric."""
    most = {
        metric: max([abs(value[key]) for value in by.values() for key in ("low", "high")], default=0.0) or 1e-9
        for metric, by in figure["values"].items()
    }
    found = {}
    for metric in most:
        same = [size for other, size in most.items() if _unit(figure, other) == _unit(figure, metric)]
        found[metric] = max(same) if max(same) <= WIDEST * min(same) else most[metric]
    return found


def _unit(figure: dict[str, Any], metric: str) -> str:
    return str(figure["units"].get(metric, figure["unit"]))


def shown(value: float) -> str:
    """A number as people read it."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
