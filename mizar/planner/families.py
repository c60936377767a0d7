# SPDX-License-Identifier: Apache-2.0
"""Which families of addresses droplets have on the substrate, and which can therefore stand between any others.

Called by mizar.manager.members. Pure. Two droplets talk in a family that both have (contracts/wire.md). Where no family
is common to all droplets, a packet between two that share none has to go over one that has both: only such are made
bouncers and dividers then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

Families = frozenset[int]
IPV4, IPV6 = 4, 6
BOTH = frozenset((IPV4, IPV6))


class FleetFamilies:
    """The families of all droplets by name, and which of them have a daemon."""

    def __init__(self) -> None:
        self._of: dict[str, Families] = {}
        self._daemons: set[str] = set()
        self._count: Counter[Families] = Counter()

    def put(self, name: str, families: Iterable[int], *, daemon: bool) -> None:
        """A droplet comes, or gets or loses its daemon."""
        self.remove(name)
        self._of[name] = frozenset(families)
        self._count[self._of[name]] += 1
        if daemon:
            self._daemons.add(name)

    def remove(self, name: str) -> None:
        """A droplet goes; an unknown one is gone already."""
        if name in self._of:
            self._count[self._of.pop(name)] -= 1
            self._daemons.discard(name)

    @property
    def mixed(self) -> bool:
        """Whether some two droplets share no family."""
        return all(self._count[frozenset((family,))] for family in BOTH)

    @property
    def split(self) -> bool:
        """Whether nobody stands between those two."""
        return self.mixed and not any(self._of[name] == BOTH for name in self._daemons)

    def members(self) -> set[str]:
        """The droplets that may be bouncers and dividers: all that have a daemon where there is nothing to choose."""
        if not self.mixed or self.split:
            return set(self._daemons)
        return {name for name in self._daemons if self._of[name] == BOTH}

    def cut_off(self, name: str) -> bool:
        """Whether there are droplets that this one cannot reach over any other."""
        return self.split and self._of.get(name, BOTH) != BOTH
