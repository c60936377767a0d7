# SPDX-License-Identifier: Apache-2.0
"""The hash of a flow, which becomes the outer source port and picks the member of every hop set (contracts/wire.md).

Which hash it is, the contract leaves open; to predict whole frames the oracle has the data plane's own. It reads words
in the order of the machine, as the data plane does, so ports differ between machines of different byte order.
"""

from __future__ import annotations

import sys
from enum import IntEnum

from mizar.oracle.frames import Inner
from mizar.oracle.tables import PLACES, HopSet

TCP, UDP = 6, 17
_ALL = (1 << 64) - 1


class Hop(IntEnum):
    """The lowest of the four bits of the source port that pick the member, by the kind of hop."""

    TO_BOUNCER = 0
    TO_DIVIDER = 4
    DIVIDE = 8


def flow_source_port(inner: Inner) -> int:
    """In the dynamic range of RFC 6335; the same for all packets of a flow, and for all fragments of a datagram."""
    value = inner.protocol
    if inner.protocol in (TCP, UDP) and not inner.fragment and len(inner.payload) >= 4:
        value |= int.from_bytes(inner.payload[:4], sys.byteorder) << 32
    source, destination = _words(inner.source), _words(inner.destination)
    if len(source) == 4:
        value = mix(value ^ (source[0] << 32 | source[1])) + (destination[0] << 32 | destination[1])
        value = mix(value & _ALL ^ source[2]) + destination[2]
    value = mix(value & _ALL) ^ (source[-1] << 32 | destination[-1])
    return 0xC000 | mix(value) & 0x3FFF


def pick(hop_set: HopSet, source_port: int, hop: Hop, down: frozenset[bytes]) -> bytes | None:
    """The member of a hop set that takes a flow: of those that are not down, unless all are."""
    if not hop_set:
        return None
    bits = source_port >> hop
    member = hop_set[bits % PLACES]
    if member not in down:
        return member
    others = (hop_set[(bits + turn * (bits >> 4 | 1)) % PLACES] for turn in range(1, PLACES))
    return next((other for other in others if other and other not in down), member)


def _words(address: bytes) -> list[int]:
    return [int.from_bytes(address[at : at + 4], sys.byteorder) for at in range(0, len(address), 4)]


def mix(value: int) -> int:
    """The finalizer of MurmurHash3, 64 bits."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & _ALL
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & _ALL
    return value ^ value >> 33
