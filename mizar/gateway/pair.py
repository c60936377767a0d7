# SPDX-License-Identifier: Apache-2.0
"""A gateway's part in a pair: it tells another of its connections, and keeps the other's at hand.

Called by the gateway's process. The tables and rules are asked for anew each time: a changed description brings others.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mizar.gateway.options import Options
from mizar.gateway.replication import trust
from mizar.gateway.replication.follower import Follower, Following
from mizar.gateway.replication.frames import Pair
from mizar.gateway.replication.leader import Leader
from mizar.gateway.replication.shared import SharedConnections
from mizar.kernel.layout import Fields, struct
from mizar.model.errors import InvalidError, MizarError

if TYPE_CHECKING:
    from mizar.gateway.process import Gateway


@dataclass(frozen=True, slots=True)
class Part:
    """Where it tells of its connections, and who tells it, as `host:port`, or neither; `pki`: their certificates."""

    lead: str = ""
    follow: str = ""
    pki: Path | None = None

    def check(self) -> None:
        """Raises InvalidError for what makes no pair."""
        for text in filter(None, (self.lead, self.follow)):
            _address(text)
            if self.pki is None:
                message = "a pair of gateways needs certificates: make them by `mizar pki init DIR`, pass --pki"
                raise InvalidError(message)
            trust.leading(self.pki)


ALONE = Part()


def check(options: Options) -> None:
    """Raises InvalidError for options that make no pair, before anything is done."""
    Part(options.lead, options.follow, options.pki).check()


class PairOfGateways:
    """The Connections of a process, and who leads and follows."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._leader: Leader | None = None
        self._follower: Follower | None = None
        self._part = ALONE
        self._changing = asyncio.Lock()
        self._let_go = contextlib.AsyncExitStack()

    def tick(self) -> int:
        """As of SharedConnections."""
        return self._shared().tick()

    def walk(self, version: int) -> Iterator[Pair]:
        """As of SharedConnections."""
        return self._shared().walk(version)

    def find(self, version: int, packed: bytes) -> Pair | None:
        """As of SharedConnections."""
        return self._shared().find(version, packed)

    def adopt(self, version: int, pairs: Iterable[Pair]) -> int:
        """As of SharedConnections."""
        return self._shared().adopt(version, pairs)

    def told(self, event: Fields) -> None:
        """A report of the data plane: a connection began, was answered or begins to close."""
        if self._leader is not None:
            self._leader.changed(event["version"], _key(event))

    @property
    def followers(self) -> int | None:
        """How many learn of this one's connections; None where none may."""
        return None if self._leader is None else self._leader.followers

    @property
    def following(self) -> Following | None:
        """How it goes to follow another; None where it follows none."""
        return None if self._follower is None else self._follower.state

    def summary(self) -> dict[str, Any]:
        """For `mizar gateway show`."""
        found: dict[str, Any] = {}
        if self._leader is not None:
            found["followers"] = self._leader.followers
        if self._follower is not None:
            state = self._follower.state
            following = "all of it is here" if state.whole else "under way" if state.connected else state.problem
            found |= {"following": following, "whole": state.whole, "told": state.told, "adopted": state.adopted}
        return found

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Leads and follows for the length of the block, at first as the options say."""
        options = self._gateway.options
        try:
            await self.be(Part(options.lead, options.follow, options.pki))
            yield
        finally:
            await self._let_go.aclose()

    async def be(self, part: Part) -> None:
        """Leads and follows so from now on; what is so already goes on. Raises MizarError, and is alone then."""
        async with self._changing:
            await self._be(part if part.lead or part.follow else ALONE)

    async def _be(self, part: Part) -> None:
        if part == self._part:
            return
        await self._let_go.aclose()
        self._let_go, self._part, self._leader, self._follower = contextlib.AsyncExitStack(), ALONE, None, None
        if part == ALONE:
            return
        part.check()
        self._shared()
        assert part.pki is not None
        if part.lead:
            await self._lead(part.lead, trust.leading(part.pki))
        if part.follow:
            host, port = _address(part.follow)
            self._follower = Follower(self, host, port, trust.following(part.pki))
            self._let_go.push_async_callback(_ended, asyncio.create_task(self._follower.run()))
        self._part = part

    async def _lead(self, at: str, tls: ssl.SSLContext) -> None:
        leader = Leader(self, self._gateway.set_reports)
        host, port = _address(at)
        try:
            server = await leader.serve(host, port, tls)
        except OSError as error:
            raise MizarError(f"cannot listen on {at}: {error.strerror or error}") from error
        self._leader = leader
        self._let_go.push_async_callback(leader.end)
        self._let_go.callback(server.close)

    def _shared(self) -> SharedConnections:
        if self._gateway.table is None:
            raise InvalidError("a pair of gateways needs a pipeline that translates (a step nat)")
        return SharedConnections(self._gateway.table, self._gateway.nat)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _key(event: Fields) -> bytes:
    """Of the entry that a report is about."""
    names = ("meta", "src_port_be", "dst_port_be", "protocol")
    facts = {name: event[name] for name in names}
    if event["version"] == 4:
        ends = {f"{end}_be": int.from_bytes(event[end][12:], sys.byteorder) for end in ("src", "dst")}
        return struct("connection4_key", **facts, **ends)
    return struct("connection6_key", **facts, src=event["src"], dst=event["dst"])


def _address(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`. Raises InvalidError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidError(f"{text!r}: expected host:port, or [address]:port for IPv6")
    return host.removeprefix("[").removesuffix("]"), int(port)
