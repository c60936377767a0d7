# SPDX-License-Identifier: Apache-2.0
"""When a change may be told: not before it outlives a power cut. Many changes wait for the disk together.

Owned by mizar.manager.manager. Who answers a request, and who tells droplets, waits here after the commit; while the
disk works other changes are decided and committed, and the next turn of the disk is for all of them. It must never say
that a change is kept when the disk has once refused: nobody knows what it holds then, and the server ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Durable:
    """The commits of one store, by number."""

    def __init__(self, sync: Callable[[], None]) -> None:
        """`sync` returns when all commits before it are on the disk; it is called in a thread."""
        self._sync = sync
        self._committed = 0
        self._kept = 0
        self._turn: asyncio.Task[None] | None = None
        self._refused: Exception | None = None
        self._broken = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "disk")  # its own: the others may all be busy with long requests

    def committed(self) -> None:
        """A commit has returned."""
        self._committed += 1

    async def kept(self) -> None:
        """Returns when all commits until now are on the disk. Raises what `sync` raised, from then on always."""
        number = self._committed
        while self._kept < number:
            if self._refused is not None:
                raise self._refused
            if self._turn is None:
                self._turn = asyncio.create_task(self._work(), name="disk")
            await asyncio.wait([self._turn])  # whoever gives up waiting does not end it for the others

    async def broken(self) -> None:
        """Lasts as long as the disk takes what is committed; raises what `sync` raised."""
        await self._broken.wait()
        assert self._refused is not None
        raise self._refused

    async def end(self) -> None:
        """Returns when the disk is not asked any more: the store may be closed."""
        if self._turn is not None:
            await asyncio.wait([self._turn])
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        number = self._committed
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sync)
            self._kept = number
        except Exception as error:  # noqa: BLE001 - raised for everybody who waits
            self._refused = error
            self._broken.set()
        finally:
            self._turn = None
