# SPDX-License-Identifier: Apache-2.0
"""A lab that is nowhere: the manifests of a lab, and the matrix of its endpoints, over the oracle instead of droplets.

Called by mizar.cli.simulation. Needs neither root nor Linux, and imports nothing that does. Objects become tables as a
server would make them; packets are octets that the oracle carries from program to program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mizar.lab.findings import DATAGRAMS, STREAMS, Cell, Group, Isolation, Member, Outcome, pairs
from mizar.lab.plan import LabPlan, plan
from mizar.manager.intake import Submission
from mizar.manager.rehearsal import Rehearsal, Snapshot
from mizar.model.errors import InvalidError
from mizar.model.peering import VPCPeering
from mizar.model.resources import Droplet, Endpoint, Network, Ref, Resource
from mizar.oracle.fleet import Way
from mizar.simulation.fleet import deploy
from mizar.simulation.packets import request
from mizar.simulation.reach import carry, reach


@dataclass(frozen=True, slots=True)
class Served:
    """A scaled or proxied endpoint, asked by everybody of its VPC; `cells`: by name of who asks, what went wrong."""

    tenant: str
    vpc: str
    name: str
    kind: str
    addresses: tuple[str, ...]
    cells: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether everybody was answered."""
        return not any(self.cells.values())


@dataclass(frozen=True, slots=True)
class LongestWay:
    """The way with most hops: which droplet did what."""

    source: Member
    destination: Member
    hops: tuple[tuple[str, str, str], ...]
    """Droplet, program, what it did."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """All that a simulation found."""

    lab: str
    droplets: int
    members: tuple[Member, ...]
    cells: tuple[Cell, ...]
    served: tuple[Served, ...]
    isolation: Isolation
    longest: LongestWay | None
    unseen: tuple[str, ...]
    """Endpoints that cannot take part, and why."""

    @property
    def ok(self) -> bool:
        """Whether every cell and the isolation are as they should be."""
        return all(cell.ok for cell in self.cells) and all(one.ok for one in self.served) and self.isolation.ok


def simulate(resources: Sequence[Resource]) -> Simulated:
    """The lab of the manifests, and its matrix. Raises what a lab and its server raise for wrong manifests."""
    wanted = plan(resources)
    lab = Laboratory(wanted)
    if not pairs(lab.members):
        raise InvalidError(f"lab {wanted.lab.name} has no two endpoints in one VPC: there is nothing to show")
    cells = [lab.cell(source, destination) for source, destination in pairs(lab.members)]
    return Simulated(
        wanted.lab.name,
        len(wanted.hosts),
        tuple(lab.members),
        tuple(cells),
        tuple(lab.served()),
        lab.isolation(),
        lab.longest(),
        tuple(lab.unseen()),
    )


def is_policy(reason: str) -> bool:
    """Whether a packet was refused because a policy, or a network's ACL, says so: then nothing is wrong."""
    return reason.startswith(("POLICY_", "NETWORK_ACL_"))


