# SPDX-License-Identifier: Apache-2.0
"""What one droplet's tables hold, as plain values. Mirrors the messages of contracts/transit.proto.

Made by the topology, compared by the plan, translated to messages by the manager. Addresses are 4 or 16 bytes in
network order, and droplets are named by their address, as on the wire. Plain dataclasses, because there may be
millions of them: they are validated where objects are (mizar/model), not here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mizar.model.policy_rows import digest
from mizar.model.secret import SecretText
from mizar.planner.engines import EngineEntry, same_engine


@dataclass(frozen=True, slots=True)
class DropletEntry:
    """A known sender and possible next hop. `name` is for messages only and does not take part in comparison.

    `mtu`: of its interface; 0 while it is not known, which changes nothing for whoever knew it.
    """

    order: ClassVar[int] = 0
    address: bytes
    name: str = ""
    mtu: int = 0
    second: bytes = b""
    """Its IPv6 address, when it has one of each family: `address` is IPv4 then."""
    foreign: bool = False
    """It has no daemon."""

    @property
    def key(self) -> tuple[int, bytes]:
        """Names this entry among all entries of a droplet."""
        return (0, self.address)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return (
            isinstance(other, DropletEntry)
            and (self.address, self.second, self.foreign) == (other.address, other.second, other.foreign)
            and self.mtu in (0, other.mtu)
        )


@dataclass(frozen=True, slots=True)
class VpcEntry:
    """A VPC and its dividers (addresses, sorted).

    `vni` is its number, here and in all entries; `wire_vni` and `identity` are set where it is no VNI.
    """

    order: ClassVar[int] = 1
    vni: int
    dividers: tuple[bytes, ...]
    wire_vni: int = 0
    identity: bytes = b""

    @property
    def key(self) -> tuple[int, int]:
        """Names this entry among all entries of a droplet."""
        return (1, self.vni)

    @property
    def members(self) -> tuple[bytes, ...]:
        """The hop set: its dividers."""
        return self.dividers

    def among(self, members: tuple[bytes, ...]) -> VpcEntry:
        """The same VPC with other members."""
        return replace(self, dividers=members)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return (
            isinstance(other, VpcEntry)
            and replace(self, dividers=()) == replace(other, dividers=())
            and (set(self.dividers) == set(other.dividers))
        )


@dataclass(frozen=True, slots=True, order=True)
class PrefixEntry:
    """A prefix of a network: address (host bits zero), length in bits of its own family, gateway."""

    address: bytes
    length: int
    gateway: bytes


@dataclass(frozen=True, slots=True, order=True)
class NextHopEntry:
    """An appliance, an endpoint that forwards: its MAC, the droplet that hosts it, its tunnel and network."""

    mac: bytes
    host: bytes
    tunnel: int
    network_id: int


@dataclass(frozen=True, slots=True, order=True)
class RouteEntry:
    """A route: prefix, and what becomes of packets to it (enum route_action); `via`: of those by an appliance."""

    address: bytes
    length: int
    action: int
    via: NextHopEntry | None = None


@dataclass(frozen=True, slots=True)
class DhcpEntry:
    """What a network tells endpoints that ask: DNS servers (addresses), domain, and seconds of a lease."""

    dns: tuple[bytes, ...] = ()
    domain: str = ""
    lease_s: int = 3600


NO_DHCP = DhcpEntry()


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """A network, its prefixes (at most one per family), its bouncers (addresses, sorted) and its route table."""

    order: ClassVar[int] = 2
    vni: int
    id: int
    prefixes: tuple[PrefixEntry, ...]
    bouncers: tuple[bytes, ...]
    dhcp: DhcpEntry = NO_DHCP
    routes: tuple[RouteEntry, ...] = ()
    through_divider: bool = False

    @property
    def key(self) -> tuple[int, int, int]:
        """Names this entry among all entries of a droplet."""
        return (2, self.vni, self.id)

    @property
    def members(self) -> tuple[bytes, ...]:
        """The hop set: its bouncers."""
        return self.bouncers

    def among(self, members: tuple[bytes, ...]) -> NetworkEntry:
        """The same network with other members."""
        return replace(self, bouncers=members)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return (
            isinstance(other, NetworkEntry)
            and self.key == other.key
            and set(self.prefixes) == set(other.prefixes)
            and set(self.bouncers) == set(other.bouncers)
            and self.dhcp == other.dhcp
            and set(self.routes) == set(other.routes)
            and self.through_divider == other.through_divider
        )


@dataclass(frozen=True, slots=True)
class PeeringEntry:
    """Addresses of VPC `peer` (prefixes: address, length in bits of its own family) to which packets of `vni` cross."""

    order: ClassVar[int] = 2
    vni: int
    peer: int
    prefixes: tuple[tuple[bytes, int], ...]

    @property
    def key(self) -> tuple[int, int, int]:
        """Names this entry among all entries of a droplet."""
        return (40, self.vni, self.peer)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return isinstance(other, PeeringEntry) and self.key == other.key and set(self.prefixes) == set(other.prefixes)


@dataclass(frozen=True, slots=True)
class GroupSetEntry:
    """What the number of a set of groups means: ids of networks of type group, ascending."""

    order: ClassVar[int] = 2
    vni: int
    number: int
    groups: tuple[int, ...]

    @property
    def key(self) -> tuple[int, int, int]:
        """Names this entry among all entries of a droplet."""
        return (50, self.vni, self.number)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return self == other


@dataclass(frozen=True, slots=True)
class PolicySetEntry:
    """Rules of one direction as endpoints share them, compiled; rows as in PolicySet of contracts/transit.proto."""

    order: ClassVar[int] = 2
    vni: int
    id: int
    peers: bytes
    groups: bytes
    verdicts: bytes
    digest: bytes = b""
    """Set on what a daemon tells that it holds: then it has no rows."""

    @property
    def key(self) -> tuple[int, int, int]:
        """Names this entry among all entries of a droplet."""
        return (60, self.vni, self.id)

    @property
    def weight(self) -> int:
        """Bytes of its rows."""
        return len(self.peers) + len(self.groups) + len(self.verdicts)

    @property
    def content(self) -> bytes:
        """The digest of the rows."""
        return self.digest or digest(self.peers, self.groups, self.verdicts)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return isinstance(other, PolicySetEntry) and self.key == other.key and self.content == other.content


@dataclass(frozen=True, slots=True)
class PolicyBinding:
    """By which sets an endpoint is judged, 0 for none, and whether what no rule allows is only told."""

    ingress: int = 0
    egress: int = 0
    audit_ingress: bool = False
    audit_egress: bool = False
    beside_ingress: int = 0
    """What `ingress` allows and this set would not is told: that of all policies, those that only audit among them."""
    beside_egress: int = 0

    @property
    def sets(self) -> frozenset[int]:
        """The sets that its droplet must hold."""
        return frozenset({self.ingress, self.egress, self.beside_ingress, self.beside_egress} - {0})


NOT_POLICED = PolicyBinding()


@dataclass(frozen=True, slots=True)
class RateEntry:
    """What may pass at a time: bits and packets a second, 0 for any number, and how many bytes and packets at once."""

    bits_per_second: int = 0
    packets_per_second: int = 0
    burst_bytes: int = 0
    burst_packets: int = 0


NO_RATE = RateEntry()


@dataclass(frozen=True, slots=True)
class QosEntry:
    """The rates of an endpoint: its own, its network's and its VPC's on its droplet, in this order.

    `guarantee`: what the droplet's interface carries of it in any case; `dscp`: its mark, None for none.
    """

    egress: tuple[RateEntry, RateEntry, RateEntry] = (NO_RATE, NO_RATE, NO_RATE)
    ingress: tuple[RateEntry, RateEntry, RateEntry] = (NO_RATE, NO_RATE, NO_RATE)
    guarantee: RateEntry = NO_RATE
    dscp: int | None = None


NO_QOS = QosEntry()


@dataclass(frozen=True, slots=True)
class NetworkAclEntry:
    """By which sets of rules a network is judged, 0 for none; `later`: fragments behind the first. Prefixes: address
    and length."""

    order: ClassVar[int] = 3
    vni: int
    network_id: int
    prefixes: tuple[tuple[bytes, int], ...]
    ingress: int = 0
    ingress_later: int = 0
    egress: int = 0
    egress_later: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """Names this entry among all entries of a droplet."""
        return (70, self.vni, self.network_id)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return self == other


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """An endpoint as the bouncers of its network know it. `tunnel`: 1 Geneve, 2 VXLAN, as in dataplane.h."""

    order: ClassVar[int] = 3
    vni: int
    network_id: int
    addresses: tuple[bytes, ...]
    mac: bytes
    host: bytes
    tunnel: int

    @property
    def key(self) -> tuple[int, int, tuple[bytes, ...]]:
        """Names this entry among all entries of a droplet."""
        return (3, self.vni, tuple(sorted(self.addresses)))

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return self == other or (isinstance(other, EndpointEntry) and _sorted(self) == _sorted(other))


@dataclass(frozen=True, slots=True)
class TapEntry:
    """A tap device; without a name the daemon chooses one."""

    name: str = ""
    owner: int = 0
    queues: int = 1


@dataclass(frozen=True, slots=True)
class OvsEntry:
    """A port of an Open vSwitch bridge; without a name the daemon chooses one. `vlan` 0: none."""

    bridge: str
    port: str = ""
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class WorkloadEntry:
    """Where an endpoint's interface is: exactly one of namespace, path, pid, tap and ovs is set."""

    namespace: str = ""
    path: str = ""
    pid: int = 0
    interface: str = "eth0"
    tap: TapEntry | None = None
    ovs: OvsEntry | None = None
    self_configured: bool = False
    pool: bool = False
    """The namespace is one that the daemon has prepared."""


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """An endpoint that lives on the droplet. `mtu` 0: the interface's less the tunnel's overhead.

    `standby`: it lives on another droplet still and is prepared to move here, with an interface but without addresses.
    `options`: Geneve options of all that it sends, as on the wire; `group_set`: the number of its groups, 0 for none.
    """

    order: ClassVar[int] = 4
    uid: str
    endpoint: EndpointEntry
    workload: WorkloadEntry
    mtu: int = 0
    standby: bool = False
    options: bytes = b""
    group_set: int = 0
    bypass: bool = False
    """It takes tunnel packets as they are."""
    forwarding: bool = False
    """An appliance: it may also send from what `sources` says."""
    sources: tuple[RouteEntry, ...] = ()
    policy: PolicyBinding = NOT_POLICED
    qos: QosEntry = NO_QOS
    engine: EngineEntry | None = None

    @property
    def key(self) -> tuple[int, str]:
        """Names this entry among all entries of a droplet."""
        return (4, self.uid)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this. MTU 0 leaves the choice to the daemon."""
        return (
            isinstance(other, LocalEntry)
            and self.uid == other.uid
            and self.endpoint.same(other.endpoint)
            and self.workload == other.workload
            and self.mtu in (0, other.mtu)
            and self.standby == other.standby
            and (self.options, self.group_set, self.bypass) == (other.options, other.group_set, other.bypass)
            and (self.forwarding, set(self.sources)) == (other.forwarding, set(other.sources))
            and self.policy == other.policy
            and self.qos == other.qos
            and same_engine(self.engine, other.engine)
        )


@dataclass(frozen=True, slots=True)
class ProxyEntry:
    """A proxied endpoint that the droplet carries: `client` is itself, `source` what stands for its clients in the VPC
    of its target, whose addresses there are `targets`, one for each of the source's families."""

    order: ClassVar[int] = 5
    client: EndpointEntry
    source: EndpointEntry
    targets: tuple[bytes, ...]

    @property
    def vni(self) -> int:
        """Of its clients' VPC."""
        return self.client.vni

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Its own, in its clients' VPC."""
        return self.client.addresses

    @property
    def key(self) -> tuple[int, int, tuple[bytes, ...]]:
        """Names this entry among all entries of a droplet."""
        return (5, self.vni, tuple(sorted(self.addresses)))

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return (
            isinstance(other, ProxyEntry)
            and self.client.same(other.client)
            and self.source.same(other.source)
            and sorted(self.targets) == sorted(other.targets)
        )


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A member of a scaled endpoint. `state` as in contracts/transit.proto: 0 not known here, 1 healthy,
    2 draining, 3 unknown to everybody, 4 down."""

    addresses: tuple[bytes, ...]
    mac: bytes
    host: bytes
    tunnel: int
    weight: int
    state: int


@dataclass(frozen=True, slots=True)
class HealthEntry:
    """How members are checked where they live; the path of an HTTP request, or "" for a TCP connection."""

    port: int
    path: str
    interval_ms: int
    timeout_ms: int
    healthy_after: int
    unhealthy_after: int


@dataclass(frozen=True, order=True, slots=True)
class ListenerEntry:
    """What a load balancer takes: TCP (6) or UDP (17) at a port, which is `target` at its members."""

    protocol: int
    port: int
    target: int


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """A scaled endpoint, as every droplet knows it that knows the VPC."""

    order: ClassVar[int] = 6
    vni: int
    network_id: int
    addresses: tuple[bytes, ...]
    members: tuple[MemberEntry, ...]
    colocated: bool = False
    health: HealthEntry | None = None
    listeners: tuple[ListenerEntry, ...] = ()
    by_client: bool = False
    public: tuple[bytes, ...] = ()
    attracted: bool = False
    """The droplet takes what comes for the public addresses from the substrate, but not from `inside`."""
    inside: tuple[tuple[bytes, int], ...] = ()
    vip_option: bool = False

    @property
    def key(self) -> tuple[int, int, tuple[bytes, ...]]:
        """Names this entry among all entries of a droplet."""
        return (6, self.vni, tuple(sorted(self.addresses)))

    @property
    def hosts(self) -> set[bytes]:
        """The droplets where its members live."""
        return {member.host for member in self.members}

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        if not isinstance(other, ServiceEntry):
            return False
        held = {member.mac: member.state for member in other.members}
        members = tuple(replace(one, state=one.state or held.get(one.mac, 0)) for one in self.members)
        return _by_length(replace(self, members=members)) == _by_length(other)

    def beside(self, before: ServiceEntry) -> ServiceEntry:
        """The same, where members that were not there before get no flow yet, and those that leave still do."""
        known = {member.mac for member in before.members}
        members = tuple(
            m if m.mac in known else replace(m, state=_DRAINING if m.state else _UNKNOWN) for m in self.members
        )
        return replace(self, members=members)._with(self._leaving(before))

    def draining(self, before: ServiceEntry) -> ServiceEntry:
        """The same, where members that leave keep their flows and get no new ones."""
        return self._with(tuple(replace(one, state=_DRAINING) for one in self._leaving(before)))

    def _leaving(self, before: ServiceEntry) -> tuple[MemberEntry, ...]:
        kept = {member.mac for member in self.members}
        return tuple(member for member in before.members if member.mac not in kept)

    def _with(self, more: tuple[MemberEntry, ...]) -> ServiceEntry:
        return replace(self, members=self.members + more[: MOST_MEMBERS - len(self.members)])


_DRAINING, _UNKNOWN = 2, 3
MOST_MEMBERS = 128
"""Of a scaled endpoint: what daemons take (contracts/transit.proto)."""


def _by_length(entry: ServiceEntry) -> ServiceEntry:
    members = tuple(replace(one, addresses=tuple(sorted(one.addresses, key=len))) for one in entry.members)
    return replace(entry, addresses=tuple(sorted(entry.addresses, key=len)), members=members)


@dataclass(frozen=True, slots=True)
class WireguardEntry:
    """Keys and ports of a tunnel. Without a preshared key there is none."""

    private_key: SecretText
    peer_public_key: bytes
    preshared_key: SecretText | None
    port: int
    keepalive_s: int


@dataclass(frozen=True, slots=True)
class IpsecCertificateEntry:
    """In PEM: its own with those that signed it, its key, and who signs the other side's."""

    chain: str
    key: SecretText
    authority: str


