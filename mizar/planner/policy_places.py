# SPDX-License-Identifier: Apache-2.0
"""Which droplets hold which sets of rules of a VPC: those that host an endpoint bound to them. Used by `topology`
alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mizar.planner.entries import NOT_POLICED, PolicyBinding, PolicySetEntry

Shift = tuple[str, PolicySetEntry | None, PolicySetEntry | None]
"""A droplet, and what it holds before and after."""


@dataclass(slots=True)
class PolicyPlaces:
    """Of one VPC. `users`: for each droplet, how many endpoints are bound to each set."""

    sets: dict[int, PolicySetEntry] = field(default_factory=dict)
    users: dict[str, Counter[int]] = field(default_factory=dict)

    def put(self, entry: PolicySetEntry) -> Iterator[Shift]:
        """A set is new or other than before."""
        old = self.sets.get(entry.id)
        self.sets[entry.id] = entry
        if old != entry:
            yield from ((name, old, entry) for name, counts in self.users.items() if entry.id in counts)

    def remove(self, number: int) -> None:
        """A set goes that nobody is bound to."""
        if not any(number in counts for counts in self.users.values()):
            self.sets.pop(number, None)

    def at(self, droplet: str) -> Iterator[PolicySetEntry]:
        """What a droplet holds."""
        return (self.sets[number] for number in self.users.get(droplet, ()))

    def replace(
        self, old: PolicyBinding, new: PolicyBinding, before: Iterable[str], after: Iterable[str]
    ) -> Iterator[Shift]:
        """An endpoint is bound to other sets, and goes from some droplets to others: who learns and forgets what."""
        if old is new is NOT_POLICED:
            return
        was, will_be = list(before), list(after)
        names = dict.fromkeys((*was, *will_be))
        held = {name: set(self.users.get(name, ())) for name in names}
        for places, binding, by in ((will_be, new, 1), (was, old, -1)):
            for name in places:
                counts = self.users.setdefault(name, Counter())
                for number in binding.sets:
                    counts[number] += by
        for name in names:
            counts = self.users[name]
            for number in [number for number, count in counts.items() if not count]:
                del counts[number]
            for number in sorted(held[name] ^ set(counts)):
                entry = self.sets[number]
                yield (name, None, entry) if number in counts else (name, entry, None)
            if not counts:
                del self.users[name]
