# SPDX-License-Identifier: Apache-2.0
"""SYN cookies of a protection: the answer that takes the place of a SYN, octet by octet.

Asked by mizar.oracle.protection. The cookie itself, and what connections there are, is the endpoint's own kernel's: who
asks the oracle says what that kernel says. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from mizar.oracle.checksum import checksum, ones_sum, updated

FIN, SYN, RST, ACK = 1, 2, 4, 16
_TCP = 20
_WINDOW = 64240


@dataclass(frozen=True, slots=True)
class Connection:
    """By addresses of 16 bytes and ports, as its segments to the endpoint have them."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int


class Kernel(Protocol):
    """What the endpoint's own kernel says."""

    def cookie(self, segment: bytes) -> tuple[int, int] | None:
        """The size of segments and the sequence number that answer a SYN; None: it has none for it."""

    def has(self, connection: Connection) -> bool:
        """Whether there is one, or the beginning of one."""

    def made(self, connection: Connection, acknowledged: int) -> bool:
        """Whether a segment brings back a cookie of its own."""


def opens(segment: bytes) -> bool:
    """A SYN that is nothing else."""
    return segment[13] & (SYN | ACK | RST | FIN) == SYN


def answer(frame: bytes, network: int, at: int, kernel: Kernel) -> bytes | None:
    """The endpoint's answer to a SYN, as long as the SYN was; None: it is none to be answered. `network`, `at`: where
    the IP and the TCP header are."""
    length = (frame[at + 12] >> 4) * 4
    segment = frame[at : at + length]
    if length < _TCP or len(segment) < length or _carried(frame, network, at) != length:
        return None
    ipv6 = frame[12:14] == b"\x86\xdd"
    first, size = (network + 8, 16) if ipv6 else (network + 12, 4)
    pseudo = frame[first : first + 2 * size] + struct.pack("!II", length, 6)
    # A sender on this machine may have left the sum to its interface: then it stands for the pseudo header alone.
    partial = ones_sum(segment + pseudo) != 0xFFFF
    (sum_,) = struct.unpack_from("!H", segment, 16)
    if partial and sum_ != ones_sum(pseudo):
        return None
    cookie = kernel.cookie(segment)
    if cookie is None:
        return None
    made = _reversed(segment, *cookie, sum_ if partial else 0)
    if not partial:
        made = made[:16] + struct.pack("!H", checksum(made + pseudo)) + made[18:]
    return _turned(frame, network, first, size, ipv6=ipv6)[:at] + made + frame[at + length :]


def _carried(frame: bytes, network: int, at: int) -> int:
    """Bytes from the TCP header on, by the IP header."""
    if frame[12:14] == b"\x86\xdd":
        return int(struct.unpack_from("!H", frame, network + 4)[0]) + 40 - (at - network)
    return int(struct.unpack_from("!H", frame, network + 2)[0]) - (at - network)


def _reversed(segment: bytes, mss: int, number: int, sum_: int) -> bytes:
    source, destination, sequence = struct.unpack_from("!HHI", segment)
    head = struct.pack(
        "!HHIIBBHHH",
        *(destination, source, number, (sequence + 1) & 0xFFFFFFFF, segment[12] & 0xF0, SYN | ACK, _WINDOW, sum_, 0),
    )
    option = struct.pack("!BBH", 2, 4, mss) if len(segment) > _TCP else b""
    return (head + option).ljust(len(segment), b"\0")


def _turned(frame: bytes, network: int, first: int, size: int, *, ipv6: bool) -> bytes:
    """Both headers with their addresses in each other's places, and a new time to live."""
    made = bytearray(frame)
    made[0:6], made[6:12] = frame[6:12], frame[0:6]
    made[first : first + size], made[first + size : first + 2 * size] = (
        frame[first + size : first + 2 * size],
        frame[first : first + size],
    )
    if ipv6:
        made[network + 7] = 64
        return bytes(made)
    before, protocol = frame[network + 8], frame[network + 9]
    (old,) = struct.unpack_from("!H", frame, network + 10)
    made[network + 8] = 64
    struct.pack_into("!H", made, network + 10, updated(old, before << 8 | protocol, 64 << 8 | protocol))
    return bytes(made)
