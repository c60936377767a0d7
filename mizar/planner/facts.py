# SPDX-License-Identifier: Apache-2.0
"""What the planner needs to know of each object, and how it is taken from the model's resources.

A fact is complete: the object's spec together with what was allocated and placed for it (its status). Called by the
manager; the topology is fed with facts and never sees a resource.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from mizar.model.addresses import Prefix, gateway_of, parse_address, parse_prefix
from mizar.model.errors import InvalidError
from mizar.model.groups import OWN_CLASS
from mizar.model.resources import VPC, Droplet, Endpoint, MoveStage, Network, Resource, TunnelProtocol
from mizar.model.routes import Route, Via
from mizar.model.workloads import WorkloadSpec
from mizar.planner.engines import EngineEntry
from mizar.planner.entries import (
    NO_DHCP,
    NO_QOS,
    NOT_POLICED,
    DhcpEntry,
    EndpointEntry,
    GroupSetEntry,
    HealthEntry,
    ListenerEntry,
    LocalEntry,
    NextHopEntry,
    OvsEntry,
    PolicyBinding,
    PrefixEntry,
    QosEntry,
    RouteEntry,
    TapEntry,
    WorkloadEntry,
)

GROUPS = 0x02
"""Type of the option of contracts/wire.md."""
VIA_ENDPOINT = 4
_ACTIONS = {Via.VPC: 1, Via.BLACKHOLE: 2, Via.SUBSTRATE: 3}  # enum route_action of contracts/dataplane.h
TUNNELS = {TunnelProtocol.GENEVE: 1, TunnelProtocol.VXLAN: 2}  # enum tunnel_protocol of contracts/dataplane.h


@dataclass(frozen=True, slots=True)
class DropletFact:
    """A droplet by name; `daemon`: whether it can be told of tables. `mtu`: of its interface, 0 while not known.

    `address` is IPv4 unless it has none; `second` is its IPv6 address when it has both.
    """

    name: str
    address: bytes
    daemon: bool
    mtu: int = 0
    second: bytes = b""


@dataclass(frozen=True, slots=True)
class VpcFact:
    """A VPC by its number; `dividers`: names of droplets.

    `wire_vni` and `identity` (16 bytes) are what its packets bear, where the number is no VNI.
    """

    vni: int
    dividers: tuple[str, ...]
    wire_vni: int = 0
    identity: bytes = b""


@dataclass(frozen=True, slots=True)
class NetworkFact:
    """A network by VNI and id; `bouncers`: names of droplets."""

    vni: int
    id: int
    prefixes: tuple[PrefixEntry, ...]
    bouncers: tuple[str, ...]
    dhcp: DhcpEntry = NO_DHCP
    routes: tuple[RouteEntry, ...] = ()
    through_divider: bool = False


@dataclass(frozen=True, slots=True)
class ProxyFact:
    """Of a proxied endpoint in service: what stands for its clients, and its target's addresses of those families."""

    vni: int
    network_id: int
    addresses: tuple[bytes, ...]
    mac: bytes
    tunnel: int
    targets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EndpointFact:
    """An endpoint by uid; `host`: name of a droplet; `workload` is None where somebody else makes its interface.

    `standby`: name of the droplet that is prepared to be its next host, "" for none. `groups`: ids, ascending;
    `group_set`: the number of this set of groups in the VPC. `options`: its own Geneve options, as on the wire.
    `sources`: of an appliance, what it may send from beside its own addresses, and what not.
    """

    uid: str
    vni: int
    network_id: int
    addresses: tuple[bytes, ...]
    mac: bytes
    host: str
    tunnel: int
    workload: WorkloadEntry | None
    standby: str = ""
    carried: bool = False
    """It has no workload of its own, and any droplet may be its host: a side of a proxied endpoint."""
    proxy: ProxyFact | None = None
    groups: tuple[int, ...] = ()
    group_set: int = 0
    options: bytes = b""
    bypass: bool = False
    """It takes tunnel packets as they are."""
    forwarding: bool = False
    sources: tuple[RouteEntry, ...] = ()
    policy: PolicyBinding = NOT_POLICED
    qos: QosEntry = NO_QOS
    engine: EngineEntry | None = None

    def local(self, entry: EndpointEntry, *, standby: bool = False) -> LocalEntry | None:
        """As its host holds it, by what others know of it there; None where somebody else makes its interface."""
        if self.workload is None:
            return None
        options = self.options
        if self.groups:
            options = _option(GROUPS, struct.pack(f"!I{len(self.groups)}I", self.group_set, *self.groups)) + options
        return LocalEntry(
            self.uid, entry, self.workload, 0, standby, options, self.group_set, self.bypass,
            self.forwarding, self.sources, self.policy, self.qos, self.engine,
        )  # fmt: skip

    def entry(self, host: bytes) -> EndpointEntry:
        """As its bouncers hold it, when it lives on the droplet with this address."""
        return EndpointEntry(self.vni, self.network_id, self.addresses, self.mac, host, self.tunnel)

    @property
    def group_set_entry(self) -> GroupSetEntry | None:
        """What its set of groups means; None when it is in none."""
        return GroupSetEntry(self.vni, self.group_set, self.groups) if self.groups else None


