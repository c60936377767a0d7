# SPDX-License-Identifier: Apache-2.0
"""What the management plane knows beside the maps: names of what tables hold as numbers, and how things should be.

A protocol for whoever asks for an explanation, and the values that it answers with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Known:
    """An endpoint as it should be. `host`: address of its droplet, empty for one that lives on none."""

    name: str
    kind: str
    host: bytes
    mac: bytes


class Names(Protocol):
    """Answers of whoever holds the desired state; an empty text for what it does not know."""

    def droplet(self, address: bytes) -> str:
        """Name of a droplet."""
        ...

    def vpc(self, number: int) -> str:
        """`tenant/name` of a VPC."""
        ...

    def network(self, number: int, network: int) -> str:
        """`tenant/name` of a network, by the number of its VPC and its id."""
        ...

    def endpoint(self, number: int, address: bytes) -> Known | None:
        """Who should have an address in a VPC."""
        ...

    def members(self, number: int, network: int) -> frozenset[bytes]:
        """Which droplets should bounce a network, or, for id 0, divide a VPC."""
        ...

    def verdict(self, number: int, address: bytes, rule: int, *, egress: bool) -> str:
        """Who decided about a packet of the endpoint with an address: a rule of a policy by its number, or, for 0,
        that no rule of its policies does."""
        ...

    def behind(self, number: int, address: bytes, rule: int, peer: bytes, protocol: int, port: int) -> str:
        """The rule that would have allowed what `rule` denies, if it stood first; empty where none would."""
        ...

    def carrier(self, number: int, address: bytes) -> str:
        """Which endpoint of a VPC carries the VPN connection, or the NAT gateway, to an address outside, and whether
        the connection is up; or empty."""
        ...

    def member(self, number: int, mac: bytes) -> str:
        """`tenant/name` of the endpoint of a VPC that has a MAC."""
        ...

    def attracting(self, address: bytes) -> tuple[str, ...]:
        """Names of the droplets that should attract a public address."""
        ...

    def mtu(self, one: bytes, other: bytes) -> int:
        """Bytes of the longest IP packet that the interfaces of two droplets have room for; 0: not known."""
        ...
