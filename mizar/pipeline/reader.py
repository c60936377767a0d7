# SPDX-License-Identifier: Apache-2.0
"""YAML → pipeline, or every problem at once with its file and line. docs/pipeline.md is the form's reference.

Called by the command line and by whoever ships a pipeline as a file. Pure: the caller reads the file.
"""

from __future__ import annotations

from typing import Any

from mizar.model.document import DocumentError, Path, read
from mizar.model.errors import InvalidError, Problem
from mizar.pipeline.description import Block, Case, Group, On, Pipeline, Switch, TunnelEnd, When
from mizar.pipeline.fields import Notes, address, mac, near, number, shown, text
from mizar.pipeline.kernel_reader import read_kernel
from mizar.pipeline.nat_reader import read_nat
from mizar.pipeline.reader_steps import read_note, read_step
from mizar.pipeline.steps import Step
from mizar.pipeline.validation import problems_of
from mizar.pipeline.whens import parse_when

MAX_CHARACTERS = 2**20


def read_pipeline(document: str, source: str) -> Pipeline:
    """The pipeline of one YAML document; `source` is the file's name for messages.

    Raises InvalidError. What the text gets wrong and what the pipeline gets wrong are reported together, but the ways
    of packets are followed only through a text without mistakes.
    """
    if len(document) > MAX_CHARACTERS:
        raise InvalidError(Problem(f"expected at most {MAX_CHARACTERS} characters", file=source))
    try:
        documents = read(document.removeprefix("\ufeff"))
    except DocumentError as error:
        raise InvalidError(Problem(str(error), file=source, line=error.line)) from error
    if len(documents) != 1:
        raise InvalidError(Problem(f"expected one pipeline, found {len(documents)} documents", file=source, line=1))
    value, lines = documents[0]
    notes = Notes(source, lines)
    pipeline = _pipeline(notes, value)
    problems = list(notes.problems)
    if pipeline is not None:
        problems += problems_of(pipeline, ways=not problems)
    if problems or pipeline is None:
        raise InvalidError(sorted(problems, key=lambda problem: problem.line))
    return pipeline


def _pipeline(notes: Notes, value: Any) -> Pipeline | None:
    found = notes.mapping(
        (), value, ("pipeline", "title", "tunnels", "nat", "kernel", "groups"), ("pipeline", "groups")
    )
    name = notes.attempt(("pipeline",), lambda: text(found.get("pipeline", "unnamed")))
    title = notes.attempt(("title",), lambda: text(found.get("title", "")))
    ends = found.get("tunnels", {})
    if not isinstance(ends, dict):
        notes.refuse(("tunnels",), f"expected a mapping of names, found {shown(ends)}")
        ends = {}
    tunnels = [_tunnel(notes, ("tunnels", key), key, entry) for key, entry in ends.items()]
    nat = read_nat(notes, ("nat",), found["nat"]) if "nat" in found else None
    kernel = read_kernel(notes, ("kernel",), found["kernel"]) if "kernel" in found else None
    items = notes.items(("groups",), found.get("groups", []), "groups")
    groups = [_group(notes, path, item) for path, item in items]
    kept = tuple(group for group in groups if group is not None)
    if not kept and notes.problems:
        return None
    return notes.attempt(
        (),
        lambda: Pipeline(
            name="unnamed" if name is None else name,
            title=title or "",
            tunnels=tuple(end for end in tunnels if end is not None),
            groups=kept,
            nat=nat,
            kernel=kernel,
            where=notes.where(()),
        ),
    )


def _tunnel(notes: Notes, path: Path, name: str, value: Any) -> TunnelEnd | None:
    takers = {
        "source": address,
        "destination": address,
        "source_mac": mac,
        "destination_mac": mac,
        "vid": number,
        "source_port": number,
    }
    found = notes.fields(path, value, takers, ("source", "destination", "source_mac", "destination_mac"))
    if found is None:
        return None
    return notes.attempt(path, lambda: TunnelEnd(name=name, where=notes.where(path), **found))


def _group(notes: Notes, path: Path, value: Any) -> Group | None:
    found = notes.mapping(path, value, ("name", "steps"), ("name", "steps"))
    name = notes.attempt((*path, "name"), lambda: text(found.get("name", "unnamed")))
    block = _block(notes, (*path, "steps"), found.get("steps", []))
    return notes.attempt(
        path, lambda: Group(name="unnamed" if name is None else name, block=block, where=notes.where(path))
    )


def _block(notes: Notes, path: Path, value: Any) -> Block:
    """Steps, and the switch that ends them. `detach` ends a way that is decided already: it is no step of its own."""
    steps: list[Step] = []
    switch: Switch | None = None
    seen_switch, decided = False, False
    for place, item in notes.items(path, value, "steps"):
        if seen_switch:
            notes.refuse(place, "stands behind a switch: put it into the next group")
            break
        if item == "detach":
            if not decided:
                notes.refuse(place, "detach ends a way that is decided: expected trap, queue or drop before it")
            decided = False
            continue
        if isinstance(item, dict) and "switch" in item:
            seen_switch = True
            switch = _switch(notes, place, item)
            continue
        step = read_step(notes, place, item)
        decided = step is None or type(step).__name__ in ("Trap", "Queue", "Drop")
        if step is not None:
            steps.append(step)
    return Block(tuple(steps), switch)


def _switch(notes: Notes, path: Path, value: Any) -> Switch | None:
    found = notes.mapping(path, value, ("switch", "cases"), ("cases",))
    known = [str(on) for on in On]
    if found["switch"] not in known:
        word = found["switch"]
        notes.refuse((*path, "switch"), f"expected {', '.join(known)}, found {shown(word)}{near(word, known)}")
        return None
    on = On(found["switch"])
    cases = [
        _case(notes, place, on, item) for place, item in notes.items((*path, "cases"), found.get("cases", []), "cases")
    ]
    kept = tuple(case for case in cases if case is not None)
    if cases and not kept:
        return None
    return notes.attempt(path, lambda: Switch(on=on, cases=kept, where=notes.where(path)))


def _case(notes: Notes, path: Path, on: On, value: Any) -> Case | None:
    found = notes.mapping(path, value, ("when", "steps", "label", "note"), ("when",))
    when: When | None = None
    if "when" in found:
        when = notes.attempt((*path, "when"), lambda: parse_when(on, _when_text(found["when"])))
    label = notes.attempt((*path, "label"), lambda: text(found.get("label", "")))
    note = read_note(notes, (*path, "note"), found["note"]) if "note" in found else None
    block = _block(notes, (*path, "steps"), found.get("steps", []))
    if when is None:
        return None
    return Case(when=when, block=block, label=label or "", note=note, where=notes.where(path))


def _when_text(value: Any) -> str:
    """A single metadata value may be written as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value)