@dataclass(frozen=True, slots=True)
class PeeringSide:
    """A VPC that takes part in a peering; `prefixes`: its addresses (address, length)."""

    vni: int
    prefixes: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class PeeringFact:
    """Two VPCs that agreed to exchange packets."""

    one: PeeringSide
    other: PeeringSide

    @property
    def vnis(self) -> tuple[int, int]:
        """Both VPCs, the lower VNI first."""
        low, high = sorted((self.one.vni, self.other.vni))
        return low, high


@dataclass(frozen=True, slots=True)
class MemberFact:
    """A member of a scaled endpoint, by the uid of an endpoint; `state` as that of an entry."""

    uid: str
    weight: int
    state: int


@dataclass(frozen=True, slots=True)
class PublicFact:
    """What a load balancer has of public addresses: they, the names of the droplets that attract them, and prefixes
    that clients out there cannot have. `translated`: an instance takes what comes there, and no droplet by itself.
    `in_option`: members learn them from an option of the tunnel."""

    addresses: tuple[bytes, ...]
    droplets: frozenset[str]
    inside: tuple[tuple[bytes, int], ...]
    translated: bool = False
    in_option: bool = False


@dataclass(frozen=True, slots=True)
class ServiceFact:
    """A scaled endpoint by uid, and its members in order."""

    uid: str
    vni: int
    network_id: int
    addresses: tuple[bytes, ...]
    colocated: bool
    members: tuple[MemberFact, ...]
    health: HealthEntry | None = None
    listeners: tuple[ListenerEntry, ...] = ()
    by_client: bool = False
    public: PublicFact | None = None


Fact = ServiceFact | DropletFact | VpcFact | NetworkFact | EndpointFact | PeeringFact


def droplet_fact(droplet: Droplet) -> DropletFact:
    """Of a droplet."""
    address, *more = (ip_address(text).packed for text in droplet.spec.addresses)
    return DropletFact(droplet.name, address, droplet.spec.has_daemon, second=more[0] if more else b"")


def vpc_fact(vpc: VPC) -> VpcFact:
    """Of a VPC whose number and `status.dividers` are set. Raises InvalidError when it has no number."""
    number = _allocated(vpc, vpc.number, "number")
    if number == vpc.status.vni:
        return VpcFact(number, vpc.status.dividers)
    identity = bytes.fromhex(vpc.status.identity.replace(":", ""))
    return VpcFact(number, vpc.status.dividers, vpc.status.vni or 0, identity)


def peering_fact(one: VPC, other: VPC) -> PeeringFact:
    """Of two VPCs that have numbers. Raises InvalidError when one has none."""
    return PeeringFact(_side(one), _side(other))


def _side(vpc: VPC) -> PeeringSide:
    prefixes = tuple((one.network_address.packed, one.prefixlen) for one in map(parse_prefix, vpc.spec.cidrs))
    return PeeringSide(_allocated(vpc, vpc.number, "number"), prefixes)


def network_fact(
    network: Network,
    vpc: VPC,
    allowed: Callable[[Prefix], bool] = lambda _: False,
    appliance: Callable[[Route], NextHopEntry | None] = lambda _: None,
) -> NetworkFact:
    """Of a network whose `status.id` and `status.bouncers` are set, and its VPC. Raises InvalidError when unset.

    `allowed`: whether a route of it may lead to a prefix of the substrate. `appliance`: where one to an endpoint leads.
    """
    prefixes = tuple(
        PrefixEntry(prefix.network_address.packed, prefix.prefixlen, gateway_of(prefix).packed)
        for prefix in map(parse_prefix, network.spec.cidrs)
    )
    return NetworkFact(
        _allocated(vpc, vpc.number, "number"),
        _allocated(network, network.status.id, "id"),
        prefixes,
        network.status.bouncers,
        DhcpEntry(
            tuple(ip_address(text).packed for text in network.spec.dhcp.dns_servers),
            network.spec.dhcp.domain,
            network.spec.dhcp.lease_time,
        ),
        _table(network, vpc, allowed, appliance),
        network.spec.through_divider,
    )


