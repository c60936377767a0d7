# SPDX-License-Identifier: Apache-2.0
"""What a droplet holds, as frozen values: droplets, VPCs, networks, endpoints.

Made by `messages` (from requests), `readback` (from the maps) and `batch`; they travel through the whole room.
A value that exists is valid in itself; whether it agrees with the others is for `batch` to judge. Addresses are 4 or
16 bytes in network order; the mapped form exists in map keys and values only (`entries`).
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag
from typing import NamedTuple

from mizar.model.addresses import mac_text, text_of
from mizar.transit.guest.lease import NO_SETTINGS, Settings
from mizar.transit.hopset import PLACES
from mizar.transit.limit_values import NO_QOS, Qos
from mizar.transit.policy_values import (
    NOT_BOUND,
    Binding,
    DeleteNetworkAcl,
    DeletePolicySet,
    PutNetworkAcl,
    PutPolicySet,
)
from mizar.transit.service_values import DeleteService, PutService
from mizar.transit.workloads import Workload

MAX_VNI = (1 << 24) - 1
MAX_NUMBER = (1 << 32) - 1
MAX_GROUP_SET = (1 << 16) - 1
MAX_MEMBERS = PLACES

NO_PLACES = (0,) * PLACES


class Tunnel(IntEnum):
    """enum tunnel_protocol."""

    GENEVE = 1
    VXLAN = 2


class NetworkFlag(IntFlag):
    """enum network_flag."""

    NONE = 0
    BOUNCED_HERE = 1
    ROUTED_HERE = 2
    HAS_ROUTES = 0x200
    THROUGH_DIVIDER = 0x400
    PEERED = 0x100


class EndpointFlag(IntFlag):
    """enum endpoint_flag."""

    NONE = 0
    EGRESS = 1
    STANDBY = 2
    BYPASS = 4
    POLICED = 64
    LIMITED = 128


class RouteAction(IntEnum):
    """enum route_action."""

    VPC = 1
    BLACKHOLE = 2
    SUBSTRATE = 3
    ENDPOINT = 4


class VpcFlag(IntFlag):
    """enum vpc_flag."""

    NONE = 0
    DIVIDED_HERE = 1


@dataclass(frozen=True, slots=True)
class Droplet:
    """A known sender and possible next hop. From `slot` on all is this daemon's, and zero in a request."""

    address: bytes
    name: str = field(default="", compare=False)
    second: bytes = b""
    """Its IPv6 address, when it has one of each family: `address` is IPv4 then."""
    slot: int = 0
    mac: bytes = bytes(6)
    down: bool = False
    mtu: int = 0
    """Of its interface, 0 while nobody has told."""
    reached: bytes = b""
    """The one of its addresses that this droplet writes to; empty when they share no family."""
    foreign: bool = False
    """It has no daemon."""

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """All that it has: one, or one of each family."""
        return (self.address, self.second) if self.second else (self.address,)

    def __str__(self) -> str:
        return f"droplet {text_of(self.address)}"


@dataclass(frozen=True, slots=True)
class Vpc:
    """A VPC and its dividers, in ascending order. Slots are zero in a request.

    `vni` is its number; `identity`, 16 bytes, what tells it from others on `wire_vni`, where the number is no VNI.
    """

    vni: int
    dividers: tuple[bytes, ...]
    slot: int = 0
    hops: int = 0
    places: tuple[int, ...] = NO_PLACES
    flags: VpcFlag = VpcFlag.NONE
    wire_vni: int = 0
    identity: bytes = b""

    def __str__(self) -> str:
        return f"VPC {self.vni}"


BarePrefix = tuple[bytes, int]
"""Address and length in bits of its own family."""


class NextHop(NamedTuple):
    """An appliance, an endpoint that forwards, and the droplet that hosts it."""

    mac: bytes
    host: bytes
    tunnel: Tunnel
    network_id: int


