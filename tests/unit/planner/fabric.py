# SPDX-License-Identifier: Apache-2.0
"""Droplets as dictionaries: takes steps as a daemon would, and walks packets through the tables as the data plane does.

The walk follows every member of every hop set, so what it finds holds for every flow. It is written from the procedure
(contracts/wire.md, dataplane/lib/locate.h), not from the planner: a mistake would have to be made twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from mizar.planner.entries import (
    DropletEntry,
    EndpointEntry,
    Entry,
    Key,
    LocalEntry,
    MemberEntry,
    NetworkEntry,
    PeeringEntry,
    ServiceEntry,
    VpcEntry,
)
from mizar.planner.plan import Plan, Step

Table = dict[Key, Entry]
MOST_HOPS = 6
HEALTHY = 1


class Droplet:
    """One droplet's tables; refuses what a daemon would refuse."""

    def __init__(self) -> None:
        self.table: Table = {}
        self.served: dict[tuple[int, bytes], ServiceEntry] = {}

    def take(self, step: Step) -> None:
        entry = step.entry
        if isinstance(entry, ServiceEntry):
            for address in entry.addresses:
                self.served.pop((entry.vni, address), None)
                if not step.delete:
                    self.served[entry.vni, address] = entry
        if step.delete:
            assert entry.key in self.table, f"{step} deletes what is not there"
            refer = [e for e in self.table.values() if e.key != entry.key and self._refers(e, entry)]
            assert not refer, f"{step} is still referred to by {refer}"
            del self.table[entry.key]
        else:
            for needed in self._needs(entry):
                assert needed in self.table, f"{step} needs {needed}"
            self.table[entry.key] = entry
            self._hand_over(entry)

    def _hand_over(self, entry: Entry) -> None:
        """Who attaches an endpoint has its addresses; who hears of another host stands by."""
        if isinstance(entry, LocalEntry) and not entry.standby:
            self.table.pop(entry.endpoint.key, None)
        elif isinstance(entry, EndpointEntry):
            for local in [e for e in self.table.values() if isinstance(e, LocalEntry) and e.endpoint.key == entry.key]:
                self.table[local.key] = replace(local, standby=True)

    def _needs(self, entry: Entry) -> Iterable[Key]:
        match entry:
            case VpcEntry():
                yield from ((0, address) for address in entry.dividers)
            case NetworkEntry():
                yield (1, entry.vni)
                yield from ((0, address) for address in entry.bouncers)
            case EndpointEntry():
                yield (2, entry.vni, entry.network_id)
                yield (0, entry.host)
            case LocalEntry():
                yield from self._needs(entry.endpoint)
            case PeeringEntry():
                yield (1, entry.vni)
                yield (1, entry.peer)
            case ServiceEntry():
                yield (1, entry.vni)
                yield from ((0, host) for host in entry.hosts)
            case DropletEntry():
                pass

    def _refers(self, entry: Entry, to: Entry) -> bool:
        return to.key in self._needs(entry)

    # ---- lookups

    def endpoint(self, vni: int, address: bytes) -> tuple[str, EndpointEntry] | None:
        """(uid, entry) of the endpoint known here; uid "" when it lives elsewhere."""
        for entry in self.table.values():
            if not isinstance(entry, LocalEntry) or entry.standby or entry.endpoint.vni != vni:
                continue
            if address in entry.endpoint.addresses:
                return entry.uid, entry.endpoint
        for entry in self.table.values():
            if isinstance(entry, EndpointEntry) and entry.vni == vni and address in entry.addresses:
                return "", entry
        return None

    def service(self, vni: int, address: bytes) -> ServiceEntry | None:
        """The scaled endpoint that has the address."""
        return self.served.get((vni, address))

    def network(self, vni: int, address: bytes) -> NetworkEntry | None:
        found = [
            (prefix.length, entry)
            for entry in self.table.values()
            if isinstance(entry, NetworkEntry) and entry.vni == vni
            for prefix in entry.prefixes
            if ip_address(address) in ip_network((prefix.address, prefix.length))
        ]
        return max(found, key=lambda each: each[0])[1] if found else None

    def vpc(self, vni: int) -> VpcEntry | None:
        entry = self.table.get((1, vni))
        assert entry is None or isinstance(entry, VpcEntry)
        return entry


