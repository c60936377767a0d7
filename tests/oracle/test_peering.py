# SPDX-License-Identifier: Apache-2.0
"""Peerings over whole fleets: who is peered is reached, who is not is not, and no packet crosses two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.oracle.fleet import End
from mizar.oracle.outcome import Step
from mizar.planner.facts import EndpointFact
from tests.oracle import build
from tests.oracle.planned import DAEMONS, PEERED_VNIS, Planned, peered_fleets, plan
from tests.oracle.real_fleet import Journey, RealFleet
from tests.oracle.test_fleet import arrived, without_hops
from tests.oracle.told import mac_on_substrate
from tests.oracle.traffic import datagram, hostile, sent
from tests.unit.planner.budget import examples
from tests.unit.planner.world import droplet

LEFT, MIDDLE, RIGHT = PEERED_VNIS
PEERS = {LEFT: {LEFT, MIDDLE}, MIDDLE: {LEFT, MIDDLE, RIGHT}, RIGHT: {MIDDLE, RIGHT}}
MOST_FORWARDED = 4
"""Bouncer, divider, divider of the peer, bouncer."""


def pairs(planned: Planned) -> Iterator[tuple[EndpointFact, EndpointFact, bytes, bytes]]:
    """Every two endpoints by every family: both have both."""
    for source in planned.world.endpoints.values():
        for target in planned.world.endpoints.values():
            for here, there in zip(source.addresses, target.addresses, strict=True):
                yield source, target, here, there


@examples(60)
@given(peered_fleets(), st.integers(0, 0xFFFF))
def test_who_is_peered_is_reached_and_nobody_beyond(planned: Planned, sport: int) -> None:
    """The frame arrives as it was sent, but for MACs and TTL, in few hops; beyond one peering it is dropped."""
    for source, target, here, there in pairs(planned):
        way = sent(planned, source, datagram(source.mac, here, there, sport))
        if target.vni in PEERS[source.vni]:
            inner = arrived(planned, way, target)
            assert inner[:12] == target.mac + build.ROUTER
            assert without_hops(inner) == without_hops(datagram(source.mac, here, there, sport))
            steps = [hop.outcome.step for hop in way.hops if hop.program == "transit"]
            assert sum(step is not Step.DELIVER for step in steps) <= MOST_FORWARDED
        else:
            assert (way.end, way.reason) == (End.DROPPED, "NETWORK_UNKNOWN")


@examples(100)
@given(st.data())
def test_what_crossed_once_crosses_no_more(data: st.DataObject) -> None:
    """Also when it comes back as its VPC's own: the source tells where it is from, whoever forwards it."""
    planned = data.draw(peered_fleets())
    rows = [row for row in pairs(planned) if row[0].vni == LEFT and row[1].vni == RIGHT]
    source, _, here, there = data.draw(st.sampled_from(rows))
    frame = datagram(source.mac, here, there)
    for name in DAEMONS:
        at = droplet(name).address
        outer = build.tunnel(
            data.draw(st.sampled_from(["geneve", "vxlan"])), frame, src=droplet("f1").address, dst=at,
            src_mac=mac_on_substrate(droplet("f1").address), dst_mac=mac_on_substrate(at), vni=MIDDLE,
        )  # fmt: skip
        way = planned.fleet.inject(at, outer)
        assert way.end in (End.DROPPED, End.PASSED)
        assert way.reason in ("PEERING_NOT_TRANSITIVE", "UNKNOWN_VNI")


@examples(200)
@given(st.data())
def test_nothing_else_crosses(data: st.DataObject) -> None:
    """Whatever anybody sends comes out in its own VPC or a peer's, and moves nobody else's counters."""
    planned = data.draw(peered_fleets())
    for _ in range(8):
        source = data.draw(st.sampled_from(list(planned.world.endpoints.values())))
        way = sent(planned, source, data.draw(hostile(planned, source)))
        assert way.end is not End.CIRCLED
        assert way.receiver is None or way.receiver.vni in PEERS[source.vni]
        for hop in way.hops:
            assert {key for kind, key in hop.outcome.counted if kind == "vpc"} <= PEERS[source.vni]


@pytest.fixture(scope="module")
def real() -> Iterator[RealFleet]:
    found = RealFleet()
    yield found
    found.close()


@examples(25)
@given(st.data())
def test_every_hop_is_the_kernels_too(real: RealFleet, data: st.DataObject) -> None:
    """The compiled programs of all droplets do what the oracle says, over peerings."""
    world = data.draw(peered_fleets()).world
    uid = data.draw(st.sampled_from(sorted(world.endpoints)))
    source = world.endpoints[uid]
    planned = plan(world, uid if source.workload else "")
    targets = [target for target in world.endpoints.values() if target.vni != source.vni]
    sound = [datagram(source.mac, source.addresses[0], target.addresses[0]) for target in targets]
    sound += [datagram(source.mac, source.addresses[1], target.addresses[1]) for target in targets]
    real.check(Journey(planned, uid, (*sound, data.draw(hostile(planned, source)))))