def _table(
    network: Network,
    vpc: VPC,
    allowed: Callable[[Prefix], bool],
    appliance: Callable[[Route], NextHopEntry | None],
) -> tuple[RouteEntry, ...]:
    """The routes as they are written, and, where there are any, the VPC and the network itself: longer ones alone
    take anything of those away. What is not allowed leads nowhere."""
    if not network.spec.routes:
        return ()
    own = (Route(to=text, via=Via.VPC) for text in (*vpc.spec.cidrs, *network.spec.cidrs))
    table = {}
    for route in (*own, *network.spec.routes):
        to, hop = parse_prefix(route.to), None
        if isinstance(route.via, Via):
            action = _ACTIONS[Via.BLACKHOLE if route.via is Via.SUBSTRATE and not allowed(to) else route.via]
        else:
            hop = appliance(route)
            action = VIA_ENDPOINT if hop else _ACTIONS[Via.BLACKHOLE]
        table[to] = RouteEntry(to.network_address.packed, to.prefixlen, action, hop)
    return tuple(sorted(table.values()))


def endpoint_fact(endpoint: Endpoint, network: Network, vpc: VPC, qos: QosEntry = NO_QOS) -> EndpointFact:
    """Of an endpoint whose `status.addresses` and `status.mac` are set, its network and VPC. Raises InvalidError."""
    if endpoint.metadata.uid is None or not endpoint.status.addresses or not endpoint.status.mac:
        raise InvalidError(f"{endpoint.ref}: uid, addresses or MAC are not allocated yet")
    move = endpoint.status.move
    return EndpointFact(
        uid=endpoint.metadata.uid,
        vni=_allocated(vpc, vpc.number, "number"),
        network_id=_allocated(network, network.status.id, "id"),
        addresses=tuple(parse_address(text).packed for text in endpoint.status.addresses),
        mac=bytes.fromhex(endpoint.status.mac.replace(":", "")),
        host=endpoint.spec.droplet or endpoint.status.host,
        tunnel=TUNNELS[endpoint.spec.tunnel_protocol or network.spec.tunnel_protocol],
        workload=_workload(endpoint.spec.workload),
        carried=endpoint.spec.type in ("proxied", "source"),
        standby=move.target if move is not None and move.stage is MoveStage.PREPARING else "",
        groups=endpoint.status.group_ids,
        group_set=endpoint.status.group_set,
        options=b"".join(option.encoded for option in endpoint.spec.geneve_options),
        bypass=endpoint.spec.bypass_decapsulation,
        forwarding=endpoint.spec.forwarding,
        qos=qos,
    )


def proxy_fact(source: EndpointFact, target: Endpoint) -> ProxyFact:
    """Of what stands for the clients of a proxied endpoint, and its target."""
    targets = {len(packed): packed for packed in (ip_address(text).packed for text in target.status.addresses)}
    return ProxyFact(
        vni=source.vni,
        network_id=source.network_id,
        addresses=source.addresses,
        mac=source.mac,
        tunnel=source.tunnel,
        targets=tuple(targets[len(address)] for address in source.addresses),
    )


def _option(kind: int, data: bytes) -> bytes:
    return struct.pack("!HBB", OWN_CLASS, kind, len(data) // 4) + data


def _workload(spec: WorkloadSpec | None) -> WorkloadEntry | None:
    if spec is None:
        return None
    tap = TapEntry(spec.tap.name or "", spec.tap.owner, spec.tap.queues) if spec.tap else None
    ovs = OvsEntry(spec.ovs.bridge, spec.ovs.port or "", spec.ovs.vlan or 0) if spec.ovs else None
    alone, interface = spec.configure == "dhcp", spec.interface
    return WorkloadEntry(spec.namespace or "", spec.path or "", spec.pid or 0, interface, tap, ovs, alone, spec.pool)


def _allocated(resource: Resource, number: int | None, what: str) -> int:
    if number is None:
        raise InvalidError(f"{resource.ref}: status.{what} is not allocated yet")
    return number
