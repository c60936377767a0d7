# SPDX-License-Identifier: Apache-2.0
"""A picture as text for PlantUML, in the manner of the design's own diagrams. Pure. Called by `mizar topology draw`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from mizar.topology.picture import ELSEWHERE, Picture, Shape, shapes

_HEAD = """@startuml
!pragma teoz true
!$vtep = "#lightgreen"
!$rep = "#lightpink"
!$sriov = "#lightblue"
!$physical = "#orange"
!$veth = "#c962a9"
!$absent = "#white;line:red;line.dashed;text:red"

"""
_PORTS = ("vtep", "rep", "sriov", "physical", "veth")


def written(picture: Picture) -> str:
    """The whole text. What is absent is white, dashed and red, and says so."""
    lines = [f"title {_text(picture.title)}", "", f"cloud {ELSEWHERE}", "", "rectangle host {"]
    for row in picture.rows:
        for shape in row:
            lines += _shape(shape, "\t")
    lines += ["}", ""]
    for about, text in picture.notes:
        lines += [f"note right of {about}", *(f"\t{_text(line)}" for line in text.splitlines()), "end note", ""]
    lines += [f"{upper} -- {lower}" for upper, lower in picture.wires]
    lines += _below(picture)
    return _HEAD + "\n".join(lines) + "\n@enduml\n"


def _shape(shape: Shape, indent: str) -> Iterator[str]:
    style = ""
    if shape.absent:
        style = " $absent"
    elif shape.style in _PORTS:
        style = f" ${shape.style}"
    label = f"{shape.label}\n({shape.state})" if shape.absent else shape.label
    inner = [child for row in shape.rows for child in row]
    yield f'{indent}rectangle "{_text(label)}" as {shape.id}{style}{" {" if inner else ""}'
    for child in inner:
        yield from _shape(child, indent + "\t")
    if inner:
        yield f"{indent}}}"


def _below(picture: Picture) -> Iterator[str]:
    """Hidden lines that keep rows below each other where no wire does, in the host and in every box."""
    tops = [shape for row in picture.rows for top in row for shape in shapes(top)]
    for rows in (picture.rows, *(shape.rows for shape in tops)):
        for upper, lower in pairwise(rows):
            yield f"{_leaf(upper[0], -1)} -[hidden]- {_leaf(lower[0], 0)}"


def _leaf(shape: Shape, row: int) -> str:
    """A port in the first or last row of a box: lines between boxes themselves do not order what is in them."""
    return _leaf(shape.rows[row][0], row) if shape.rows else shape.id


def _text(text: str) -> str:
    """Text that ends neither a string nor a remark nor the diagram."""
    for word in ("end note", "endnote", "@enduml"):
        text = text.replace(word, f"{word[0]}\u200b{word[1:]}")
    return text.replace('"', "'").replace("\n", "\\n")
