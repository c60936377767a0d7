# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints: their members, how those are checked, and what a load balancer takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar


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

    def same(self, other: object) -> bool:
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
