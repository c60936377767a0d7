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
        """An endpoint goes from one set to another, and from some droplets to others: who learns and forgets what."""
        was_hosts, was_known = set(self.hosts), set(self.users)
        self.hosts.subtract(before)
        self.hosts.update(after)
        if old:
            self.users[old] -= 1
        if new:
            self.users[new] += 1
        for counts in (self.hosts, self.users):
            for key in [key for key, count in counts.items() if not count]:
                del counts[key]
        for name in sorted(was_hosts | set(self.hosts)):
            was = was_known if name in was_hosts else set()
            is_now = set(self.users) if name in self.hosts else set()
            for entry in sorted(was ^ is_now, key=lambda one: one.number):
                yield (name, None, entry) if entry in is_now else (name, entry, None)
