# SPDX-License-Identifier: Apache-2.0
"""The shapes of a flow chart as SVG: boxes, questions, notes, ends, arrows. Called by `svg`.

A Piece is drawn around its own axis: it is entered at (0, 0). Never knows what is drawn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.sax.saxutils import escape

FONT = 13
LINE = 17
PAD = 14
BOX = 30
NOTE_GAP = 18

_NARROW, _WIDE = set("ijl|.,:;'!()[]/ ftrI1"), set("mwMW@%—")


@dataclass(frozen=True, slots=True)
class Piece:
    """Something drawn: how far it reaches to the left and to the right of its axis, its height, and its SVG.

    `open_end`: a way leaves it, from (exit_x, exit_y); exit_y None: at its bottom.
    """

    left: float
    right: float
    height: float
    svg: str
    open_end: bool = True
    exit_x: float = 0
    exit_y: float | None = None

    @property
    def bottom(self) -> float:
        """Where the way leaves it."""
        return self.height if self.exit_y is None else self.exit_y


def text_width(text: str, size: float = FONT) -> float:
    """About how wide a text is in a sans-serif face; never too little for DejaVu Sans."""
    plain = text.replace("**", "")
    widths = (0.42 if c in _NARROW else 0.98 if c in _WIDE else 0.72 if c.isupper() else 0.64 for c in plain)
    return sum(widths) * size


def moved(svg: str, x: float, y: float) -> str:
    """The same, elsewhere."""
    return f'<g transform="translate({x:g} {y:g})">{svg}</g>'


def label(text: str, x: float, y: float, css: str = "m") -> str:
    """One line of text; **bold** as in PlantUML."""
    parts = [
        f'<tspan font-weight="bold">{escape(part)}</tspan>' if bold % 2 else escape(part)
        for bold, part in enumerate(re.split(r"\*\*", text))
    ]
    return f'<text x="{x:g}" y="{y:g}" class="{css}">{"".join(parts)}</text>'


def joint(x1: float, y1: float, x2: float, y2: float) -> str:
    """A way from one place to a lower one, across where it has to."""
    across = "" if x1 == x2 else f"V{y2 - 8:g}H{x2:g}"
    return line(f"M{x1:g} {y1:g}{across}V{y2:g}")


def arrow(x: float, y1: float, y2: float) -> str:
    """A way down, with its tip."""
    return f'<path class="way" d="M{x:g} {y1:g}V{y2 - 1:g}" marker-end="url(#tip)"/>'


def line(path: str) -> str:
    """A way without a tip."""
    return f'<path class="way" d="{path}"/>'


def box(text: str, css: str) -> Piece:
    """A step."""
    half = text_width(text) / 2 + PAD
    shape = f'<rect class="{css}" x="{-half:g}" y="0" width="{2 * half:g}" height="{BOX}" rx="7"/>'
    return Piece(half, half, BOX, shape + label(text, 0, BOX / 2 + 4.5))


def hexagon(text: str, css: str) -> Piece:
    """A question, pointed at both ends."""
    half = text_width(text) / 2 + PAD + 4
    inner, middle = half - 11, BOX / 2
    path = f"M{-half:g} {middle:g}L{-inner:g} 0H{inner:g}L{half:g} {middle:g}L{inner:g} {BOX}H{-inner:g}Z"
    return Piece(half, half, BOX, f'<path class="{css}" d="{path}"/>' + label(text, 0, middle + 4.5))


def with_note(piece: Piece, text: str, on_left: bool, css: str) -> Piece:
    """A note beside a piece, joined to its first shape by a dashed line."""
    lines = text.splitlines()
    width = max(text_width(one, 12) for one in lines) + 26
    height = len(lines) * LINE + 14
    x = -(piece.left + NOTE_GAP + width) if on_left else piece.right + NOTE_GAP
    outline = f"M{x:g} 0H{x + width - 10:g}L{x + width:g} 10V{height:g}H{x:g}Z"
    fold = f"M{x + width - 10:g} 0V10H{x + width:g}"
    joint = x + width if on_left else x
    to = -piece.left if on_left else piece.right
    svg = f'<path class="{css}" d="{outline}"/><path class="{css}" d="{fold}"/>'
    svg += f'<path class="tie" d="M{joint:g} {BOX / 2:g}H{to:g}"/>'
    svg += "".join(label(one, x + 12, 19 + LINE * number, "note") for number, one in enumerate(lines))
    left = piece.left + NOTE_GAP + width if on_left else piece.left
    right = piece.right if on_left else piece.right + NOTE_GAP + width
    return Piece(left, right, max(piece.height, height), piece.svg + svg, piece.open_end, 0, piece.bottom)


def start() -> Piece:
    """Where packets enter."""
    return Piece(10, 10, 20, '<circle class="ink" cx="0" cy="10" r="9"/>')


def stop() -> Piece:
    """Where frames leave at the egress."""
    rings = '<circle class="ring" cx="0" cy="11" r="10.5"/><circle class="ink" cx="0" cy="11" r="6"/>'
    return Piece(12, 12, 22, rings, open_end=False)


def detach() -> Piece:
    """The end of a way that does not go on here."""
    cross = "M-4 6L4 14M4 6L-4 14"
    ring = f'<circle class="ring" cx="0" cy="10" r="9"/><path class="cross" d="{cross}"/>'
    return Piece(10, 10, 20, ring, open_end=False)


def style_sheet() -> str:
    """Colours and faces; the same four kinds as in the PlantUML form."""
    return """
      text{fill:#1e293b}.m{text-anchor:middle}.note{font-size:12px}.small{font-size:11px;fill:#64748b}
      .title{font-size:18px;font-weight:bold;text-anchor:middle}.name{font-size:13px;font-weight:bold}
      .frame{fill:#f8fafc;stroke:#94a3b8;stroke-width:1.2}.tab{fill:#e2e8f0;stroke:#94a3b8;stroke-width:1.2}
      .question{fill:#ffe27a;stroke:#b7860b;stroke-width:1.1}.action{fill:#cde8f4;stroke:#3f88a5;stroke-width:1.1}
      .future{fill:#c9f2c4;stroke:#4c9a45;stroke-width:1.1}.switch{fill:#fff;stroke:#475569;stroke-width:1.1}
      .plain{fill:#fff;stroke:#94a3b8}.attention{fill:#ffd9e0;stroke:#d26a80}
      .way{fill:none;stroke:#475569;stroke-width:1.4;stroke-linejoin:round}
      .tie{fill:none;stroke:#94a3b8;stroke-dasharray:3 3}.miss{fill:none;stroke:#94a3b8;stroke-dasharray:4 3}
      .ink{fill:#1e293b}.ring{fill:#fff;stroke:#1e293b;stroke-width:1.4}.cross{stroke:#1e293b;stroke-width:1.6}
    """
