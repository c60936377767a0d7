# SPDX-License-Identifier: Apache-2.0
"""The Internet checksum: computed (RFC 1071) and updated for a changed word (RFC 1624, equation 3)."""

from __future__ import annotations

import struct


def ones_sum(data: bytes) -> int:
    """One's complement sum of 16-bit words, the last filled up with zero: 0xFFFF where a checksum within is right."""
    padded = data + bytes(len(data) % 2)
    return _fold(sum(word for (word,) in struct.iter_unpack("!H", padded)))


def checksum(data: bytes) -> int:
    """The checksum of data whose checksum field is zero."""
    return 0xFFFF - ones_sum(data)


def updated(old: int, before: int, after: int) -> int:
    """HC' = ~(~HC + ~m + m'): a wrong checksum stays wrong."""
    return 0xFFFF - _fold((0xFFFF - old) + (0xFFFF - before) + after)


def adjusted(old: int, before: bytes, after: bytes) -> int:
    """The same for many words; the lengths are even."""
    gone = sum(0xFFFF - word for (word,) in struct.iter_unpack("!H", before))
    come = sum(word for (word,) in struct.iter_unpack("!H", after))
    return 0xFFFF - _fold((0xFFFF - old) + gone + come)


def pseudo_header(source: bytes, destination: bytes, length: int, protocol: int) -> bytes:
    """Of IPv6 (RFC 8200 8.1), for the checksum of what it carries."""
    return source + destination + struct.pack("!I3xB", length, protocol)


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
