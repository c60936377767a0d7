# SPDX-License-Identifier: Apache-2.0
"""Fleets as the planner wants them: random objects → Topology → every droplet's entries → the oracle's tables.

Entries become tables as a daemon makes them of its messages (mizar/transit/entries.py), written here once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network

from hypothesis import strategies as st

from mizar.model.addresses import SERVICE_MAC
from mizar.oracle.fleet import Fleet
from mizar.oracle.proxy import PROXY_INTERFACE
from mizar.oracle.tables import Agent, Droplet, Endpoint, HopSet, Leg, Network, Proxy, Tunnel, Vpc, in_prefix
from mizar.planner.entries import (
    DropletEntry,
    EndpointEntry,
    Entry,
    LocalEntry,
    NetworkEntry,
    PeeringEntry,
    ProxyEntry,
    VpcEntry,
    WorkloadEntry,
)
from mizar.planner.facts import EndpointFact, PeeringFact, PeeringSide, VpcFact
from tests.oracle.draws import Draw
from tests.oracle.droplets import even, mac_of
from tests.unit.planner.world import AROUND, World, droplet, endpoint, network

NAMES = ("d1", "d2", "d3", "d4", "f1")
DAEMONS = NAMES[:4]
VNIS = (0x0A0B0C, 0x0A0B0D)
TUNNELS = {1: Tunnel.GENEVE, 2: Tunnel.VXLAN}


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


def mac_on_substrate(address: bytes) -> bytes:
    return mac_of(*address[2:])


def hop_set(members: tuple[bytes, ...]) -> HopSet:
    return even(*members) if members else ()


def tables(address: bytes, entries: Iterable[Entry], ifindexes: dict[str, int]) -> Droplet:
    """A droplet that was told of these entries, in their order."""
    droplets: dict[bytes, bytes | None] = {}
    vpcs: dict[int, Vpc] = {}
    networks: dict[tuple[int, bytes, int], Network] = {}
    endpoints: dict[tuple[int, bytes], Endpoint] = {}
    agents: dict[int, Agent] = {}
    known: dict[tuple[int, int], NetworkEntry] = {}
    proxies: dict[int, Proxy] = {}
    for entry in entries:
        match entry:
            case DropletEntry():
                droplets[entry.address] = mac_on_substrate(entry.address)
            case VpcEntry():
                vpcs[entry.vni] = Vpc(hop_set(entry.dividers), address in entry.dividers)
            case NetworkEntry():
                known[entry.vni, entry.id] = entry
                bouncers, bounced, routed = (
                    hop_set(entry.bouncers),
                    address in entry.bouncers,
                    vpcs[entry.vni].divided_here,
                )
                for prefix in entry.prefixes:
                    row = Network(entry.id, prefix.gateway, bouncers, bounced, routed)
                    networks[entry.vni, prefix.address, prefix.length] = row
            case PeeringEntry():
                for address_, length in entry.prefixes:
                    networks[entry.vni, address_, length] = Network(0, bytes(16), peer=entry.peer)
            case EndpointEntry():
                endpoints |= endpoint_rows(entry)
            case LocalEntry():
                endpoints |= endpoint_rows(entry.endpoint, ifindexes[entry.uid], entry.uid)
                own = known[entry.endpoint.vni, entry.endpoint.network_id]
                agents[ifindexes[entry.uid]] = agent_row(entry, own, address, vpcs[own.vni].divided_here)
            case ProxyEntry():
                slot = len(proxies) + 1
                proxies[slot] = proxy_row(entry)
                for side, end in enumerate((entry.client, entry.source)):
                    ifindex, own = PROXY_INTERFACE + 2 * slot + side, known[end.vni, end.network_id]
                    endpoints |= endpoint_rows(end, ifindex, f"{slot}/{side}")
                    local = LocalEntry(f"{slot}/{side}", replace(end, mac=SERVICE_MAC), WorkloadEntry())
                    agents[ifindex] = agent_row(local, own, address, vpcs[own.vni].divided_here)
    return Droplet(
        address, mac_on_substrate(address), droplets, vpcs, networks, endpoints, agents, proxies=proxies
    )  # fmt: skip


def proxy_row(entry: ProxyEntry) -> Proxy:
    client, source, target = (
        {4 if len(address) == 4 else 6: address for address in addresses}
        for addresses in (entry.client.addresses, entry.source.addresses, entry.targets)
    )
    return Proxy(entry.client.vni, entry.source.vni, client, source, target, budget=4096)


def endpoint_rows(entry: EndpointEntry, ifindex: int = 0, uid: str = "") -> dict[tuple[int, bytes], Endpoint]:
    row = Endpoint(entry.network_id, entry.mac, entry.host, TUNNELS[entry.tunnel], ifindex, uid)
    return {(entry.vni, address): row for address in entry.addresses}


def agent_row(entry: LocalEntry, own: NetworkEntry, here: bytes, divided_here: bool) -> Agent:
    legs = {
        len(address): Leg(address, prefix.gateway, prefix.length)
        for address in entry.endpoint.addresses
        for prefix in own.prefixes
        if in_prefix(address, prefix.address, prefix.length)
    }
    return Agent(
        entry.uid, own.vni, own.id, entry.endpoint.mac, TUNNELS[entry.endpoint.tunnel], hop_set(own.bouncers),
        here in own.bouncers, divided_here, legs.get(4), legs.get(16),
    )  # fmt: skip


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
