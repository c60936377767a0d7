# SPDX-License-Identifier: Apache-2.0
"""A picture as SVG, laid out here: no other program is needed. Pure. Called by `mizar topology draw`.

Boxes are as wide as what is in them. A row of the picture is a row of boxes, centred; wires run in the gaps between the
rows, from the bottom of the upper port to the top of the lower one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from mizar.topology.picture import ELSEWHERE, Picture, Shape

_FILLS = {
    "vtep": "#90ee90",
    "rep": "#ffb6c1",
    "sriov": "#add8e6",
    "physical": "#ffa500",
    "veth": "#dd94c7",
    "host": "#fafafa",
    "namespace": "#f1f1f1",
    "bridge": "#ffffff",
    "eswitch": "#ffffff",
    "box": "#ffffff",
    "process": "#ffffff",
}
_CHARACTER, _LINE, _PAD, _GAP, _ROW_GAP, _TITLE = 7.0, 16.0, 10.0, 12.0, 52.0, 24.0
_NOTE_FILL, _NOTE_WIDTH = "#feffdd", 38


@dataclass
class _Placed:
    """A shape with its size, and its place relative to the box around it."""

    shape: Shape
    lines: list[str]
    width: float = 0.0
    height: float = 0.0
    inner: list[tuple[float, float, _Placed]] = field(default_factory=list)

    @property
    def framed(self) -> bool:
        return bool(self.inner)


@dataclass(frozen=True)
class _Box:
    """Where something is drawn."""

    x: float
    y: float
    width: float
    height: float


def written(picture: Picture) -> str:
    """The whole document. What is absent is white, dashed and red, and says so."""
    rows = [[_measure(shape) for shape in row] for row in picture.rows]
    host = _stacked(Shape("host", "host", "host"), rows, _ROW_GAP)
    _align(host, picture)
    notes = [(about, _wrapped(text)) for about, text in picture.notes]
    top = 90.0
    boxes: dict[str, _Box] = {}
    body = list(_drawn(host, 20.0, top, boxes))
    wires = [wire for upper, lower in picture.wires for wire in _wire(upper, lower, boxes, 20.0 + host.width / 2)]
    note_lines, note_bottom = _notes(notes, boxes, 20.0 + host.width + 30.0)
    width = 20.0 + host.width + (60.0 + _NOTE_WIDTH * _CHARACTER if notes else 20.0)
    height = max(top + host.height + 20.0, note_bottom + 20.0)
    cloud = _cloud(20.0 + host.width / 2) if any(upper == ELSEWHERE for upper, _ in picture.wires) else []
    title = f'<text x="20" y="26" font-size="15" font-weight="bold">{escape(picture.title)}</text>'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="DejaVu Sans Mono, monospace" font-size="11">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        title,
        *body,
        *wires,
        *cloud,
        *note_lines,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _measure(shape: Shape) -> _Placed:
    if shape.rows:
        return _stacked(shape, [[_measure(inner) for inner in row] for row in shape.rows], _GAP)
    lines = [*shape.label.split("\n"), *([f"({shape.state})"] if shape.absent else [])]
    width = max(len(line) for line in lines) * _CHARACTER + 2 * _PAD
    return _Placed(shape, lines, width, len(lines) * _LINE + _PAD)


def _stacked(shape: Shape, rows: Sequence[Sequence[_Placed]], gap: float) -> _Placed:
    """A box around rows, each centred."""
    title = f"{shape.label} ({shape.state})" if shape.absent else shape.label
    widths = [sum(item.width for item in row) + _GAP * (len(row) - 1) for row in rows]
    width = max([*widths, len(title) * _CHARACTER]) + 2 * _PAD
    placed = _Placed(shape, [title], width)
    y = _TITLE + _PAD
    for row, row_width in zip(rows, widths, strict=True):
        x, height = (width - row_width) / 2, max(item.height for item in row)
        for item in row:
            placed.inner.append((x, y, item))
            x += item.width + _GAP
        y += height + gap
    placed.height = y - gap + _PAD
    return placed


def _align(host: _Placed, picture: Picture) -> None:
    """Moves what is in the host's rows below what it is wired to, as far as nothing else is in the way."""
    rows: dict[float, list[tuple[float, float, _Placed]]] = {}
    for inner in host.inner:
        rows.setdefault(inner[1], []).append(inner)
    centres: dict[str, float] = {}
    moved: list[tuple[float, float, _Placed]] = []
    for row in rows.values():
        x = _PAD
        wanted: list[float] = []
        for old_x, _, item in row:
            own = _centres(item, 0.0)
            pulls = [centres[upper] - own[lower] for upper, lower in picture.wires if upper in centres and lower in own]
            x = max(x, sum(pulls) / len(pulls) if pulls else old_x)
            wanted.append(x)
            x += item.width + _GAP
        right = host.width - _PAD + _GAP
        for place in range(len(row) - 1, -1, -1):
            right = min(right, wanted[place] + row[place][2].width + _GAP)
            wanted[place] = right - row[place][2].width - _GAP
            right = wanted[place]
        for new_x, (_, y, item) in zip(wanted, row, strict=True):
            moved.append((new_x, y, item))
            centres |= _centres(item, new_x)
    host.inner = moved


