# SPDX-License-Identifier: Apache-2.0
"""A gateway's part in a pair: it tells another of its connections, and keeps the other's at hand.

Called by the gateway's process. The tables and rules are asked for anew each time: a changed description brings others.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
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


def check(options: Options) -> None:
    """Raises InvalidError for options that make no pair, before anything is done."""
    for text in filter(None, (options.lead, options.follow)):
        _address(text)
        if options.pki is None:
            raise InvalidError("a pair of gateways needs certificates: make them by `mizar pki init DIR`, pass --pki")
        trust.leading(options.pki)


class PairOfGateways:
    """The Connections of a process, and who leads and follows."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._leader: Leader | None = None
        self._follower: Follower | None = None

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
            found |= {"following": following, "told": state.told, "adopted": state.adopted}
        return found

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Leads and follows for the length of the block, as the options say."""
        options = self._gateway.options
        if not options.lead and not options.follow:
            yield
            return
        self._shared()
        assert options.pki is not None  # see check()
        async with contextlib.AsyncExitStack() as stack:
            if options.lead:
                self._leader = Leader(self, self._gateway.set_reports)
                host, port = _address(options.lead)
                try:
                    server = await self._leader.serve(host, port, trust.leading(options.pki))
                except OSError as error:
                    raise MizarError(f"cannot listen on {options.lead}: {error.strerror or error}") from error
                stack.push_async_callback(self._leader.end)
                stack.callback(server.close)
            if options.follow:
                host, port = _address(options.follow)
                self._follower = Follower(self, host, port, trust.following(options.pki))
                task = asyncio.create_task(self._follower.run())
                stack.push_async_callback(_ended, task)
            yield

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
