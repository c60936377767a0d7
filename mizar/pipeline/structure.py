# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a pipeline at first sight: names, directions, what nothing can reach. Called by `validation`.

Never follows packets through groups: `ways` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mizar.model.errors import Problem
from mizar.pipeline.description import Block, Case, Otherwise, Pipeline, Spot, State, Switch, blocks
from mizar.pipeline.fields import near
from mizar.pipeline.labels import when_text
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import META_BITS, Count, Encap, Ending, Goto, Limit, Step, Where


def problem(pipeline: Pipeline, spot: Spot, where: Where, message: str) -> Problem:
    """A problem at a rule; a place that has no line of its own gets the pipeline's."""
    place = where if where.line else pipeline.where
    return Problem(message, str(spot), f"pipeline {pipeline.name}", file=place.file, line=place.line)


def structure_problems(pipeline: Pipeline) -> list[Problem]:
    """Every problem of names, order and reachability inside of switches."""
    found = list(_groups(pipeline)) + list(_names(pipeline))
    for spot, block in blocks(pipeline):
        found += _steps(pipeline, spot, block)
        if block.switch is not None:
            found += _cases(pipeline, spot, block.switch)
    return found


def _groups(pipeline: Pipeline) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for group in pipeline.groups:
        if group.name in first:
            message = f"expected each group's name once, it stands in line {first[group.name]} already"
            yield problem(pipeline, Spot(group.name), group.where, message)
        first.setdefault(group.name, group.where.line)


def _steps(pipeline: Pipeline, spot: Spot, block: Block) -> Iterator[Problem]:
    names = [group.name for group in pipeline.groups]
    ended = False
    for number, step in enumerate(block.steps, 1):
        here = Spot(spot.group, spot.cases, number)
        if ended:
            yield problem(pipeline, here, step.where, "cannot be reached: the step before it ends the way")
            break
        ended = isinstance(step, Ending)
        if isinstance(step, Goto):
            if step.group not in names:
                message = f"no group {step.group!r}{near(step.group, names)}; there are {', '.join(names)}"
                yield problem(pipeline, here, step.where, message)
            elif names.index(step.group) <= names.index(spot.group):
                message = f"leads back to group {step.group!r}: a packet could go round for ever; go to a later group"
                yield problem(pipeline, here, step.where, message)
    if ended and block.switch is not None:
        message = "switch cannot be reached: the step before it ends the way"
        yield problem(pipeline, spot, block.switch.where, message)


def _cases(pipeline: Pipeline, spot: Spot, switch: Switch) -> Iterator[Problem]:
    """Cases that earlier ones leave nothing for, whatever way the packet came."""
    for place, case in enumerate(switch.cases):
        here = Spot(spot.group, (*spot.cases, place + 1))
        earlier = switch.cases[:place]
        twin = next((one for one in earlier if one.when == case.when), None)
        if twin is not None:
            message = f"asks for {when_text(case)} as the case in line {twin.where.line} does already"
            yield problem(pipeline, here, case.where, message)
        elif covered(case, earlier):
            yield problem(pipeline, here, case.where, f"cannot be reached: earlier cases take all of {when_text(case)}")


def covered(case: Case, earlier: Iterable[Case]) -> bool:
    """Whether earlier cases of the same switch take everything that this one asks for."""
    earlier = list(earlier)
    if any(isinstance(one.when, Otherwise) for one in earlier):
        return True
    when = case.when
    if isinstance(when, Pattern):
        boxes = [box for one in earlier if isinstance(one.when, Pattern) for box in one.when.boxes]
        return all(not box.left_by(boxes) for box in when.boxes)
    if isinstance(when, Ranges):
        return (when - _all_meta(earlier)).is_empty
    states = frozenset(state for one in earlier if isinstance(one.when, frozenset) for state in one.when)
    if isinstance(when, Otherwise):
        return states == frozenset(State) or _all_meta(earlier).is_full
    return when <= states


def _all_meta(cases: Iterable[Case]) -> Ranges:
    found = Ranges(META_BITS, ())
    for case in cases:
        if isinstance(case.when, Ranges):
            found |= case.when
    return found


def _names(pipeline: Pipeline) -> Iterator[Problem]:
    """Tunnel ends that are missing or never used; counters and limits that share a name and are not the same."""
    ends: dict[str, int] = {}
    for end in pipeline.tunnels:
        if end.name in ends:
            message = f"expected each tunnel's name once, {end.name!r} stands in line {ends[end.name]} already"
            yield problem(pipeline, Spot("tunnels"), end.where, message)
        ends.setdefault(end.name, end.where.line)
    used: set[str] = set()
    meaning: dict[str, Step] = {}
    for spot, step in all_steps(pipeline):
        if isinstance(step, Encap):
            used.add(step.to)
            if step.to not in ends:
                message = f"no tunnel {step.to!r}{near(step.to, ends)}; there are {', '.join(ends) or 'none'}"
                yield problem(pipeline, spot, step.where, message)
            elif step.vlan and pipeline.tunnel(step.to).vid is None:
                yield problem(pipeline, spot, step.where, f"tunnel {step.to!r} has no vid for the tag")
        if isinstance(step, Count | Limit):
            twin = meaning.setdefault(step.name, step)
            if _counted(twin) != _counted(step):
                message = f"{step.name!r} is something else in line {twin.where.line}: give it another name"
                yield problem(pipeline, spot, step.where, message)
    for port in pipeline.kernel.ports if pipeline.kernel is not None else ():
        used.add(port.to)
        if port.to not in ends:
            message = f"no tunnel {port.to!r}{near(port.to, ends)}; there are {', '.join(ends) or 'none'}"
            yield problem(pipeline, Spot("kernel"), port.where, message)
    for end in pipeline.tunnels:
        if end.name not in used:
            yield problem(pipeline, Spot("tunnels"), end.where, f"no step uses tunnel {end.name!r}")


def _counted(step: Step) -> tuple[object, ...]:
    if isinstance(step, Limit):
        return Limit, step.per_meta, step.packets_per_s, step.burst
    return (Count, step.per_meta) if isinstance(step, Count) else ()


def all_steps(pipeline: Pipeline) -> Iterator[tuple[Spot, Step]]:
    """Every step with its spot, in the order of writing."""
    for spot, block in blocks(pipeline):
        for number, step in enumerate(block.steps, 1):
            yield Spot(spot.group, spot.cases, number), step
