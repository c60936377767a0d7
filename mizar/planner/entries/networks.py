# SPDX-License-Identifier: Apache-2.0
"""Where packets go: droplets, VPCs with their dividers, networks with their bouncers and routes, and peerings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar


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

    def same(self, other: object) -> bool:
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

    def same(self, other: object) -> bool:
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

    def same(self, other: object) -> bool:
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

    def same(self, other: object) -> bool:
        """Whether a droplet that holds `other` needs no change to hold this."""
        return isinstance(other, PeeringEntry) and self.key == other.key and set(self.prefixes) == set(other.prefixes)
