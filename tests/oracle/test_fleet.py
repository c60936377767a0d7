# SPDX-License-Identifier: Apache-2.0
"""What tenants are promised, stated over whole fleets: everybody of a VPC is reached, and nobody of another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mizar.oracle.fleet import End, Fleet, Way
from mizar.oracle.outcome import Step
from mizar.oracle.tables import Tunnel
from mizar.planner.facts import EndpointFact
from tests.oracle import build
from tests.oracle.droplets import address
from tests.oracle.planned import Planned, fleets
from tests.oracle.told import TUNNELS
from tests.oracle.traffic import datagram, echo_request, hostile, sent
from tests.unit.planner.budget import examples
from tests.unit.planner.world import AROUND

FAMILY = {4: 4, 16: 6}
PORTS = {Tunnel.GENEVE: 6081, Tunnel.VXLAN: 4789}
MOST_FORWARDED = 3
"""Bouncer of the sender's network, divider, bouncer of the destination's."""


def ttl_of(frame: bytes) -> int:
    return frame[22] if frame[12:14] == b"\x08\x00" else frame[21]


def without_hops(frame: bytes) -> bytes:
    """The packet without what a hop changes: MACs, TTL or hop limit, IPv4's header checksum."""
    if len(frame) > 14 and frame[14] >> 4 == 4:
        return frame[12:22] + frame[23:24] + frame[26:]
    return frame[12:21] + frame[22:]


def arrived(planned: Planned, way: Way, target: EndpointFact) -> bytes:
    """The frame as the endpoint gets it, after checks that nobody else does."""
    if target.workload:
        assert way.end is End.DELIVERED, (way.end, way.reason)
        assert way.receiver
        assert (way.receiver.uid, way.receiver.vni) == (target.uid, target.vni)
        assert way.hops[-1].droplet == planned.host(target)
        return way.frame
    assert way.end is End.LEFT, (way.end, way.reason)
    assert way.hops[-1].outcome.next_hop == planned.host(target)
    assert way.frame[36:38] == PORTS[TUNNELS[target.tunnel]].to_bytes(2, "big")
    assert way.frame[46:49] == target.vni.to_bytes(3, "big")
    words = way.frame[42] & 0x3F if target.tunnel == 1 else 0  # options
    return way.frame[50 + 4 * words :]


@examples(60)
@given(fleets(), st.integers(0, 0xFFFF))
def test_every_pair_of_a_vpc_is_reached(planned: Planned, sport: int) -> None:
    """By every family that both have; the frame is what was sent, but for MACs and TTL, in a bounded number of hops."""
    for source in planned.world.endpoints.values():
        for target in planned.world.endpoints.values():
            for here in source.addresses:
                for there in target.addresses:
                    if source.vni == target.vni and len(here) == len(there):
                        frame = datagram(source.mac, here, there, sport)
                        way = sent(planned, source, frame)
                        inner = arrived(planned, way, target)
                        assert inner[:12] == target.mac + build.ROUTER
                        steps = [hop.outcome.step for hop in way.hops if hop.program == "transit"]
                        forwarded = sum(step is not Step.DELIVER for step in steps)
                        assert forwarded <= MOST_FORWARDED
                        assert forwarded <= ttl_of(frame) - ttl_of(inner) <= forwarded + 1
                        assert without_hops(inner) == without_hops(frame)


@examples(60)
@given(fleets(tenants=1))
def test_every_gateway_answers_every_endpoint_of_its_vpc(planned: Planned) -> None:
    """Also the gateways of networks that the sender is not in: the answer finds its way back."""
    for source in planned.world.endpoints.values():
        for number in (1, 2):
            for here in source.addresses:
                prefix = next(
                    prefix
                    for prefix in planned.world.networks[source.vni, number].prefixes
                    if len(prefix.address) == len(here)
                )
                way = sent(planned, source, echo_request(source.mac, here, prefix.gateway))
                if way.end is not End.ANSWERED:
                    arrived(planned, way, source)
                inner = way.frame if source.workload else way.frame[50:]
                at = 26 if len(here) == 4 else 22
                assert inner[at : at + 2 * len(here)] == prefix.gateway + here
                assert inner[34 if len(here) == 4 else 54] == (0 if len(here) == 4 else 129)


