# SPDX-License-Identifier: Apache-2.0
"""What a droplet holds of a scaled endpoint, as frozen values. Made by `requests` and `services`; see `values`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mizar.transit.values import Tunnel

MAX_MEMBERS = 128
MAX_WEIGHT = 1000
MOST_INSIDE = 1024
MOST_LISTENERS = 16
"""Of a load balancer; each has an entry for each of its addresses."""

ServiceKey = tuple[int, bytes]
"""VPC and first address."""


class MemberState(IntEnum):
    """What a member may get. As member_note.state in contracts/dataplane.h."""

    KEPT = 0
    """In a request alone: as it is held; UNKNOWN for a new member."""
    HEALTHY = 1
    DRAINING = 2
    UNKNOWN = 3
    DOWN = 4


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How members are checked: by a TCP connection, or by an HTTP request for `path`."""

    http: bool
    port: int
    path: str
    interval_s: float
    timeout_s: float
    healthy_after: int
    unhealthy_after: int


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint that takes a part of a service's flows. `slot` is this daemon's; 0 in a request."""

    addresses: tuple[bytes, ...]
    mac: bytes
    host: bytes
    tunnel: Tunnel
    weight: int
    state: MemberState
    slot: int = 0

    @property
    def takes_new(self) -> bool:
        """Whether it may get a new flow."""
        return self.state is MemberState.HEALTHY


@dataclass(frozen=True, order=True, slots=True)
class Listener:
    """What a load balancer takes: TCP (6) or UDP (17) at a port, which is `target` at its members."""

    protocol: int
    port: int
    target: int


@dataclass(frozen=True, slots=True)
class Service:
    """A scaled endpoint: its addresses (IPv4 first) and its members, each once. Slots are 0 in a request.

    `near` is the slot of the table of members on this droplet, for agents; 0 where it is not colocated.
    """

    vni: int
    network_id: int
    addresses: tuple[bytes, ...]
    members: tuple[Member, ...]
    colocated: bool = False
    slot: int = 0
    near: int = 0
    health: HealthCheck | None = None
    """Of the members that live here; in memory only."""
    listeners: tuple[Listener, ...] = ()
    """In order; none: it takes all that members take."""
    by_client: bool = False
    """Members are chosen by the client's address alone."""
    public: tuple[bytes, ...] = ()
    """Its addresses on the substrate, IPv4 first."""
    attracted: bool = False
    """This droplet takes what comes for them, but not from `inside`: prefixes, in order."""
    inside: tuple[tuple[bytes, int], ...] = ()
    vip_option: bool = False
    """To members they are in an option, and tunnel ends without a daemon may be such; agents choose by `near`."""

    @property
    def key(self) -> ServiceKey:
        """What names it on a droplet."""
        return self.vni, self.addresses[0]

    @property
    def all_addresses(self) -> tuple[bytes, ...]:
        """Those of the VPC and those of the substrate."""
        return self.addresses + self.public

    def same(self, asked: Service) -> bool:
        """Whether this is what a request asks for."""
        bare = tuple(replace(member, slot=0) for member in self.members)
        return replace(self, members=bare, slot=0, near=0) == asked


@dataclass(frozen=True, slots=True)
class PutService:
    """Change: a scaled endpoint and its members."""

    service: Service


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Change: a scaled endpoint is gone."""

    vni: int
    address: bytes
