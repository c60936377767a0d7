# SPDX-License-Identifier: Apache-2.0
"""The side that listens: keeps the connections of another gateway at hand (contracts/replication.md).

Called by the gateway's process. It asks again every second when the other is not there, and keeps what it has.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass

from mizar.gateway.replication import frames, trust
from mizar.gateway.replication.frames import Kind, Pair, Told
from mizar.gateway.replication.leader import ALIVE_S, HELLO_S, Connections
from mizar.model.errors import InvalidError, MizarError

AGAIN_S = 1.0
SILENT_S = 30 * ALIVE_S
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Following:
    """How it goes."""

    connected: bool = False
    whole: bool = False  # everything that the leader had was told at least once since it is connected
    told: int = 0  # connections, again and again
    adopted: int = 0
    problem: str = ""  # why it is not connected, in a sentence


class Follower:
    """Follows one leader."""

    def __init__(self, connections: Connections, host: str, port: int, tls: ssl.SSLContext) -> None:
        self._connections, self._host, self._port, self._tls = connections, host, port, tls
        self.state = Following()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._follow()
            except (OSError, MizarError, asyncio.IncompleteReadError, TimeoutError) as error:
                self._lost(error)
            await asyncio.sleep(AGAIN_S)

    def _lost(self, error: Exception) -> None:
        text = (
            "the other gateway ended the connection" if isinstance(error, asyncio.IncompleteReadError) else str(error)
        )
        problem = f"cannot follow {self._host}:{self._port}: {text or type(error).__name__}"
        if self.state.connected or problem != self.state.problem:
            _log.warning("leader=%s:%s event=lost reason=%s", self._host, self._port, problem)
        self.state.connected = self.state.whole = False
        self.state.problem = problem

    async def _follow(self) -> None:
        async with asyncio.timeout(2 * HELLO_S):
            reader, writer = await asyncio.open_connection(
                self._host, self._port, ssl=self._tls, ssl_handshake_timeout=HELLO_S
            )
        try:
            trust.check_peer(writer.get_extra_info("ssl_object"))
            writer.write(frames.hello())
            async with asyncio.timeout(HELLO_S):
                kind, body = await frames.read_frame(reader)
            if kind != Kind.HELLO:
                raise InvalidError(f"its first frame is {kind}")
            frames.check_hello(body)
            self.state.connected, self.state.problem = True, ""
            _log.info("leader=%s:%s event=following", self._host, self._port)
            while True:
                async with asyncio.timeout(SILENT_S):
                    kind, body = await frames.read_frame(reader)
                self._take(kind, body)
        finally:
            writer.transport.abort()

    def _take(self, kind: int, body: bytes) -> None:
        if kind == Kind.WHOLE:
            self.state.whole = True
        elif kind == Kind.ENTRIES:
            told = frames.parse_entries(body)
            self.state.told += len(told.pairs)
            self.state.adopted += self._connections.adopt(told.version, _by_own_clock(told, self._connections.tick()))


def _by_own_clock(told: Told, now: int) -> list[Pair]:
    """Of one that would be from the future, nothing is believed."""
    moved = (frames.restamped(told.version, pair, now - told.tick) for pair in told.pairs)
    return [pair for pair in moved if not frames.newer(frames.stamp(told.version, pair), now)]
