# SPDX-License-Identifier: Apache-2.0
"""Costly questions: one tenant's never keep another's, or an administrator's, from being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from mizar.api import app as api
from mizar.api import traces
from mizar.api.caller import ADMINISTRATOR, Caller
from mizar.api.traces import EndpointName, TraceRequest, answer
from mizar.api.turns import Turns
from mizar.model.errors import NotFoundError, Problem, TemporaryError

RED, BLUE = Caller("red"), Caller("blue")


def test_a_tenant_has_its_share_and_administrators_have_theirs() -> None:
    """What ends makes room again."""
    turns = Turns("questions", 3, 2)
    with ExitStack() as stack:
        for tenant in ("red", "red", "blue", None, None, None):
            stack.enter_context(turns.taken(tenant))
        for tenant in ("red", "blue", "green", None):
            with pytest.raises(TemporaryError, match="too many questions"), turns.taken(tenant):
                pass
    with turns.taken("red"), turns.taken("red"), turns.taken("green"), turns.taken(None):
        pass


class Tracing:
    """Traces that last until they are let go."""

    def __init__(self) -> None:
        self.waiting = 0
        self.go = asyncio.Event()

    async def trace(self, question: object, visible: Callable[..., bool]) -> Any:
        self.waiting += 1
        await self.go.wait()
        raise NotFoundError(Problem("there is no such object"))


class Manager:
    """What the question needs of a manager."""

    def __init__(self) -> None:
        self.tracing = Tracing()


async def test_one_tenants_traces_leave_room_for_others() -> None:
    """So many of one tenant at a time, and the next tenant is served all the same."""
    manager = Manager()
    ask = answer(manager)  # type: ignore[arg-type]
    request = TraceRequest(source=EndpointName(tenant="red", name="a"), destination="10.0.0.2", live=True)
    tasks = [asyncio.create_task(ask(request, RED)) for _ in range(300)]
    while not all(task.done() for task in tasks[traces.TRACES_OF_TENANT :]):
        await asyncio.sleep(0)
    assert manager.tracing.waiting == traces.TRACES_OF_TENANT
    tasks += [asyncio.create_task(ask(request, caller)) for caller in (BLUE, ADMINISTRATOR)]
    while manager.tracing.waiting < traces.TRACES_OF_TENANT + 2:
        await asyncio.sleep(0)
    manager.tracing.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [one for one in results if isinstance(one, TemporaryError)]
    assert len(refused) == 300 - traces.TRACES_OF_TENANT


def test_no_tenant_has_all_places_of_previews() -> None:
    """Nor could two."""
    assert 2 * api.PREVIEWS_OF_TENANT < api.MOST_PREVIEWS
