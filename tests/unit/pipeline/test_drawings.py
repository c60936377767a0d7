# SPDX-License-Identifier: Apache-2.0
"""The drawings: the same structure as the design's own (diagrams/*.puml), and SVG that says everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mizar.pipeline import builder as b
from mizar.pipeline.description import blocks
from mizar.pipeline.labels import case_text
from mizar.pipeline.plantuml import plantuml
from mizar.pipeline.steps import Note
from mizar.pipeline.svg import svg
from mizar.pipeline.svg_shapes import text_width
from tests.unit.pipeline.frames import shipped

DIAGRAMS = Path(__file__).parent / "diagrams"
PAIRS = [("gateway-trap", "trap.puml"), ("gateway-queue", "first-pass.puml")]
SVG = "{http://www.w3.org/2000/svg}"
Token = tuple[str, ...]


def tokens(text: str) -> Iterator[Token]:
    """What an activity diagram is made of, without its layout."""
    lines = iter(line.strip() for line in text.splitlines())
    for line in lines:
        if match := re.fullmatch(r"\$(\w+):(.*);", line):
            yield (match[1], match[2])
        elif match := re.fullmatch(r"note (left|right)( \$sty\.attention)?", line):
            words = []
            while (inner := next(lines)) != "end note":
                words.append(inner)
            yield ("note", match[1], "attention" if match[2] else "plain", "\n".join(words))
        elif match := re.fullmatch(r'"(\w+)": "#(\w+)",?', line):
            yield ("colour", match[1], match[2])
        elif line and not line.startswith("!") and line != "}":
            yield (line,)


def compared(token: Token) -> Token:
    """Three things differ on purpose: what was a question in the design is answered; queue N has a number; and VNIs
    that stand for VLANs are left out of the fabric's."""
    if token[0] == "future":
        return (token[0], token[1].replace("?", ""))
    if token[0] == "action":
        return (token[0], re.sub(r"\*\*\w+\*\*", "**N**", token[1]))
    if token[0] == "question":
        return (token[0], token[1].replace(" != 0xff0000-0xff0fff", ""))
    return token


@pytest.mark.parametrize(("name", "diagram"), PAIRS)
def test_the_diagrams_are_those_of_the_design(name: str, diagram: str) -> None:
    """Groups, switches, cases, steps in their colours, notes on their sides, ends: in the same order."""
    ours = [compared(token) for token in tokens(plantuml(shipped(name)))]
    theirs = [compared(token) for token in tokens((DIAGRAMS / diagram).read_text())]
    assert ours == theirs


@pytest.mark.parametrize(("name", "_"), PAIRS)
def test_svg_has_every_text(name: str, _: str) -> None:
    """Every group, question, step and note of the description is in the picture."""
    pipeline = shipped(name)
    root = ElementTree.fromstring(svg(pipeline))
    texts = ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]
    for number, group in enumerate(pipeline.groups):
        assert f"Group {number}: {group.name}" in texts
    for _spot, block in blocks(pipeline):
        for case in block.switch.cases if block.switch else ():
            assert case_text(case) in texts
        for step in block.steps:
            for line in step.note.text.splitlines() if step.note else ():
                assert line in texts
    assert texts.count("no case: drop, counted") == 3


def test_nothing_of_the_svg_is_outside() -> None:
    """Every box lies inside of the picture, and every text inside of the box before it."""
    root = ElementTree.fromstring(svg(shipped("gateway-trap")))
    width, height = (float(root.attrib[name]) for name in ("width", "height"))

    def walk(node: ElementTree.Element, x: float, y: float) -> None:
        last: tuple[float, float] | None = None
        for child in node:
            if match := re.fullmatch(r"translate\(([-\d.]+) ([-\d.]+)\)", child.attrib.get("transform", "")):
                walk(child, x + float(match[1]), y + float(match[2]))
            elif child.tag == f"{SVG}rect" and child.attrib["width"] != "100%":
                left, size = x + float(child.attrib["x"]), float(child.attrib["width"])
                top, tall = y + float(child.attrib["y"]), float(child.attrib["height"])
                assert left >= 0
                assert left + size <= width
                assert top >= 0
                assert top + tall <= height
                last = (left, size)
            elif child.tag == f"{SVG}text" and last is not None and child.attrib["class"] == "m":
                assert text_width("".join(child.itertext())) <= last[1]

    walk(root, 0, 0)


def test_texts_are_escaped() -> None:
    """What a label or a note says cannot become SVG."""
    step = b.shown(b.drop(), "<script>&", note=Note("a < b & c"))
    picture = svg(b.pipeline("p", b.group("G", step), title="<&>"))
    texts = ["".join(one.itertext()) for one in ElementTree.fromstring(picture).iter(f"{SVG}text")]
    assert {"<script>&", "a < b & c", "<&>"} <= set(texts)


def test_a_jump_is_drawn_as_an_end() -> None:
    """A goto to the next group goes on; one over a group ends here, with the number of where it goes on."""
    made = b.pipeline(
        "p",
        b.group("A", b.parse(b.case("eth / arp", b.goto("C")), b.case("otherwise", b.goto("B")))),
        b.group("B", b.count("b")),
        b.group("C", b.stop()),
    )
    found = list(tokens(plantuml(made)))
    jump = found.index(("action", "goto group 2"))
    assert found[jump + 1] == ("detach",)
    assert found[found.index(("action", "goto group 1")) + 1] == ("endswitch",)
    ElementTree.fromstring(svg(made))
