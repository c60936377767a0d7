# SPDX-License-Identifier: Apache-2.0
"""Drops as events: only when asked for, at most one per reason, CPU and millisecond, with what was known by then."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mizar.kernel.events import EventReader
from mizar.model import drop_reasons

from .frames import datagram, tunnel
from .plan import FAMILIES, FRONT, GHOST_HOST, HOST, ME, RED, STRANGER, A, B, R, mapped
from .testbed import Testbed

HOOK_AGENT, HOOK_TRANSIT = 1, 2


@pytest.fixture
def reader(droplet: Testbed) -> Iterator[EventReader]:
    """The ring, emptied of what earlier tests left."""
    reader = EventReader(droplet.programs.maps["events"])
    reader.read()
    yield reader
    reader.close()


def only(events: Any) -> dict[str, Any]:
    (event,) = list(events)
    return dict(event)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_event_tells_reason_place_and_addresses(droplet: Testbed, reader: EventReader, family: int) -> None:
    droplet.as_bouncer()
    droplet.tables.droplet_switches.put(0, {"events": 1})
    dst = FRONT.address(family, GHOST_HOST)
    frame = tunnel("geneve", datagram(family, A, dst), src=HOST)
    begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    droplet.transit(frame)
    event = only(reader.read())
    assert begin <= event.pop("time_ns") <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert event == {
        "reason": drop_reasons.by_name()["ENDPOINT_UNKNOWN"].number,
        "vni": RED.vni,
        "ifindex": 1,
        "length": len(frame),
        "hook": HOOK_TRANSIT,
        "src": mapped(A.address(family)),
        "dst": mapped(dst),
    }


def test_before_the_inner_headers_the_outer_addresses_count(droplet: Testbed, reader: EventReader) -> None:
    droplet.as_bouncer()
    droplet.tables.droplet_switches.put(0, {"events": 1})
    droplet.transit(tunnel("vxlan", datagram(4, A, R.address(4)), src=STRANGER))
    event = only(reader.read())
    assert (event["vni"], event["src"], event["dst"]) == (0, mapped(STRANGER.address), mapped(ME.address))


def test_an_agents_event_names_its_interface(droplet: Testbed, reader: EventReader) -> None:
    droplet.as_host()
    droplet.tables.droplet_switches.put(0, {"events": 1})
    droplet.send(datagram(4, B, R.address(4), src_mac=A.mac))
    event = only(reader.read())
    assert (event["hook"], event["ifindex"], event["vni"]) == (HOOK_AGENT, A.ifindex, RED.vni)
    assert event["src"] == mapped(B.address(4))


def test_no_event_while_the_switch_is_off(droplet: Testbed, reader: EventReader) -> None:
    droplet.as_bouncer()
    droplet.transit(tunnel("geneve", datagram(4, A, FRONT.address(4, GHOST_HOST)), src=HOST))
    assert list(reader.read()) == []
    assert droplet.counted()["drop", "ENDPOINT_UNKNOWN"]["packets"] == 1


def test_events_are_limited_and_counters_are_not(droplet: Testbed, reader: EventReader) -> None:
    """Within a time, at most one event per millisecond and CPU was written for a reason; another has its own."""
    droplet.as_bouncer()
    droplet.tables.droplet_switches.put(0, {"events": 1})
    unknown = tunnel("geneve", datagram(4, A, FRONT.address(4, GHOST_HOST)), src=HOST)
    droplet.tables.drop_counters.zero([drop_reasons.by_name()["ENDPOINT_UNKNOWN"].number])
    packets = 500
    for _ in range(packets):
        droplet.transit(unknown)
    droplet.transit(tunnel("geneve", datagram(4, A, R.address(4), ttl=1), src=HOST))
    events = list(reader.read())
    assert droplet.counted()["drop", "ENDPOINT_UNKNOWN"]["packets"] == packets
    times = sorted(e["time_ns"] for e in events if e["reason"] == drop_reasons.by_name()["ENDPOINT_UNKNOWN"].number)
    assert 1 <= len(times) < packets
    cpus = len(os.sched_getaffinity(0))
    assert len(times) <= cpus * ((times[-1] - times[0]) // 1_000_000 + 1)
    assert [e["reason"] for e in events].count(drop_reasons.by_name()["TTL_EXPIRED"].number) == 1
