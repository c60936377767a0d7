# SPDX-License-Identifier: Apache-2.0
"""Whatever has to be brought to what is wanted of it, again and again, in a task of its own: functions and tunnels.

Called by those who keep one thing each, beside mizar.transit.processes, which keeps its process, and
mizar.transit.told, which keeps what it was told. A failure of one is its own, and no other waits for it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from mizar.model.errors import MizarError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Before what did not work is tried again; doubled each time."""


class Keeper:
    """Runs `step` when woken, and again after what it raised; with `look_s`, also that often, whatever happens.

    `told` is called after each: with what was in the way (MizarError, OSError), or with nothing. `after`: what has to
    end before this begins.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[None]],
        told: Callable[[str], None],
        look_s: float = 0.0,
        after: "asyncio.Task[None] | None" = None,
    ) -> None:
        self._name = name
        self._step = step
        self._told = told
        self._look_s = look_s
        self._after = after
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """What is wanted is another: begin now, if it has not begun yet."""
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=self._name)

    def let_go(self) -> None:
        """No more steps; what was brought about stays."""
        if self._task is not None:
            self._task.cancel()

    async def end(self) -> None:
        """The same, and the last step is over."""
        self.let_go()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        if self._after is not None:
            await asyncio.wait([self._after])
        pause_s = FIRST_PAUSE_S
        wait_s: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()
            trouble = ""
            try:
                await self._step()
                pause_s, wait_s = FIRST_PAUSE_S, self._look_s or None
            except (MizarError, OSError) as error:
                trouble = str(error)
                wait_s, pause_s = self._look_s or pause_s, min(pause_s * 2, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - a defect must not be the end of every later try
                trouble = f"a defect of the daemon's ({type(error).__name__})"  # its text may tell of keys
                wait_s, pause_s = self._look_s or pause_s, min(pause_s * 2, LONGEST_PAUSE_S)
            self._told(trouble)