def _centres(item: _Placed, x: float) -> dict[str, float]:
    """Centres of a shape and of everything in it, by id."""
    found = {item.shape.id: x + item.width / 2}
    for inner_x, _, inner in item.inner:
        found |= _centres(inner, x + inner_x)
    return found


def _drawn(item: _Placed, x: float, y: float, boxes: dict[str, _Box]) -> Iterator[str]:
    shape = item.shape
    boxes[shape.id] = _Box(x, y, item.width, item.height)
    fill, stroke, dash = _FILLS[shape.style], "#444444", ""
    if shape.absent:
        fill, stroke, dash = "#ffffff", "#cc0000", ' stroke-dasharray="5 3"'
    ink = "#cc0000" if shape.absent else "#000000"
    corner = 6 if shape.style in ("process", "box") else 2
    yield (
        f'<rect id={quoteattr(shape.id)} x="{x:.1f}" y="{y:.1f}" width="{item.width:.1f}" height="{item.height:.1f}"'
        f' rx="{corner}" fill="{fill}" stroke="{stroke}"{dash}/>'
    )
    at = y + _LINE + (0 if item.framed else -0.5)
    place = f'x="{x + item.width / 2:.1f}" text-anchor="middle"'
    if item.framed:  # a title stands at the left, where fewer wires cross it
        place = f'x="{x + _PAD:.1f}" font-weight="bold"'
    for line in item.lines:
        yield f'<text {place} y="{at:.1f}" fill="{ink}">{escape(line)}</text>'
        at += _LINE
    for inner_x, inner_y, inner in item.inner:
        yield from _drawn(inner, x + inner_x, y + inner_y, boxes)


def _wire(upper: str, lower: str, boxes: dict[str, _Box], middle: float) -> Iterator[str]:
    end = boxes[lower]
    to_x, to_y = end.x + end.width / 2, end.y
    if upper == ELSEWHERE:
        from_x, from_y = middle, 70.0
    else:
        begin = boxes[upper]
        from_x, from_y = begin.x + begin.width / 2, begin.y + begin.height
        if from_y > to_y:  # side by side: over the top
            from_y = begin.y
    bend = (to_y - from_y) / 2 if to_y > from_y else -40.0
    ends = f"{from_x:.1f} {from_y + bend:.1f} {to_x:.1f} {to_y - abs(bend):.1f} {to_x:.1f} {to_y:.1f}"
    yield f'<path d="M {from_x:.1f} {from_y:.1f} C {ends}" fill="none" stroke="#222222" stroke-width="1.2"/>'


def _cloud(middle: float) -> list[str]:
    return [
        f'<ellipse cx="{middle:.1f}" cy="54" rx="70" ry="18" fill="#ffffff" stroke="#444444"/>',
        f'<text x="{middle:.1f}" y="58" text-anchor="middle">{ELSEWHERE}</text>',
    ]


def _notes(notes: Sequence[tuple[str, list[str]]], boxes: dict[str, _Box], x: float) -> tuple[list[str], float]:
    """Remarks in a column at the right, as high as what they are about, none over another."""
    lines: list[str] = []
    bottom = 0.0
    for about, text in sorted(notes, key=lambda note: boxes[note[0]].y):
        box = boxes[about]
        y = max(box.y, bottom + _GAP)
        height = len(text) * _LINE + _PAD
        width = _NOTE_WIDTH * _CHARACTER + 2 * _PAD
        at = min(box.y + _TITLE / 2, box.y + box.height / 2)
        lines.append(
            f'<path d="M {box.x + box.width:.1f} {at:.1f} L {x:.1f} {y + _LINE:.1f}" stroke="#999999"'
            ' stroke-dasharray="3 3"/>'
        )
        lines.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{_NOTE_FILL}"'
            ' stroke="#999999"/>'
        )
        for place, line in enumerate(text):
            lines.append(f'<text x="{x + _PAD:.1f}" y="{y + _LINE * (place + 1):.1f}">{escape(line)}</text>')
        bottom = y + height
    return lines, bottom


def _wrapped(text: str) -> list[str]:
    """Lines of a remark, none wider than the column."""
    return [part for line in text.splitlines() for part in textwrap.wrap(line, _NOTE_WIDTH) or [""]]
