# SPDX-License-Identifier: Apache-2.0
"""Which droplets are members of a hop set: the bouncers of a network, the dividers of a VPC.

Called by the manager (or the API's transaction); the answer is kept in the object's status. Pure and deterministic:
depends on names, counts and present members alone. docs/decisions/placement.md says why it is built so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nsmallest

from mizar.model.errors import NotFoundError

_HEADROOM_PERCENT = 125
"""No droplet is given more than this share of the mean: room for rendezvous' randomness, and little to move."""


@dataclass(slots=True)
class _Group:
    count: int
    members: list[tuple[int, str]] = field(default_factory=list)
    """(score, droplet), best first."""

    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.members)

    def has(self, name: str) -> bool:
        return any(member == name for _, member in self.members)


class Placement:
    """The members of all hop sets of one role. Make one for bouncers and one for dividers.

    A group (a hop set) is named by any string that does not change, such as the uid of its network. Methods return
    the groups whose members changed, with their new members in order of preference.
    """

    def __init__(self, droplets: Collection[str] = ()) -> None:
        self._groups: dict[str, _Group] = {}
        self._of_droplet: dict[str, set[str]] = {name: set() for name in droplets}
        self._away: set[str] = set()
        self._places = 0
        """Sum of the counts of all groups."""

    def restore(self, group: str, count: int, members: Collection[str]) -> None:
        """Takes a group as it was stored, without choosing; `settle` mends what changed meanwhile."""
        self.remove(group)
        placed = self._groups[group] = _Group(count)
        self._places += count
        for name in members:
            if name in self._of_droplet:
                self._join(group, placed, name)

    def settle(self) -> Mapping[str, tuple[str, ...]]:
        """Fills groups that have fewer members than they could have, and trims those that have more."""
        return self._fill(list(self._groups))

    def put(self, group: str, count: int) -> tuple[str, ...]:
        """A group comes or wants another count. Members: as many distinct droplets as it wants, or as there are.

        One that is away keeps the places that it has, and is given none, except in a group that would have nobody.
        """
        placed = self._groups.setdefault(group, _Group(0))
        self._places += count - placed.count
        placed.count = count
        self._fill([group])
        return placed.names()

    def remove(self, group: str) -> None:
        """A group goes; unknown ones are ignored."""
        placed = self._groups.pop(group, None)
        if placed is not None:
            self._places -= placed.count
            for name in placed.names():
                self._of_droplet[name].discard(group)

    def add_droplet(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """A droplet becomes eligible: it takes its share, about 1/n of all places, and nothing else moves.

        It is taken into groups that lack a member; then it relieves droplets that hold more than is their share now;
        then it takes the places for which it scores higher than their holder, until it has its share itself.
        """
        if name in self._of_droplet:
            return {}
        self._of_droplet[name] = set()
        return self._welcome(name)

    def reserve(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """A droplet becomes eligible that nobody can tell anything yet: it is away."""
        self._of_droplet.setdefault(name, set())
        self._away.add(name)
        return self._fill([group for group, placed in self._groups.items() if not placed.members])

    def leave(self, name: str) -> None:
        """A droplet is away: nobody can tell it what a place asks of it. Nothing moves; it may come back at once."""
        if name in self._of_droplet:
            self._away.add(name)

    def evacuate(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """A droplet is dead: its places go to droplets that are not away. Where there is none, it keeps its place."""
        self.leave(name)
        changed = {}
        for group in sorted(self._of_droplet.get(name, ())):
            placed = self._groups[group]
            able = [other for other in self._candidates(group, placed) if other not in self._away]
            if able:
                self._replace(group, name, able[0])
                changed[group] = placed.names()
        return changed

    def come_back(self, name: str, *, share: bool = True) -> Mapping[str, tuple[str, ...]]:
        """A droplet is away no more. One that holds no place is treated like a new one, but for its `share`."""
        if name not in self._away:
            return {}
        self._away.discard(name)
        return self._welcome(name, share=share and not self._of_droplet[name])

    def _welcome(self, name: str, share: bool = True) -> dict[str, tuple[str, ...]]:
        limit = self._limit()
        changed = {
            g for g, placed in self._groups.items() if len(placed.members) < placed.count and not placed.has(name)
        }
        for group in changed:
            self._join(group, self._groups[group], name)
        if share:
            self._take_share(name, limit, changed)
        return {group: self._groups[group].names() for group in sorted(changed)}

    def _take_share(self, name: str, limit: int, changed: set[str]) -> None:
        for other, groups in self._of_droplet.items():
            if other == name or len(groups) <= limit:
                continue
            ranked = sorted((g for g in groups if g not in changed), key=lambda group: _score(group, other))
            for group in ranked[: min(len(groups) - limit, max(0, limit - len(self._of_droplet[name])))]:
                self._replace(group, other, name)
                changed.add(group)
        room = self._places // len(self._of_droplet) - len(self._of_droplet[name])
        scored = ((_score(group, name), group) for group in self._groups if group not in changed)
        better = ((score, group) for score, group in scored if score > self._groups[group].members[-1][0])
        for _, group in sorted(better, reverse=True)[: max(0, room)]:
            self._replace(group, self._groups[group].members[-1][1], name)
            changed.add(group)

    def remove_droplet(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """A droplet is eligible no more: only the groups that it was a member of change."""
        groups = self._of_droplet.pop(name, set())
        self._away.discard(name)
        for group in groups:
            placed = self._groups[group]
            placed.members = [member for member in placed.members if member[1] != name]
        self._fill(groups)
        return {group: self._groups[group].names() for group in sorted(groups)}

    def replace_away(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """A droplet has been away for too long: others take its places, as far as there are any."""
        if name not in self._away:
            return {}
        held = {group: self._groups[group].names() for group in self._of_droplet[name]}
        self.remove_droplet(name)
        self.reserve(name)
        return {group: now for group, before in held.items() if (now := self._groups[group].names()) != before}

    def members(self, group: str) -> tuple[str, ...]:
        """The members of a group, in order of preference. Raises NotFoundError."""
        if group not in self._groups:
            raise NotFoundError(f"no group {group} is placed")
        return self._groups[group].names()

    def load(self) -> Mapping[str, int]:
        """In how many groups each eligible droplet is a member."""
        return {name: len(groups) for name, groups in self._of_droplet.items()}

    def _limit(self) -> int:
        """How many places one droplet may be given now: its share and a quarter, rounded up."""
        return -(-self._places * _HEADROOM_PERCENT // (100 * len(self._of_droplet)))

    def _fill(self, groups: Iterable[str]) -> dict[str, tuple[str, ...]]:
        changed = {}
        for group in sorted(groups):
            placed = self._groups[group]
            before = placed.names()
            for _, name in placed.members[placed.count :]:
                self._of_droplet[name].discard(group)
            del placed.members[placed.count :]
            missing = placed.count - len(placed.members)
            if missing > 0:
                for name in self._candidates(group, placed, missing):
                    self._join(group, placed, name)
            if placed.names() != before:
                changed[group] = placed.names()
        return changed

    def _candidates(self, group: str, placed: _Group, most: int = 0) -> list[str]:
        """Droplets that are no members: the highest scores first, but those with their share already come last.

        `most`: how many are wanted, 0 for all of them.
        """
        if not self._of_droplet:
            return []
        limit, members = self._limit(), set(placed.names())
        free = [name for name in self._of_droplet if name not in members and name not in self._away]
        if not free and not members:
            free = list(self._of_droplet)
        wanted = most or len(free)
        below = [name for name in free if len(self._of_droplet[name]) < limit]
        if len(below) >= wanted:  # the others would come after these: their scores need not be known
            return [name for _, name in nsmallest(wanted, ((-_score(group, name), name) for name in below))]
        ranked = ((max(0, len(self._of_droplet[name]) + 1 - limit), -_score(group, name), name) for name in free)
        return [name for _, _, name in nsmallest(wanted, ranked)]

    def _join(self, group: str, placed: _Group, name: str) -> None:
        placed.members.append((_score(group, name), name))
        placed.members.sort(reverse=True)
        self._of_droplet[name].add(group)

    def _replace(self, group: str, old: str, new: str) -> None:
        placed = self._groups[group]
        placed.members = [member for member in placed.members if member[1] != old]
        self._of_droplet[old].discard(group)
        self._join(group, placed, new)


def _score(group: str, droplet: str) -> int:
    """Rendezvous hashing (Thaler and Ravishankar, 1998): the same on every machine and in every version."""
    return int.from_bytes(blake2b(f"{group}\0{droplet}".encode(), digest_size=8).digest(), "big")
