# SPDX-License-Identifier: Apache-2.0
"""The ring of events: what the programs write comes out, once, with or without waiting."""

from __future__ import annotations

import asyncio

import pytest

from mizar.kernel import layout
from mizar.kernel.events import EventReader
from mizar.kernel.programs import Programs
from mizar.kernel.tables import Tables
from mizar.kernel.test_run import run_tc
from mizar.model.errors import InvalidError

pytestmark = pytest.mark.root

FRAME = bytes.fromhex("024d5a000001 020000000001 0800") + bytes(50)


def provoke(programs: Programs) -> None:
    """An agent that no endpoint belongs to drops everything."""
    Tables.of(programs.maps).droplet_switches.put(0, {"events": 1})
    run_tc(programs.agent.fd, FRAME)


def test_a_drop_is_read_once(programs: Programs) -> None:
    """With its reason and its hook; then the ring is empty."""
    reader = EventReader(programs.maps["events"])
    assert reader.read() == []
    provoke(programs)
    (event,) = reader.read()
    assert (event["reason"], event["hook"], event["length"]) == (60, layout.constant("HOOK_AGENT"), len(FRAME))
    assert reader.read() == []
    reader.close()
    reader.close()


async def test_a_waiting_reader_wakes(programs: Programs) -> None:
    """It waits without polling, and gets an event that comes later."""
    reader = EventReader(programs.maps["events"])

    async def first() -> layout.Fields:
        async for event in reader:
            return event
        raise AssertionError("events never end")

    waiting = asyncio.create_task(first())
    await asyncio.sleep(0)
    assert not waiting.done()
    provoke(programs)
    async with asyncio.timeout(5):
        event = await waiting
    assert event["reason"] == 60
    reader.close()


def test_only_a_ring_can_be_read(programs: Programs) -> None:
    """Another map is refused."""
    with pytest.raises(InvalidError):
        EventReader(programs.maps["vpcs"])
