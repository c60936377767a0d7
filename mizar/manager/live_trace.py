# SPDX-License-Identifier: Apache-2.0
"""A marked packet on its way: who listens for it, who sends it, and what is heard.

Made by mizar.manager.tracing for one trace. It must never leave a droplet listening: leaving the block ends all calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.droplet_link import untold
from mizar.model.errors import TemporaryError
from mizar.oracle.fleet import End, Way
from mizar.trace.compare import Did, Seen

if TYPE_CHECKING:
    from mizar._built.transit_pb2_grpc import TransitAsyncStub

MARKS, TRIES = 255, 4
MOST_REPORTS = 1000
"""Of one packet. A tunnel end that is no droplet of ours can put any mark on what it sends, without end."""
CALL_S, QUIET_S = 5.0, 0.6
"""How long a daemon may take to answer, and how long nothing is heard until nothing more is waited for."""


class Listeners:
    """Daemons that report marked packets, by the address of their droplet. A context manager.

    `named`: what an address of a droplet is called by in the tables, where it has several.
    """

    def __init__(self, stubs: Mapping[bytes, TransitAsyncStub], named: Mapping[bytes, bytes]) -> None:
        self._stubs, self._named = stubs, named
        self._heard: asyncio.Queue[Seen] = asyncio.Queue(MOST_REPORTS)
        self._calls: list[Any] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.mark = 0
        self.deaf: dict[bytes, str] = {}
        """Droplets that cannot report, and why."""

    async def __aenter__(self) -> Self:
        """Listens, with a mark that nobody else uses."""
        for _ in range(TRIES):
            self.mark = random.randint(1, MARKS)  # noqa: S311 - tells traces apart, keeps no secret
            self.deaf = {}
            answers = await asyncio.gather(*(self._listen(*one) for one in self._stubs.items()))
            if not any(answers):
                return self
            await self._end()
        raise TemporaryError("too many traces are under way; try again")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listens no more."""
        await self._end()

    async def send(self, source: bytes, uid: str, frame: bytes, way: Way, *, option: bool) -> list[Seen]:
        """Sends the frame as the endpoint, or, without one, as a client outside. What was reported of it, until all of
        the way was, or nothing more is."""
        while not self._heard.empty():
            self._heard.get_nowait()
        request = pb.SendTracedRequest(uid=uid, frame=frame, mark=self.mark, option=option, outside=not uid)
        try:
            report = await self._stubs[source].SendTraced(request, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            raise TemporaryError(f"the packet could not be sent: {untold(error)}") from error
        found = [self._seen(source, report)]
        waiting = [(hop.droplet, hop.program) for hop in way.hops[1:] if hop.droplet not in self.deaf]
        while len(found) < MOST_REPORTS and (
            waiting or way.end is End.LEFT
        ):  # what a droplet that cannot be asked does may be heard of behind it
            try:
                async with asyncio.timeout(QUIET_S):
                    seen = await self._heard.get()
            except TimeoutError:
                break
            found.append(seen)
            if (seen.droplet, seen.program) in waiting:
                waiting.remove((seen.droplet, seen.program))
        return found

    async def _listen(self, droplet: bytes, stub: TransitAsyncStub) -> bool:
        """Whether somebody else has the mark."""
        call = stub.ListenTrace(pb.ListenTraceRequest(mark=self.mark))
        self._calls.append(call)
        try:
            async with asyncio.timeout(CALL_S):
                await call.initial_metadata()
            if call.done():  # refused: the status is all that there is
                self.deaf[droplet] = await call.details() or "it does not report"
                return await call.code() is grpc.StatusCode.ALREADY_EXISTS
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            self.deaf[droplet] = str(error)
            return False
        self._tasks.append(asyncio.create_task(self._read(droplet, call)))
        return False

    async def _read(self, droplet: bytes, call: Any) -> None:
        try:
            async for report in call:
                with contextlib.suppress(asyncio.QueueFull):
                    self._heard.put_nowait(self._seen(droplet, report))
        except grpc.aio.AioRpcError as error:
            self.deaf[droplet] = error.details() or ""

    def _seen(self, droplet: bytes, report: pb.TraceReport) -> Seen:
        to = self._named.get(report.to, report.to)
        did = Did[pb.TraceReport.Did.Name(report.did)]
        by = report.function, report.function_reason, report.limit_of
        return Seen(droplet, report.program, did, report.reason, to, report.ifindex, report.problem, *by)

    async def _end(self) -> None:
        for call in self._calls:
            call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._calls, self._tasks = [], []
