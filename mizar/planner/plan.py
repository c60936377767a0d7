# SPDX-License-Identifier: Apache-2.0
"""Steps: who has to be told what, and in which order. Plain data, called by the manager.

Two orders hold. On one droplet, an entry comes after those that it refers to (droplets, VPCs, networks, endpoints,
local endpoints), and deletes go the other way. Between droplets there are five waves, so that no packet is sent to
a droplet that does not know yet, or no longer, what to do with it: see `Wave`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from mizar.planner.entries import Entry, Key


class Wave(IntEnum):
    """All droplets finish (or are given up) one wave before any begins the next."""

    LEARN = 0
    """New entries: all that new members of a hop set must know."""
    JOIN = 1
    """New members are told of their role. Not before LEARN: who is a member and lacks an entry refuses packets."""
    POINT = 2
    """Everybody else is told of the new hop set."""
    LEAVE = 3
    """Former members are told that their role has ended: nobody sends there any more."""
    FORGET = 4
    """Entries are deleted. Not before LEAVE, for the reason that JOIN is not before LEARN."""


class Action(IntEnum):
    """What is done to an entry, in the order in which one droplet does it within a wave."""

    ADD = 0
    CHANGE = 1
    DELETE = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one droplet's tables: `entry` is put (ADD, CHANGE), or the entry with its key is deleted."""

    droplet: str
    wave: Wave
    entry: Entry
    action: Action = Action.ADD

    @property
    def delete(self) -> bool:
        """Whether the entry goes."""
        return self.action is Action.DELETE


class Plan:
    """Steps that wait to be done. Later steps replace what they make superfluous, so that its size stays bounded.

    Holds no history: steps of several changes may be added while earlier plans are under way. An entry that goes
    and another that takes over its addresses or numbers must not be in one plan: the store gives a number free only
    when its delete is done.
    """

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self._waves: dict[Wave, dict[str, dict[Key, Step]]] = {wave: {} for wave in Wave}
        self.add(steps)

    def add(self, steps: Iterable[Step]) -> None:
        """Adds the steps of one change, after those of all changes before."""
        for step in steps:
            key = step.entry.key
            # What an earlier change wanted of this entry in this wave or a later one would undo the newer wish.
            for wave in range(step.wave, Wave.FORGET + 1):
                waiting = self._waves[Wave(wave)].get(step.droplet, {})
                earlier = waiting.pop(key, None)
                if earlier and wave == step.wave and earlier.action is Action.ADD and not step.delete:
                    step = replace(step, action=Action.ADD)
                if earlier and not waiting:
                    del self._waves[Wave(wave)][step.droplet]
            self._waves[step.wave].setdefault(step.droplet, {})[key] = step

    def __bool__(self) -> bool:
        return any(self._waves.values())

    def waves(self) -> list[tuple[Wave, Mapping[str, list[Step]]]]:
        """The waves that have anything to do, in order; for each droplet (by name) its steps in order."""
        return [
            (wave, {droplet: in_order(steps.values()) for droplet, steps in droplets.items()})
            for wave, droplets in self._waves.items()
            if droplets
        ]


def in_order(steps: Iterable[Step]) -> list[Step]:
    """The order in which one droplet takes the steps of one or more waves."""
    return sorted(steps, key=_rank)


def diff(droplet: str, desired: Iterable[Entry], actual: Iterable[Entry]) -> list[Step]:
    """The steps, in order, after which a droplet that holds `actual` holds `desired`: for a daemon that (re)connects.

    New entries first, then changed ones, then deletes.
    """
    unwanted = {entry.key: entry for entry in actual}
    steps = []
    for entry in desired:
        present = unwanted.pop(entry.key, None)
        if present is None:
            steps.append(Step(droplet, Wave.LEARN, entry))
        elif not entry.same(present):
            steps.append(Step(droplet, Wave.POINT, entry, Action.CHANGE))
    steps.extend(Step(droplet, Wave.FORGET, entry, Action.DELETE) for entry in unwanted.values())
    return in_order(steps)


def _rank(step: Step) -> tuple[int, int, int]:
    return step.wave, step.action, -step.entry.order if step.delete else step.entry.order
