# SPDX-License-Identifier: Apache-2.0
"""Python's collector of cycles in a process that holds millions of objects for good.

Called by mizar.api.serve. Left alone, the collector looks at each new object three times, and at all that is old each
time a quarter has come on top: a third of a server's time when endpoints are made, and a second of silence with 100,000
of them. Here an object is looked at once while it is young and set aside if it stays (`gc.freeze`); all are looked at
together when three times as much has come on top as there was. It must never turn the collector off: cycles that
nobody uses any more are found, later.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

YOUNG = 50_000
"""New objects until they are looked at."""
LOOK_S = 10.0


class Aside:
    """What stays, and how much of it there was when all was looked at last."""

    def __init__(self) -> None:
        self._all = YOUNG
        self._since = 0  # times that the young were looked at
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def collected(self, phase: str, _info: Mapping[str, int]) -> None:
        """Around each collection (gc.callbacks)."""
        if phase == "stop":
            self._since += 1
            gc.freeze()

    def _look(self) -> None:
        if self._since * YOUNG >= 3 * self._all:
            self.all()
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def all(self) -> None:
        """Looks at everything."""
        gc.unfreeze()
        gc.collect()
        self._since, self._all = 0, max(YOUNG, gc.get_freeze_count())

    def end(self) -> None:
        """No look any more."""
        self._timer.cancel()


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
