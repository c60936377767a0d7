# SPDX-License-Identifier: Apache-2.0
"""Who wants to hear of changes: each watcher gets the newest state of what changed, however slowly it reads.

Fed by mizar.manager.manager, read by the API. A slow watcher costs one entry per changed object, never a queue that
grows with the changes; it must never delay the manager.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mizar.manager.registry import Item
from mizar.model.resources import Ref


class Watcher:
    """One listener's mailbox."""

    def __init__(self, visible: Callable[[Ref], bool]) -> None:
        self._visible = visible
        self._news: dict[str, tuple[Item, bool]] = {}
        self._wake = asyncio.Event()

    def tell(self, item: Item, gone: bool) -> None:
        """Notes that an object changed or is gone."""
        if self._visible(item.ref):
            self._news[item.uid] = item, gone
            self._wake.set()

    async def take(self, timeout_s: float) -> list[tuple[Item, bool]]:
        """What is new, (object, gone); empty when nothing happened in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return []
        self._wake.clear()
        news, self._news = self._news, {}
        return list(news.values())


class Watchers:
    """All listeners."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    @contextmanager
    def join(self, visible: Callable[[Ref], bool]) -> Iterator[Watcher]:
        """A new listener, for as long as the context lasts."""
        watcher = Watcher(visible)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def tell(self, item: Item, gone: bool = False) -> None:
        """Tells everybody who may hear it."""
        for watcher in self._watchers:
            watcher.tell(item, gone)
