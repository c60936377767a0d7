# SPDX-License-Identifier: Apache-2.0
"""What the topology remembers of each object: its fact, its entry, and who depends on it. Used by `topology` alone.

Holders of VPC and network entries are counted here, so that adding or removing one endpoint looks at its own network
and host only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from mizar.model.prefixes import PrefixTable
from mizar.planner.entries import (
    DropletEntry,
    EndpointEntry,
    Key,
    LocalEntry,
    NetworkAclEntry,
    NetworkEntry,
    PeeringEntry,
    PolicySetEntry,
    ProxyEntry,
    ServiceEntry,
    VpcEntry,
)
from mizar.planner.facts import DropletFact, EndpointFact, NetworkFact, ProxyFact, VpcFact
from mizar.planner.group_sets import GroupSets
from mizar.planner.policy_places import PolicyPlaces

AclEntry = PolicySetEntry | NetworkAclEntry


@dataclass(slots=True)
class DropletRecord:
    """A droplet, and all that is on it."""

    fact: DropletFact
    entry: DropletEntry
    divides: dict[int, VpcRecord] = field(default_factory=dict)
    bounces: dict[tuple[int, int], NetworkRecord] = field(default_factory=dict)
    hosts: dict[str, EndpointRecord] = field(default_factory=dict)

    def uses(self) -> list[str]:
        """Why it cannot go, in words; empty when it can."""
        return [
            *(f"divides VPC {vni}" for vni in self.divides),
            *(f"bounces network {network} of VPC {vni}" for vni, network in self.bounces),
            *(f"hosts endpoint {uid}" for uid in self.hosts),
        ]


@dataclass(slots=True, eq=False)
class VpcRecord:
    """A VPC. `users`: for each droplet, of how many of the networks it is a bouncer or a host (both count); `peers`:
    the VPCs that it is peered with, and what its own dividers must know of each; `acls`: rules of network ACLs, and who
    is judged by them."""

    fact: VpcFact
    entry: VpcEntry
    networks: dict[int, NetworkRecord] = field(default_factory=dict)
    prefixes: PrefixTable[NetworkRecord] = field(default_factory=PrefixTable)
    users: Counter[str] = field(default_factory=Counter)
    peers: dict[int, tuple[VpcRecord, PeeringEntry]] = field(default_factory=dict)
    services: dict[str, ServiceEntry] = field(default_factory=dict)
    attracting: dict[str, frozenset[str]] = field(default_factory=dict)
    """By service: the droplets that attract its public addresses."""
    group_sets: GroupSets = field(default_factory=GroupSets)
    policies: PolicyPlaces = field(default_factory=PolicyPlaces)
    acls: dict[Key, AclEntry] = field(default_factory=dict)

    def held_by(self, droplet: str) -> bool:
        """Whether the droplet must know the VPC."""
        return (
            droplet in self.fact.dividers
            or droplet in self.users
            or any(droplet in names for names in self.attracting.values())
            or any(droplet in peer.fact.dividers for peer, _ in self.peers.values())
        )

    def holders(self) -> set[str]:
        """All droplets that must know the VPC."""
        peers = (n for peer, _ in self.peers.values() for n in peer.fact.dividers)
        return {*self.users, *self.fact.dividers, *peers, *(n for names in self.attracting.values() for n in names)}

    def service_at(self, uid: str, droplet: str) -> ServiceEntry:
        """What a droplet holds of a service."""
        entry = self.services[uid]
        return replace(entry, attracted=True) if droplet in self.attracting.get(uid, ()) else replace(entry, inside=())

    def use(self, droplet: str) -> None:
        """One more network makes the droplet know the VPC."""
        self.users[droplet] += 1

    def leave(self, droplet: str) -> None:
        """One fewer does."""
        self.users[droplet] -= 1
        if not self.users[droplet]:
            del self.users[droplet]


@dataclass(slots=True, eq=False)
class NetworkRecord:
    """A network. `hosts`: how many of its endpoints each droplet hosts; `around` and `inside`: networks of the VPC with
    a shorter prefix that holds one of its own, and with a longer one in one of its own."""

    fact: NetworkFact
    entry: NetworkEntry
    vpc: VpcRecord
    endpoints: dict[str, EndpointRecord] = field(default_factory=dict)
    hosts: Counter[str] = field(default_factory=Counter)
    around: list[NetworkRecord] = field(default_factory=list)
    inside: list[NetworkRecord] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        """VNI and id."""
        return self.fact.vni, self.fact.id

    def held_by(self, droplet: str) -> bool:
        """Whether the droplet must know the network."""
        return (
            droplet in self.fact.bouncers
            or droplet in self.vpc.fact.dividers
            or droplet in self.hosts
            or any(droplet in outer.fact.bouncers for outer in self.around)
        )

    def holders(self) -> set[str]:
        """All droplets that must know the network."""
        outer = (name for network in self.around for name in network.fact.bouncers)
        return {*self.hosts, *self.fact.bouncers, *self.vpc.fact.dividers, *outer}


@dataclass(slots=True)
class EndpointRecord:
    """An endpoint; `standby` is the address of the droplet that it is about to move to, empty for none. What it is to
    its host is made when asked for: there are millions of them, and each is told once."""

    fact: EndpointFact
    entry: EndpointEntry
    network: NetworkRecord
    standby: bytes = b""

    def entry_at(self, droplet: str) -> EndpointEntry | None:
        """What a bouncer holds of it as an endpoint of another droplet."""
        return None if droplet == self.fact.host else self.entry

    def at(self, droplet: str) -> LocalEntry | ProxyEntry | None:
        """What a droplet holds of it as a local endpoint; None where somebody else makes its interface."""
        if droplet == self.fact.host:
            return _proxy_entry(self.entry, self.fact.proxy) if self.fact.proxy else self.fact.local(self.entry)
        if droplet == self.fact.standby:
            return self.fact.local(self.fact.entry(self.standby), standby=True)
        return None

    @property
    def places(self) -> tuple[str, ...]:
        """Names of its host, and of the one that is prepared to be the next."""
        return (self.fact.host, self.fact.standby) if self.fact.standby else (self.fact.host,)


def _proxy_entry(client: EndpointEntry, proxy: ProxyFact) -> ProxyEntry:
    source = EndpointEntry(proxy.vni, proxy.network_id, proxy.addresses, proxy.mac, client.host, proxy.tunnel)
    return ProxyEntry(client, source, proxy.targets)
