# SPDX-License-Identifier: Apache-2.0
"""All ways of packets through a pipeline, followed with what is known of their headers and metadata.

The validator's second half: an action on a header that is not there, a case that no way reaches, a group that cannot
end. `before` says for each step which frames may stand there; a test holds the interpreter against it. Every real
packet's state is contained in one of the states followed; a state may contain packets that do not exist.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from mizar.model.errors import Problem
from mizar.pipeline.box import Box
from mizar.pipeline.description import Block, Case, On, Otherwise, Pipeline, Spot, State, Switch
from mizar.pipeline.effects import Known, Refusal, apply, leaving, needs_connection
from mizar.pipeline.labels import when_text
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import Ending, Goto, Where
from mizar.pipeline.structure import covered, problem

MAX_STATES = 2000
Knowns = frozenset[Known]


@dataclass
class Ways:
    """What was found: states before each step and each switch, and problems, each once."""

    pipeline: Pipeline
    problems: list[Problem] = field(default_factory=list)
    before: dict[Spot, Knowns] = field(default_factory=dict)
    arriving: defaultdict[int, Knowns] = field(default_factory=lambda: defaultdict(frozenset))

    def refuse(self, spot: Spot, where: Where, message: str) -> None:
        """Notes a problem once, however many states meet it."""
        found = problem(self.pipeline, spot, where, message)
        if found not in self.problems:
            self.problems.append(found)


def follow(pipeline: Pipeline) -> Ways:
    """Follows every way from the first group, with any frame, to its end."""
    ways = Ways(pipeline)
    ways.arriving[0] = frozenset({Known(Box(("eth",)))})
    for number, group in enumerate(pipeline.groups):
        states = ways.arriving[number]
        if not states:
            if not ways.problems:  # else it may be cut off only because a way before it is broken
                ways.refuse(Spot(group.name), group.where, "cannot be reached: no way leads to this group")
            continue
        _block(ways, Spot(group.name), group.block, states, group.where)
    return ways


def _block(ways: Ways, spot: Spot, block: Block, states: Knowns, where: Where) -> None:
    for number, step in enumerate(block.steps, 1):
        here = Spot(spot.group, spot.cases, number)
        ways.before[here] = ways.before.get(here, frozenset()) | states
        after = set()
        for state in states:
            result = apply(ways.pipeline, step, state)
            if isinstance(result, Refusal):
                ways.refuse(here, step.where, result.message)
            after.add(result.then if isinstance(result, Refusal) else result)
        states = _bounded(ways, here, step.where, frozenset(after))
        if isinstance(step, Ending):
            _end(ways, here, step, states)
            return
    if block.switch is not None:
        _switch(ways, spot, block.switch, states)
    else:
        _next_group(ways, spot, where, states)


def _end(ways: Ways, here: Spot, step: Ending, states: Knowns) -> None:
    if isinstance(step, Goto):
        names = [group.name for group in ways.pipeline.groups]
        if step.group in names and names.index(step.group) > names.index(here.group):
            ways.arriving[names.index(step.group)] |= states
        return
    for state in states:
        refusal = leaving(step, state)
        if refusal is not None:
            ways.refuse(here, step.where, refusal.message)


def _next_group(ways: Ways, spot: Spot, where: Where, states: Knowns) -> None:
    following = [group.name for group in ways.pipeline.groups].index(spot.group) + 1
    if following == len(ways.pipeline.groups):
        ways.refuse(spot, where, "cannot end: expected stop, trap, queue or drop, there is no group behind this one")
    else:
        ways.arriving[following] |= states


def _switch(ways: Ways, spot: Spot, switch: Switch, states: Knowns) -> None:
    ways.before[spot] = ways.before.get(spot, frozenset()) | states
    usable = set()
    for state in states:
        refusal = _refused(switch, state)
        if refusal is None:
            usable.add(state)
        else:
            ways.refuse(spot, switch.where, refusal)
    for place, case in enumerate(switch.cases):
        here = Spot(spot.group, (*spot.cases, place + 1))
        inside = {found for state in usable for found in _taken(case, switch.cases[:place], state)}
        if inside:
            bounded = _bounded(ways, here, case.where, frozenset(inside))
            _block(ways, here, case.block, bounded, case.where)
        elif usable and not covered(case, switch.cases[:place]):  # which `structure` has said
            message = f"cannot be reached: no frame that comes here is {when_text(case)}{_example(usable)}"
            ways.refuse(here, case.where, message)


def _refused(switch: Switch, state: Known) -> str | None:
    if switch.on is On.METADATA and state.meta is None:
        return "switch on metadata, which a way leads here without setting"
    if switch.on is On.CONNTRACK:
        refusal = needs_connection("switch on conntrack", state)
        return None if refusal is None else refusal.message
    return None


def _taken(case: Case, earlier: tuple[Case, ...], state: Known) -> list[Known]:
    """What of a state a case takes, when the cases before it have taken theirs."""
    when, whens = case.when, [one.when for one in earlier]
    if any(isinstance(one, Otherwise) for one in whens):
        return []
    boxes = [box for one in whens if isinstance(one, Pattern) for box in one.boxes]
    if isinstance(when, Pattern):
        met = [box for box in (state.box.meet(box) for box in when.boxes) if box is not None]
        return [replace(state, box=box) for box in met if box.left_by(boxes)]
    found = [state]
    if isinstance(when, Otherwise):
        found = [replace(state, box=box) for box in state.box.left_by(boxes)]
    gone = {one for states in whens if isinstance(states, frozenset) for one in states}
    if isinstance(when, frozenset) or gone:
        wanted = when if isinstance(when, frozenset) else frozenset(State)
        states = (wanted if state.connection is None else wanted & state.connection) - gone
        found = [replace(one, connection=states) for one in found if states]
    if state.meta is not None:
        meta = state.meta & when if isinstance(when, Ranges) else state.meta
        for one in whens:
            meta = meta - one if isinstance(one, Ranges) else meta
        found = [replace(one, meta=meta) for one in found if not meta.is_empty]
    return found


def _bounded(ways: Ways, spot: Spot, where: Where, states: Knowns) -> Knowns:
    if len(states) <= MAX_STATES:
        return states
    ways.refuse(spot, where, f"more than {MAX_STATES} different ways lead here: write fewer alternatives before it")
    return frozenset()


def _example(states: set[Known]) -> str:
    return f"; for example {sorted(str(state.box) for state in states)[0]}"
