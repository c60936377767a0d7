# SPDX-License-Identifier: Apache-2.0
"""Changes of an inner frame that keep its length: MAC addresses, and TTL or hop limit."""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC, SERVICE_MAC
from mizar.oracle.checksum import updated
from mizar.oracle.frames import ETHERNET, Inner, Kind
from mizar.oracle.outcome import RefusedError

PUBLIC_MAC = bytes.fromhex("024d5a000006")
"""As a source: a client on the substrate sent it to a load balancer's public address."""
IPV4_TTL, IPV4_CHECKSUM, IPV6_HOP_LIMIT = ETHERNET + 8, ETHERNET + 10, ETHERNET + 7


def replace(frame: bytes, at: int, value: bytes) -> bytes:
    """The frame with other bytes at one place."""
    return frame[:at] + value + frame[at + len(value) :]


def decrement_ttl(inner: Inner) -> bytes:
    """The frame after one virtual hop; refused when that is one too many."""
    if inner.ttl <= 1:
        raise RefusedError("TTL_EXPIRED")
    if inner.kind is Kind.IPV6:
        return replace(inner.frame, IPV6_HOP_LIMIT, bytes([inner.ttl - 1]))
    return set_ipv4_ttl(inner.frame, inner.ttl - 1)


def set_ipv4_ttl(frame: bytes, ttl: int) -> bytes:
    """Another TTL; the header's checksum follows the word that the TTL shares with the protocol."""
    (before,) = struct.unpack_from("!H", frame, IPV4_TTL)
    (old,) = struct.unpack_from("!H", frame, IPV4_CHECKSUM)
    after = ttl << 8 | before & 0xFF
    frame = replace(frame, IPV4_TTL, struct.pack("!H", after))
    return replace(frame, IPV4_CHECKSUM, struct.pack("!H", updated(old, before, after)))


def from_router(frame: bytes, to: bytes) -> bytes:
    """As the virtual router sends a frame to a station."""
    return to + ROUTER_MAC + frame[12:]


def to_host(frame: bytes, to: bytes) -> bytes:
    """The same on the way to its host: what comes from a service goes on saying so."""
    return to + (SERVICE_MAC if frame[6:12] == SERVICE_MAC else ROUTER_MAC) + frame[12:]


def is_final(frame: bytes) -> bool:
    """Whether it was sent to what its sender took for the host of the endpoint (contracts/wire.md, "No circles")."""
    return frame[6:12] in (ROUTER_MAC, PUBLIC_MAC) or (frame[6:12] == SERVICE_MAC and frame[:6] != ROUTER_MAC)
