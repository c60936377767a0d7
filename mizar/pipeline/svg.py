# SPDX-License-Identifier: Apache-2.0
"""Pipeline → SVG, drawn without any other program: groups from top to bottom, cases side by side. Pure.

What the description does not say is drawn too: a switch that may take no case shows that the packet is dropped.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from mizar.pipeline import svg_shapes as shapes
from mizar.pipeline.description import Block, Case, Otherwise, Pipeline, Switch
from mizar.pipeline.labels import case_text, step_text
from mizar.pipeline.plantuml import SWITCHES
from mizar.pipeline.steps import Drop, Goto, Note, Queue, Step, Stop, Trap
from mizar.pipeline.structure import covered
from mizar.pipeline.svg_shapes import Piece

GAP = 20
COLUMN_GAP = 34
BUS = 16
FRAME_PAD = 26
TAB = 28
MARGIN = 24


def svg(pipeline: Pipeline) -> str:
    """The whole picture as one SVG document."""
    bodies = [_group(pipeline, number) for number in range(len(pipeline.groups))]
    tabs = [f"Group {number}: {group.name}" for number, group in enumerate(pipeline.groups)]
    half = max([*(max(body.left, body.right) for body in bodies), *(shapes.text_width(tab) for tab in tabs)])
    half += FRAME_PAD
    width = 2 * (half + MARGIN)
    title = 34 if pipeline.title else 0
    parts: list[str] = []
    y: float = MARGIN + title
    for number, (body, tab) in enumerate(zip(bodies, tabs, strict=True)):
        height = TAB + GAP + body.height + FRAME_PAD
        parts.append(shapes.moved(_frame(tab, half, height), MARGIN + half, y))
        if number and bodies[number - 1].open_end:
            parts.append(shapes.arrow(MARGIN + half, y - GAP, y + TAB + GAP))
        parts.append(shapes.moved(body.svg, MARGIN + half, y + TAB + GAP))
        if body.open_end:
            x, top = MARGIN + half, y + TAB + GAP
            parts.append(shapes.joint(x + body.exit_x, top + body.bottom, x, y + height - 6))
            parts.append(shapes.line(f"M{x:g} {y + height - 6:g}V{y + height:g}"))
        y += height + GAP
    height = y - GAP + MARGIN
    if pipeline.title:
        parts.append(shapes.label(pipeline.title, width / 2, MARGIN + 14, "title"))
    return _document(pipeline, width, height, parts)


def _document(pipeline: Pipeline, width: float, height: float, parts: list[str]) -> str:
    tip = (
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#475569"/></marker>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="{shapes.FONT}">'
    )
    name = escape(pipeline.title or pipeline.name)
    body = "\n".join(parts)
    return (
        f"{head}\n<title>Pipeline {name}</title>\n<defs>{tip}<style>{shapes.style_sheet()}</style></defs>\n"
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _frame(tab: str, half: float, height: float) -> str:
    width = shapes.text_width(tab) + 24
    path = f"M{-half:g} {TAB}H{-half + width - 10:g}L{-half + width:g} {TAB - 10}V0H{-half:g}Z"
    frame = f'<rect class="frame" x="{-half:g}" y="0" width="{2 * half:g}" height="{height:g}" rx="3"/>'
    return frame + f'<path class="tab" d="{path}"/>' + shapes.label(tab, -half + 10, 18, "name")


def _group(pipeline: Pipeline, number: int) -> Piece:
    block = _block(pipeline, number, pipeline.groups[number].block, first=number == 0)
    return block or Piece(0, 0, 0, "")


def _block(pipeline: Pipeline, group: int, block: Block, first: bool = False) -> Piece | None:
    pieces = [shapes.start()] if first else []
    for step in block.steps:
        pieces += _step(pipeline, group, step)
    if block.switch is not None:
        pieces.append(_switch(pipeline, group, block.switch))
    return _stack(pieces) if pieces else None


def _stack(pieces: list[Piece]) -> Piece:
    """Pieces under one another, joined by arrows."""
    parts, y, way = [], 0.0, 0.0
    for number, piece in enumerate(pieces):
        if number:
            y += GAP
            parts.append(shapes.arrow(0, way, y))
        parts.append(shapes.moved(piece.svg, 0, y))
        way = y + piece.bottom
        y += piece.height
    left, right = max(piece.left for piece in pieces), max(piece.right for piece in pieces)
    return Piece(left, right, y, "".join(parts), pieces[-1].open_end, pieces[-1].exit_x, way)


def _step(pipeline: Pipeline, group: int, step: Step) -> list[Piece]:
    if isinstance(step, Stop):
        return [shapes.stop()]
    target = pipeline.number(step.group) if isinstance(step, Goto) else None
    pieces = [_noted(shapes.box(step_text(step, target), str(step.style)), step.note)]
    if isinstance(step, Trap | Queue | Drop) or (target is not None and target != group + 1):
        pieces.append(shapes.detach())
    return pieces


def _noted(piece: Piece, note: Note | None) -> Piece:
    if note is None:
        return piece
    return shapes.with_note(piece, note.text, note.side == "left", "attention" if note.attention else "plain")


def _case(pipeline: Pipeline, group: int, case: Case) -> Piece:
    pieces = [_noted(shapes.hexagon(case_text(case), "question"), case.note)]
    inside = _block(pipeline, group, case.block)
    return _stack([*pieces, inside] if inside is not None else pieces)


def _switch(pipeline: Pipeline, group: int, switch: Switch) -> Piece:
    """The question, a bus to the columns of the cases, and a bus that joins those that go on."""
    columns = [_case(pipeline, group, case) for case in switch.cases]
    total = sum(column.left + column.right for column in columns) + COLUMN_GAP * (len(columns) - 1)
    head = shapes.hexagon(SWITCHES[switch.on], "switch")
    axes, x = [], -total / 2
    for column in columns:
        axes.append(x + column.left)
        x += column.left + column.right + COLUMN_GAP
    top, tallest = head.height + BUS + GAP, max(column.height for column in columns)
    bus = head.height + BUS
    parts = [head.svg, shapes.line(f"M0 {head.height:g}V{bus:g}")]
    parts.append(shapes.line(f"M{min([0, *axes]):g} {bus:g}H{max([0, *axes]):g}"))
    joined, join = [], top + tallest + BUS
    for axis, column in zip(axes, columns, strict=True):
        parts.append(shapes.arrow(axis, bus, top))
        parts.append(shapes.moved(column.svg, axis, top))
        if column.open_end:
            parts.append(shapes.line(f"M{axis + column.exit_x:g} {top + column.bottom:g}V{join:g}"))
            joined.append(axis + column.exit_x)
    if len(joined) > 1:
        parts.append(shapes.line(f"M{min([0, *joined]):g} {join:g}H{max([0, *joined]):g}"))
    right = total / 2
    if not covered(Case(when=Otherwise(), block=Block()), switch.cases):
        miss, parts_of_miss = _miss(head.right)
        parts.append(parts_of_miss)
        right = max(right, miss)
    height = join if joined else top + tallest
    return Piece(total / 2, right, height, "".join(parts), bool(joined), joined[0] if len(joined) == 1 else 0)


def _miss(at: float) -> tuple[float, str]:
    """What happens to a packet that no case takes, to the right of the switch."""
    text = "no case: drop, counted"
    x, middle = at + 22, shapes.BOX / 2
    tie = f'<path class="miss" d="M{at:g} {middle:g}H{x - 4:g}"/>'
    return x + shapes.text_width(text, 11), tie + shapes.label(text, x, middle + 4, "small")
