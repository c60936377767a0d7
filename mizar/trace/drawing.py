# SPDX-License-Identifier: Apache-2.0
"""A trace as a picture: droplets from top to bottom, and what is on the wire between them. Pure.

Called by the command line with the JSON of a trace, drawn without any other program. Text is measured by counting
letters, generously.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

WIDTH, MARGIN, PAD = 860, 24, 16
LINE, HEAD = 19, 30
LETTERS = 108
_GREY, _RED, _GREEN, _AMBER, _INK, _BLUE = "#64748b", "#b91c1c", "#15803d", "#b45309", "#0f172a", "#1d4ed8"
_STYLE = (
    "text{font:13px ui-sans-serif,system-ui,'Helvetica Neue',Arial,sans-serif}"
    ".b{font-weight:600}.h{font-size:16px;font-weight:600}.s{font-size:12px}"
)


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    colour: str = _INK
    style: str = ""
    indent: int = 0


def draw(trace: Mapping[str, Any]) -> str:
    """SVG of a trace as POST /v1/traces tells it."""
    parts: list[str] = []
    y = MARGIN + 18
    parts.append(_text(MARGIN, y, f"{trace['source']} → {trace['destination']}", "h"))
    parts.append(_text(MARGIN, y + 22, trace["packet"], "s", _GREY))
    y += 42
    groups = [list(found) for _, found in groupby(trace["hops"], key=lambda hop: hop["droplet"])]
    for place, hops in enumerate(groups):
        if place:
            y = _arrow(parts, y, groups[place - 1][-1])
        y = _box(parts, y, hops)
    y += 12
    for line in _ending(trace):
        y += LINE
        parts.append(_text(MARGIN, y, line.text, line.style, line.colour))
    height = y + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _box(parts: list[str], y: int, hops: Sequence[Mapping[str, Any]]) -> int:
    lines = [line for hop in hops for line in _lines(hop)]
    bad = any(hop["reason"] for hop in hops)
    warned = any(hop["notes"] for hop in hops)
    border = _RED if bad else _AMBER if warned else _BLUE
    height = HEAD + LINE * len(lines) + PAD
    parts.append(
        f'<rect x="{MARGIN}" y="{y}" width="{WIDTH - 2 * MARGIN}" height="{height}" rx="8" fill="#f8fafc" '
        f'stroke="{border}" stroke-width="1.5"/>'
    )
    parts.append(_text(MARGIN + PAD, y + 22, hops[0]["droplet"] or "beyond your VPC", "b", border))
    at = y + HEAD
    for line in lines:
        at += LINE
        parts.append(_text(MARGIN + PAD + line.indent, at - 4, line.text, line.style, line.colour))
    return y + height


def _lines(hop: Mapping[str, Any]) -> list[_Line]:
    where = f" · {hop['vpc']}" if hop["vpc"] else ""
    head = f"{hop['program']}{where} — {hop['verdict']}" if hop["program"] else hop["verdict"]
    found = [_Line(head, _RED if hop["reason"] else _INK, "b")]
    for text, colour in (
        (hop["table"], _INK),
        (", ".join(hop["rewrite"]), _GREY),
        ("" if hop["room"] is None else f"{hop['room']} bytes of room left", _GREY),
        (hop["sentence"], _RED),
        *((note, _AMBER if not hop["reason"] else _RED) for note in hop["notes"]),
        (hop["seen"] and f"seen: {hop['seen']}", _GREEN),
    ):
        found += [_Line(part, colour, "s", 14) for part in textwrap.wrap(text or "", LETTERS)]
    return found


def _arrow(parts: list[str], y: int, hop: Mapping[str, Any]) -> int:
    x, end = WIDTH // 2, y + 34
    parts.append(f'<line x1="{x}" y1="{y}" x2="{x}" y2="{end - 8}" stroke="{_GREY}" stroke-width="2"/>')
    parts.append(f'<path d="M{x - 6},{end - 9} L{x},{end} L{x + 6},{end - 9} z" fill="{_GREY}"/>')
    outer = next((text for text in hop["rewrite"] if text.startswith("outer ")), "")
    parts.append(_text(x + 14, y + 22, outer.removeprefix("outer "), "s", _GREY))
    return end


def _ending(trace: Mapping[str, Any]) -> list[_Line]:
    colour = _GREEN if trace["ok"] else _RED
    prefix = "predicted: " if trace["divergence"] else ""
    found = [_Line(part, colour, "b") for part in textwrap.wrap(prefix + trace["ending"], LETTERS - 10)]
    for text in (trace["divergence"], *trace["findings"]):
        found += [_Line(part, _RED, "b") for part in textwrap.wrap(text, LETTERS - 10)]
    return found


def _text(x: int, y: int, text: str, style: str = "", colour: str = _INK) -> str:
    marked = f' class="{style}"' if style else ""
    return f'<text x="{x}" y="{y}" fill="{colour}"{marked}>{escape(text)}</text>'
