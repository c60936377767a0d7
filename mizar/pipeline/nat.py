# SPDX-License-Identifier: Apache-2.0
"""What a gateway translates, as values: the `nat:` section of a pipeline.

Made by the reader (`nat_reader`) and the builder; used by the interpreter and by whoever fills a data plane's maps.
Each value is valid by itself; whether rules go together is for `nat_validation`. docs/nat.md says what each word does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from mizar.pipeline.ranges import Ranges, Span
from mizar.pipeline.steps import META_BITS, Where

Address = IPv4Address | IPv6Address
MAX_POOL = 4096
MAX_METAS = 65536
MAX_SECONDS = 7 * 86400
MAX_QUOTA = (1 << 32) - 1
PROTOCOLS = ("tcp", "udp")


class Mapping(StrEnum):
    """When an outer end is used again for the same inner end (RFC 4787 section 4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    PER_DESTINATION = "per-destination"


class Filtering(StrEnum):
    """Who outside may send to an inner end that has a mapping (RFC 4787 section 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS = "address"
    ADDRESS_AND_PORT = "address-and-port"


@dataclass(frozen=True, slots=True, kw_only=True)
class Masquerade:
    """Connections from the tenants `inside` leave as tenant `outside`, behind a pool of addresses of one family.

    `ports` are first and last port; ICMP ids are taken from them too. A filter other than by address and port needs
    endpoint-independent mapping: with another, an outer end stands for several inner ones. Raises ValueError.
    """

    inside: Ranges
    outside: int
    addresses: tuple[Address, ...]
    ports: Span = (1024, 65535)
    mapping: Mapping = Mapping.PER_DESTINATION
    filtering: Filtering = Filtering.ADDRESS_AND_PORT
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        _metas("inside", self.inside)
        _meta("outside", self.outside)
        if self.outside in self.inside:
            raise ValueError(f"expected inside and outside to differ, {self.outside:#x} is both")
        if not self.addresses or len({one.version for one in self.addresses}) != 1:
            raise ValueError("addresses: expected at least one address, all of one family")
        if len(self.addresses) > MAX_POOL:
            raise ValueError(f"addresses: expected at most {MAX_POOL}, found {len(self.addresses)}")
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError("addresses: expected each address once")
        for one in self.addresses:
            _unicast("addresses", one)
        _ports("ports", self.ports)
        if self.filtering is not Filtering.ADDRESS_AND_PORT and self.mapping is Mapping.PER_DESTINATION:
            raise ValueError(f"filtering {self.filtering} needs mapping {Mapping.ENDPOINT_INDEPENDENT}")

    @property
    def version(self) -> int:
        """The family of IP, 4 or 6."""
        return self.addresses[0].version


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """One address of a tenant is always one address outside, in both directions. Raises ValueError."""

    inside: int
    inside_address: Address
    outside: int
    outside_address: Address
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        _pair(self.inside, self.inside_address, self.outside, self.outside_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Connections to ports of an address outside go to as many ports of a tenant's address, in order.

    Raises ValueError.
    """

    outside: int
    outside_address: Address
    outside_ports: Span
    inside: int
    inside_address: Address
    inside_ports: Span
    protocols: tuple[str, ...] = PROTOCOLS
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        _pair(self.inside, self.inside_address, self.outside, self.outside_address)
        _ports("outside_ports", self.outside_ports)
        _ports("inside_ports", self.inside_ports)
        counts = [last - first + 1 for first, last in (self.outside_ports, self.inside_ports)]
        if counts[0] != counts[1]:
            raise ValueError(f"expected as many ports inside as outside, found {counts[1]} and {counts[0]}")
        if not self.protocols or not set(self.protocols) <= set(PROTOCOLS):
            raise ValueError(
                f"protocol: expected {' or '.join(PROTOCOLS)}, found {', '.join(self.protocols) or 'none'}"
            )
        object.__setattr__(self, "protocols", tuple(sorted(set(self.protocols))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How many connections each of some tenants may have at once; others may have any number. Raises ValueError."""

    inside: Ranges
    connections: int
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        _metas("inside", self.inside)
        if not 0 <= self.connections <= MAX_QUOTA:
            raise ValueError(f"connections: expected 0 to {MAX_QUOTA}, found {self.connections}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How many seconds a connection may be silent. The defaults are the RFCs' (docs/nat.md). Raises ValueError.

    `tcp_transitory_s` holds while a connection opens or closes; `fragment_s` is how long a first
    fragment is remembered.
    """

    udp_s: int = 300
    icmp_s: int = 60
    tcp_s: int = 7440
    tcp_transitory_s: int = 240
    fragment_s: int = 15
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "where" and not 1 <= value <= MAX_SECONDS:
                raise ValueError(f"{one.name}: expected 1 to {MAX_SECONDS}, found {value}")


Rule = Masquerade | Static | Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class NatRules:
    """The whole section. A new connection is of the first static rule, else forward, else masquerade that fits it."""

    masquerade: tuple[Masquerade, ...] = ()
    static: tuple[Static, ...] = ()
    forward: tuple[Forward, ...] = ()
    quotas: tuple[Quota, ...] = ()
    timeouts: Timeouts = Timeouts()
    where: Where = field(default=Where(), compare=False, repr=False)

    def quota(self, meta: int) -> int | None:
        """How many connections a tenant may have; None: any number."""
        return next((one.connections for one in self.quotas if meta in one.inside), None)

    def rules(self) -> Iterator[tuple[str, Rule]]:
        """Every rule with its place in the section, in the order in which they are asked."""
        for kind in ("static", "forward", "masquerade"):
            for number, rule in enumerate(getattr(self, kind), 1):
                yield f"{kind} {number}", rule


def inside_metas(rule: Rule | Quota) -> Ranges:
    """The tenants that a rule is for."""
    return rule.inside if isinstance(rule.inside, Ranges) else Ranges.of(META_BITS, [rule.inside])


def _pair(inside: int, inside_address: Address, outside: int, outside_address: Address) -> None:
    _meta("inside", inside)
    _meta("outside", outside)
    if inside == outside:
        raise ValueError(f"expected inside and outside to differ, {inside:#x} is both")
    _unicast("inside_address", inside_address)
    _unicast("outside_address", outside_address)
    if inside_address.version != outside_address.version:
        raise ValueError(f"expected addresses of one family, found {inside_address} and {outside_address}")


def _meta(name: str, value: int) -> None:
    if not 0 <= value < 1 << META_BITS:
        raise ValueError(f"{name}: expected metadata of {META_BITS} bits, found {value}")


def _metas(name: str, value: Ranges) -> None:
    count = sum(last - first + 1 for first, last in value.spans)
    if value.width != META_BITS or not 1 <= count <= MAX_METAS:
        raise ValueError(f"{name}: expected 1 to {MAX_METAS} metadata values, found {count}")


def _ports(name: str, ports: Span) -> None:
    if not 1 <= ports[0] <= ports[1] <= 65535:
        raise ValueError(f"{name}: expected ports from 1 to 65535 in order, found {ports[0]}-{ports[1]}")


def _unicast(name: str, address: Address) -> None:
    if address.is_multicast or address.is_unspecified or address.is_loopback or int(address) == 0xFFFFFFFF:
        raise ValueError(f"{name}: expected the address of one station, found {address}")
