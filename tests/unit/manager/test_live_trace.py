# SPDX-License-Identifier: Apache-2.0
"""A marked packet on its way: what is heard of it has an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.live_trace import MOST_REPORTS, Listeners
from mizar.oracle.fleet import End, Way

HERE = bytes((172, 31, 0, 11))


class Call:
    """Reports of a mark that a stranger puts on all that it sends."""

    def __init__(self) -> None:
        self.told = 0

    async def initial_metadata(self) -> tuple[()]:
        return ()

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        pass

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def __aiter__(self) -> AsyncIterator[pb.TraceReport]:
        while True:
            self.told += 1
            yield pb.TraceReport(program="transit", did=pb.TraceReport.SENT)
            await asyncio.sleep(0)


class Stub:
    """A daemon in the midst of it."""

    def ListenTrace(self, _request: pb.ListenTraceRequest) -> Call:  # noqa: N802
        return Call()

    async def SendTraced(self, _request: pb.SendTracedRequest, timeout: float) -> pb.TraceReport:  # noqa: N802
        return pb.TraceReport(program="agent", did=pb.TraceReport.SENT)


async def test_a_flood_of_reports_ends_nevertheless() -> None:
    """Reports that never cease are neither waited for nor kept without end."""
    stub: Any = Stub()
    async with Listeners({HERE: stub}, {}) as listeners:
        sent = listeners.send(HERE, "uid", bytes(60), Way((), End.LEFT), option=False)
        async with asyncio.timeout(30):
            assert len(await sent) == MOST_REPORTS
        for _ in range(3 * MOST_REPORTS):
            await asyncio.sleep(0)
        assert listeners._heard.qsize() == MOST_REPORTS
