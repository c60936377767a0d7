# SPDX-License-Identifier: Apache-2.0
"""Masquerade and static translation, line by line of what docs/pipeline.md says."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.pipeline.description import State
from mizar.pipeline.interpreter.connection import Flow, Seen
from mizar.pipeline.interpreter.nat_table import Masquerade, NatTable, Static

S = 1_000_000_000
INSIDE, OTHER, WORLD = 1, 2, 9
POOL = tuple(IPv4Address(f"203.0.113.{number}") for number in range(1, 4))


def flow(
    source: int = 1, sport: int = 5000, target: int = 100, dport: int = 80, kind: str = "udp", meta: int = 1
) -> Flow:
    return Flow(meta, 4, kind, source, target, sport, dport)


def masquerade(**more: int) -> NatTable:
    rules = [Masquerade(meta, WORLD, POOL, **more) for meta in (INSIDE, OTHER)]
    return NatTable(tuple(rules))


def made(table: NatTable, wanted: Flow, now_ns: int = 0) -> Flow:
    becomes = table.allocate(wanted, now_ns)
    assert becomes is not None
    return becomes


def test_one_inner_end_is_one_outer_end_for_every_destination() -> None:
    """RFC 4787 REQ-1: endpoint-independent mapping."""
    table = masquerade()
    first, second = (made(table, flow(target=target, dport=port)) for target, port in ((100, 80), (200, 443)))
    assert (first.source, first.source_port) == (second.source, second.source_port)


def test_one_inner_address_is_one_outer_address() -> None:
    """RFC 4787 REQ-2: paired pooling; different inner addresses use all of the pool."""
    table = masquerade()
    assert len({made(table, flow(sport=sport)).source for sport in range(5000, 5050)}) == 1
    assert {made(table, flow(source=source)).source for source in range(30)} == {int(address) for address in POOL}


def test_a_port_is_kept_where_it_is_free() -> None:
    """The second tenant with the same address and port gets another port, and both find their way back."""
    table = masquerade()
    mine, theirs = made(table, flow()), made(table, flow(meta=OTHER))
    assert mine.source_port == 5000
    assert theirs.source_port == 5001
    assert table.look(Seen(mine.reversed()), 0).becomes == flow().reversed()
    assert table.look(Seen(theirs.reversed()), 0).becomes == flow(meta=OTHER).reversed()


def test_a_stranger_is_not_let_in() -> None:
    """RFC 4787 REQ-8: filtering by address and port; nobody else reaches a mapping from outside."""
    table = masquerade()
    outer = made(table, flow())
    stranger = Flow(WORLD, 4, "udp", 101, outer.source, 80, outer.source_port)
    assert table.look(Seen(stranger), 0).state is State.NEW
    assert table.allocate(stranger, 0) is None


def test_ports_run_out_loudly_and_nothing_is_evicted() -> None:
    """A full pool refuses and counts; what lives stays; what has run out makes room."""
    table = NatTable((Masquerade(INSIDE, WORLD, POOL[:1], first_port=2000, last_port=2002),))
    flows = [flow(sport=sport) for sport in range(3)]
    outer = [made(table, one) for one in flows]
    assert sorted(one.source_port for one in outer) == [2000, 2001, 2002]
    assert table.allocate(flow(sport=9), 0) is None
    assert table.exhausted == 1
    assert all(table.look(Seen(one), 299 * S).state is State.ESTABLISHED for one in flows[:2])
    assert table.allocate(flow(sport=9), 300 * S) is not None
    assert table.look(Seen(flows[2], may_begin=True), 300 * S).state is State.NEW


@pytest.mark.parametrize(("kind", "seconds"), [("udp", 300), ("icmp4", 60)])
def test_only_traffic_from_inside_keeps_a_mapping(kind: str, seconds: int) -> None:
    """RFC 4787 REQ-5 and REQ-6, RFC 5508 REQ-1."""
    table = masquerade()
    number = {"sport": 7, "dport": 7} if kind == "icmp4" else {}
    mine = flow(kind=kind, **number)
    back = made(table, mine).reversed()
    assert table.look(Seen(back), (seconds - 1) * S).state is State.ESTABLISHED
    assert table.look(Seen(mine, may_begin=False), seconds * S).state is State.INVALID
    made(table, mine, seconds * S)
    assert table.look(Seen(mine), (2 * seconds - 1) * S).state is State.ESTABLISHED
    assert table.look(Seen(back), (3 * seconds - 2) * S).state is State.ESTABLISHED


def test_tcp_lives_long_once_it_is_open() -> None:
    """RFC 5382 REQ-5: 4 min while it opens or closes, 2 h 4 min while it is open."""
    table, syn, ack, fin = masquerade(), 0x02, 0x10, 0x11
    mine = flow(kind="tcp")
    back = made(table, mine).reversed()

    def look(one: Flow, flags: int, now_s: int) -> State:
        return table.look(Seen(one, may_begin=flags == syn, tcp_flags=flags), now_s * S).state

    assert look(mine, syn, 239) is State.ESTABLISHED
    assert look(back, ack, 300) is State.ESTABLISHED
    assert look(mine, ack, 7739) is State.ESTABLISHED
    assert look(mine, fin, 7740) is State.ESTABLISHED
    assert look(back, ack, 7979) is State.ESTABLISHED
    assert look(mine, ack, 7980) is State.INVALID


def test_an_error_belongs_to_its_connection_and_keeps_nothing_alive() -> None:
    """RFC 5508 REQ-3 ff.: related, translated, no refresh."""
    table = masquerade()
    back = made(table, flow()).reversed()
    answer = table.look(Seen(back, is_error=True, may_begin=False), 299 * S)
    assert (answer.state, answer.becomes) == (State.RELATED, flow().reversed())
    assert table.look(Seen(back, is_error=True, may_begin=False), 300 * S).state is State.INVALID


def test_static_addresses_work_in_both_directions() -> None:
    """Ports stay, and no pool may have the address as well."""
    rule = Static(INSIDE, IPv4Address(1), WORLD, POOL[0])
    table = NatTable((rule,))
    out = made(table, flow())
    assert (out.meta, out.source, out.source_port) == (WORLD, int(POOL[0]), 5000)
    knock = Flow(WORLD, 4, "tcp", 100, int(POOL[0]), 9, 22)
    into = made(table, knock)
    assert (into.meta, into.destination, into.destination_port) == (INSIDE, 1, 22)
    assert table.look(Seen(into.reversed()), 0).becomes == knock.reversed()
    with pytest.raises(ValueError, match="in no pool"):
        NatTable((rule, Masquerade(OTHER, WORLD, POOL)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Masquerade(1, 2, ()),
        lambda: Masquerade(1, 2, POOL, 0, 10),
        lambda: Masquerade(1, 2, POOL, 10, 9),
    ],
)
def test_rules_that_make_no_sense(make: object) -> None:
    """Empty pools and ports that are none."""
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]


FLOWS = st.builds(
    flow,
    source=st.integers(1, 4),
    sport=st.integers(2000, 2004),
    target=st.integers(100, 101),
    kind=st.sampled_from(["tcp", "udp"]),
    meta=st.sampled_from([INSIDE, OTHER]),
)


@given(st.lists(st.tuples(FLOWS, st.integers(0, 200)), max_size=40))
def test_no_two_connections_look_alike_outside(asked: list[tuple[Flow, int]]) -> None:
    """Whatever comes, at whatever time: what lives is translated back to itself, and the pool is given back."""
    table, now = masquerade(first_port=2000, last_port=2006), 0
    living: dict[Flow, Flow] = {}
    for wanted, seconds in asked:
        now += seconds * S
        table.expire(now)
        living = {one: outer for one, outer in living.items() if table.look(Seen(one), now).state is State.ESTABLISHED}
        becomes = table.allocate(wanted, now)
        if becomes is not None:
            living[wanted] = becomes
        assert len({outer.reversed() for outer in living.values()}) == len(living)
        for one, outer in living.items():
            assert table.look(Seen(outer.reversed()), now).becomes == one.reversed()
        assert len(table) == len(living)
    table.expire(now + 8000 * S)
    assert len(table) == 0
    assert all(made(table, flow(sport=sport), now + 8000 * S).source_port == sport for sport in range(2000, 2007))