class Fabric:
    """All droplets that have a daemon, by name; `names` gives the name of a substrate address."""

    def __init__(self) -> None:
        self.droplets: dict[str, Droplet] = defaultdict(Droplet)
        self.names: dict[bytes, str] = {}
        self.addresses: dict[str, bytes] = {}

    def know(self, name: str, address: bytes) -> None:
        self.names[address], self.addresses[name] = name, address

    def run(self, plan: Plan) -> None:
        for _, droplets in plan.waves():
            for name, steps in droplets.items():
                for step in steps:
                    self.droplets[name].take(step)

    def tables(self) -> Mapping[str, Table]:
        return {name: droplet.table for name, droplet in self.droplets.items() if droplet.table}

    # ---- the way of a packet

    def send(self, uid: str, host: str, destination: bytes) -> set[str]:
        """Every outcome that some flow from an endpoint to an address may have: `to UID`, `at DROPLET` or a reason."""
        local = self.droplets[host].table[4, uid]
        assert isinstance(local, LocalEntry)
        vni, me = local.endpoint.vni, self.droplets[host]
        if me.endpoint(vni, destination) or me.service(vni, destination):
            return self._locate(host, vni, destination, final=False, hops=0)
        own = me.table[2, vni, local.endpoint.network_id]
        vpc = me.vpc(vni)
        assert isinstance(own, NetworkEntry)
        assert vpc is not None
        if self.addresses[host] in (*own.bouncers, *vpc.dividers):
            return self._locate(host, vni, destination, final=False, hops=0)
        return self._forward(host, own.bouncers, vni, destination, "NO_BOUNCER", final=False, hops=0)

    def _locate(self, here: str, vni: int, destination: bytes, *, final: bool, hops: int) -> set[str]:
        if hops > MOST_HOPS:
            return {"TTL_EXPIRED"}
        if here not in self.droplets:
            return {f"at {here}"}
        droplet, address = self.droplets[here], self.addresses[here]
        served = droplet.service(vni, destination)
        if served is not None:
            return self._serve(here, served, hops)
        known = droplet.endpoint(vni, destination)
        if known:
            uid, entry = known
            if uid:
                return {f"to {uid}"}
            return self._forward(here, (entry.host,), vni, destination, "", final=True, hops=hops)
        network, vpc = droplet.network(vni, destination), droplet.vpc(vni)
        if vpc is None:
            return {"UNKNOWN_VNI"}
        if network is not None:
            if final or address in network.bouncers:
                return {"ENDPOINT_UNKNOWN"}
            if address in vpc.dividers:
                return self._forward(here, network.bouncers, vni, destination, "NO_BOUNCER", final=False, hops=hops)
        if address in vpc.dividers:
            return {"NETWORK_UNKNOWN"}
        if final:
            return {"ENDPOINT_UNKNOWN"}
        return self._forward(here, vpc.dividers, vni, destination, "NO_DIVIDER", final=False, hops=hops)

    def _serve(self, here: str, service: ServiceEntry, hops: int) -> set[str]:
        """Whoever meets a scaled endpoint chooses a member that takes new flows; its host hands over to that one."""
        outcomes: set[str] = set()
        for member in service.members:
            if member.state != HEALTHY:
                continue
            if self.names[member.host] == here:
                outcomes.add(self._member_here(here, service, member))
            elif (0, member.host) not in self.droplets[here].table:
                outcomes.add("NEXT_HOP_UNRESOLVED")
            elif self.names[member.host] in self.droplets:
                there = self.droplets[self.names[member.host]].service(service.vni, service.addresses[0])
                known = there is not None and any(one.mac == member.mac for one in there.members)
                host = self.names[member.host]
                outcomes.add(self._member_here(host, service, member) if known else "MEMBER_UNKNOWN")
            else:
                outcomes.add(f"at {self.names[member.host]}")
        return outcomes or {"SERVICE_WITHOUT_MEMBER"}

    def _member_here(self, here: str, service: ServiceEntry, member: MemberEntry) -> str:
        found = self.droplets[here].endpoint(service.vni, member.addresses[0])
        return f"to {found[0]}" if found and found[0] and found[1].mac == member.mac else "MEMBER_UNKNOWN"

    def _forward(
        self, here: str, hops_to: tuple[bytes, ...], vni: int, destination: bytes, none: str, *, final: bool, hops: int
    ) -> set[str]:
        if not hops_to:
            return {none}
        outcomes: set[str] = set()
        for address in hops_to:
            if (0, address) not in self.droplets[here].table:
                outcomes.add("NEXT_HOP_UNRESOLVED")
            elif self.names[address] == here:
                outcomes.add("FORWARD_TO_SELF")
            else:
                outcomes |= self._locate(self.names[address], vni, destination, final=final, hops=hops + 1)
        return outcomes
