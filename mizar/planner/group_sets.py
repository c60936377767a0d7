# SPDX-License-Identifier: Apache-2.0
"""Which droplets must know what the sets of a VPC mean: those that host endpoints of it.

Used by `topology` alone. A set is known as long as an endpoint is in it; its number comes with the endpoints' facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mizar.planner.entries import GroupSetEntry

Shift = tuple[str, GroupSetEntry | None, GroupSetEntry | None]
"""A droplet, and what it holds before and after."""
_BEGUN, _ENDED = (True, False), (False, True)
"""Of a set: whether it is known now, and was before."""


@dataclass(slots=True)
class GroupSets:
    """Of one VPC. `hosts`: endpoints that each droplet hosts or is prepared to host; `users`: endpoints in each set."""

    hosts: Counter[str] = field(default_factory=Counter)
    users: Counter[GroupSetEntry] = field(default_factory=Counter)

    def replace(
        self,
        old: GroupSetEntry | None,
        new: GroupSetEntry | None,
        before: Iterable[str],
        after: Iterable[str],
    ) -> Iterator[Shift]:
        """An endpoint goes from one set to another, and from some droplets to others: who learns and forgets what.

        Looks at the droplets and sets concerned alone, and at all hosts only where a set begins or ends in the VPC.
        """
        before, after = set(before), set(after)
        if not (old or new or before) and self.hosts.keys() >= after:
            self.hosts.update(after)
            return
        changed = {one for one in (old, new) if one}
        here = {name for name in before | after if name in self.hosts}
        used = {one for one in changed if one in self.users}
        self.hosts.subtract(before)
        self.hosts.update(after)
        if old:
            self.users[old] -= 1
        if new:
            self.users[new] += 1
        for name in before | after:
            if not self.hosts[name]:
                del self.hosts[name]
        for one in changed:
            if not self.users[one]:
                del self.users[one]
        come, go = ({name for name in side if (name in self.hosts) != (name in here)} for side in (after, before))
        begun, ended = (
            {one for one in changed if (one in self.users, one in used) == turn} for turn in (_BEGUN, _ENDED)
        )
        for name in sorted(self.hosts.keys() | go if begun or ended else come | go):
            was: set[GroupSetEntry] = (
                set() if name in come else (self.users.keys() - begun) | ended if name in go else ended
            )
            is_now = set() if name in go else set(self.users) if name in come else begun
            for entry in sorted(was ^ is_now, key=lambda one: one.number):
                yield (name, None, entry) if entry in is_now else (name, entry, None)
