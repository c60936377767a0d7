# SPDX-License-Identifier: Apache-2.0
"""Daemons without a kernel, in a process of their own, that count what a server tells them: real gRPC, no map.

tests/fake_daemon.py checks each change against all of its tables; these only keep what they are told, so that what is
measured is the server.
"""

# ruff: noqa: ARG002, N802 - the calls have the names of contracts/transit.proto
from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from typing import Any

from mizar._built import transit_pb2 as pb
from tests.fake_daemon import FakeDaemon

ATTACHED, MESSAGES, BYTES, FIELDS = 0, 1, 2, 3
FIRST = IPv4Address("172.31.0.10")


class CountingDaemon(FakeDaemon):
    """Number `place` of the fleet; `counts` has FIELDS numbers for each."""

    def __init__(self, socket: Path, address: str, counts: SynchronizedArray[int], place: int) -> None:
        super().__init__(socket, address)
        self._counts, self._base = counts, place * FIELDS

    def _count(self, request: pb.ApplyRequest | pb.AttachRequest, attached: int) -> None:
        for field, more in ((ATTACHED, attached), (MESSAGES, 1), (BYTES, request.ByteSize())):
            self._counts[self._base + field] += more

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> pb.ApplyReply:
        """Everything is taken."""
        self._count(request, 0)
        for change in request.changes:
            if change.WhichOneof("change") == "put_endpoint":
                one = change.put_endpoint
                self.tables.endpoints[one.vni, tuple(sorted(one.addresses))] = one
            else:
                self.tables.apply(change)
        self.generation = request.generation
        return pb.ApplyReply(generation=request.generation, changed=len(request.changes))

    async def Attach(self, request: pb.AttachRequest, context: Any) -> pb.AttachReply:
        """Everything is attached."""
        self._count(request, len(request.endpoints))
        reply = pb.AttachReply()
        for local in request.endpoints:
            self.tables.locals[local.uid] = local
            reply.results.add(uid=local.uid, host_interface=f"mz{local.uid[:8]}")
        return reply


@dataclass(frozen=True)
class Fleet:
    """The daemons as a manifest needs them, and what they have counted together."""

    folder: Path
    size: int
    counts: SynchronizedArray[int]

    def droplets(self) -> list[dict[str, Any]]:
        """Manifests."""
        return [
            {"apiVersion": "mizar/v1", "kind": "Droplet", "metadata": {"name": f"d{place}"},
             "spec": {"address": str(FIRST + place), "daemon": f"unix://{self.folder}/d{place}.sock"}}
            for place in range(self.size)
        ]  # fmt: skip

    def total(self, field: int) -> int:
        """Of all daemons."""
        return sum(self.counts[field::FIELDS])

    def told(self, before: list[int]) -> int:
        """How many daemons have heard anything since."""
        return sum(one > other for one, other in zip(self.messages(), before, strict=True))

    def messages(self) -> list[int]:
        """Of each daemon."""
        return list(self.counts[MESSAGES::FIELDS])


@contextmanager
def fleet(folder: Path, size: int) -> Iterator[Fleet]:
    """Daemons for the length of a block."""
    context = multiprocessing.get_context("spawn")
    counts: SynchronizedArray[int] = context.Array("q", size * FIELDS)
    process = context.Process(target=_run, args=(folder, size, counts), daemon=True)
    process.start()
    try:
        yield Fleet(folder, size, counts)
    finally:
        process.terminate()
        process.join(10)


def _run(folder: Path, size: int, counts: SynchronizedArray[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(folder, size, counts))


async def _serve(folder: Path, size: int, counts: SynchronizedArray[int]) -> None:
    daemons = [CountingDaemon(folder / f"d{n}.sock", str(FIRST + n), counts, n) for n in range(size)]
    for daemon in daemons:
        await daemon.start()
    await asyncio.Event().wait()
