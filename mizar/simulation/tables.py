# SPDX-License-Identifier: Apache-2.0
"""What the planner wants of a droplet, as the oracle's tables: entries → tables.

Called by mizar.simulation.fleet and by tests. Entries become tables as a daemon makes them of its messages
(mizar/transit), written here once more. Pure. It must never know a daemon: what a droplet really holds, a daemon tells.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mizar.model.addresses import SERVICE_MAC
from mizar.oracle.policies import PolicyFlows
from mizar.oracle.proxy import PROXY_INTERFACE
from mizar.oracle.tables import (
    PLACES,
    Agent,
    Droplet,
    Endpoint,
    Flows,
    HopSet,
    Leg,
    Network,
    Proxy,
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
    NetworkAclEntry,
    NetworkEntry,
    PeeringEntry,
    PolicySetEntry,
    ProxyEntry,
    RouteEntry,
    ServiceEntry,
    VpcEntry,
    VpnEntry,
    WorkloadEntry,
)
from mizar.simulation.policies import endpoint_policies, network_acls
from mizar.simulation.services import Places, in_turn, service_row

TUNNELS = {1: Tunnel.GENEVE, 2: Tunnel.VXLAN}
SUBSTRATE = 3
ACTIONS = {1: "vpc", 2: "blackhole", SUBSTRATE: "substrate"}
FLOWS = 1 << 20
"""Of each VPC: a simulation sends fewer."""
STANDBY = 1 << 20
"""Added to the interface of an endpoint where it does not live yet."""
_IDENTITY = struct.pack("!HBB", 0xFF01, 0x83, 4)
"""The option's header, contracts/wire.md."""


def mac_on_substrate(address: bytes) -> bytes:
    """Of a droplet that is nowhere: any, as long as it is the droplet's own."""
    return b"\x02\0" + address[-4:]


def hop_set(members: tuple[bytes, ...]) -> HopSet:
    """Members evenly over the places."""
    return tuple(members[place % len(members)] for place in range(PLACES)) if members else ()


def tables(
    address: bytes,
    entries: Iterable[Entry],
    ifindexes: Mapping[str, int],
    *,
    places: Places = in_turn,
    room: int = FLOWS,
) -> Droplet:
    """A droplet that was told of these entries, in their order. `ifindexes`: by uid, of endpoints that it attaches;
    `places`: how scaled endpoints give places to members; `room`: for flows of each VPC."""
    held = _Held(address, ifindexes)
    for entry in entries:
        held.take(entry)
    return held.droplet(places, room)


