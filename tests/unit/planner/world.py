# SPDX-License-Identifier: Apache-2.0
"""Facts for tests, all from one plan, and the tables that they call for, computed in the plainest way.

Droplet dN is 172.31.0.N; foreign droplets (no daemon) are fN, 172.31.1.N. Network N of every VPC is 10.0.N.0/24 and
fd00:0:0:N::/64, so that all VPCs have equal addresses; its K-th endpoint is 10.0.N.(K+2). Network 4 is around them all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from mizar.model.addresses import gateway_of
from mizar.planner.entries import (
    DropletEntry,
    EndpointEntry,
    Entry,
    Key,
    LocalEntry,
    MemberEntry,
    NetworkEntry,
    PeeringEntry,
    PrefixEntry,
    ServiceEntry,
    VpcEntry,
    WorkloadEntry,
)
from mizar.planner.facts import (
    DropletFact,
    EndpointFact,
    MemberFact,
    NetworkFact,
    PeeringFact,
    PeeringSide,
    ServiceFact,
    VpcFact,
)
from mizar.planner.ipam import derive_mac
from mizar.planner.topology import Topology

AROUND = 4


def droplet(name: str) -> DropletFact:
    address = f"172.31.{'0' if name[0] == 'd' else '1'}.{name[1:]}"
    return DropletFact(name, ip_address(address).packed, daemon=name[0] == "d")


def network(vni: int, number: int, bouncers: tuple[str, ...]) -> NetworkFact:
    cidrs = (f"10.0.{number}.0/24", f"fd00:0:0:{number}::/64") if number != AROUND else ("10.0.0.0/16", "fd00::/48")
    prefixes = tuple(
        PrefixEntry(prefix.network_address.packed, prefix.prefixlen, gateway_of(prefix).packed)
        for prefix in map(ip_network, cidrs)
    )
    return NetworkFact(vni, number, prefixes, bouncers)


def peering(one: int, other: int) -> PeeringFact:
    """The VPCs of all tests have equal addresses; what the planner passes on need not make sense."""
    sides = [PeeringSide(vni, ((ip_address(f"10.{vni}.0.0").packed, 16),)) for vni in (one, other)]
    return PeeringFact(*sides)


def endpoint(vni: int, number: int, place: int, host: str, tunnel: int = 1) -> EndpointFact:
    uid = f"{vni}-{number}-{place}"
    addresses = ip_address(f"10.0.{number}.{place + 2}").packed, ip_address(f"fd00:0:0:{number}::{place + 2:x}").packed
    workload = WorkloadEntry(namespace=uid) if host[0] == "d" else None
    return EndpointFact(uid, vni, number, addresses, derive_mac(uid), host, tunnel, workload)


SERVED = 200
"""Place of a scaled endpoint in its network."""


def service(vni: int, number: int, members: tuple[tuple[str, int], ...]) -> ServiceFact:
    """The scaled endpoint of a network, with members by uid and state."""
    chosen = tuple(MemberFact(uid, 1, state) for uid, state in members)
    addresses = endpoint(vni, number, SERVED, "d1").addresses
    return ServiceFact(f"service-{vni}-{number}", vni, number, addresses, False, chosen)


def _is_around(outer: NetworkFact, inner: NetworkFact) -> bool:
    return outer.vni == inner.vni and any(
        len(one.address) == len(other.address)
        and one.length < other.length
        and ip_address(other.address) in ip_network((one.address, one.length))
        for one in outer.prefixes
        for other in inner.prefixes
    )


@dataclass
class World:
    """All facts that hold, and the topology that was told of them."""

    topology: Topology = field(default_factory=Topology)
    droplets: dict[str, DropletFact] = field(default_factory=dict)
    vpcs: dict[int, VpcFact] = field(default_factory=dict)
    networks: dict[tuple[int, int], NetworkFact] = field(default_factory=dict)
    endpoints: dict[str, EndpointFact] = field(default_factory=dict)
    peerings: dict[tuple[int, int], PeeringFact] = field(default_factory=dict)
    services: dict[str, ServiceFact] = field(default_factory=dict)
    met: dict[str, set[str]] = field(default_factory=dict)
    """Of scaled endpoints by uid: what may become of packets to them while changes are rolled out."""
    added: int = 9
    """Place of the endpoint that was added last, beyond those that a test begins with."""

    def expected(self, name: str) -> dict[Key, Entry]:
        """What a droplet must hold, from the sentences at the head of the topology, one loop for each."""
        here = self.droplets[name]
        entries: list[Entry] = []
        if not here.daemon:
            return {}
        entries.extend(DropletEntry(d.address, d.name, foreign=not d.daemon) for d in self.droplets.values())
        knows = []
        for vni, vpc in self.vpcs.items():
            bounced = any(name in n.bouncers for n in self.networks.values() if n.vni == vni)
            hosted = any(name in (e.host, e.standby) for e in self.endpoints.values() if e.vni == vni)
            peered = any(
                vni in pair and any(name in self.vpcs[other].dividers for other in pair if other != vni)
                for pair in self.peerings
            )
            if name in vpc.dividers or bounced or hosted or peered:
                entries.append(VpcEntry(vni, self._addresses(vpc.dividers)))
                knows.append(vni)
        for fact in self.peerings.values():
            for side, peer in ((fact.one, fact.other), (fact.other, fact.one)):
                if name in self.vpcs[side.vni].dividers:
                    entries.append(PeeringEntry(side.vni, peer.vni, peer.prefixes))
        for (vni, number), net in self.networks.items():
            around = any(name in outer.bouncers for outer in self.networks.values() if _is_around(outer, net))
            inside = [e for e in self.endpoints.values() if (e.vni, e.network_id) == (vni, number)]
            hosted = any(name in (e.host, e.standby) for e in inside)
            if name in net.bouncers or name in self.vpcs[vni].dividers or hosted or around:
                entries.append(NetworkEntry(vni, number, net.prefixes, self._addresses(net.bouncers)))
        entries += [self.service_entry(service) for service in self.services.values() if service.vni in knows]
        for e in self.endpoints.values():
            host = self.droplets[e.host].address
            entry = EndpointEntry(e.vni, e.network_id, e.addresses, e.mac, host, e.tunnel)
            if e.host == name and e.workload:
                entries.append(LocalEntry(e.uid, entry, e.workload))
            elif e.host != name and name in self.networks[e.vni, e.network_id].bouncers:
                entries.append(entry)
            if e.standby == name and e.workload:
                entries.append(LocalEntry(e.uid, replace(entry, host=here.address), e.workload, standby=True))
        return {entry.key: entry for entry in entries}

    def service_entry(self, service: ServiceFact) -> ServiceEntry:
        """As everybody holds it who knows its VPC; members that are not there are left out."""
        found = [(member, self.endpoints[member.uid]) for member in service.members if member.uid in self.endpoints]
        members = tuple(
            MemberEntry(e.addresses, e.mac, self.droplets[e.host].address, e.tunnel, member.weight, member.state)
            for member, e in found
        )
        return ServiceEntry(
            service.vni, service.network_id, service.addresses, members, service.colocated, service.health
        )

    def rebuilt(self) -> Topology:
        """A topology that is told everything at once."""
        topology = Topology()
        facts = (self.droplets, self.vpcs, self.peerings, self.networks, self.endpoints, self.services)
        topology.load(fact for kind in facts for fact in kind.values())
        return topology

    def _addresses(self, names: tuple[str, ...]) -> tuple[bytes, ...]:
        return tuple(sorted(self.droplets[name].address for name in names))
