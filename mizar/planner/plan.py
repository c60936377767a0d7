# SPDX-License-Identifier: Apache-2.0
"""Steps: who has to be told what, and in which order. Plain data, called by the manager.

Two orders hold. On one droplet, an entry comes after those that it refers to (droplets, VPCs, networks, endpoints,
local endpoints), and deletes go the other way. Between droplets there are seven waves, so that no packet is sent to
a droplet that does not know yet, or no longer, what to do with it: see `Wave`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from mizar.planner.entries import (
    EndpointEntry,
    Entry,
    Key,
    LocalEntry,
    NetworkEntry,
    PolicySetEntry,
    ServiceEntry,
    VpcEntry,
)

HopSet = NetworkEntry | VpcEntry


class Wave(IntEnum):
    """All droplets finish (or are given up) one wave before any begins the next."""

    ARRIVE = 0
    """An endpoint that moves begins to live at its next host, which is prepared for it; the former one has it, too."""
    LEARN = 1
    """New entries: all that new members of a hop set must know."""
    JOIN = 2
    """New members are told of their role. Not before LEARN: who is a member and lacks an entry refuses packets."""
    POINT = 3
    """Everybody else is told of the new hop set, or of the endpoint's next host."""
    LEAVE = 4
    """Former members are told that their role has ended: nobody sends there any more."""
    FORGET = 5
    """Entries are deleted. Not before LEAVE, for the reason that JOIN is not before LEARN."""
    DEPART = 6
    """The former host of an endpoint that has moved lets it go: no entry leads there any more."""


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


@dataclass(frozen=True, slots=True)
class Change:
    """What one droplet holds of one entry, before and after: None where it does not. They are not equal."""

    droplet: str
    address: bytes
    """Of the droplet itself: tells whether it is a member of a hop set."""
    before: Entry | None
    after: Entry | None

    @property
    def key(self) -> Key:
        """Names the entry among all entries of the droplet."""
        entry = self.before or self.after
        assert entry is not None
        return entry.key


