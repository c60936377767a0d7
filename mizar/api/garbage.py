# SPDX-License-Identifier: Apache-2.0
"""Python's collector of cycles in a process that holds millions of objects for good.

Called by mizar.api.serve. Left alone, the collector looks at each new object three times, and at all that is old each
time a quarter has come on top: a third of a server's time when endpoints are made, and seconds of silence with 100,000
of them. Here an object is looked at once while it is young and set aside if it stays (`gc.freeze`). When three times as
much has come on top as there was, a copy of the process (`mizar.api.copy_looks`) finds out how much of it nobody uses;
only where that is a part worth having are all looked at here, while everybody waits. It must never turn the collector
off: cycles that nobody uses any more are found, later.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mizar.api.copy_looks import Copy

YOUNG = 50_000
"""New objects until they are looked at."""
LOOK_S = 10.0
WORTH = 4
"""One of so many objects that nobody uses is worth the time in which nobody is answered."""


class Aside:
    """What stays, and how much of it there was when all was looked at last."""

    def __init__(self) -> None:
        self._all = YOUNG
        self._since = 0  # times that the young were looked at
        self.copy: Copy | None = None
        self._looking = asyncio.create_task(self._look_at_times())

    def collected(self, phase: str, _info: Mapping[str, int]) -> None:
        """Around each collection (gc.callbacks)."""
        if phase == "stop":
            self._since += 1
            gc.freeze()

    async def _look_at_times(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._since * YOUNG >= 3 * self._all:
                await self.look()

    async def look(self) -> None:
        """Finds out what nobody uses, while the loop goes on; ends it where that is worth its time."""
        begun = self._since
        try:
            self.copy = Copy()
        except OSError:
            return  # another time
        try:
            found = await self.copy.found()
        finally:
            self.copy.end()
            self.copy = None
        if found is None:
            return
        if found.unused * WORTH >= found.objects:
            self.all()
        else:
            self._since, self._all = self._since - begun, max(YOUNG, found.objects)

    def all(self) -> None:
        """Looks at everything."""
        gc.unfreeze()
        gc.collect()
        self._since, self._all = 0, max(YOUNG, gc.get_freeze_count())

    def end(self) -> None:
        """No look any more."""
        self._looking.cancel()
        if self.copy is not None:
            self.copy.end()


@contextmanager
def set_aside() -> Iterator[Aside]:
    """For the length of a block, in a running event loop."""
    aside, before = Aside(), gc.get_threshold()
    gc.callbacks.append(aside.collected)
    gc.set_threshold(YOUNG)
    try:
        yield aside
    finally:
        aside.end()
        gc.callbacks.remove(aside.collected)
        gc.set_threshold(*before)
        gc.unfreeze()
