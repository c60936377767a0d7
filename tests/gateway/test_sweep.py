# SPDX-License-Identifier: Apache-2.0
"""The sweep ends what is dead in the kernel, quickly and without touching what lives; and says what it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from mizar.gateway import rules
from mizar.gateway.entries import ANSWERED, FIN, ORIGINAL, PEER_FIN, Connection, key, pair
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.sweep import Sweep
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import created, ticks
from mizar.pipeline.interpreter.connection import Flow

from .test_flow_table import BLUE, GREEN, OUTSIDE, Clock, nat, out4, out6

pytestmark = pytest.mark.root
RULES = nat(quota=1 << 20)


@contextmanager
def table(lines: int, told: list[Connection] | None = None) -> Iterator[tuple[FlowTable, Clock]]:
    """A flow table with so many lines for each version of IP."""
    with (
        created({"lines4": lines, "lines6": lines, "connections4": lines + 64}) as tables,
        Keeper(tables.maps) as keeper,
    ):
        rules.write(tables, RULES)
        clock = Clock()
        yield FlowTable(tables, keeper, clock, None if told is None else told.append), clock


def flood(flows: FlowTable, count: int, flags: int = 0) -> None:
    """So many connections of one tenant that nobody answers."""
    for number in range(count):
        original = Flow(BLUE, 4, "udp", 0x0A000001 + (number >> 15), 0xC0000201, 1024 + (number & 0x7FFF), 53)
        becomes = replace(original, meta=OUTSIDE, source=original.source + (1 << 24))
        flows.install(original, becomes, RULES, flags)


def in_use(flows: FlowTable, meta: int) -> int:
    return int((flows.tables.nat_tenants.get(meta) or {"in_use": 0})["in_use"])


def left(flows: FlowTable) -> int:
    """Entries, of both directions and both versions, wherever they stand."""
    return sum(1 for each in (flows.tables.connections4, flows.tables.connections6) for _ in each.raw_items())


@pytest.mark.parametrize("count", [3000, pytest.param(200_000, marks=pytest.mark.long)])
def test_a_flood_that_is_over_is_swept_and_others_live(count: int) -> None:
    """In lines and, as these are too few, in the hash: all are gone, with both directions, and the tenant's count; the
    connections of others, and of the same tenant, stay. Their ends are free again."""
    told: list[Connection] = []
    with table(max(count * 2, 64), told) as (flows, clock):
        flood(flows, count)
        clock.now += ticks(RULES.timeouts.udp_s) + 1
        flows.install(*out4(1), RULES, ANSWERED)
        flows.install(*out4(2, meta=GREEN), RULES)
        flows.install(*out6(), RULES)
        before = {one.original for one in flows.listed()}
        assert len(before) == 3
        sweep, began = Sweep(flows), time.monotonic()
        assert sweep.run() == count
        print(f"{count} in {time.monotonic() - began:.2f} s")
        assert {one.original for one in flows.listed()} == before
        assert (left(flows), in_use(flows, BLUE), in_use(flows, GREEN)) == (6, 1, 2)
        assert len({one.original for one in told}) == count
        assert sweep.run() == 0
        flood(flows, 16)
        assert in_use(flows, BLUE) == 17


@pytest.mark.parametrize("lines", [0, 64])
def test_what_it_ends_is_told_as_it_was(lines: int) -> None:
    """In a line or in the hash: the flow, what it became, flags of both directions and stamps."""
    told: list[Connection] = []
    with table(max(lines, 1), told) as (flows, clock):
        for original, becomes in (out4(), out6()):
            flows.install(original, becomes, RULES, ANSWERED)
        wanted = list(flows.listed())
        clock.now += ticks(8000)
        assert Sweep(flows).run() == 2
        assert sorted(told, key=str) == sorted(wanted, key=str)


def test_the_other_direction_keeps_it_alive() -> None:
    """Its own stamp is too old, that of the packets back is not; and after FINs of both sides less is too old."""
    with table(64) as (flows, clock):
        original, becomes = out4()
        flows.install(original, becomes, RULES, ANSWERED)
        clock.now += ticks(7441)
        first, second = pair(original, becomes, tenant=BLUE, stamp=clock.now, flags=ANSWERED, rules=1)
        stale = {**first[1], "stamp": clock.now - ticks(7441)}
        assert flows.keeper.renew(4, (first[0], stale), second)
        assert Sweep(flows).run() == 0
        closing = dict.fromkeys(("one", "two"), ANSWERED | FIN | PEER_FIN)
        one, two = ({**each[1], "flags": closing["one"] | each[1]["flags"] & ORIGINAL} for each in (first, second))
        assert flows.keeper.renew(4, (first[0], {**one, "stamp": clock.now}), (second[0], {**two, "stamp": clock.now}))
        clock.now += ticks(241)
        assert Sweep(flows).run() == 1
        assert flows.find(original) is None


def test_a_stamp_of_the_future_is_alive() -> None:
    """Another CPU's clock may be a tick ahead."""
    with table(64) as (flows, clock):
        flows.install(*out4(), RULES)
        clock.now -= 1
        assert Sweep(flows).run() == 0
        assert flows.tables.connections4.get(key(out4()[0])) is not None
