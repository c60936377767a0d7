# SPDX-License-Identifier: Apache-2.0
"""Groups as C functions: steps in order, switches, and where a frame goes on. Called by the generator. Pure.

A group returns the group that follows, or how the way ended. Each switch on patterns is a function of its own, so that
the verifier looks at each once, whatever leads to it. Groups that do nothing but go on or end are no functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mizar.pipeline.box import Box
from mizar.pipeline.description import Block, Case, On, Pipeline, Spot, State, Switch
from mizar.pipeline.effects import Refusal, apply
from mizar.pipeline.labels import case_text, step_text
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import Decap, Goto, Nat, Queue, Step, Stop, Trap
from mizar.pipeline.ways import Ways
from mizar.pipeline.xdp.conditions import inside
from mizar.pipeline.xdp.numbers import comment, identifier
from mizar.pipeline.xdp.steps import Steps
from mizar.pipeline.xdp.tree import Tree, answers

_LOCALS = (("uint32_t", "number"), ("enum connection_state", "state"))


@dataclass
class Groups:
    """Writes the groups of one pipeline. `questions` adds up what decides the program's size."""

    pipeline: Pipeline
    ways: Ways
    steps: Steps
    connections: bool
    """Somewhere is a switch on conntrack: every group gets what one found (`seen`), as nat may stand in a later one."""
    questions: int = 0
    _trees: list[str] = field(default_factory=list)

    def target(self, number: int) -> str:
        """Where a frame goes on that comes to a group: the group's name in C, or a way's end."""
        block = self.pipeline.groups[number].block
        if block.switch is None and not block.steps:
            return self.target(number + 1)
        if block.switch is None and len(block.steps) == 1:
            step = block.steps[0]
            if isinstance(step, Goto):
                return self.target(self.pipeline.number(step.group))
            if isinstance(step, Stop | Trap | Queue):
                return self.steps.lines(Spot(self.pipeline.groups[number].name), step)[0].split(maxsplit=1)[1][:-1]
        return f"GROUP_{number}"

    def function(self, number: int) -> list[str]:
        """A group, and in front of it the functions of its switches."""
        group = self.pipeline.groups[number]
        self._trees = []
        lines = self._block(Spot(group.name), group.block, number)
        uses = [f"\t{kind} {name};" for kind, name in _LOCALS if any(name in line for line in lines)]
        return [
            *self._trees,
            f"/* Group {number}: {comment(group.name)} */",
            f"__noinline int {name_of(number, group.name)}({self._parameters})",
            "{",
            *([*uses, ""] if uses else []),
            f"\tif (!p{' || !seen' if self.connections else ''})",
            "\t\treturn WAY_DROP;",
            *([] if any("ctx" in line for line in lines) else ["\tkept(ctx);"]),
            *(f"\t{line}" if line else line for line in lines),
            "}",
            "",
        ]

    @property
    def _parameters(self) -> str:
        most = "struct xdp_md *ctx, struct gateway_packet *p"
        return f"{most}, struct connection_seen *seen" if self.connections else most

    def _block(self, spot: Spot, block: Block, group: int) -> list[str]:
        lines: list[str] = []
        for place, step in enumerate(block.steps, 1):
            here = Spot(spot.group, spot.cases, place)
            lines.append(f"/* {comment(_words(self.pipeline, step))} */")
            if isinstance(step, Goto):
                return [*lines, f"return {self.target(self.pipeline.number(step.group))};"]
            lines += self._step(here, step)
            if lines[-1].startswith("return "):
                return lines
        if block.switch is not None:
            return [*lines, *self._switch(spot, block.switch, group)]
        return [*lines, f"return {self.target(group + 1)};"]

    def _step(self, here: Spot, step: Step) -> list[str]:
        if isinstance(step, Nat):
            asked = f"if (connection_nat(ctx, p, seen, {'true' if step.allocate else 'false'}))"
            return [asked, f"\t{self.steps.drop(f'{here}: no translation')}"]
        lines = self.steps.lines(here, step)
        if isinstance(step, Decap):
            lines += self._look_inside(here, step)
        return lines

    def _look_inside(self, here: Spot, step: Decap) -> list[str]:
        """Earlier cases asked for a tunnel inside of the tunnel: it is noted as the frame's own now."""
        after = [apply(self.pipeline, step, known) for known in self.ways.before.get(here, ())]
        shapes = {one.box.shape for one in after if not isinstance(one, Refusal) and one.box.tunnel is not None}
        if not shapes:
            return []
        boxes = [Box(shape) for shape in sorted(shapes)]
        name = self._tree("inside", here, Tree(answers([(1, boxes)]), ()), ["What stands inside."])
        return [f"{name}(ctx, p);"]

    def _switch(self, spot: Spot, switch: Switch, group: int) -> list[str]:
        none = self.steps.drop(f"{spot}: no case")
        bodies = []
        for place, case in enumerate(switch.cases, 1):
            inner = Spot(spot.group, (*spot.cases, place))
            bodies.append((place, case, self._block(inner, case.block, group)))
        if switch.on is On.PARSE:
            return self._parse(spot, bodies, none)
        lines = ["state = connection_look(ctx, p, seen);"] if switch.on is On.CONNTRACK else []
        for _, case, body in bodies:
            question = _question(case)
            if question is None:
                return [*lines, f"/* {comment(case_text(case))} */", *body]
            self.questions += _size(question)
            lines += [f"if ({question}) {{ /* {comment(case_text(case))} */", *_indented(body), "}"]
        return [*lines, none]

    def _parse(self, spot: Spot, bodies: list[tuple[int, Case, list[str]]], none: str) -> list[str]:
        cases: list[tuple[int, list[Box] | None]] = [
            (place, list(case.when.boxes) if isinstance(case.when, Pattern) else None) for place, case, _ in bodies
        ]
        known = tuple({one.box: None for one in self.ways.before.get(spot, frozenset())})
        says = [f"{place}: {case_text(case)}" for place, case, _ in bodies]
        name = self._tree("decide", spot, Tree(answers(cases), known), says)
        lines = [f"switch ({name}(ctx, p)) {{"]
        for place, case, body in bodies:
            lines += [f"case {place}: /* {comment(case_text(case))} */", *_indented(body)]
        return [*lines, "default:", f"\t{none}", "}"]

    def _tree(self, kind: str, spot: Spot, tree: Tree, says: list[str]) -> str:
        """Adds a tree's function; its name."""
        places = "".join(f"_{place}" for place in (*spot.cases, *((spot.step,) if spot.step else ())))
        name = f"{kind}_{name_of(self.pipeline.number(spot.group), spot.group)}{places}"
        self.questions += tree.questions
        self._trees += ["/*", *(f" * {comment(line)}" for line in says), " */", *tree.function(name), ""]
        return name


def name_of(number: int, group: str) -> str:
    """A group's name in C."""
    return f"group_{number}_{identifier(group)}"


def _question(case: Case) -> str | None:
    """What a case asks of metadata or state; None: nothing."""
    when = case.when
    if isinstance(when, Ranges):
        return None if when.is_full else inside("p->meta", when)
    if isinstance(when, frozenset) and when != frozenset(State):
        return " || ".join(f"state == CONNECTION_{state.name}" for state in State if state in when)
    return None


def _size(question: str) -> int:
    return question.count("&&") + question.count("||") + 1


def _words(pipeline: Pipeline, step: Step) -> str:
    return step_text(step, pipeline.number(step.group) if isinstance(step, Goto) else None)


def _indented(lines: list[str]) -> list[str]:
    return [f"\t{line}" if line else line for line in lines]