@examples(60)
@given(fleets(tenants=1))
def test_an_address_that_nobody_has_is_refused_with_its_reason(planned: Planned) -> None:
    """In a network of the VPC: by a droplet that bounces it. In none: by a divider."""
    for source in planned.world.endpoints.values():
        for here in source.addresses:
            family = FAMILY[len(here)]
            for number, reason in ((1, "ENDPOINT_UNKNOWN"), (2, "ENDPOINT_UNKNOWN"), (9, beyond(planned, source.vni))):
                nobody = nobody_of(family, number)
                way = sent(planned, source, datagram(source.mac, here, nobody))
                assert (way.end, way.reason) == (End.DROPPED, reason)


def beyond(planned: Planned, vni: int) -> str:
    """Why an address outside of networks 1 and 2 is refused: a network around them may hold it."""
    return "ENDPOINT_UNKNOWN" if (vni, AROUND) in planned.world.networks else "NETWORK_UNKNOWN"


def nobody_of(family: int, number: int) -> bytes:
    return (
        address(4, number, 99) if family == 4 else bytes.fromhex("fd00 0000 0000") + bytes([0, number, *bytes(7), 99])
    )


@examples(200)
@given(st.data())
def test_no_packet_of_a_vpc_comes_out_at_an_endpoint_of_another(data: st.DataObject) -> None:
    """Whatever an endpoint sends, and whatever a tunnel end that is known sends in the name of a VPC."""
    planned = data.draw(fleets())
    for _ in range(8):
        source = data.draw(st.sampled_from(list(planned.world.endpoints.values())))
        way = sent(planned, source, data.draw(hostile(planned, source)))
        assert way.end is not End.CIRCLED
        if way.receiver:
            assert way.receiver.vni == source.vni
            assert planned.world.endpoints[way.receiver.uid].vni == source.vni
        for hop in way.hops:
            assert {key for kind, key in hop.outcome.counted if kind == "vpc"} <= {source.vni}
        if way.end is End.LEFT:
            assert way.frame[46:49] == source.vni.to_bytes(3, "big")


@examples(100)
@given(fleets(), fleets(), st.lists(st.booleans(), min_size=4, max_size=4), st.data())
def test_isolation_holds_while_droplets_hold_tables_of_different_times(
    one: Planned, other: Planned, choices: list[bool], data: st.DataObject
) -> None:
    """Some droplets were told of a change and others were not: packets may be lost, but never end in another VPC or
    circle beyond their TTL."""
    plans = [one if choice else other for choice in choices]
    hosts = list(one.fleet.droplets)
    mixed = Fleet(planned.fleet.droplets[host] for host, planned in zip(hosts, plans, strict=True))
    for host, planned in zip(hosts, plans, strict=True):
        for source in planned.world.endpoints.values():
            if planned.host(source) == host:
                way = mixed.send(host, planned.ifindexes[source.uid], data.draw(hostile(planned, source)))
                assert way.end is not End.CIRCLED
                assert way.receiver is None or way.receiver.vni == source.vni
                for hop in way.hops:
                    assert {key for kind, key in hop.outcome.counted if kind == "vpc"} <= {source.vni}


@examples(100)
@given(st.data())
def test_no_endpoint_sends_in_the_name_of_another(data: st.DataObject) -> None:
    """What leaves an agent bears the VPC, and at first the MAC and address, of the endpoint behind it."""
    planned = data.draw(fleets(tenants=1))
    source = data.draw(st.sampled_from(list(planned.world.endpoints.values())))
    way = sent(planned, source, data.draw(hostile(planned, source)))
    if not source.workload:
        return
    agents = planned.fleet.droplets[planned.host(source)].agents
    own = agents[planned.ifindexes[source.uid]]
    if way.end in (End.DELIVERED, End.LEFT):
        inner = way.frame if way.end is End.DELIVERED else way.frame[50:]
        at, size = (26, 4) if inner[12:14] == b"\x08\x00" else (22, 16)
        leg = own.leg(FAMILY[size])
        assert leg
        assert inner[at : at + size] in (leg.address, leg.gateway, *gateways(planned))


def gateways(planned: Planned) -> list[bytes]:
    return [prefix.gateway for each in planned.world.networks.values() for prefix in each.prefixes]