class Laboratory:
    """The rehearsed objects, and the fleet that they make."""

    def __init__(self, wanted: LabPlan) -> None:
        droplets = [item for item in wanted.objects if isinstance(item, Droplet)]
        mtus = {host.name: wanted.substrate.mtu for host in wanted.hosts}
        rehearsal = Rehearsal(Snapshot(mtus=mtus))
        rehearsal.apply([Submission(index, item) for index, item in enumerate(droplets)])
        rehearsal.apply([Submission(index, item) for index, item in enumerate(wanted.objects)])
        self._registry = rehearsal.registry
        self.deployed = deploy(rehearsal.entries())
        found = [item.resource for item in rehearsal.registry.of_kind("Endpoint")]
        self._endpoints = sorted((one for one in found if isinstance(one, Endpoint)), key=lambda one: one.ref)
        self._uids: dict[Member, str] = {}
        for endpoint in self._endpoints:
            station = self.deployed.stations.get(endpoint.metadata.uid or "")
            if station is not None and not station.bypass:
                self._uids[self._member(endpoint)] = endpoint.metadata.uid or ""
        self.members = list(self._uids)
        self._ways: dict[tuple[Member, Member], Way] = {}

    def cell(self, source: Member, destination: Member) -> Cell:
        """All ways from one endpoint to another."""
        outcomes = []
        for address in destination.addresses:
            for protocol in (*DATAGRAMS, *STREAMS):
                outcomes.append(self._check(source, destination, address, protocol))
        return Cell(source, destination, tuple(outcomes))

    def _check(self, source: Member, destination: Member, address: str, protocol: str) -> Outcome:
        way = protocol + ("6" if ":" in address else "4")
        packed = ip_address(address).packed
        station = self.deployed.stations[self._uids[source]]
        if not any(len(own) == len(packed) for own in station.addresses):
            return Outcome(way, 0.0, f"{source} has no address of the family of {address}")
        found = reach(self.deployed, station, packed, protocol)
        detail = found.detail
        if found.ok and found.receiver != self._uids[destination]:
            detail = f"{address} was answered by another endpoint than {destination}"
        longest = self._ways.get((source, destination))
        if longest is None or len(found.there.hops) > len(longest.hops):
            self._ways[source, destination] = found.there
        return Outcome(way, 0.0, "", detail) if is_policy(found.reason) else Outcome(way, 0.0, detail)

    def served(self) -> Iterator[Served]:
        """Every scaled and proxied endpoint, asked by all of its VPC."""
        for endpoint in self._endpoints:
            if endpoint.spec.type in ("scaled", "proxied"):
                group = (endpoint.tenant, self._network(endpoint).spec.vpc)
                cells = {}
                for source in (one for one in self.members if one.group == group):
                    cells[source.name] = self._ask(source, endpoint.status.addresses)
                yield Served(*group, endpoint.name, endpoint.spec.type, endpoint.status.addresses, cells)

    def _ask(self, source: Member, addresses: Sequence[str]) -> str:
        """What went wrong; empty when every way of every address was answered."""
        station = self.deployed.stations[self._uids[source]]
        for packed in (ip_address(address).packed for address in addresses):
            for protocol in (*DATAGRAMS, *STREAMS):
                if any(len(own) == len(packed) for own in station.addresses):
                    found = reach(self.deployed, station, packed, protocol)
                    if not found.ok and not is_policy(found.reason):
                        return f"{protocol}{4 if len(packed) == 4 else 6}: {found.detail}"
        return ""

    def isolation(self) -> Isolation:
        """Everybody sends to every address that endpoints of other VPCs have: their own may hear it, nobody else."""
        by_uid = {uid: member for member, uid in self._uids.items()}
        sent = expected = heard = 0
        foreign, problems = [], []
        for member in self.members:
            strangers = {a for other in self.members if not member.may_hear(other) for a in other.addresses}
            station = self.deployed.stations[self._uids[member]]
            sources = {len(own): own for own in station.addresses}
            for address in sorted(strangers - set(member.addresses)):
                packed = ip_address(address).packed
                if len(packed) not in sources:
                    continue
                own = [one for one in self.members if member.may_hear(one) and address in one.addresses]
                frame = request("udp", station.mac, sources[len(packed)], packed)
                way = carry(self.deployed, station, frame)
                if any(is_policy(hop.outcome.reason) for hop in way.hops):
                    continue
                hearer = by_uid.get(way.receiver.uid) if way.receiver else None
                sent, expected, heard = sent + 1, expected + len(own), heard + (hearer in own)
                if hearer is not None and not hearer.may_hear(member):
                    foreign.append(f"{hearer} heard {member} of another VPC")
                if own and hearer not in own:
                    problems.append(f"{own[0]} did not hear {member} of its own VPC")
        return Isolation(sent, expected, heard, tuple(foreign), tuple(problems))

    def longest(self) -> LongestWay | None:
        """Of all ways that were gone, the one with most hops; of equals the first."""
        if not self._ways:
            return None
        (source, destination), way = max(self._ways.items(), key=lambda pair: len(pair[1].hops))
        names = self.deployed.names
        hops = tuple(
            (names[hop.droplet], hop.program, (hop.outcome.step or hop.outcome.verdict).value) for hop in way.hops
        )
        return LongestWay(source, destination, hops)

    def unseen(self) -> Iterator[str]:
        """Simple endpoints that no droplet of the lab attaches."""
        for endpoint in self._endpoints:
            if endpoint.spec.type == "simple" and endpoint.metadata.uid not in self.deployed.stations:
                yield f"{endpoint.tenant}/{endpoint.name} has no workload on a droplet of this lab"
            elif endpoint.spec.bypass_decapsulation:
                name = f"{endpoint.tenant}/{endpoint.name}"
                yield f"{name} takes tunnel packets as they are: its function is not simulated"

    def _network(self, endpoint: Endpoint) -> Network:
        item = self._registry.find(Ref("Network", endpoint.tenant, endpoint.spec.network))
        assert item is not None
        assert isinstance(item.resource, Network)
        return item.resource

    def _member(self, endpoint: Endpoint) -> Member:
        vpc = self._network(endpoint).spec.vpc
        namespace = (endpoint.spec.workload.namespace if endpoint.spec.workload else None) or ""
        return Member(
            endpoint.tenant,
            vpc,
            endpoint.spec.network,
            endpoint.name,
            endpoint.spec.droplet or "",
            namespace,
            endpoint.status.addresses,
            tuple(self._peers((endpoint.tenant, vpc))),
        )

    def _peers(self, group: Group) -> Iterator[Group]:
        """The VPCs that a VPC is peered with, as far as both agree."""
        found = (item.resource for item in self._registry.of_kind("VPCPeering"))
        halves = {(half.own, half.other) for half in found if isinstance(half, VPCPeering)}
        for own, other in sorted(halves):
            if (own.tenant, own.name) == group and (other, own) in halves:
                yield other.tenant, other.name
