# SPDX-License-Identifier: Apache-2.0
"""Drops as events: only when asked for, within limits that count what they leave out, with what was known by then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from mizar.kernel import test_run
from mizar.kernel.events import EventReader
from mizar.kernel.layout import constant, struct_codec
from mizar.kernel.maps import CounterTable
from mizar.model import drop_reasons

from .frames import datagram, tunnel
from .plan import BLUE, FAMILIES, FRONT, GHOST_HOST, HOST, ME, RED, STRANGER, A, B, R, mapped
from .testbed import Testbed

HOOK_AGENT, HOOK_TRANSIT = 1, 2


@pytest.fixture
def reader(droplet: Testbed) -> Iterator[EventReader]:
    """The ring, emptied of what earlier tests left, and limits that have forgotten them."""
    CounterTable("event_limits", droplet.programs.maps["event_limits"], struct_codec("event_limit")).zero(
        [0, *(slot for slot, _ in droplet.tables.event_limits.items())]
    )
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
        "endpoint_slot": 0,
        "vpc_slot": RED.slot,
        "inner_at": 50,
        "rule": 0,
        "policed_slot": 0,
        "outcome": 0,
        "captured": min(len(frame), 128),
        "frame": frame[:128].ljust(128, b"\0"),
    }


def test_a_long_frame_is_cut_and_a_short_one_is_whole(droplet: Testbed, reader: EventReader) -> None:
    droplet.as_host()
    droplet.tables.droplet_switches.put(0, {"events": 1})
    for length in (1400, 0):
        frame = bytes(datagram(4, B, R.address(4), src_mac=A.mac, payload=bytes(length)))
        droplet.send(frame)
        event = only(reader.read())
        assert (event["length"], event["captured"]) == (len(frame), min(len(frame), 128))
        assert event["frame"][: event["captured"]] == frame[:128]


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
    assert (event["endpoint_slot"], event["vpc_slot"], event["inner_at"]) == (A.slot, RED.slot, 0)


def test_no_event_while_the_switch_is_off(droplet: Testbed, reader: EventReader) -> None:
    droplet.as_bouncer()
    droplet.transit(tunnel("geneve", datagram(4, A, FRONT.address(4, GHOST_HOST)), src=HOST))
    assert list(reader.read()) == []
    assert droplet.counted()["drop", "ENDPOINT_UNKNOWN"]["packets"] == 1


def test_a_flood_is_limited_and_counted(droplet: Testbed, reader: EventReader) -> None:
    """Every packet is either told or counted as suppressed; another reason and another VPC have limits of their own."""
    droplet.as_bouncer()
    droplet.tables.droplet_switches.put(0, {"events": 1})
    number = drop_reasons.by_name()["ENDPOINT_UNKNOWN"].number
    droplet.tables.drop_counters.zero([number])
    packets = 500
    ghost = tunnel("geneve", datagram(4, A, FRONT.address(4, GHOST_HOST)), src=HOST)
    test_run.run_xdp(droplet.programs.transit.fd, ghost, repeat=packets)
    droplet.transit(tunnel("geneve", datagram(4, A, R.address(4), ttl=1), src=HOST))
    droplet.transit(tunnel("vxlan", datagram(4, A, R.address(4)), src=STRANGER))
    reasons = [event["reason"] for event in reader.read()]
    told = reasons.count(number)
    assert droplet.counted()["drop", "ENDPOINT_UNKNOWN"]["packets"] == packets
    assert 32 <= told < packets
    slot = RED.slot % constant("EVENT_SHARES") * constant("EVENT_REASONS") + number
    limits = dict(droplet.tables.event_limits.items())[slot]
    assert sum(limit["suppressed"] for limit in limits) == packets - told
    assert {limit["vni"] for limit in limits if limit["suppressed"]} == {RED.vni}
    assert reasons.count(drop_reasons.by_name()["TTL_EXPIRED"].number) == 1
    assert reasons.count(drop_reasons.by_name()["UNKNOWN_SENDER"].number) == 1


def test_a_place_forgets_the_count_of_the_vpc_before(droplet: Testbed, reader: EventReader) -> None:
    """VPCs whose slots share a place share its limit; what was suppressed of one is never told as another's."""
    droplet.as_host()
    droplet.tables.droplet_switches.put(0, {"events": 1})
    spoofed = datagram(4, B, R.address(4), src_mac=A.mac)
    droplet.send(spoofed, repeat=200)
    red = droplet.tables.agents.get(A.ifindex)
    assert red is not None
    other = red | {"vni": BLUE.vni, "vpc_slot": red["vpc_slot"] + constant("EVENT_SHARES")}
    droplet.tables.agents.put(A.ifindex, other)
    droplet.send(spoofed, repeat=150)
    number = drop_reasons.by_name()["SPOOFED_ADDRESS"].number
    slot = RED.slot % constant("EVENT_SHARES") * constant("EVENT_REASONS") + number
    counts = {limit["vni"]: limit["suppressed"] for limit in dict(droplet.tables.event_limits.items())[slot]}
    assert 0 < counts[BLUE.vni] <= 150
