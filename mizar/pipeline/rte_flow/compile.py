# SPDX-License-Identifier: Apache-2.0
"""A validated pipeline → a plan of rte_flow rules for the embedded switch (domain transfer).

A group of the description is the group of the same number; every switch inside of another, and every place where
connections are looked up, checked or translated, gets a group of its own behind them. Cases become priorities. Called
by the command line and the report. Raises InvalidError with everything that a switch cannot do, by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mizar.model.errors import InvalidError, Problem
from mizar.pipeline.box import Box
from mizar.pipeline.description import Block, Case, On, Pipeline, Spot, Switch
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.rte_flow.keys import Key, keyed, keys
from mizar.pipeline.rte_flow.lookup import StateBlocks, lookup_rules, notes
from mizar.pipeline.rte_flow.lowering import (
    QUEUE_TAG,
    CannotError,
    Context,
    NotInTableError,
    Ports,
    Resources,
    queue_tag,
)
from mizar.pipeline.rte_flow.match import patterns, rules_needed, unknown_field
from mizar.pipeline.rte_flow.outer import Shape, outer_headers, shape_after
from mizar.pipeline.rte_flow.rules import Action, Item, Lookup, Match, Plan, Rule, Translation, action
from mizar.pipeline.steps import Ending, Goto, Nat
from mizar.pipeline.structure import problem
from mizar.pipeline.ways import follow

MAX_RULES = 100_000
ANY = Box(("eth",))


def compile_rules(pipeline: Pipeline, ports: Ports = Ports(), tenants: Iterable[int] = ()) -> Plan:  # noqa: B008
    """The plan; each metadata value in `tenants` gets counters and meters of its own, all others share one.

    Raises InvalidError with every step and case that rte_flow has no rule for.
    """
    work = _Compiler(pipeline, ports, tuple(dict.fromkeys(tenants)))
    for number, group in enumerate(pipeline.groups):
        work.block(Spot(group.name), group.block, number, number)
    for queue in sorted(work.resources.queues):
        tag = Item("tag", (Match("data", queue_tag(queue), 0xFFFFFFFF, 32), Match("index", QUEUE_TAG, 0xFF, 8)))
        done = (action("queue", index=queue),)
        work.rules.append(Rule(f"queue {queue}", ports.uplink, 0, 0, (tag,), done, domain="ingress"))
    if len(work.rules) > MAX_RULES:
        work.problems.append(Problem(f"{len(work.rules)} rules are too many: at most {MAX_RULES}", file=""))
    if work.problems:
        raise InvalidError(work.problems)
    found = [*work.notes, *notes(bool(work.lookups), bool(work.resources.queues), work.resources.decapsulates)]
    return Plan(
        setup=tuple(work.resources.setup),
        rules=tuple(sorted(work.rules, key=lambda rule: (rule.domain != "transfer", rule.group, rule.priority))),
        counters=work.resources.counters,
        notes=tuple(dict.fromkeys(found)),
        lookups=tuple(work.lookups),
        translations=tuple(work.translations),
    )


@dataclass
class _Compiler:
    """Rules so far, and the next free group."""

    pipeline: Pipeline
    ports: Ports
    tenants: tuple[int, ...]
    rules: list[Rule] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    translations: list[Translation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.resources = Resources(self.pipeline, self.ports)
        self.ways = follow(self.pipeline)
        self.free_group = len(self.pipeline.groups)

    def block(self, spot: Spot, block: Block, group: int, number: int) -> None:
        """All rules of a block that has a group for itself. `number`: the description's group around it."""
        if block.switch is not None and not block.steps:
            self.switch(spot, block.switch, group, number)
        else:
            self.leaf(spot, block, group, number, 0, [ANY], None)

    def switch(self, spot: Spot, switch: Switch, group: int, number: int) -> None:
        """The rules of a switch's cases, first case first, and the drop of what none takes."""
        if switch.on is On.CONNTRACK:
            self.conntrack(spot, switch, group, number)
            return
        for place, case in enumerate(switch.cases):
            here = Spot(spot.group, (*spot.cases, place + 1))
            boxes = list(case.when.boxes) if isinstance(case.when, Pattern) else [ANY]
            meta = case.when if isinstance(case.when, Ranges) else None
            unknown = next((name for name in map(unknown_field, boxes) if name), None)
            if unknown is not None:
                self.refuse(here, case, f"rte_flow cannot match {unknown}")
            else:
                self.leaf(here, case.block, group, number, 2 * place, boxes, meta)
        self.missed(spot, group, 2 * len(switch.cases))

    def conntrack(self, spot: Spot, switch: Switch, group: int, number: int) -> None:
        """Connections have rules of their own, made as they come and go; the rest may begin one or not."""
        entries = {}
        for place, case in enumerate(switch.cases):
            here = Spot(spot.group, (*spot.cases, place + 1))
            entries[place] = self.new_group()
            self.block(here, case.block, entries[place], number)
        blocks = StateBlocks.of(switch, entries)
        check, established = self.new_group(), blocks.established
        if established is None:
            established = self.new_group()
            self.missed(spot, established, 0)
        self.lookups.append(Lookup(str(spot), group, check, established))
        self.rules += lookup_rules(str(spot), self.ports.uplink, group, check, blocks, self.resources)

    def leaf(
        self, spot: Spot, block: Block, group: int, number: int, priority: int, boxes: list[Box], meta: Ranges | None
    ) -> None:
        """The rules of a block that begins with boxes and metadata: one for each key, and one for everything else."""
        inner = None
        if block.switch is not None:
            inner = self.new_group()
            self.switch(spot, block.switch, inner, number)
        for box in boxes:
            try:
                several = keys(block, self.tenants, box)
            except CannotError as error:
                self.problems.append(problem(self.pipeline, spot, block.steps[0].where, str(error)))
                continue
            for key in (*several, None):
                place = keyed(box, meta, key)
                if place is None:
                    continue
                if rules_needed(*place) > MAX_RULES:
                    self.problems.append(problem(self.pipeline, spot, self.pipeline.where, "needs too many rules"))
                    return
                actions = tuple(self.actions(spot, block, inner, number, box.shape, key))
                for items in patterns(*place):
                    rule = Rule(str(spot), self.ports.uplink, group, priority + (key is None), items, actions)
                    self.rules.append(rule)

    def actions(
        self, spot: Spot, block: Block, inner: int | None, number: int, shape: Shape, key: Key | None, done: int = 0
    ) -> list[Action]:
        """What a rule does of a block whose first `done` steps are done; up to a NAT, which has rules of its own."""
        found: list[Action] = []
        for place, step in enumerate(block.steps[done:], done + 1):
            here = Spot(spot.group, spot.cases, place)
            if isinstance(step, Nat):
                return [*found, action("jump", group=self.translation(spot, step, block, inner, number, place))]
            if isinstance(step, Goto):
                return [*found, action("jump", group=self.pipeline.number(step.group))]
            known = Context(outer_headers(shape, self.ways, here), None if key is None else key.meta)
            try:
                found += self.resources.lower(here, step, known)
            except NotInTableError as error:
                return self.resources.dropped(str(error))
            except CannotError as error:
                self.problems.append(problem(self.pipeline, here, step.where, str(error)))
            shape = shape_after(shape, step)
        if not (block.steps and isinstance(block.steps[-1], Ending)):
            found.append(action("jump", group=number + 1 if inner is None else inner))
        return found

    def translation(self, spot: Spot, step: Nat, block: Block, inner: int | None, number: int, place: int) -> int:
        """The group in which each connection has its translating rule; what follows NAT is part of that rule."""
        here = Spot(spot.group, spot.cases, place)
        known = next((one for one in self.translations if one.spot == str(here)), None)
        if known is not None:
            return known.group
        if step.allocate:
            self.problems.append(problem(self.pipeline, here, step.where, "rte_flow cannot allocate a translation"))
        group = self.new_group()
        then = self.actions(spot, block, inner, number, ANY.shape, None, done=place)
        self.translations.append(Translation(str(here), group, tuple(then)))
        self.missed(here, group, 1)
        return group

    def missed(self, spot: Spot, group: int, priority: int) -> None:
        """The last rule of a group: count and drop."""
        drop = tuple(self.resources.dropped(f"{spot}: no case"))
        self.rules.append(Rule(f"{spot}: no case", self.ports.uplink, group, priority, (Item("eth"),), drop))

    def new_group(self) -> int:
        self.free_group += 1
        return self.free_group - 1

    def refuse(self, spot: Spot, case: Case, message: str) -> None:
        self.problems.append(problem(self.pipeline, spot, case.where, message))