@dataclass(frozen=True, slots=True)
class IpsecEntry:
    """Keys, names and times of a tunnel by IKEv2. `local`: prefixes towards the other side, each address and length."""

    psk: SecretText | None
    """None: by certificate."""
    local_id: str
    remote_id: str
    local: tuple[tuple[bytes, int], ...]
    port: int
    ike_proposals: tuple[str, ...]
    esp_proposals: tuple[str, ...]
    rekey_s: int
    dpd_s: int
    certificate: IpsecCertificateEntry | None = None


@dataclass(frozen=True, slots=True)
class VpnEntry:
    """A tunnel to a site outside, in the namespace of the droplet's own endpoint `endpoint` (its uid).

    `revision` grows with each change of it. `remote`: prefixes behind it, each address and length.
    """

    order: ClassVar[int] = 7
    uid: str
    revision: int
    endpoint: str
    name: str = ""
    remote: tuple[tuple[bytes, int], ...] = ()
    peer: tuple[bytes, int] | None = None
    how: WireguardEntry | IpsecEntry | None = None
    """None on what a daemon tells that it holds: it tells no keys."""
    down_after_s: int = 0

    @property
    def key(self) -> tuple[int, str]:
        """Names this entry among all entries of a droplet."""
        return (230, self.uid)

    def same(self, other: Entry) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return isinstance(other, VpnEntry) and (self.uid, self.revision, self.endpoint) == (
            other.uid,
            other.revision,
            other.endpoint,
        )


Entry = (
    DropletEntry
    | VpcEntry
    | NetworkEntry
    | PeeringEntry
    | GroupSetEntry
    | PolicySetEntry
    | NetworkAclEntry
    | EndpointEntry
    | LocalEntry
    | ProxyEntry
    | ServiceEntry
    | VpnEntry
)
Key = tuple[int, bytes] | tuple[int, int] | tuple[int, int, int] | tuple[int, int, tuple[bytes, ...]] | tuple[int, str]


def _sorted(entry: EndpointEntry) -> EndpointEntry:
    return replace(entry, addresses=tuple(sorted(entry.addresses)))
