# SPDX-License-Identifier: Apache-2.0
"""RFC 6888 (gateways for many subscribers), requirement by requirement; docs/nat.md has the table."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mizar.model.errors import InvalidError
from mizar.pipeline import builder as b
from mizar.pipeline.interpreter.machine import Verdict
from mizar.pipeline.nat import Masquerade
from tests.pipeline.rfc.world import META, PUBLIC, SERVER, A, B, Interpreter, Make, World, answer, tcp
from tests.unit.pipeline import frames as f

MAPPED = {"mapping": "endpoint-independent"}
WORLD = META + 100


def pool(*addresses: str, **more: str) -> Masquerade:
    return b.masquerade([A, B], WORLD, *(addresses or (PUBLIC,)), **more)


def test_req2_pooling_is_paired_for_every_protocol(make: Make) -> None:
    """One subscriber, one address; when its ports are used up nothing is taken from another (RFC 7857 4)."""
    world = make(pool("203.0.113.1-203.0.113.2", ports="2000-2001", **MAPPED))
    got = [world.send(A, f.udp(sport=sport)) for sport in range(3)]
    assert [one is not None for one in got] == [True, True, False]
    assert len({one.ip.src for one in got if one is not None}) == 1
    assert world.sent(A, f.udp(source="10.0.0.2")).ip.src != got[0].ip.src  # type: ignore[union-attr]


def test_req3_pools_may_have_gaps(make: Make) -> None:
    """Addresses need not be neighbours; 4096 in a rule."""
    world = make(pool("203.0.113.1", "203.0.113.77", "192.0.2.3"))
    sources = {world.sent(A, f.udp(source=f"10.0.0.{one}")).ip.src for one in range(1, 10)}
    assert sources == {"203.0.113.1", "203.0.113.77", "192.0.2.3"}


def test_req4_and_5_quotas(make: Make) -> None:
    """Each tenant its own; what it has goes on; one more is refused, counted and told; what ends makes room."""
    world = make(pool(), b.quota(A, 2))
    for sport in (1, 2):
        world.sent(A, f.udp(sport=sport))
    assert world.send(A, f.udp(sport=3)) is None
    assert world.send(A, f.tcp()) is None
    world.sent(A, f.udp(sport=1))
    world.sent(B, f.udp(sport=3))
    assert world.engine.reasons() == {"QUOTA_EXCEEDED": 2}
    assert world.engine.told() == {("QUOTA_EXCEEDED", A)}
    world.later(310)
    world.sent(A, f.udp(sport=3))


def test_req4_quotas_count_what_comes_from_outside(make: Make) -> None:
    """A forward's connections are in the quota of the tenant that they go to."""
    world = make(b.forward(WORLD, PUBLIC, 80, A, "10.0.0.2"), b.quota(A, 1))
    knocks = [tcp("S", 1, source=SERVER, target=PUBLIC, sport=sport, dport=80) for sport in (1, 2)]
    assert [world.send(WORLD, one) is not None for one in knocks] == [True, False]
    assert world.engine.told() == {("QUOTA_EXCEEDED", A)}


def test_req4_the_rate_of_new_connections_is_a_limit_of_the_pipeline() -> None:
    """limit, per metadata, in the case of new ones."""
    states = b.conntrack(
        b.case("new", b.limit("new rate", 1, 2, per_meta=True), b.nat(allocate=True)),
        b.case("established | related", b.nat()),
        b.case("invalid", b.drop()),
    )
    made = b.pipeline(
        "limited",
        pool(),
        b.group("In", b.parse(b.case("eth / vlan 1-200", b.set_meta("vlan", add=META), b.pop_vlan()))),
        b.group("Nat", b.parse(b.case("eth / ip / (tcp | udp | icmp)", states))),
        b.group("Out", b.push_vlan(), b.set_vid(), b.stop()),
    )
    world = World(Interpreter(made))
    assert [world.send(A, f.udp(sport=sport)) is not None for sport in (1, 2, 3)] == [True, True, False]
    world.sent(B, f.udp(sport=3))
    world.sent(A, f.udp(sport=1))


def test_req6_translation_can_be_turned_off_for_destinations() -> None:
    """A case of the pipeline before the one that translates."""
    states = b.conntrack(b.case("new | established | related", b.nat(allocate=True)), b.case("invalid", b.drop()))
    made = b.pipeline(
        "exempt",
        pool(),
        b.group("In", b.parse(b.case("eth / vlan 1-200", b.set_meta("vlan", add=META), b.pop_vlan()))),
        b.group(
            "Nat",
            b.parse(
                b.case("eth / ipv4 dst 198.51.100.0/25 / udp dst == 53", b.goto("Out")),
                b.case("eth / ip / (tcp | udp | icmp)", states),
            ),
        ),
        b.group("Out", b.push_vlan(), b.set_vid(), b.stop()),
    )
    world = World(Interpreter(made))
    assert world.sent(A, f.udp()).ends == ("10.0.0.1", 40000, SERVER, 53)
    assert world.sent(A, f.udp(dport=54)).ip.src == PUBLIC


