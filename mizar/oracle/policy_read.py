# SPDX-License-Identifier: Apache-2.0
"""What of a packet a policy asks for: which flow it is of, and what it is called in rules (docs/policy.md).

Called by policy.py alone; never looks anything up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from mizar.oracle.flow import TCP, UDP
from mizar.oracle.frames import ETHERNET, ICMP, ICMPV6, Inner, Kind
from mizar.oracle.policies import Direction

SCTP, FRAGMENT = 132, 44
WITH_PORTS = (TCP, UDP, SCTP)
EXTENSIONS = (0, 43, FRAGMENT, 60)
_NONE = bytes(2)


class Policed(Enum):
    """What kind of packet it is to a policy."""

    FLOW = "of a flow, or the first of one"
    LATER = "a fragment behind the first"
    ALONE = "a message of ICMP"
    ERROR = "an ICMP error"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read."""

    kind: Policed
    protocol: int
    """Of the packet itself."""
    own_port: bytes = _NONE
    """Of the policed endpoint, in network order; an echo's identifier. Of an error: as in what it is about."""
    peer_port: bytes = _NONE
    message: int | None = None
    """Of ICMP: type and code."""
    begins: bool = False
    """Asks for a flow of its own."""
    closing: bool = False
    bare: bool = False
    """TCP without ACK, which none has that has seen an answer."""
    first: bool = False
    """The first of several fragments."""
    about: tuple[bytes, int] | None = None
    """Of an error: the address at the other end, and the protocol, of the packet that it is about."""


def read_policed(inner: Inner, direction: Direction) -> Seen | None:
    """None: what rules ask for cannot be read."""
    protocol, payload, first = inner.protocol, inner.payload, inner.fragment
    if inner.kind is Kind.IPV4 and inner.fragment:
        if struct.unpack_from("!H", inner.frame, ETHERNET + 6)[0] & 0x1FFF:
            return Seen(Policed.LATER, protocol)
    elif inner.kind is Kind.IPV6 and protocol in EXTENSIONS:
        if protocol != FRAGMENT or len(payload) < 8 or payload[0] in EXTENSIONS:
            return None
        protocol, later, payload, first = payload[0], struct.unpack_from("!H", payload, 2)[0], payload[8:], True
        if later & 0xFFF8:
            return Seen(Policed.LATER, protocol)
    if protocol in WITH_PORTS:
        return _segment(protocol, payload, direction, first)
    if protocol == (ICMP if inner.kind is Kind.IPV4 else ICMPV6):
        return _message(inner, protocol, payload, direction, first)
    return Seen(Policed.FLOW, protocol, first=first)


def _ends(direction: Direction, source: bytes, destination: bytes) -> tuple[bytes, bytes]:
    """The endpoint's own, and the peer's."""
    return (destination, source) if direction is Direction.INGRESS else (source, destination)


def _segment(protocol: int, payload: bytes, direction: Direction, first: bool) -> Seen | None:
    if len(payload) < 8:
        return None
    own, peer = _ends(direction, payload[:2], payload[2:4])
    begins = closing = bare = False
    if protocol == TCP:
        if len(payload) < 20 and not first:
            return None
        begins = len(payload) < 20 or payload[13] & 0x12 == 2
        closing = len(payload) >= 20 and payload[13] & 5 != 0
        bare = len(payload) >= 20 and not payload[13] & 0x10
    return Seen(Policed.FLOW, protocol, own, peer, begins=begins, closing=closing, bare=bare, first=first)


def _message(inner: Inner, protocol: int, payload: bytes, direction: Direction, first: bool) -> Seen | None:
    if len(payload) < 8:
        return None
    v4 = inner.kind is Kind.IPV4
    number = int.from_bytes(payload[:2], "big")
    request, reply = (8, 0) if v4 else (128, 129)
    if payload[0] in (request, reply):
        identifier, begins = payload[4:6], payload[0] == request
        return Seen(Policed.FLOW, protocol, identifier, identifier, number, begins, first=first)
    if payload[0] in ((3, 11, 12) if v4 else (1, 2, 3, 4)):
        return _error(inner, protocol, number, payload[8:], direction)
    return Seen(Policed.ALONE, protocol, message=number)


def _error(inner: Inner, protocol: int, number: int, about: bytes, direction: Direction) -> Seen:
    """The packet that it is about went the other way."""
    alone = Seen(Policed.ALONE, protocol, message=number)
    if inner.kind is Kind.IPV4:
        if len(about) < 28 or about[0] & 15 != 5 or struct.unpack_from("!H", about, 6)[0] & 0x1FFF:
            return alone
        of, source, destination, rest = about[9], about[12:16], about[16:20], about[20:28]
    else:
        if len(about) < 48:
            return alone
        of, source, destination, rest = about[6], about[8:24], about[24:40], about[40:48]
    own, other = _ends(direction, destination, source)
    if own != (inner.destination if direction is Direction.INGRESS else inner.source) or of in EXTENSIONS:
        return alone
    if direction is Direction.EGRESS and other != inner.destination:
        return alone
    ports = _NONE, _NONE
    if of in WITH_PORTS:
        ports = _ends(direction, rest[2:4], rest[:2])
    elif of == protocol:
        ports = rest[4:6], rest[4:6]
    return Seen(Policed.ERROR, protocol, *ports, number, about=(other, of))
