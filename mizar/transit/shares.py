# SPDX-License-Identifier: Apache-2.0
"""Fair shares of a table among VPCs: which entry goes when one comes.

Called by `direct`. Pure. Each VPC has an equal share. One that holds its share gives up its own least recently used
entry; it takes an entry of another VPC only where that one holds more than itself. It must never let one tenant drive
out what is within another's share.
"""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Shares(Generic[K]):
    """Keys by VPC, the least recently used first; at most `limit` in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: dict[int, dict[K, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def held(self) -> list[tuple[int, K]]:
        """All of them, with their VPCs."""
        return [(vni, key) for vni, keys in self._keys.items() for key in keys]

    def use(self, vni: int, key: K) -> list[tuple[int, K]]:
        """A key comes or is used; returns those that have to go for it."""
        mine = self._keys.setdefault(vni, {})
        if key in mine:
            mine[key] = mine.pop(key)
            return []
        gone = []
        if self._count >= self._limit:
            most = max(self._keys, key=lambda each: len(self._keys[each]))
            victim = vni if len(self._keys[most]) <= len(mine) + 1 and mine else most
            first = next(iter(self._keys[victim]))
            self.drop(victim, [first])
            gone.append((victim, first))
        self._keys.setdefault(vni, {})[key] = None
        self._count += 1
        return gone

    def drop(self, vni: int, keys: Iterable[K]) -> None:
        """Keys go; those that are not there are skipped."""
        mine = self._keys.get(vni, {})
        for key in keys:
            if key in mine:
                del mine[key]
                self._count -= 1
        if not mine:
            self._keys.pop(vni, None)
