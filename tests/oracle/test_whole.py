# SPDX-License-Identifier: Apache-2.0
"""Isolation, stated over fleets with everything in them: no packet of a VPC comes out at an endpoint of another, but
over a peering or a proxied endpoint; and every hop of such ways is the kernel's too."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.oracle.fleet import End, Way
from mizar.oracle.network_acl import acl_of
from mizar.oracle.policies import NetworkAcl, PolicySet
from mizar.oracle.tables import in_prefix
from tests.oracle.draws import steady
from tests.oracle.planned import Planned
from tests.oracle.real_fleet import Journey, RealFleet, whole_journeys
from tests.oracle.substrates import SUBSTRATES
from tests.oracle.traffic import sent
from tests.oracle.whole import anything, edges, policed, ruled, senders, whole_fleets
from tests.unit.planner.budget import examples

WIRE_PORTS = (b"\x17\xc1", b"\x12\xb5")


def neighbours(planned: Planned) -> dict[int, set[int]]:
    """VPC → those to which a packet of it may cross: peers, and over proxied endpoints, answers included."""
    found: dict[int, set[int]] = defaultdict(set)
    for one, other in planned.world.peerings:
        found[one].add(other)
        found[other].add(one)
    for fact in planned.world.endpoints.values():
        if fact.proxy is not None:
            found[fact.vni].add(fact.proxy.vni)
            found[fact.proxy.vni].add(fact.vni)
    return found


def reachable(planned: Planned, vni: int) -> set[int]:
    """Over any number of crossings."""
    found, new, steps = {vni}, {vni}, neighbours(planned)
    while new:
        new = {other for one in new for other in steps[one]} - found
        found |= new
    return found


def met_a_proxy(way: Way) -> bool:
    return any(hop.program == "proxy" or hop.outcome.proxy_flows is not None for hop in way.hops)


def destination(frame: bytes) -> bytes:
    return frame[30:34] if frame[12:14] == b"\x08\x00" else frame[38:54]


def origin(frame: bytes) -> bytes:
    return frame[26:30] if frame[12:14] == b"\x08\x00" else frame[22:38]


def in_peer(planned: Planned, vni: int, peer: int, address: bytes) -> bool:
    """Whether a peering leads from one VPC to an address of the other."""
    fact = planned.world.peerings.get((min(vni, peer), max(vni, peer)))
    sides = (fact.one, fact.other) if fact else ()
    return any(side.vni == peer and any(in_prefix(address, *one) for one in side.prefixes) for side in sides)


def check_isolation(planned: Planned, vni: int, way: Way) -> None:
    """What a packet of a VPC may do."""
    may = reachable(planned, vni)
    assert way.end is not End.CIRCLED
    for hop in way.hops:
        assert {key for kind, key in hop.outcome.counted if kind == "vpc"} <= may
    if way.receiver is None:
        return
    assert way.receiver.vni in may
    fact = planned.world.endpoints[way.receiver.uid]
    assert fact.vni == way.receiver.vni
    if way.receiver.vni != vni and not met_a_proxy(way):
        assert in_peer(planned, vni, way.receiver.vni, destination(way.frame))


def stays(data: st.DataObject) -> None:
    planned = data.draw(policed(data.draw(whole_fleets())))
    for _ in range(8):
        source = data.draw(st.sampled_from(senders(planned)))
        check_isolation(planned, source.vni, sent(planned, source, data.draw(anything(planned, source))))


@examples(40)
@given(st.data())
def test_no_packet_of_a_vpc_comes_out_in_another(data: st.DataObject) -> None:
    """But over a peering or a proxied endpoint, whatever is sent, and whatever was sent before."""
    stays(data)


@pytest.mark.long
@examples(400)
@given(st.data())
def test_no_packet_of_a_vpc_comes_out_in_another_of_many(data: st.DataObject) -> None:
    """The same, ten times as often."""
    stays(data)


@examples(40)
@given(st.data())
def test_no_way_leads_around_a_networks_acl(data: st.DataObject) -> None:
    """What nobody may send into a network does not come to it: over dividers, bouncers of both networks, neighbours and
    peers, whatever was learned. What is sent within it may."""
    planned = data.draw(whole_fleets())
    vni, _, _, number = data.draw(st.sampled_from(edges(planned)))
    acl = NetworkAcl(number, PolicySet(), PolicySet())
    closed = {key[:3]: acl if key[3] == number else NetworkAcl(key[3]) for key in edges(planned) if key[0] == vni}
    for name, here in planned.fleet.droplets.items():
        planned.fleet.droplets[name] = ruled(here, closed)
    view = ruled(next(iter(planned.fleet.droplets.values())), closed)
    view = replace(view, network_acls=closed)
    answering = {one.uid for here in planned.fleet.droplets.values() for one in here.agents.values() if one.member}
    for _ in range(8):
        source = data.draw(st.sampled_from(senders(planned)))
        frame = data.draw(anything(planned, source))
        way = sent(planned, source, frame)
        receiver = way.receiver
        if receiver is None or receiver.vni != vni or receiver.uid == source.uid or met_a_proxy(way):
            continue
        to = acl_of(view, vni, destination(frame))
        if to is not None and to.network == number and source.uid not in answering:
            came = acl_of(view, vni, origin(frame)) if source.vni == vni else None
            assert came is not None
            assert came.network == number


@pytest.mark.root
@pytest.mark.parametrize(
    "substrate", [pytest.param(one, marks=() if one == "both" else pytest.mark.long) for one in SUBSTRATES]
)
def test_every_hop_is_the_kernels_too(substrate: str) -> None:
    """The same ways every time; among them such as cross, such as are chosen, and such as are refused."""
    fleet, seen = RealFleet(substrate), Counter[str]()

    @steady(100)
    @given(whole_journeys(substrate))
    def each(journey: Journey) -> None:
        for way in fleet.check(journey):
            check_isolation(journey.planned, journey.planned.world.endpoints[journey.source].vni, way)
            seen.update([way.end.name, *(["proxy"] if met_a_proxy(way) else [])])
            seen.update("policed" for hop in way.hops if hop.outcome.judged)

    try:
        each()
    finally:
        fleet.close()
    assert min(seen[name] for name in ("DELIVERED", "DROPPED", "proxy", "policed")) > 0, seen
