# SPDX-License-Identifier: Apache-2.0
"""What one droplet knows, as plain values: the tables of contracts/dataplane.h without slots.

Filled by whoever asks the oracle (tests, a simulation, a trace); only read here. Addresses are 4 or 16 bytes as on the
wire, droplets are named by their address, and an endpoint's counters by its uid. A VPC is named by its number (`vni`):
its VNI, or from 2^24 on, where it shares its VNI with others and is told from them by its identity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from mizar.oracle.limits import Limiter, Limits
from mizar.oracle.policies import EndpointPolicy, NetworkAcl, PolicyFlows
from mizar.oracle.proxy_flows import ProxyFlows

PLACES = 16
"""Of a hop set. Members are repeated evenly over them."""

PLACES_OF_SERVICE = 4093
"""Of a scaled endpoint."""

HopSet = tuple[bytes | None, ...]
"""The droplet at each of the sixteen places; None where there is none. Empty: no set at all."""


class Tunnel(Enum):
    """The two tunnels of contracts/wire.md, by their UDP port."""

    GENEVE = 6081
    VXLAN = 4789


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as its host and the bouncers of its network know it."""

    network: int
    mac: bytes
    host: bytes
    tunnel: Tunnel = Tunnel.GENEVE
    """How packets reach its host."""
    ifindex: int = 0
    """Host side of its veth when it lives on this droplet, else 0."""
    uid: str = ""
    """Names its counters when it lives on this droplet, else empty."""
    learned: bool = False
    """For the direct path: agents alone use it."""
    gone: bool = False
    """Learned, and its host has said that it is not there."""
    service: Service | None = None
    """Set for a scaled endpoint, which has no host of its own."""
    bypass: bool = False
    """It lives on this droplet and takes tunnel packets as they are."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a scaled endpoint."""

    endpoint: Endpoint
    draining: bool = False
    """Takes no new flow."""
    down: bool = False
    """Failed its check."""
    listened: bool = False
    """Of a load balancer: what it is sent may be for another port of its own."""
    by_option: bool = False
    """Behind a tunnel end without a daemon: takes what bears a VIP option alone."""
    addresses: tuple[bytes, ...] = ()
    """Its own, where a VIP option may bear the load balancer's."""


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """A scaled endpoint: its members, and at each place the number of the one that takes its flows; -1: none."""

    members: tuple[Member, ...] = ()
    places: tuple[int, ...] = field(default=(-1,) * PLACES_OF_SERVICE, repr=False)
    near: tuple[int, ...] = field(default=(), repr=False)
    """The places for agents of this droplet, where members on it come first; empty: the same."""
    listened: bool = False
    """It is a load balancer: it takes what the droplet's `listeners` have of it, and nothing else."""
    by_client: bool = False
    """The place of a new flow follows from the client's address alone."""


@dataclass(frozen=True, slots=True)
class AnsweredAs:
    """As whom a member answers: the service's address, and port where that is another than its own."""

    address: bytes
    port: bytes = b""
    outside: bool = False
    """The client is on the substrate."""


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Of a load balancer, on a droplet that attracts it. `inside`: prefixes that nobody outside has."""

    vni: int
    service: Service
    inside: tuple[tuple[bytes, int], ...] = ()
    wire_vni: int = 0
    vip_option: bool = False


class FlowKind(Enum):
    """What a flow tells."""

    CHOICE = 1
    """Client and service: the member."""
    SERVICE = 2
    """Client and member: the service's address."""


@dataclass(frozen=True, slots=True)
class FlowKey:
    """What names a flow; `ports` as the client sends them."""

    kind: FlowKind
    vni: int
    client: bytes
    server: bytes
    ports: bytes
    protocol: int


