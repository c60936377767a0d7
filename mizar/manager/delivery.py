# SPDX-License-Identifier: Apache-2.0
"""Steps → calls of one daemon: in order, in batches, and what became of each.

Called by mizar.manager.droplet_link with a connected stub. A batch that the daemon refuses is halved until the change
that it objects to stands alone; the others go through. It must never decide whether to repeat: it tells what happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from mizar._built import transit_pb2 as pb
from mizar.manager.registry import Trouble
from mizar.manager.translate import attachment, delete_change, put_change
from mizar.planner.entries import Entry, LocalEntry, PolicySetEntry
from mizar.planner.plan import Step

if TYPE_CHECKING:
    from mizar._built.transit_pb2_grpc import TransitAsyncStub

APPLY_BATCH = 4096
APPLY_BYTES = 4 << 20
"""Of rows of policies, or of what functions run, in one call; what is larger comes alone."""
ATTACH_BATCH = 64
CALL_TIMEOUT_S = 30.0

_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT: True,
    grpc.StatusCode.FAILED_PRECONDITION: False,
    grpc.StatusCode.ALREADY_EXISTS: False,
    grpc.StatusCode.RESOURCE_EXHAUSTED: False,
}
"""Codes that judge the request, and whether repeating it is pointless; any other says that the daemon is unwell."""


class Outcome(Protocol):
    """Hears what became of each step."""

    def __call__(self, step: Step, trouble: Trouble | None, host_interface: str = "") -> None:
        """`trouble` is None for a step that is done."""
        ...


class Delivery:
    """The way to one daemon, for as long as it is connected."""

    def __init__(self, stub: TransitAsyncStub, outcome: Outcome) -> None:
        self._stub = stub
        self._outcome = outcome

    async def carry_out(self, steps: Sequence[Step], generation: int) -> None:
        """Carries out the steps of one droplet, in order. Raises grpc.aio.AioRpcError when the daemon is not well."""
        for (local, delete), run in groupby(steps, key=lambda step: (isinstance(step.entry, LocalEntry), step.delete)):
            batch = list(run)
            size = ATTACH_BATCH if local else APPLY_BATCH
            send = (self._detach if delete else self._attach) if local else partial(self._apply, generation)
            for part in _parts(batch, size):
                await self._try(part, send)

    async def _try(self, steps: Sequence[Step], send: Callable[[Sequence[Step]], Awaitable[None]]) -> None:
        try:
            await send(steps)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _REFUSALS:
                raise
            if len(steps) == 1:
                trouble = Trouble(_REFUSALS[error.code()], error.details() or error.code().name)
                self._outcome(steps[0], trouble)
                return
            middle = len(steps) // 2
            await self._try(steps[:middle], send)
            await self._try(steps[middle:], send)

    async def _apply(self, generation: int, steps: Sequence[Step]) -> None:
        changes = [delete_change(step.entry) if step.delete else put_change(step.entry) for step in steps]
        await self._stub.Apply(pb.ApplyRequest(generation=generation, changes=changes), timeout=CALL_TIMEOUT_S)
        for step in steps:
            self._outcome(step, None)

    async def _attach(self, steps: Sequence[Step]) -> None:
        request = pb.AttachRequest(endpoints=[attachment(entry) for entry in _locals(steps)])
        self._tell(steps, (await self._stub.Attach(request, timeout=CALL_TIMEOUT_S)).results)

    async def _detach(self, steps: Sequence[Step]) -> None:
        request = pb.DetachRequest(uids=[entry.uid for entry in _locals(steps)])
        self._tell(steps, (await self._stub.Detach(request, timeout=CALL_TIMEOUT_S)).results)

    def _tell(self, steps: Sequence[Step], results: Sequence[pb.AttachResult]) -> None:
        found = {result.uid: result for result in results}
        for step, entry in zip(steps, _locals(steps), strict=True):
            result = found.get(entry.uid)
            if result is None:
                self._outcome(step, Trouble(False, "the daemon gave no result for it"))
            elif result.error:
                self._outcome(step, Trouble(result.permanent, result.error))
            else:
                self._outcome(step, None, result.host_interface)


def _parts(steps: Sequence[Step], size: int) -> Iterator[Sequence[Step]]:
    """Runs of steps that one call has room for."""
    start, weight = 0, 0
    for place, step in enumerate(steps):
        entry = step.entry
        rows = 0 if step.delete else _weight(entry)
        if place > start and (place - start == size or weight + rows > APPLY_BYTES):
            yield steps[start:place]
            start, weight = place, 0
        weight += rows
    if start < len(steps):
        yield steps[start:]


def _weight(entry: Entry) -> int:
    """Of those that can be large: about how many bytes it takes to tell them."""
    if isinstance(entry, PolicySetEntry):
        return entry.weight
    return entry.engine.size if isinstance(entry, LocalEntry) and entry.engine else 0


def _locals(steps: Sequence[Step]) -> Iterator[LocalEntry]:
    return (step.entry for step in steps if isinstance(step.entry, LocalEntry))