class Route(NamedTuple):
    """Address and length of the prefix, and what becomes of packets to it; `via`: of RouteAction.ENDPOINT."""

    address: bytes
    length: int
    action: RouteAction
    via: NextHop | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix of a network; `length` counts in the address's own family."""

    address: bytes
    length: int
    gateway: bytes

    def holds(self, address: bytes) -> bool:
        """Whether the address lies in the prefix."""
        if len(address) != len(self.address):
            return False
        shift = 8 * len(address) - self.length
        return int.from_bytes(address, "big") >> shift == int.from_bytes(self.address, "big") >> shift

    def __str__(self) -> str:
        return f"{text_of(self.address)}/{self.length}"


@dataclass(frozen=True, slots=True)
class Network:
    """A network, its prefixes (IPv4 first) and its bouncers, in ascending order. `hops` is its slot in hop_sets.

    `routes` is its table, in ascending order.
    """

    vni: int
    id: int
    prefixes: tuple[Prefix, ...]
    bouncers: tuple[bytes, ...]
    hops: int = 0
    places: tuple[int, ...] = NO_PLACES
    flags: NetworkFlag = NetworkFlag.NONE
    dhcp: Settings = NO_SETTINGS
    """What endpoints that ask are told; in memory only."""
    through_divider: bool = False
    """Whether a divider shall see the traffic between it and other networks."""
    routes: tuple[Route, ...] = ()

    @property
    def key(self) -> tuple[int, int]:
        """What names it on a droplet: VNI and id."""
        return (self.vni, self.id)

    def prefix_of(self, address: bytes) -> Prefix | None:
        """The prefix that holds the address."""
        return next((prefix for prefix in self.prefixes if prefix.holds(address)), None)

    def __str__(self) -> str:
        return f"network {self.id} of VPC {self.vni}"


@dataclass(frozen=True, slots=True)
class Peering:
    """Addresses (IPv4 first) of VPC `peer` that packets of VPC `vni` may cross to."""

    vni: int
    peer: int
    prefixes: tuple[BarePrefix, ...]

    @property
    def key(self) -> tuple[int, int]:
        """What names it on a droplet: both VPCs."""
        return (self.vni, self.peer)

    def __str__(self) -> str:
        return f"the peering from VPC {self.vni} to VPC {self.peer}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint by its addresses (IPv4 first), as bouncers know it."""

    vni: int
    network_id: int
    addresses: tuple[bytes, ...]
    mac: bytes
    host: bytes
    tunnel: Tunnel

    def __str__(self) -> str:
        return f"endpoint {','.join(text_of(address) for address in self.addresses)} of VPC {self.vni}"

    def described(self) -> str:
        """With its MAC, for messages about conflicts."""
        return f"{self} ({mac_text(self.mac)})"


ProxyKey = tuple[int, bytes]
"""What names a proxied endpoint on a droplet: VNI and first address."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxied endpoint that this droplet carries: itself, what stands for its clients in the target's VPC, and the
    target's addresses there. `slot` and `instance` are this daemon's; zero in a request."""

    client: Endpoint
    source: Endpoint
    targets: tuple[bytes, ...]
    slot: int = 0
    instance: int = 0

    @property
    def key(self) -> ProxyKey:
        """What names it."""
        return (self.client.vni, self.client.addresses[0])

    @property
    def sides(self) -> tuple[Endpoint, Endpoint]:
        """In the order of enum proxy_side."""
        return (self.client, self.source)

    def same(self, other: "Proxy") -> bool:
        """Whether a request for the other finds it done."""
        return (self.client, self.source, self.targets) == (other.client, other.source, other.targets)

    def placed(self, slot: int, instance: int) -> "Proxy":
        """The same at a place of this droplet."""
        return replace(self, slot=slot, instance=instance)

    def __str__(self) -> str:
        return f"proxied {self.client}"


