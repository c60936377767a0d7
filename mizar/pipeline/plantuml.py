# SPDX-License-Identifier: Apache-2.0
"""Pipeline → PlantUML, in the manner of the design's own drawings: groups, switches, colours, notes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mizar.pipeline.description import Block, Case, On, Pipeline
from mizar.pipeline.labels import case_text, step_text
from mizar.pipeline.steps import Drop, Goto, Note, Queue, Step, Stop, Trap

STYLES = {"question": "gold", "action": "lightblue", "future": "lightgreen", "attention": "pink"}
SWITCHES = {On.PARSE: "parse", On.CONNTRACK: "and ct is", On.METADATA: "metadata lookup"}


def plantuml(pipeline: Pipeline) -> str:
    """The text of an activity diagram."""
    return "\n".join(_lines(pipeline)) + "\n"


def _lines(pipeline: Pipeline) -> Iterator[str]:
    yield from ("@startuml", "!pragma teoz true", "")
    if pipeline.title:
        yield from (f"title {pipeline.title}", "")
    yield "!$sty = {"
    yield ",\n".join(f'\t"{name}": "#{colour}"' for name, colour in STYLES.items())
    yield "}"
    for name in ("action", "question", "future"):
        yield f"!${name} = $sty.{name}"
    for number, group in enumerate(pipeline.groups):
        yield from ("", f"group Group {number}: {group.name}")
        if number == 0:
            yield "start"
        yield from _block(pipeline, number, group.block, "")
        yield "end group"
    yield from ("", "@enduml")


def _block(pipeline: Pipeline, group: int, block: Block, indent: str) -> Iterator[str]:
    for step in block.steps:
        yield from _step(pipeline, group, step, indent)
    if block.switch is not None:
        yield f"{indent}switch ({SWITCHES[block.switch.on]})"
        for case in block.switch.cases:
            yield from _case(pipeline, group, case, indent)
        yield f"{indent}endswitch"


def _case(pipeline: Pipeline, group: int, case: Case, indent: str) -> Iterator[str]:
    yield f"{indent}case ()"
    yield f"{indent}  $question:{case_text(case)};"
    if case.note is not None:
        yield from _note(case.note, indent + "  ")
    yield from _block(pipeline, group, case.block, indent + "  ")


def _step(pipeline: Pipeline, group: int, step: Step, indent: str) -> Iterator[str]:
    if isinstance(step, Stop):
        yield f"{indent}stop"
        return
    target = pipeline.number(step.group) if isinstance(step, Goto) else None
    yield f"{indent}${step.style}:{step_text(step, target)};"
    if step.note is not None:
        yield from _note(step.note, indent)
    if isinstance(step, Trap | Queue | Drop) or (target is not None and target != group + 1):
        yield f"{indent}detach"


def _note(note: Note, indent: str) -> Iterator[str]:
    yield f"{indent}note {note.side}{' $sty.attention' if note.attention else ''}"
    for line in note.text.splitlines():
        yield f"{indent}{line}"
    yield f"{indent}end note"
