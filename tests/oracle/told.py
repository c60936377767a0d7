# SPDX-License-Identifier: Apache-2.0
"""Entries of one droplet → the oracle's tables, as a daemon makes them of its messages (mizar/transit/entries.py),
written here once more. Called by planned.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mizar.model.addresses import SERVICE_MAC
from mizar.oracle.proxy import PROXY_INTERFACE
from mizar.oracle.tables import (
    Agent,
    Droplet,
    Endpoint,
    Flows,
    HopSet,
    Leg,
    Member,
    Network,
    Proxy,
    Service,
    Tunnel,
    Vpc,
    in_prefix,
)
from mizar.planner.entries import (
    DropletEntry,
    EndpointEntry,
    Entry,
    GroupSetEntry,
    LocalEntry,
    MemberEntry,
    NetworkEntry,
    PeeringEntry,
    ProxyEntry,
    ServiceEntry,
    VpcEntry,
    WorkloadEntry,
)
from mizar.transit import maglev
from tests.oracle.build import ours
from tests.oracle.droplets import even, mac_of

TUNNELS = {1: Tunnel.GENEVE, 2: Tunnel.VXLAN}
ACTIONS = {1: "vpc", 2: "blackhole", 3: "substrate"}
HEALTHY, DRAINING, UNKNOWN, DOWN = 1, 2, 3, 4
IDENTITY = 0x83
ROOM = 1000
"""Flows of scaled endpoints that a VPC may have; and of each proxied endpoint."""


def mac_on_substrate(address: bytes) -> bytes:
    """Of a droplet, by any of its addresses."""
    return mac_of(*address[-2:])


def hop_set(members: tuple[bytes, ...]) -> HopSet:
    return even(*members) if members else ()


class Told:
    """What one droplet was told, entry by entry."""

    def __init__(self, address: bytes, ifindexes: dict[str, int]) -> None:
        self.address, self.ifindexes = address, ifindexes
        self.second = b""
        self.droplets: dict[bytes, DropletEntry] = {}
        self.vpcs: dict[int, VpcEntry] = {}
        self.known: dict[tuple[int, int], NetworkEntry] = {}
        self.networks: dict[tuple[int, bytes, int], Network] = {}
        self.endpoints: dict[tuple[int, bytes], Endpoint] = {}
        self.agents: dict[int, Agent] = {}
        self.proxies: dict[int, Proxy] = {}
        self.group_sets: dict[tuple[int, int], tuple[int, ...]] = {}

    def take(self, entry: Entry) -> None:
        match entry:
            case DropletEntry():
                self.droplets[entry.address] = entry
            case VpcEntry():
                self.vpcs[entry.vni] = entry
            case NetworkEntry():
                self.network(entry)
            case PeeringEntry():
                for address, length in entry.prefixes:
                    self.networks[entry.vni, address, length] = Network(0, bytes(16), peer=entry.peer)
            case GroupSetEntry():
                self.group_sets[entry.vni, entry.number] = entry.groups
            case EndpointEntry():
                self.endpoints |= rows(entry)
            case LocalEntry():
                ifindex = self.ifindexes[entry.uid] + (1000 if entry.standby else 0)
                self.agents[ifindex] = self.agent(entry)
                if not entry.standby:
                    self.endpoints |= rows(entry.endpoint, ifindex, entry.uid)
            case ProxyEntry():
                self.proxy(entry)
            case ServiceEntry():
                self.service(entry)

    def divides(self, vni: int) -> bool:
        return self.address in self.vpcs[vni].dividers

    def network(self, entry: NetworkEntry) -> None:
        self.known[entry.vni, entry.id] = entry
        bouncers, bounced = hop_set(entry.bouncers), self.address in entry.bouncers
        for prefix in entry.prefixes:
            row = Network(entry.id, prefix.gateway, bouncers, bounced, self.divides(entry.vni))
            self.networks[entry.vni, prefix.address, prefix.length] = row

    def agent(self, entry: LocalEntry) -> Agent:
        vpc, end = self.vpcs[entry.endpoint.vni], entry.endpoint
        own = self.known[end.vni, end.network_id]
        legs = {
            len(address): Leg(address, prefix.gateway, prefix.length)
            for address in end.addresses
            for prefix in own.prefixes
            if in_prefix(address, prefix.address, prefix.length)
        }
        return Agent(
            entry.uid, own.vni, own.id, end.mac, TUNNELS[end.tunnel], hop_set(own.bouncers),
            self.address in own.bouncers, self.divides(own.vni), legs.get(4), legs.get(16), vpc.wire_vni,
            (ours(IDENTITY, vpc.identity) if vpc.identity else b"") + entry.options, entry.group_set,
            bool(vpc.identity), {(one.address, one.length): ACTIONS[one.action] for one in own.routes},
        )  # fmt: skip

    def proxy(self, entry: ProxyEntry) -> None:
        slot = len(self.proxies) + 1
        self.proxies[slot] = proxy_row(entry)
        for side, end in enumerate((entry.client, entry.source)):
            ifindex, uid = PROXY_INTERFACE + 2 * slot + side, f"{slot}/{side}"
            self.endpoints |= rows(end, ifindex, uid)
            self.agents[ifindex] = self.agent(LocalEntry(uid, replace(end, mac=SERVICE_MAC), WorkloadEntry()))

    def service(self, entry: ServiceEntry) -> None:
        """Members lead to where they live; those that live here, and are attached, to their interfaces."""
        members = tuple(self.member(entry.vni, one) for one in entry.members)
        near = [
            one
            for one, member in zip(entry.members, members, strict=True)
            if member.endpoint.ifindex and one.state == HEALTHY
        ]
        service = Service(
            members, places(entry, entry.members), places(entry, near) if entry.colocated and near else ()
        )
        row = Endpoint(entry.network_id, bytes(6), b"", service=service)
        self.endpoints |= {(entry.vni, address): row for address in entry.addresses}
        for one, member in zip(entry.members, members, strict=True):
            for ifindex, agent in self.agents.items():
                if ifindex < PROXY_INTERFACE and (agent.vni, agent.mac) == (entry.vni, one.mac):
                    self.agents[ifindex] = replace(agent, member=True)
            assert member.endpoint.mac == one.mac

    def member(self, vni: int, one: MemberEntry) -> Member:
        here = self.endpoints.get((vni, one.addresses[0])) if one.host == self.address else None
        ifindex, uid = (here.ifindex, here.uid) if here else (0, "")
        end = Endpoint(0, one.mac, one.host, TUNNELS[one.tunnel], ifindex, uid)
        return Member(end, draining=one.state in (DRAINING, UNKNOWN), down=one.state == DOWN)

    def identities(self) -> Iterator[tuple[tuple[int, int, int], int]]:
        for vpc in self.vpcs.values():
            if vpc.identity:
                yield (vpc.wire_vni, *struct.unpack("!QQ", vpc.identity)), vpc.vni

    def tables(self) -> Droplet:
        """All of it."""
        own = self.droplets[self.address]
        sizes = {len(one) for one in (own.address, own.second) if one}
        return Droplet(
            self.address,
            mac_on_substrate(self.address),
            {
                address: mac_on_substrate(address) if sizes & {len(address), len(other.second)} else None
                for address, other in self.droplets.items()
            },
            {vni: Vpc(hop_set(entry.dividers), self.divides(vni)) for vni, entry in self.vpcs.items()},
            self.networks,
            self.endpoints,
            self.agents,
            identities=dict(self.identities()),
            address6=own.second,
            addresses6={address: other.second for address, other in self.droplets.items() if other.second},
            group_sets=self.group_sets,
            proxies=self.proxies,
            flows=Flows(dict.fromkeys(self.vpcs, ROOM)),
        )


def tables(address: bytes, entries: Iterable[Entry], ifindexes: dict[str, int]) -> Droplet:
    """A droplet that was told of these entries, in their order."""
    told = Told(address, ifindexes)
    for entry in entries:
        told.take(entry)
    return told.tables()


def places(entry: ServiceEntry, members: Iterable[MemberEntry]) -> tuple[int, ...]:
    """At each place the number of the member that takes its flows."""
    numbers = {one.mac: number for number, one in enumerate(entry.members)}
    table = maglev.table(frozenset((one.mac, one.weight) for one in members if one.state == HEALTHY))
    return tuple(-1 if mac is None else numbers[mac] for mac in table)


def proxy_row(entry: ProxyEntry) -> Proxy:
    client, source, target = (
        {4 if len(address) == 4 else 6: address for address in addresses}
        for addresses in (entry.client.addresses, entry.source.addresses, entry.targets)
    )
    return Proxy(entry.client.vni, entry.source.vni, client, source, target, budget=4096)


def rows(entry: EndpointEntry, ifindex: int = 0, uid: str = "") -> dict[tuple[int, bytes], Endpoint]:
    row = Endpoint(entry.network_id, entry.mac, entry.host, TUNNELS[entry.tunnel], ifindex, uid)
    return {(entry.vni, address): row for address in entry.addresses}
