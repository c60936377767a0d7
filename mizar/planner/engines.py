# SPDX-License-Identifier: Apache-2.0
"""What serves behind an endpoint that a function brings, as plain values. Mirrors Engine of contracts/transit.proto.

Made by the manager, kept in the entry of a local endpoint, translated to messages by mizar.manager.translate_engines. A
content may hold secrets: it is never shown, and compared by its digest, which is all that a droplet tells of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass, field
from enum import IntEnum


class Balance(IntEnum):
    """Which server of a backend takes a request; as in contracts/transit.proto."""

    ROUND_ROBIN = 1
    LEAST_CONNECTIONS = 2
    SOURCE = 3


@dataclass(frozen=True, slots=True)
class HttpListenerEntry:
    """A port; `redirect`: to https at that port, 0 for none."""

    port: int
    tls: bool
    redirect: int


@dataclass(frozen=True, slots=True)
class HttpCertificateEntry:
    """PEM; its own certificate first."""

    name: str
    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpRouteEntry:
    """Requests of one host (empty: any) and one path to a backend."""

    host: str
    path: str
    exact: bool
    backend: str


@dataclass(frozen=True, slots=True)
class HttpServerEntry:
    """One that requests are given to."""

    name: str
    address: bytes
    weight: int = 1


@dataclass(frozen=True, slots=True)
class HttpCheckEntry:
    """How servers are checked; `interval_ms` 0: not at all; no path: by a connection."""

    path: str = ""
    interval_ms: int = 0
    timeout_ms: int = 0
    rise: int = 0
    fall: int = 0


@dataclass(frozen=True, slots=True)
class HttpBackendEntry:
    """Servers that share requests."""

    name: str
    port: int
    balance: Balance
    servers: tuple[HttpServerEntry, ...]
    check: HttpCheckEntry
    server_connections: int


@dataclass(frozen=True, slots=True)
class HttpBalancerEntry:
    """An instance of an HTTP load balancer."""

    tenant: str
    name: str
    instance: str
    listeners: tuple[HttpListenerEntry, ...]
    certificates: tuple[HttpCertificateEntry, ...]
    routes: tuple[HttpRouteEntry, ...]
    backends: tuple[HttpBackendEntry, ...]
    retries: int
    connect_ms: int
    client_ms: int
    server_ms: int
    connections: int
    threads: int


Subnet = tuple[bytes, int]
"""Address and length of a prefix."""


@dataclass(frozen=True, slots=True)
class NatForwardEntry:
    """A port of a public address, and whose it is inside."""

    protocol: int
    public: bytes
    port: int
    address: bytes
    target_port: int


@dataclass(frozen=True, slots=True)
class NatPairEntry:
    """Two instances that tell one another of their connections: this one's address, the other's, what both know."""

    own: bytes
    other: bytes
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NatGatewayEntry:
    """An instance of a NAT gateway."""

    tenant: str
    name: str
    instance: str
    public: tuple[bytes, ...]
    inside: tuple[Subnet, ...]
    forwards: tuple[NatForwardEntry, ...]
    connections: int
    never: tuple[Subnet, ...]
    reach: tuple[Subnet, ...]
    standby: bool = False
    pair: NatPairEntry | None = None


@dataclass(frozen=True, slots=True)
class PublicMemberEntry:
    """An endpoint that takes connections; `state` as of a Member in contracts/transit.proto, 0: as it was."""

    addresses: tuple[bytes, ...]
    weight: int
    state: int


@dataclass(frozen=True, slots=True)
class PublicBalancerEntry:
    """The public addresses of a load balancer; `listeners`: protocol, port and the members' port."""

    tenant: str
    name: str
    instance: str
    public: tuple[bytes, ...]
    inside: tuple[Subnet, ...]
    listeners: tuple[tuple[int, int, int], ...]
    members: tuple[PublicMemberEntry, ...]
    by_client: bool
    connections: int
    refused: tuple[Subnet, ...]


Content = HttpBalancerEntry | NatGatewayEntry | PublicBalancerEntry


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """What serves behind an endpoint. Of what a droplet tells `content` is None."""

    digest: bytes
    content: Content | None = field(default=None, repr=False)
    size: int = field(default=0, compare=False)
    """About how many bytes it takes to tell it."""

    @classmethod
    def of(cls, content: Content) -> EngineEntry:
        """With its digest."""
        text = f"{type(content).__name__}{astuple(content)}"
        return cls(hashlib.sha256(text.encode()).digest(), content, len(text))


def same_engine(one: EngineEntry | None, other: EngineEntry | None) -> bool:
    """Whether two are the same to a droplet."""
    return (one.digest if one else b"") == (other.digest if other else b"")
