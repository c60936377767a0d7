# SPDX-License-Identifier: Apache-2.0
"""How full pools are, from what the interpreter's own table has begun."""

from __future__ import annotations

import pytest

from mizar.gateway.forecast import Forecasts
from mizar.gateway.pool_use import SHOWN, PoolUse
from mizar.pipeline import builder as b
from mizar.pipeline.interpreter.connection import Flow, Seen
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.nat import NatRules

WORLD = 9
RULES = NatRules(
    masquerade=(
        b.masquerade(1, WORLD, "203.0.113.1", ports="2000-2009"),
        b.masquerade(2, WORLD, "203.0.113.2", ports="2000-2009", mapping="endpoint-independent"),
    ),
    static=(b.static(1, "10.0.0.9", WORLD, "203.0.113.9"),),
)


def begun(table: NatTable, meta: int, sport: int, target: int, kind: str = "udp", source: int = 5) -> None:
    """One connection."""
    flow = Flow(meta, 4, kind, source, target, sport, sport if kind == "icmp4" else 53)
    assert table.allocate(Seen(flow, tcp_flags=2), 1) is not None


def walk(use: PoolUse, table: NatTable) -> None:
    for one in table.connections(1):
        use.met(one.original, one.becomes)
    use.walked()


def test_the_fullest_space_of_each_address_counts() -> None:
    """Per destination: the destination with the most ports. Endpoint-independent: ports, however many connections."""
    table, use = NatTable(RULES), PoolUse(RULES)
    for sport in range(4):
        begun(table, 1, sport, 100)
    begun(table, 1, 7, 101)
    for target in range(100, 120):
        begun(table, 2, 7, target)
    begun(table, 2, 8, 100)
    begun(table, 1, 1, 100, source=0x0A000009)
    for sport in range(3):
        begun(table, 1, sport, 100, "icmp4")
    walk(use, table)
    assert use.uses == {
        "ports of 203.0.113.1 in 0x9, udp": (4, 10),
        "ports of 203.0.113.1 in 0x9, icmp4": (3, 10),
        "ports of 203.0.113.2 in 0x9, udp": (2, 10),
    }
    table.expire(10**15)
    walk(use, table)
    assert use.uses == {}


def test_a_pool_that_fills_is_foretold() -> None:
    """At two ports a minute, four are left for two minutes."""
    table, use, forecasts = NatTable(RULES), PoolUse(RULES), Forecasts()
    for minute in range(3):
        for sport in (2 * minute, 2 * minute + 1):
            begun(table, 1, sport, 100)
        walk(use, table)
        forecasts.observe(60.0 * minute, use.uses)
    (found,) = forecasts.read()
    assert (found.name, found.in_use, found.limit) == ("ports of 203.0.113.1 in 0x9, udp", 6, 10)
    assert found.seconds_left is not None
    assert round(found.seconds_left) == 120


def test_a_forecast_does_not_follow_how_often_it_is_asked_for() -> None:
    """Somebody who looks every second takes nothing from the ten minutes that are looked back on."""
    often, seldom = Forecasts(), Forecasts()
    for second in range(601):
        uses = {"connections": (second, 10_000)}
        often.observe(float(second), uses)
        if second % 10 == 0:
            seldom.observe(float(second), uses)
    (one,), (other,) = often.read(), seldom.read()
    assert (one.in_use, other.in_use) == (600, 600)
    assert one.seconds_left == pytest.approx(other.seconds_left) == pytest.approx(9400)
    often.observe(1200.0, {"connections": (600, 10_000)})
    assert next(often.read()).in_use == 600


def test_a_large_pool_shows_its_fullest_addresses() -> None:
    """So many and no more: each is a line for the operator."""
    rules = NatRules(masquerade=(b.masquerade(1, WORLD, "203.0.113.0/26", ports="2000-2009"),))
    table, use = NatTable(rules), PoolUse(rules)
    for source in range(64):
        for sport in range(1 + (source == 7)):
            begun(table, 1, sport, 100, source=source)
    walk(use, table)
    assert len(use.uses) == SHOWN
    assert max(used for used, _ in use.uses.values()) == 2