@dataclass(frozen=True, slots=True)
class Learned:
    """An address of an endpoint of another droplet, found out for the direct path. `network_id` 0: not known here."""

    vni: int
    address: bytes
    network_id: int
    mac: bytes
    host: bytes
    tunnel: Tunnel

    @property
    def key(self) -> tuple[int, bytes]:
        """What names it on a droplet: VNI and address."""
        return (self.vni, self.address)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An endpoint to be made on this droplet. `mtu` 0: the interface's less the tunnel's overhead.

    `options`: Geneve options, as on the wire, of all that it sends; `group_set`: the number of its groups, 0 for none.
    `standby`: it lives on another droplet, and has an interface here but neither addresses nor packets.
    `bypass`: it takes tunnel packets as they are, and its interface is as large as the droplet's.
    """

    uid: str
    endpoint: Endpoint
    workload: Workload
    mtu: int
    options: bytes = b""
    group_set: int = 0
    standby: bool = False
    bypass: bool = False
    forwarding: bool = False
    """An appliance: it may send from other addresses too, of those that `sources` says; routes may lead to it."""
    sources: tuple[Route, ...] = ()
    policy: Binding = NOT_BOUND
    """By which sets of rules it is judged."""
    qos: Qos = NO_QOS
    engine: bytes = field(default=b"", repr=False)
    """What serves behind it: an Engine of contracts/transit.proto, which may hold secrets."""


@dataclass(frozen=True, slots=True)
class Local:
    """An endpoint that lives on this droplet: what was wanted, and where it is."""

    wanted: Wanted
    host_interface: str
    ifindex: int
    slot: int

    @property
    def endpoint(self) -> Endpoint:
        """What its bouncers know of it."""
        return self.wanted.endpoint

    @property
    def flags(self) -> EndpointFlag:
        """How frames are handed to it."""
        flags = EndpointFlag.EGRESS if self.wanted.workload.egress else EndpointFlag.NONE
        if self.wanted.bypass:  # transmitted, so that a program on the other end of the veth sees it
            flags |= EndpointFlag.BYPASS | EndpointFlag.EGRESS
        if self.wanted.policy != NOT_BOUND:
            flags |= EndpointFlag.POLICED
        if self.wanted.qos != NO_QOS:
            flags |= EndpointFlag.LIMITED
        return flags | (EndpointFlag.STANDBY if self.wanted.standby else EndpointFlag.NONE)


@dataclass(frozen=True, slots=True)
class PutDroplet:
    """Change: a droplet is known from now on."""

    droplet: Droplet


@dataclass(frozen=True, slots=True)
class DeleteDroplet:
    """Change: a droplet is no longer known."""

    address: bytes


@dataclass(frozen=True, slots=True)
class PutVpc:
    """Change: a VPC and its dividers."""

    vpc: Vpc


@dataclass(frozen=True, slots=True)
class DeleteVpc:
    """Change: a VPC is gone."""

    vni: int


@dataclass(frozen=True, slots=True)
class PutNetwork:
    """Change: a network, its prefixes and bouncers."""

    network: Network


@dataclass(frozen=True, slots=True)
class DeleteNetwork:
    """Change: a network is gone."""

    vni: int
    id: int


@dataclass(frozen=True, slots=True)
class PutEndpoint:
    """Change: an endpoint of another droplet."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class DeleteEndpoint:
    """Change: an endpoint of another droplet is gone."""

    vni: int
    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PutProxy:
    """Change: a proxied endpoint that this droplet carries."""

    proxy: Proxy


@dataclass(frozen=True, slots=True)
class DeleteProxy:
    """Change: a proxied endpoint is carried here no more."""

    vni: int
    address: bytes


@dataclass(frozen=True, slots=True)
class PutGroupSet:
    """Change: the number of a set of groups means these, from now on."""

    vni: int
    number: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeleteGroupSet:
    """Change: the number means nothing any more."""

    vni: int
    number: int


@dataclass(frozen=True, slots=True)
class PutPeering:
    """Change: packets of one VPC may cross to addresses of another."""

    peering: Peering


@dataclass(frozen=True, slots=True)
class DeletePeering:
    """Change: they may no more."""

    vni: int
    peer: int


Change = (
    PutPolicySet
    | DeletePolicySet
    | PutNetworkAcl
    | DeleteNetworkAcl
    | PutService
    | DeleteService
    | PutDroplet
    | DeleteDroplet
    | PutVpc
    | DeleteVpc
    | PutNetwork
    | DeleteNetwork
    | PutEndpoint
    | DeleteEndpoint
    | PutProxy
    | DeleteProxy
    | PutGroupSet
    | DeleteGroupSet
    | PutPeering
    | DeletePeering
)
