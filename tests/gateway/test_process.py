# SPDX-License-Identifier: Apache-2.0
"""`mizar gateway run` on a host of its own: each way of a new connection, two tenants with equal addresses at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gateway.rig import (
    FAR4,
    FAR6,
    OUTSIDE,
    POOL4,
    POOL6,
    PORT,
    STATIC4,
    WORLD4,
    WORLD6,
    UdpEcho,
    heard_from,
    nat,
    rig,
)
from tests.gateway.running import NEW, Running, description, running
from tests.gateway.talk import EXCEEDED, REFUSED, TOO_BIG, bulk, ping, stream, told
from tests.gateway.waiting import wait_for
from tests.marks import first_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@contextmanager
def gateway(way: str, folder: Path) -> Iterator[Running]:
    """A rig whose gateway begins connections so."""
    with rig() as made, running(made, description(way, made.prefix, nat()), folder) as found:
        yield found


@pytest.mark.parametrize("way", first_of(NEW))
def test_every_protocol_and_its_errors(way: str, tmp_path: Path) -> None:
    """UDP, TCP, ICMP; port unreachable, TTL exceeded, packet too big; IPv4 and IPv6; a tenant beside another."""
    with gateway(way, tmp_path) as found:
        ends = found.rig.ends
        with UdpEcho(ends["world"], WORLD4), UdpEcho(ends["world"], WORLD6):
            assert heard_from(ends["blue"], WORLD4, source_port=4000) == (POOL4, 4000)
            assert heard_from(ends["green"], WORLD4, source_port=4000) == (STATIC4, 4000)
            assert heard_from(ends["blue"], WORLD6, source_port=4000) == (POOL6, 4000)
            assert heard_from(ends["green"], WORLD6, source_port=4000)[1] != 4000
        for far, router in ((FAR4, "203.0.113.254"), (FAR6, "2001:db8::fe")):
            ping(ends["blue"], far)
            ping(ends["green"], far)
            assert told(ends["blue"], far, size=1320) == (TOO_BIG, router)  # from then on it knows
            with stream(ends["blue"], ends["beyond"], far, PORT) as (near, end):
                bulk(near, end)
            assert told(ends["blue"], far) == (REFUSED, far)
            # The kernel's port takes one off the TTL, too, where a first packet goes through it: it ends there.
            port = "10.0.0.1" if far is FAR4 else "fd00:10::1"
            assert told(ends["green"], far, ttl=1) == (EXCEEDED, port if way == "kernel" else router)
        wait_for(lambda: {one["tenant"] for one in found.connections()} == {0x01000005, 0x01000006})
        counters = {
            (one["counter"], one["meta"]): one["packets"] for one in found.cli("counters", "--name", found.name)
        }
        assert counters["hot", OUTSIDE] > 100


@pytest.mark.long
def test_connections_outlive_the_process_and_its_program(tmp_path: Path) -> None:
    """They go on while it is away, when it comes back, and when another description is applied that allows them; one
    that it does not allow ends, and a wrong one changes nothing."""
    with gateway("in line", tmp_path) as found:
        ends, text = found.rig.ends, found.file.read_text()
        with stream(ends["blue"], ends["world"], WORLD4, PORT) as (near, far):
            bulk(near, far)
            found.end()
            bulk(near, far)
            found.begin()
            bulk(near, far)
            changed = replace(nat(), forward=(), static=())
            assert found.apply(description("in line", found.rig.prefix, changed)) == {"ended": 0}
            bulk(near, far)
            assert "unknown step" in found.apply(text.replace("- stop", "- stopp"), ok=False)
            bulk(near, far)
            without = replace(nat(), masquerade=nat().masquerade[1:])
            assert found.apply(description("in line", found.rig.prefix, without))["ended"] == 1
            assert found.connections() == []
        shown = found.show()
        assert (shown["connections"], shown["ended"]["not allowed"]) == (0, 1)