class _Held:
    """Tables as they fill."""

    def __init__(self, address: bytes, ifindexes: Mapping[str, int]) -> None:
        self._own = address
        self._ifindexes = ifindexes
        self._droplets: dict[bytes, DropletEntry] = {}
        self._known: dict[int, VpcEntry] = {}
        self._inside: dict[tuple[int, int], NetworkEntry] = {}
        self._locals: list[LocalEntry] = []
        self._services: list[ServiceEntry] = []
        self.vpcs: dict[int, Vpc] = {}
        self.networks: dict[tuple[int, bytes, int], Network] = {}
        self.endpoints: dict[tuple[int, bytes], Endpoint] = {}
        self.agents: dict[int, Agent] = {}
        self.proxies: dict[int, Proxy] = {}
        self.group_sets: dict[tuple[int, int], tuple[int, ...]] = {}
        self.appliances: dict[tuple[int, bytes], Endpoint] = {}
        self._rules: list[PolicySetEntry] = []
        self._acls: list[NetworkAclEntry] = []

    def take(self, entry: Entry) -> None:
        match entry:
            case DropletEntry():
                self._droplets[entry.address] = entry
            case VpcEntry():
                self._known[entry.vni] = entry
                self.vpcs[entry.vni] = Vpc(hop_set(entry.dividers), self._own in entry.dividers)
            case NetworkEntry():
                self._network(entry)
            case PeeringEntry():
                for address, length in entry.prefixes:
                    self.networks[entry.vni, address, length] = Network(0, bytes(16), peer=entry.peer)
            case GroupSetEntry():
                self.group_sets[entry.vni, entry.number] = entry.groups
            case PolicySetEntry():
                self._rules.append(entry)
            case NetworkAclEntry():
                self._acls.append(entry)
            case EndpointEntry():
                self.endpoints |= endpoint_rows(entry)
            case LocalEntry():
                ifindex = self._ifindexes[entry.uid] + (STANDBY if entry.standby else 0)
                self._attach(entry, ifindex)
                if not entry.standby:
                    self.endpoints |= endpoint_rows(entry.endpoint, ifindex, entry.uid, entry.bypass)
                    self._locals.append(entry)
                    if entry.forwarding:
                        end = entry.endpoint
                        row = Endpoint(
                            end.network_id,
                            end.mac,
                            end.host,
                            TUNNELS[end.tunnel],
                            ifindex,
                            entry.uid,
                            bypass=entry.bypass,
                        )
                        self.appliances[end.vni, end.mac] = row
            case ProxyEntry():
                self._proxy(entry)
            case ServiceEntry():
                self._services.append(entry)
            case VpnEntry():
                pass  # it ends in the namespace of an appliance, and is none of the tables' business

    def _network(self, entry: NetworkEntry) -> None:
        self._inside[entry.vni, entry.id] = entry
        for hop in (route.via for route in entry.routes if route.via is not None and route.via.host != self._own):
            far = Endpoint(hop.network_id, hop.mac, hop.host, TUNNELS[hop.tunnel])
            self.appliances.setdefault((entry.vni, hop.mac), far)
        bouncers, bounced = hop_set(entry.bouncers), self._own in entry.bouncers
        for prefix in entry.prefixes:
            routed = self.vpcs[entry.vni].divided_here
            row = Network(entry.id, prefix.gateway, bouncers, bounced, routed)
            self.networks[entry.vni, prefix.address, prefix.length] = row

    def _attach(self, entry: LocalEntry, ifindex: int) -> None:
        vni = entry.endpoint.vni
        own, vpc = self._inside[vni, entry.endpoint.network_id], self._known[vni]
        legs = {
            len(address): Leg(address, prefix.gateway, prefix.length)
            for address in entry.endpoint.addresses
            for prefix in own.prefixes
            if in_prefix(address, prefix.address, prefix.length)
        }
        self.agents[ifindex] = Agent(
            entry.uid,
            vni,
            own.id,
            entry.endpoint.mac,
            TUNNELS[entry.endpoint.tunnel],
            hop_set(own.bouncers),
            self._own in own.bouncers,
            self.vpcs[vni].divided_here,
            legs.get(4),
            legs.get(16),
            wire_vni=vpc.wire_vni,
            options=(_IDENTITY + vpc.identity if vpc.identity else b"") + entry.options,
            group_set=entry.group_set,
            needs_identity=bool(vpc.identity),
            routes=_table(own.routes),
            forwarding=entry.forwarding,
            sources=_table(entry.sources),
        )

    def _proxy(self, entry: ProxyEntry) -> None:
        slot = len(self.proxies) + 1
        self.proxies[slot] = proxy_row(entry)
        for side, end in enumerate((entry.client, entry.source)):
            ifindex = PROXY_INTERFACE + 2 * slot + side
            self.endpoints |= endpoint_rows(end, ifindex, f"{slot}/{side}")
            self._attach(LocalEntry(f"{slot}/{side}", replace(end, mac=SERVICE_MAC), WorkloadEntry()), ifindex)

    def droplet(self, places: Places, room: int) -> Droplet:
        """What it came to."""
        own = self._droplets.get(self._own, DropletEntry(self._own))
        reached = {one: _share_family(own, other) for one, other in self._droplets.items()}
        here = {(one.endpoint.vni, one.endpoint.mac): (self._ifindexes[one.uid], one.uid) for one in self._locals}
        for entry in self._services:
            of_vpc = {mac: found for (vni, mac), found in here.items() if vni == entry.vni}
            row = service_row(entry, self._own, of_vpc, places, [one for one, well in reached.items() if not well])
            self.endpoints |= {(entry.vni, address): row for address in entry.addresses}
            for member in entry.members:
                if (found := here.get((entry.vni, member.mac))) is not None:
                    self.agents[found[0]] = replace(self.agents[found[0]], member=True)
        return Droplet(
            self._own,
            mac_on_substrate(self._own),
            {one: mac_on_substrate(one) if well else None for one, well in reached.items()},
            self.vpcs,
            self.networks,
            self.endpoints,
            self.agents,
            identities=dict(map(_identity, (vpc for vpc in self._known.values() if vpc.identity))),
            address6=own.second,
            addresses6={one: other.second for one, other in self._droplets.items() if other.second},
            mtus={one: min(own.mtu, other.mtu) for one, other in self._droplets.items() if own.mtu and other.mtu},
            foreign=frozenset(one for one, other in self._droplets.items() if other.foreign),
            stack_link=bool(stack := self._stack()),
            stack=stack,
            flows=Flows(dict.fromkeys(self.vpcs, room)),
            group_sets=self.group_sets,
            policies=endpoint_policies(self._rules, self._locals),
            policy_flows=PolicyFlows(dict.fromkeys(self.vpcs, room)),
            network_acls=network_acls(self._rules, self._acls),
            acl_vpcs=frozenset(entry.vni for entry in self._acls),
            proxies=self.proxies,
            appliances=self.appliances,
        )

    def _stack(self) -> dict[bytes, int]:
        """Addresses of endpoints that live here and whose network has a route of that family into the substrate."""
        found = {}
        for entry in self._locals:
            routes = self._inside[entry.endpoint.vni, entry.endpoint.network_id].routes
            sizes = {len(route.address) for route in routes if route.action == SUBSTRATE}
            found.update({one: entry.endpoint.vni for one in entry.endpoint.addresses if len(one) in sizes})
        return found


def proxy_row(entry: ProxyEntry) -> Proxy:
    """A proxied endpoint that the droplet carries."""
    client, source, target = (
        {4 if len(address) == 4 else 6: address for address in addresses}
        for addresses in (entry.client.addresses, entry.source.addresses, entry.targets)
    )
    return Proxy(entry.client.vni, entry.source.vni, client, source, target, budget=4096)


def endpoint_rows(
    entry: EndpointEntry, ifindex: int = 0, uid: str = "", bypass: bool = False
) -> dict[tuple[int, bytes], Endpoint]:
    """An endpoint, by each of its addresses."""
    row = Endpoint(entry.network_id, entry.mac, entry.host, TUNNELS[entry.tunnel], ifindex, uid, bypass=bypass)
    return {(entry.vni, address): row for address in entry.addresses}


def _table(routes: Iterable[RouteEntry]) -> dict[tuple[bytes, int], str | bytes]:
    return {(one.address, one.length): one.via.mac if one.via else ACTIONS[one.action] for one in routes}


def _identity(vpc: VpcEntry) -> tuple[tuple[int, int, int], int]:
    tenant, number = struct.unpack("!QQ", vpc.identity)
    return (vpc.wire_vni, tenant, number), vpc.vni


def _share_family(one: DropletEntry, other: DropletEntry) -> bool:
    families = [{len(address) for address in (each.address, each.second) if address} for each in (one, other)]
    return bool(families[0] & families[1])
