# SPDX-License-Identifier: Apache-2.0
"""What one endpoint is told about itself. Made by `answering` from the daemon's state; valid in itself."""

from __future__ import annotations

from dataclasses import dataclass

LINK_LOCAL = bytes.fromhex("fe80") + bytes(13) + b"\x01"
"""fe80::1, the virtual router of every network on every link."""


class BadRequestError(Exception):
    """What the endpoint sent is no request that can be answered. Never leaves this room."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a network tells all of its endpoints. `dns`: 4 or 16 bytes each."""

    dns: tuple[bytes, ...] = ()
    domain: str = ""
    lease_s: int = 3600

    def servers(self, size: int) -> tuple[bytes, ...]:
        """The DNS servers whose addresses have so many bytes."""
        return tuple(server for server in self.dns if len(server) == size)


NO_SETTINGS = Settings()


@dataclass(frozen=True, slots=True)
class Leg:
    """What an endpoint has of one family; `prefix` is the network's, host bits zero."""

    address: bytes
    gateway: bytes
    prefix: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Lease:
    """All that one endpoint may be told."""

    mac: bytes
    mtu: int
    ipv4: Leg | None
    ipv6: Leg | None
    settings: Settings


def domain_bytes(domain: str) -> bytes:
    """A domain as DNS writes it (RFC 1035 3.1); empty for none."""
    labels = [label.encode("ascii") for label in domain.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\x00" if labels else b""
