# SPDX-License-Identifier: Apache-2.0
"""The table of connections under anything that may come; the RFCs' lines are in tests/pipeline/rfc."""

from __future__ import annotations

import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mizar.pipeline import builder as b
from mizar.pipeline.description import State
from mizar.pipeline.interpreter.connection import Flow, Seen
from mizar.pipeline.interpreter.nat_choice import PORT_TRIES, ports_for
from mizar.pipeline.interpreter.nat_reason import Reason
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.nat import NatRules

S = 1_000_000_000
TENANTS, WORLD = [1, 2], 9
POOL = "203.0.113.1-203.0.113.3"


def flow(
    source: int = 1, sport: int = 5000, target: int = 100, dport: int = 80, kind: str = "udp", meta: int = 1
) -> Flow:
    return Flow(meta, 4, kind, source, target, sport, dport)


def packet(wanted: Flow) -> Seen:
    """One that may begin its flow."""
    return Seen(wanted, tcp_flags=0x02 if wanted.protocol == "tcp" else 0)


FLOWS = st.builds(
    flow,
    source=st.integers(1, 4),
    sport=st.integers(2000, 2004),
    target=st.integers(100, 101),
    kind=st.sampled_from(["tcp", "udp"]),
    meta=st.sampled_from(TENANTS),
)


@given(
    st.sampled_from(["endpoint-independent", "per-destination"]),
    st.lists(st.tuples(FLOWS, st.integers(0, 200)), max_size=40),
)
def test_no_two_connections_look_alike_outside(mapping: str, asked: list[tuple[Flow, int]]) -> None:
    """Whatever comes, at whatever time: what lives is translated back to itself, and the pool is given back."""
    rule = b.masquerade(TENANTS, WORLD, POOL, ports="2000-2006", mapping=mapping)
    table, now = NatTable(NatRules(masquerade=(rule,))), 0
    living: dict[Flow, Flow] = {}
    for wanted, seconds in asked:
        now += seconds * S
        table.expire(now)
        alive = {one.original for one in table.connections(now)}
        living = {one: outer for one, outer in living.items() if one in alive}
        becomes = table.allocate(packet(wanted), now)
        if becomes is not None:
            living[wanted] = becomes
        assert len({outer.reversed() for outer in living.values()}) == len(living)
        for one, outer in living.items():
            back = Seen(outer.reversed(), is_error=True, may_begin=False)
            assert table.look(back, now).becomes == one.reversed()
        assert len(table) == len(living) == sum(table.in_use.values())
    later = now + 8000 * S
    table.expire(later)
    assert len(table) == 0
    assert not table.mappings.inner
    assert not table.mappings.outer
    assert not table.mappings.contacts
    made = [table.allocate(packet(flow(sport=sport)), later) for sport in range(2000, 2007)]
    assert [one and one.source_port for one in made] == list(range(2000, 2007))


@given(FLOWS, st.integers(1, 65535), st.integers(0, 3000))
def test_no_port_is_tried_twice_but_the_kept_one(wanted: Flow, first: int, more: int) -> None:
    """Inside of the range, its own port first where it is there; all of a small range, PORT_TRIES of a large one."""
    last = min(65535, first + more)
    rule = b.masquerade(TENANTS, WORLD, POOL, ports=f"{first}-{last}")
    tried = list(ports_for(rule, wanted))
    assert all(first <= port <= last for port in tried)
    assert len(tried) <= PORT_TRIES + 1
    if first <= wanted.source_port <= last:
        assert tried.pop(0) == wanted.source_port
    assert len(set(tried)) == len(tried)
    if last - first + 1 < PORT_TRIES:
        assert set(tried) == set(range(first, last + 1))


def test_a_full_table_refuses_and_says_so() -> None:
    """Never by evicting; a packet of no connection and no rule is told apart."""
    table = NatTable(NatRules(masquerade=(b.masquerade(1, WORLD, POOL),)), room=1)
    assert table.allocate(packet(flow()), 0) is not None
    assert table.allocate(packet(flow(sport=1)), 0) is None
    assert table.allocate(packet(flow(meta=3)), 0) is None
    assert {str(reason): count for reason, count in table.reasons.items()} == {"TABLE_FULL": 1, "NO_RULE": 1}
    assert [(event.reason, event.tenant) for event in table.events] == [("TABLE_FULL", 1)]
    assert table.look(packet(flow()), 299 * S).state is State.ESTABLISHED


def test_reasons_are_the_contracts() -> None:
    """The same names, so that counters of two engines can be compared."""
    contract = tomllib.loads((Path(__file__).parents[3] / "contracts" / "gateway_reasons.toml").read_text())
    assert {str(reason) for reason in Reason} <= {one["name"] for one in contract["reason"]}
