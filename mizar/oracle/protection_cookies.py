# SPDX-License-Identifier: Apache-2.0
"""SYN cookies of a protection: the answer that takes the place of a SYN, octet by octet.

Asked by mizar.oracle.protection. The cookie itself, and what connections there are, is the endpoint's own kernel's: who
asks the oracle says what that kernel says. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mizar.model.addresses import from_mapped
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


@dataclass(frozen=True, slots=True)
class Member:
    """Whom a packet is for that bears the address of a service. `own`: its addresses of 16 bytes; `targets`: its ports
    by those of the service, where that is a load balancer."""

    own: tuple[bytes, ...]
    targets: Mapping[int, int] | None = None

    def inside(self, outside: Connection) -> Connection | None:
        """As its kernel gets what is outside; None: it does not. Who reaches itself gets the service as its client."""
        size = len(from_mapped(outside.destination))
        own = next((one for one in self.own if len(from_mapped(one)) == size), None)
        port = outside.destination_port
        target = port if self.targets is None else self.targets.get(port, 0)
        if own is None or not target:
            return None
        client = outside.destination if outside.source == own else outside.source
        return Connection(client, own, outside.source_port, target)


class Kernel(Protocol):
    """What the endpoint's own kernel says."""

    def cookie(self, connection: Connection, segment: bytes) -> tuple[int, int] | None:
        """The size of segments and the sequence number that answer a SYN; None: it has none for it."""

    def has(self, connection: Connection) -> bool:
        """Whether there is one, or the beginning of one."""

    def made(self, connection: Connection, began: int, acknowledged: int) -> bool:
        """Whether a segment brings back a cookie of its own, for a SYN with the number `began`."""


def opens(segment: bytes) -> bool:
    """A SYN that is nothing else."""
    return segment[13] & (SYN | ACK | RST | FIN) == SYN


def answer(
    frame: bytes, network: int, at: int, kernel: Kernel, inside: Connection, *, challenges: bool
) -> bytes | None:
    """The endpoint's answer to a SYN, as long as the SYN was; None: it is none to be answered. `network`, `at`: where
    the IP and the TCP header are. `challenges`: the cookie is what it acknowledges, too, of a SYN without a number."""
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
    cookie = kernel.cookie(inside, segment[:4] + bytes(4) + segment[8:] if challenges else segment)
    if cookie is None:
        return None
    (number,) = struct.unpack_from("!I", segment, 4)
    acknowledged = cookie[1] if challenges else (number + 1) & 0xFFFFFFFF
    made = _reversed(segment, *cookie, acknowledged, sum_ if partial else 0)
    if not partial:
        made = made[:16] + struct.pack("!H", checksum(made + pseudo)) + made[18:]
    return _turned(frame, network, first, size, ipv6=ipv6)[:at] + made + frame[at + length :]


def _carried(frame: bytes, network: int, at: int) -> int:
    """Bytes from the TCP header on, by the IP header."""
    if frame[12:14] == b"\x86\xdd":
        return int(struct.unpack_from("!H", frame, network + 4)[0]) + 40 - (at - network)
    return int(struct.unpack_from("!H", frame, network + 2)[0]) - (at - network)


def _reversed(segment: bytes, mss: int, number: int, acknowledged: int, sum_: int) -> bytes:
    source, destination = struct.unpack_from("!HH", segment)
    head = struct.pack(
        "!HHIIBBHHH",
        *(destination, source, number, acknowledged, segment[12] & 0xF0, SYN | ACK, _WINDOW, sum_, 0),
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