class Plan:
    """Changes that wait to be carried out, and the steps that do it.

    Several changes of one entry become one, from the first's before to the last's after, so that a plan does not grow
    with changes that replace one another. Plans are carried out one after the other. An entry that goes and another
    that takes over its addresses or numbers must not be in one plan: the store gives a number free only when its
    delete is done.
    """

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self._changes: dict[tuple[str, Key], Change] = {}
        self.add(changes)

    def add(self, changes: Iterable[Change]) -> None:
        """Adds changes, after those that wait already."""
        for change in changes:
            place = change.droplet, change.key
            earlier = self._changes.pop(place, None)
            if earlier is not None:
                change = replace(change, before=earlier.before)
            if change.before != change.after:
                self._changes[place] = change

    def __bool__(self) -> bool:
        return bool(self._changes)

    def waves(self) -> list[tuple[Wave, Mapping[str, list[Step]]]]:
        """The waves that have anything to do, in order; for each droplet (by name) its steps in order."""
        sets, leaving, arriving = self._hop_sets(), self._leaving(), self._arriving()
        homes = {key for _, key in arriving}
        left = {droplet for droplet, key in leaving if key in homes}
        steps: dict[Wave, dict[str, list[Step]]] = {wave: {} for wave in Wave}
        for change in self._changes.values():
            for step in self._steps(change, sets):
                place = step.droplet, step.entry.key
                if place in leaving and step.wave is Wave.LEARN:
                    step = replace(step, wave=Wave.POINT)  # it has them itself until they are at their next droplet
                if place in arriving and step.delete:
                    continue  # what is attached has taken its place
                if step.droplet in left and step.delete and not isinstance(step.entry, EndpointEntry):
                    step = replace(step, wave=Wave.DEPART)
                steps[step.wave].setdefault(step.droplet, []).append(step)
        return [
            (wave, {droplet: in_order(own) for droplet, own in droplets.items()})
            for wave, droplets in steps.items()
            if droplets
        ]

    def _hop_sets(self) -> dict[Key, tuple[HopSet | None, HopSet | None]]:
        """Each hop set that changes, before and after: None when it is new, or goes, everywhere."""
        sets: dict[Key, tuple[HopSet | None, HopSet | None]] = {}
        for (_, key), change in self._changes.items():
            before, after = sets.get(key, (None, None))
            if isinstance(change.before, HopSet):
                before = change.before
            if isinstance(change.after, HopSet):
                after = change.after
            if before or after:
                sets[key] = before, after
        return sets

    def _leaving(self) -> set[tuple[str, Key]]:
        """Droplets and the endpoints that cease to live there."""
        return {
            (change.droplet, change.before.endpoint.key)
            for change in self._changes.values()
            if isinstance(change.before, LocalEntry) and not change.before.standby and change.after is None
        }

    def _arriving(self) -> set[tuple[str, Key]]:
        """Droplets and the endpoints that begin to live there."""
        return {
            (change.droplet, change.after.endpoint.key)
            for change in self._changes.values()
            if isinstance(change.after, LocalEntry) and not change.after.standby
        }

    def _steps(self, change: Change, sets: Mapping[Key, tuple[HopSet | None, HopSet | None]]) -> Iterator[Step]:
        name, before, after = change.droplet, change.before, change.after
        old, new = sets.get(change.key, (None, None))
        if isinstance(after, ServiceEntry):
            yield from self._service_steps(change, before if isinstance(before, ServiceEntry) else None, after)
        elif before is None and after is not None:
            if not isinstance(after, HopSet) or old is None or old == after:
                yield Step(name, Wave.LEARN, after)
                return
            # The hop set changes as well: until its new members are ready, this droplet uses the old ones.
            usable = tuple(member for member in old.members if self._knows(change, member))
            yield Step(name, Wave.LEARN, after.among(usable))
            yield Step(name, Wave.JOIN if change.address in after.members else Wave.POINT, after, Action.CHANGE)
        elif before is not None and after is None:
            leaves = isinstance(before, HopSet) and change.address in before.members
            if leaves and new is not None and not self._goes(change):
                yield Step(name, Wave.LEAVE, new, Action.CHANGE)
            yield Step(name, Wave.FORGET, before, Action.DELETE)
        elif after is not None:
            # What rules say of peers comes before peers that rely on it.
            wave = Wave.LEARN if isinstance(after, PolicySetEntry) else Wave.POINT
            if isinstance(before, HopSet) and isinstance(after, HopSet):
                was, will_be = change.address in before.members, change.address in after.members
                wave = Wave.POINT if was == will_be else Wave.JOIN if will_be else Wave.LEAVE
            elif isinstance(before, LocalEntry) and before.standby:
                wave = Wave.ARRIVE
            yield Step(name, wave, after, Action.CHANGE)

    def _service_steps(self, change: Change, before: ServiceEntry | None, after: ServiceEntry) -> Iterator[Step]:
        """Where a member lives it is known before anybody sends it flows, and forgotten when nobody does any more."""
        name, here = change.droplet, change.address
        known = {member.mac for member in before.members} if before else set()
        kept = {member.mac for member in after.members}
        comes = any(member.host == here and member.mac not in known for member in after.members)
        goes = any(member.host == here and member.mac not in kept for member in (before.members if before else ()))
        if before is None:
            yield Step(name, Wave.LEARN if comes else Wave.POINT, after)
            return
        if comes:
            yield Step(name, Wave.LEARN, after.beside(before), Action.CHANGE)
        if goes:  # others may still send them flows, until they have been told as well
            yield Step(name, Wave.POINT, after.draining(before), Action.CHANGE)
        yield Step(name, Wave.LEAVE if goes else Wave.POINT, after, Action.CHANGE)

    def _knows(self, change: Change, member: bytes) -> bool:
        """Whether the droplet knows a member of an old hop set: a droplet of this plan never knew one that goes."""
        itself = self._changes.get((change.droplet, (0, change.address)))
        new = itself is not None and itself.before is None
        return not new or (change.droplet, (0, member)) in self._changes

    def _goes(self, change: Change) -> bool:
        """Whether the droplet itself goes: it need not hear of new members, nor does it know them."""
        itself = self._changes.get((change.droplet, (0, change.address)))
        return itself is not None and itself.after is None


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
        if isinstance(entry, LocalEntry) and not entry.standby and _moves_here(entry, unwanted):
            del unwanted[entry.endpoint.key]  # what is attached takes its place
        present = unwanted.pop(entry.key, None)
        if present is None:
            steps.append(Step(droplet, Wave.LEARN, entry))
        elif not entry.same(present):
            steps.append(Step(droplet, Wave.POINT, entry, Action.CHANGE))
    steps.extend(Step(droplet, Wave.FORGET, entry, Action.DELETE) for entry in unwanted.values())
    return in_order(steps)


def _moves_here(local: LocalEntry, actual: Mapping[Key, Entry]) -> bool:
    """Whether the droplet knows the very endpoint as one of another droplet."""
    there = actual.get(local.endpoint.key)
    return isinstance(there, EndpointEntry) and (there.network_id, there.mac) == (
        local.endpoint.network_id,
        local.endpoint.mac,
    )


def _rank(step: Step) -> tuple[int, int, int]:
    return step.wave, step.action, -step.entry.order if step.delete else step.entry.order