class Flows(dict[FlowKey, "Member | AnsweredAs"]):
    """The table of flows. `room`: by VNI, how many more each VPC may have."""

    def __init__(self, room: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.room = dict(room or {})

    def insert(self, key: FlowKey, value: Member | AnsweredAs) -> bool:
        """A new flow; False when the VPC has no room left."""
        left = self.room.get(key.vni, 0)
        if left <= 0:
            return False
        self.room[key.vni] = left - 1
        self[key] = value
        return True


@dataclass(frozen=True, slots=True)
class Function:
    """A network function that is loaded: at which stages, in which order, and for whom. `uids`: endpoints of this
    droplet, by themselves or by their network or groups; `vnis`: numbers of VPCs."""

    name: str
    stages: tuple[str, ...]
    order: int = 0
    droplet: bool = False
    vnis: frozenset[int] = frozenset()
    uids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Network:
    """A prefix of a network, and this droplet's part in that network."""

    id: int
    gateway: bytes
    bouncers: HopSet = ()
    bounced_here: bool = False
    routed_here: bool = False
    peer: int = 0
    """No network, but addresses of a VPC that this one is peered with: its VNI. Else 0."""


@dataclass(frozen=True, slots=True)
class Vpc:
    """A VPC, and whether this droplet is one of its dividers."""

    dividers: HopSet = ()
    divided_here: bool = False


@dataclass(frozen=True, slots=True)
class Leg:
    """What an endpoint has of one family: its address, and gateway and prefix length of its network."""

    address: bytes
    gateway: bytes
    prefix: int


@dataclass(frozen=True, slots=True)
class Agent:
    """Who one endpoint of this droplet is: what it may send, and who answers it."""

    uid: str
    vni: int
    network: int
    mac: bytes
    tunnel: Tunnel = Tunnel.GENEVE
    """In which it sends."""
    bouncers: HopSet = ()
    bounced_here: bool = False
    routed_here: bool = False
    ipv4: Leg | None = None
    ipv6: Leg | None = None
    wire_vni: int = 0
    """What its packets bear as VNI; 0: the number of its VPC."""
    options: bytes = b""
    """Geneve options of what it sends."""
    group_set: int = 0
    """Number of the groups that it is in, 0 for none: VXLAN's."""
    needs_identity: bool = False
    """The VPC is known by its identity, which is among the options: no header without them will do."""
    routes: Mapping[tuple[bytes, int], str | bytes] = field(default_factory=dict)
    """The table of its network: prefix and length → vpc, blackhole or substrate, or the MAC of an appliance."""
    forwarding: bool = False
    """It is an appliance."""
    sources: Mapping[tuple[bytes, int], str | bytes] = field(default_factory=dict)
    """Of an appliance: what it may send from beside its own addresses, vpc, and what not, blackhole."""
    through_divider: bool = False
    """A divider is to see what its network and others say to one another."""
    member: bool = False
    """Of a scaled endpoint: what it sends may be an answer that bears the service's address."""

    def leg(self, family: int) -> Leg | None:
        """What it has of a family, 4 or 6."""
        return self.ipv4 if family == 4 else self.ipv6


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxied endpoint that the droplet carries; addresses by family, 4 or 6. Its sides have the interfaces
    PROXY_INTERFACE + 2 x slot, and one more."""

    client_vni: int
    source_vni: int
    client: Mapping[int, bytes]
    source: Mapping[int, bytes]
    target: Mapping[int, bytes]
    budget: int = 8


@dataclass(frozen=True, slots=True)
class Droplet:
    """One droplet: who it is, and what it knows."""

    address: bytes
    mac: bytes
    droplets: Mapping[bytes, bytes | None] = field(default_factory=dict)
    """Known senders and next hops, each by the address that names it (substrate.py) → MAC of the next hop on the
    substrate; None until it is resolved."""
    vpcs: Mapping[int, Vpc] = field(default_factory=dict)
    networks: Mapping[tuple[int, bytes, int], Network] = field(default_factory=dict)
    """VNI, prefix, its length in bits."""
    endpoints: Mapping[tuple[int, bytes], Endpoint] = field(default_factory=dict)
    """VNI, address."""
    agents: Mapping[int, Agent] = field(default_factory=dict)
    """By interface: the host side of the endpoint's veth."""
    down: frozenset[bytes] = frozenset()
    """Droplets that answer no probe: passed over wherever another will do."""
    foreign: frozenset[bytes] = frozenset()
    """Droplets without a daemon: nobody there has judged what they send."""
    identities: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    """VNI, tenant and VPC as the wire has them → number of the VPC, for those that share a VNI."""
    address6: bytes = b""
    """Its own IPv6 address, where `address` is IPv4 and it has both."""
    addresses6: Mapping[bytes, bytes] = field(default_factory=dict)
    """The IPv6 addresses of droplets that have both, by the IPv4 address that names them."""
    mtus: Mapping[bytes, int] = field(default_factory=dict)
    """Of the way to a droplet: bytes of the longest IP packet; of others nothing is known."""
    traps: bool = True
    """Whether requests of endpoints for their configuration are left to the daemon."""
    stack_link: bool = False
    """Whether it has a link into its own stack."""
    stack: Mapping[bytes, int] = field(default_factory=dict)
    """Addresses of its endpoints to which that has a route → number of their VPC."""
    icmp_errors: bool = True
    """Whether the virtual router tells senders what became of their packets."""
    flows: Flows = field(default_factory=Flows, compare=False)
    """Changes as packets pass."""

    group_sets: Mapping[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    """Number of a VPC and of a set → ids of its groups. For functions: what forwards packets does not ask."""

    listeners: Mapping[tuple[int, bytes, int, bytes], bytes] = field(default_factory=dict)
    """Number of a VPC, address of a load balancer, protocol and port → the port of its members."""

    public: Mapping[bytes, PublicAddress] = field(default_factory=dict)
    """Those that it attracts."""

    proxies: Mapping[int, Proxy] = field(default_factory=dict)
    """By slot."""
    proxy_flows: ProxyFlows = field(default_factory=ProxyFlows)
    """Of its proxies."""
    policies: Mapping[str, EndpointPolicy] = field(default_factory=dict)
    """Of policed endpoints that live here, by uid."""
    policy_flows: PolicyFlows = field(default_factory=PolicyFlows, compare=False)
    """Changes as packets pass."""
    functions: tuple[Function, ...] = ()
    network_acls: Mapping[tuple[int, bytes, int], NetworkAcl] = field(default_factory=dict)
    """VNI, prefix, its length: of networks that have one, and of those inside of them."""
    acl_vpcs: frozenset[int] = frozenset()
    """VPCs of which some network has one."""
    limits: Limits = field(default_factory=dict, compare=False)
    """Their clocks move as packets pass."""
    uplink: Limiter | None = field(default=None, compare=False)
    """Of its interface."""
    clock: Callable[[], int] = field(default=time.monotonic_ns, compare=False)
    """In nanoseconds: what limits go by."""
    appliances: Mapping[tuple[int, bytes], Endpoint] = field(default_factory=dict)
    """VNI, MAC: those that live here, and those that routes lead to."""

    def find_network(self, vni: int, address: bytes) -> Network | None:
        """The network that the address is in: of several, the one with the longest prefix."""
        found = [
            (length, network)
            for (of, prefix, length), network in self.networks.items()
            if of == vni and in_prefix(address, prefix, length)
        ]
        return max(found, key=lambda each: each[0])[1] if found else None


def in_prefix(address: bytes, prefix: bytes, length: int) -> bool:
    """Whether the first `length` bits of two addresses of one family agree."""
    if len(address) != len(prefix):
        return False
    beyond = 8 * len(address) - length
    return int.from_bytes(address, "big") >> beyond == int.from_bytes(prefix, "big") >> beyond
