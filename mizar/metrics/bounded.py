# SPDX-License-Identifier: Apache-2.0
"""Counters by a label that tenants can multiply: the first so many have a series each, all others share one.

Called by mizar.transit.metrics. Which of them have a series of their own does not follow their traffic: a series that
came and went would make rates of nothing. A counter of `other` never goes back, whoever of it comes or goes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

OTHER = "other"

Counts = Mapping[str, int]


class Bounded(Generic[K]):
    """Keeps `most` labels; the rest is summed up."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: dict[K, None] = {}
        self._last: dict[K, Counts] = {}
        self._other: dict[str, int] = {}

    def take(self, now: Mapping[K, Counts]) -> dict[str, dict[str, int]]:
        """By label what each has counted; `other` when there have ever been too many."""
        for gone in self._named.keys() - now.keys():
            del self._named[gone]
        for gone in self._last.keys() - now.keys():
            del self._last[gone]
        for key in now:
            if key not in self._named and key not in self._last and len(self._named) < self._most:
                self._named[key] = None
        for key, counts in now.items():
            if key in self._named:
                continue
            last = self._last.get(key, {})
            for name, count in counts.items():
                before = last.get(name, 0)
                self._other[name] = self._other.get(name, 0) + (count - before if count >= before else count)
            self._last[key] = dict(counts)
        found = {str(key): dict(now[key]) for key in self._named}
        return found | ({OTHER: dict(self._other)} if self._other else {})
