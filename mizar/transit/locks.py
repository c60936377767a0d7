# SPDX-License-Identifier: Apache-2.0
"""Who may change which part of a ledger at a time. Owned by `ledger`.

A million rows of rules take seconds to write, and whoever has nothing to do with rules must not wait for that. So there
are two locks: `rules`, for sets of rules and who is judged by them, and `rest`. What concerns both, or reads all, holds
both.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType


class Both:
    """Holds `rules` and `rest`, as one lock. `entered` is called each time, before anything else is done."""

    def __init__(self, rules: asyncio.Lock, rest: asyncio.Lock, entered: Callable[[], Awaitable[None]]) -> None:
        self._rules, self._rest, self._entered = rules, rest, entered
        self.held = False

    async def __aenter__(self) -> None:
        """In this order, always."""
        await self._rules.acquire()
        try:
            await self._rest.acquire()
        except BaseException:
            self._rules.release()
            raise
        self.held = True
        try:
            await self._entered()
        except BaseException:
            self._release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Both at once."""
        self._release()

    def _release(self) -> None:
        self.held = False
        self._rest.release()
        self._rules.release()
