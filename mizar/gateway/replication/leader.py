# SPDX-License-Identifier: Apache-2.0
"""The side that tells: serves followers with all connections, then with changes (contracts/replication.md).

Called by the gateway's process, which passes on what the data plane reports. One task for each follower; a slow one
holds up nobody, and costs no more memory than MAX_CHANGES keys.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from mizar.gateway.replication import frames, trust
from mizar.gateway.replication.frames import MAX_PAIRS, VERSIONS, Kind, Pair
from mizar.model.errors import MizarError

MAX_CHANGES = 1 << 16
MAX_FOLLOWERS = 8
REFRESH_S = 10.0
ALIVE_S = 1.0
HELLO_S = 5.0
_log = logging.getLogger(__name__)


class Connections(Protocol):
    """The tables of connections of a gateway."""

    def tick(self) -> int:
        """The clock of stamps, now."""

    def walk(self, version: int) -> Iterator[Pair]:
        """All of a version of IP."""

    def find(self, version: int, packed: bytes) -> Pair | None:
        """The one with this key, in either direction; None when it is gone."""

    def adopt(self, version: int, pairs: Iterable[Pair]) -> int:
        """Takes what another gateway has, with stamps by this one's clock; returns how many were taken.

        Not taken is what is there and no older, and what the rules do not allow.
        """


class Leader:
    """Serves followers as long as it runs. `reports` is told whether anybody needs to know of changes."""

    def __init__(self, connections: Connections, reports: Callable[[bool], None] = lambda _: None) -> None:
        self._connections, self._reports = connections, reports
        self._followers: dict[asyncio.Task[None], _Follower] = {}

    @property
    def followers(self) -> int:
        """How many there are."""
        return len(self._followers)

    async def serve(self, host: str, port: int, tls: ssl.SSLContext) -> asyncio.Server:
        """Listens; the port is in the server's sockets. Raises OSError."""
        return await asyncio.start_server(self._follow, host, port, ssl=tls, ssl_handshake_timeout=HELLO_S)

    def changed(self, version: int, key: bytes) -> None:
        """A connection began, was answered, or began to close: `key` is that of either entry."""
        for follower in self._followers.values():
            follower.note(version, key)

    async def end(self) -> None:
        """Lets all followers go."""
        for task in list(self._followers):
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peer = str(writer.get_extra_info("peername"))
        try:
            if len(self._followers) >= MAX_FOLLOWERS:
                raise MizarError(f"{MAX_FOLLOWERS} gateways follow this one already")
            trust.check_peer(writer.get_extra_info("ssl_object"))
            writer.write(frames.hello())
            async with asyncio.timeout(HELLO_S):
                kind, body = await frames.read_frame(reader)
            if kind != Kind.HELLO:
                raise MizarError(f"its first frame is {kind}")
            frames.check_hello(body)
            follower = self._followers[task] = _Follower(self._connections, writer)
            self._reports(True)
            _log.info("follower=%s event=follows", peer)
            await _first_of(follower.tell(), reader.read(1))  # a follower says nothing more: a byte, or the end
        except (OSError, MizarError, asyncio.IncompleteReadError, TimeoutError) as error:
            _log.warning("follower=%s event=refused reason=%s", peer, error)
        except asyncio.CancelledError:
            pass  # end(): asyncio's streams would write of it as of a fault
        finally:
            if self._followers.pop(task, None) is not None:
                self._reports(bool(self._followers))
                _log.info("follower=%s event=gone", peer)
            writer.transport.abort()  # the other end may be dead: nothing is waited for


class _Follower:
    """What one follower is yet to be told."""

    def __init__(self, connections: Connections, writer: asyncio.StreamWriter) -> None:
        self._connections, self._writer = connections, writer
        self._changes: dict[tuple[int, bytes], None] = {}
        self._something = asyncio.Event()
        self._missed = False

    def note(self, version: int, key: bytes) -> None:
        """As Leader.changed()."""
        if len(self._changes) < MAX_CHANGES:
            self._changes[version, key] = None
        else:
            self._missed = True
        self._something.set()

    async def tell(self) -> None:
        """All, then changes, until the connection ends."""
        since = None
        while True:
            self._missed = False
            now = self._connections.tick()
            await self._all(since)
            since = now
            refresh = asyncio.get_running_loop().time() + REFRESH_S
            while (rest := refresh - asyncio.get_running_loop().time()) > 0 and not self._missed:
                await self._tell_changes()
                try:
                    async with asyncio.timeout(min(rest, ALIVE_S)):
                        await self._something.wait()
                except TimeoutError:
                    self._writer.write(frames.frame(Kind.ALIVE))
                    await self._writer.drain()
            if self._missed:
                self._changes.clear()
                since = None

    async def _all(self, since: int | None) -> None:
        """Every connection, or those that had a packet since a tick."""
        for version in VERSIONS:
            pairs = self._connections.walk(version)
            if since is not None:
                pairs = _used(version, pairs, since)
            while batch := list(islice(pairs, MAX_PAIRS)):
                await self._send(version, batch)
        self._writer.write(frames.frame(Kind.WHOLE))
        await self._writer.drain()

    async def _tell_changes(self) -> None:
        self._something.clear()
        changes, self._changes = self._changes, {}
        for version in VERSIONS:
            every = (self._connections.find(version, key) for of, key in changes if of == version)
            found = (pair for pair in every if pair is not None)
            while batch := list(islice(found, MAX_PAIRS)):
                await self._send(version, batch)

    async def _send(self, version: int, batch: list[Pair]) -> None:
        self._writer.write(frames.entries_frame(version, self._connections.tick(), batch))
        await self._writer.drain()
        await asyncio.sleep(0)  # drain() alone returns at once while there is room


def _used(version: int, pairs: Iterator[Pair], since: int) -> Iterator[Pair]:
    return (pair for pair in pairs if not frames.newer(since, frames.stamp(version, pair)))


async def _first_of(*waits: object) -> None:
    """Until one ends, with its error if it had one; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
