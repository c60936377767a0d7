# SPDX-License-Identifier: Apache-2.0
"""A copy of the process, in which Python's collector looks at all objects while the process itself goes on.

Called by mizar.api.garbage. The collector can neither be interrupted nor leave the others a turn, in whatever thread it
runs: with millions of objects that is seconds. fork(2) takes milliseconds for them, and memory as far as either side
writes: the copy, all that has cycles at most, until it has looked. It must never touch anything that it shares with the
process: before it looks it closes all files, and it frees no object.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import struct
import warnings
from pathlib import Path
from typing import NamedTuple, NoReturn

_TOLD = struct.Struct("=QQ")


class Found(NamedTuple):
    """How many objects there are that could be in cycles, and how many of them nobody uses any more."""

    objects: int
    unused: int


class Copy:
    """One copy, from its making to what it has found; in a running event loop."""

    def __init__(self) -> None:
        """Raises OSError where there is no room for it."""
        self._loop = asyncio.get_running_loop()
        self._found: asyncio.Future[Found | None] = self._loop.create_future()
        self._told = b""
        self._reader, writer = os.pipe()
        try:
            self.process = _fork()
            if self.process == 0:
                _look(writer)
        except OSError:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)
        self._loop.add_reader(self._reader, self._read)

    async def found(self) -> Found | None:
        """What it tells; None when it was ended before."""
        return await self._found

    def end(self) -> None:
        """It is gone. May be called twice."""
        if self._reader < 0:
            return
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        self._reader = -1
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        if not self._found.done():
            self._found.set_result(Found(*_TOLD.unpack(self._told)) if self._told else None)

    def _read(self) -> None:
        part = os.read(self._reader, _TOLD.size)
        self._told += part
        if not part:  # its memory is free: whoever waits for it now does not wait long
            self.end()


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads: the copy does without them
        return os.fork()


def _look(writer: int) -> NoReturn:
    """The life of a copy."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(0, writer)
        os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
        os.nice(19)
        with contextlib.suppress(OSError):  # where memory ends, the copy does
            Path("/proc/self/oom_score_adj").write_text("1000")
        gc.callbacks.clear()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.unfreeze()
        unused = gc.collect()
        os.write(writer, _TOLD.pack(len(gc.get_objects()), unused))
    finally:
        os._exit(0)
