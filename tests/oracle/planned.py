# SPDX-License-Identifier: Apache-2.0
"""Fleets as the planner wants them: random objects → Topology → every droplet's entries → the oracle's tables.

What becomes of a droplet's entries is in told.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_network

from hypothesis import strategies as st

from mizar.oracle.fleet import Fleet
from mizar.planner.facts import EndpointFact, PeeringFact, PeeringSide, VpcFact
from tests.oracle.draws import Draw
from tests.oracle.told import tables
from tests.unit.planner.world import AROUND, World, droplet, endpoint, network

NAMES = ("d1", "d2", "d3", "d4", "f1")
DAEMONS = NAMES[:4]
VNIS = (0x0A0B0C, 0x0A0B0D)


@dataclass(frozen=True)
class Planned:
    """A fleet, and the facts behind it."""

    fleet: Fleet
    world: World
    ifindexes: dict[str, int]
    """By uid, of endpoints that a daemon attaches."""

    def host(self, fact: EndpointFact) -> bytes:
        """The address of the droplet that an endpoint lives on."""
        return self.world.droplets[fact.host].address


members = st.lists(st.sampled_from(DAEMONS), min_size=1, max_size=4, unique=True).map(tuple)
hosts = st.sampled_from([*DAEMONS, *DAEMONS, "f1"])


@st.composite
def fleets(draw: Draw, tenants: int = 2) -> Planned:
    """VPCs with equal addresses on the same droplets, two networks each, and maybe one around both; endpoints anywhere,
    some behind `f1`."""
    world = World()
    for name in NAMES:
        world.droplets[name] = droplet(name)
    for vni in VNIS[:tenants]:
        world.vpcs[vni] = VpcFact(vni, draw(members))
        for number in draw(st.sampled_from([(1, 2), (1, 2, AROUND)])):
            world.networks[vni, number] = network(vni, number, draw(members))
            for place, host in enumerate(draw(st.lists(hosts, min_size=1, max_size=3))):
                fact = endpoint(vni, number, place, host, draw(st.sampled_from([1, 2])))
                both = fact.addresses
                kept = draw(st.sampled_from([both, both, both[:1], both[1:]]))
                world.endpoints[fact.uid] = replace(fact, addresses=kept)
    return plan(world)


PEERED_VNIS = (0x0A0B0C, 0x0A0B0D, 0x0A0B0E)
PEERED_NUMBERS = ((1, 2), (8, 9), (16, 17))
PEERED_SPACES = (("10.0.0.0/21", "fd00::/61"), ("10.0.8.0/21", "fd00:0:0:8::/61"), ("10.0.16.0/21", "fd00:0:0:10::/60"))


def side(place: int) -> PeeringSide:
    """One of three VPCs that have addresses of their own."""
    prefixes = tuple((p.network_address.packed, p.prefixlen) for p in map(ip_network, PEERED_SPACES[place]))
    return PeeringSide(PEERED_VNIS[place], prefixes)


@st.composite
def peered_fleets(draw: Draw) -> Planned:
    """Three VPCs in a row: the one in the middle is peered with both others."""
    world = World()
    for name in NAMES:
        world.droplets[name] = droplet(name)
    for vni, numbers in zip(PEERED_VNIS, PEERED_NUMBERS, strict=True):
        world.vpcs[vni] = VpcFact(vni, draw(members))
        for number in numbers[: draw(st.sampled_from([1, 2]))]:
            world.networks[vni, number] = network(vni, number, draw(members))
            for place, host in enumerate(draw(st.lists(hosts, min_size=1, max_size=2))):
                fact = endpoint(vni, number, place, host, draw(st.sampled_from([1, 2])))
                world.endpoints[fact.uid] = fact
    for one, other in ((0, 1), (1, 2)):
        fact_ = PeeringFact(side(one), side(other))
        world.peerings[fact_.vnis] = fact_
    return plan(world)


def plan(world: World, first: str = "") -> Planned:
    """The tables that the planner wants for a world. The endpoint `first` has interface 1, as a test run wants it."""
    topology = world.rebuilt()
    ifindexes = {uid: number for number, uid in enumerate(sorted(world.endpoints), start=11)}
    ifindexes |= {first: 1} if first else {}
    droplets = [
        tables(fact.address, topology.desired_for(name), ifindexes)
        for name, fact in world.droplets.items()
        if fact.daemon
    ]
    return Planned(Fleet(droplets), world, ifindexes)
