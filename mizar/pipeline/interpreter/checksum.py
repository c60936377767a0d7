# SPDX-License-Identifier: Apache-2.0
"""Internet checksums: whole (RFC 1071) and by difference (RFC 1624, equation 3). Pure."""

from __future__ import annotations


def internet(data: bytes) -> int:
    """The checksum of data whose own checksum field is 0."""
    return ~_folded(_sum(data)) & 0xFFFF


def updated(checksum: int, old: bytes, new: bytes) -> int:
    """The checksum after `old` (of even length, at an even place) became `new`: ~(~HC + ~m + m')."""
    total = ~checksum & 0xFFFF
    for at in range(0, len(old), 2):
        total += ~int.from_bytes(old[at : at + 2], "big") & 0xFFFF
    total += _sum(new)
    return ~_folded(total) & 0xFFFF


def _sum(data: bytes) -> int:
    padded = data + b"\0" if len(data) % 2 else data
    return sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))


def _folded(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