def test_req7_endpoint_independent_filtering_on_request(make: Make) -> None:
    """With endpoint-independent mapping; refused with another, where an outer end stands for several."""
    world = make(pool(filtering="endpoint-independent", **MAPPED))
    got = world.sent(A, f.udp())
    assert world.sent(WORLD, f.udp("192.0.2.99", PUBLIC, 5, got.ends[1])).meta == A
    with pytest.raises(InvalidError, match="needs mapping"):
        pool(filtering="endpoint-independent")


def test_req7_what_comes_in_keeps_no_mapping(make: Make) -> None:
    """RFC 7857 7: strangers cannot hold a mapping open once the inside is silent."""
    world = make(pool(filtering="endpoint-independent", **MAPPED))
    got = world.sent(A, f.udp())
    for stranger in range(1, 4):
        world.later(90)
        world.sent(WORLD, f.udp(f"192.0.2.{stranger}", PUBLIC, 5, got.ends[1]))
    world.later(60)
    assert world.send(WORLD, f.udp("192.0.2.9", PUBLIC, 5, got.ends[1])) is None


def test_req8_a_port_is_free_at_once_when_its_connection_has_ended(make: Make) -> None:
    """Deviation: there is no rest of 120 s; a connection has then been silent for its whole time-out."""
    world = make(pool(ports="2000-2000"))
    world.sent(A, f.udp())
    assert world.send(B, f.udp()) is None
    world.later(305)
    assert world.sent(B, f.udp()).ends[1] == 2000


def test_req8_who_was_let_in_is_not_inherited(make: Make) -> None:
    """An outer end that another tenant had before: whom that one sent to is a stranger now."""
    world = make(pool(ports="2000-2000", filtering="address", **MAPPED))
    world.sent(A, f.udp())
    assert world.sent(WORLD, f.udp(SERVER, PUBLIC, 7, 2000)).meta == A
    world.later(305)
    assert world.send(WORLD, f.udp(SERVER, PUBLIC, 8, 2000)) is None
    world.sent(B, f.udp(target="198.51.100.8"))
    assert world.send(WORLD, f.udp(SERVER, PUBLIC, 9, 2000)) is None
    assert world.sent(WORLD, f.udp("198.51.100.8", PUBLIC, 9, 2000)).meta == B


def test_req11_exhaustion_is_told_and_nothing_is_evicted(make: Make) -> None:
    """Dropped, counted, an event with the tenant; every connection that lives goes on."""
    world = make(pool(ports="2000-2009"))
    got = [world.sent(A, f.udp(sport=sport)) for sport in range(10)]
    for sport in range(10, 15):
        assert world.send(A, f.udp(sport=sport)) is None
    assert world.engine.reasons() == {"PORTS_EXHAUSTED": 5}
    assert world.engine.told() == {("PORTS_EXHAUSTED", A)}
    assert [world.sent(WORLD, answer(one)).ends[3] for one in got] == list(range(10))
    world.sent(A, f.udp(sport=10, target="198.51.100.8"))


def test_req13_every_port_of_a_pool_can_be_used(make: Make) -> None:
    """Of a range up to 128; of a larger one 128 are tried for each connection."""
    world = make(pool(ports="2000-2099"))
    ports = {world.sent(A, f.udp(sport=sport)).ends[1] for sport in range(100)}
    assert ports == set(range(2000, 2100))


def test_req15_the_next_port_does_not_follow_from_the_last(make: Make) -> None:
    """RFC 7857 9: a hash of both ends spreads what cannot be kept."""
    world = make(pool(ports="2000-60000"))
    ports = [world.sent(A, f.udp(sport=sport)).ends[1] for sport in range(1, 40)]
    steps = {after - before for before, after in pairwise(ports)}
    assert len(steps) > 30


def test_tenants_with_equal_addresses_share_a_gateway(make: Make) -> None:
    """The same packet of two tenants is two connections; neither's answer reaches the other."""
    world = make(pool())
    got = {meta: world.sent(meta, f.tcp()) for meta in (A, B)}
    assert got[A].ends != got[B].ends
    for meta, one in got.items():
        assert world.sent(WORLD, answer(one)).meta == meta
    outcome = world.engine.run(f.in_vlan(f.tcp(sport=1), 7), int(world.now_s * 1e9))
    assert outcome.verdict is Verdict.DROP
