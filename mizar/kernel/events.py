# SPDX-License-Identifier: Apache-2.0
"""Reads the rings that the programs write: events (drops), notices, and traps (what endpoints ask the daemon).

Owns one libbpf ring buffer. Called by the daemon's event stream, by its answers to endpoints, and by tests. It must
never block: the epoll file descriptor tells when there is something, and a reader that falls behind loses events in
the kernel, not time here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from mizar.kernel import libbpf
from mizar.kernel.layout import Fields, struct_codec
from mizar.kernel.libbpf import ffi, lib


class EventReader:
    """Consumer of a RINGBUF of `struct event`, or of another struct of dataplane.h.

    One per ring: what one reader takes, another does not see.
    """

    def __init__(self, fd: int, struct: str = "event") -> None:
        """`fd` is the map; it stays the caller's."""
        self._codec = struct_codec(struct)
        self._taken: list[Fields] = []
        self._callback = ffi.callback("int(void *, void *, size_t)", self._take, error=0)  # libbpf keeps no reference
        self._ring: Any = libbpf.check_pointer(
            lib().ring_buffer__new(fd, self._callback, ffi.NULL, ffi.NULL), f"open the ring of {struct}s (map {fd})"
        )

    def fileno(self) -> int:
        """Readable when there are events."""
        return int(lib().ring_buffer__epoll_fd(self._ring))

    def read(self) -> list[Fields]:
        """All events that are there, oldest first, without waiting."""
        libbpf.check(lib().ring_buffer__consume(self._ring), "read the ring of events")
        taken, self._taken = self._taken, []
        return taken

    async def __aiter__(self) -> AsyncIterator[Fields]:
        """Events from now on, without end."""
        async for events in self.batches():
            for event in events:
                yield event

    async def batches(self) -> AsyncIterator[list[Fields]]:
        """The same, as many at once as there are."""
        while True:
            if events := self.read():
                yield events
            await self._readable()

    async def _readable(self) -> None:
        # The descriptor is watched only while waiting: it stays readable for as long as a slow consumer is busy.
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self.fileno())

    def close(self) -> None:
        """Gives the ring back. May be called twice."""
        if self._ring != ffi.NULL:
            lib().ring_buffer__free(self._ring)
            self._ring = ffi.NULL

    def _take(self, _context: Any, data: Any, length: int) -> int:
        self._taken.append(self._codec.unpack(ffi.buffer(data, length)[: self._codec.size]))
        return 0
