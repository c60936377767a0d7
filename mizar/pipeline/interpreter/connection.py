# SPDX-License-Identifier: Apache-2.0
"""Connections as the gateway knows them: what a packet says of its own, and what tracking answers.

`read` makes a Seen of a frame; a Conntrack answers it. NatTable is the one that comes with Mizar; another (the
kernel's conntrack, a recorded one in a test) needs these two methods and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from mizar.pipeline.description import State
from mizar.pipeline.headers import IP, TRACKED
from mizar.pipeline.interpreter.frame import (
    FRAGMENT_BYTES,
    FRAGMENT_HEADER,
    IPV6_BYTES,
    PROTOCOLS,
    Part,
    field,
    headers,
    is_first_fragment,
)

ICMP_REQUESTS = {"icmp4": (8, 13), "icmp6": (128,)}
ICMP_REPLIES = {"icmp4": (0, 14), "icmp6": (129,)}
ICMP_ERRORS = {"icmp4": (3, 11, 12), "icmp6": (1, 2, 3, 4)}
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a connection, with addresses as numbers.

    `meta` is the tenant's metadata, `version` IP's; ICMP queries have their id as both ports.
    """

    meta: int
    version: int
    protocol: str
    source: int
    destination: int
    source_port: int
    destination_port: int

    def reversed(self) -> Flow:
        """The other direction, with the same metadata."""
        return replace(
            self,
            source=self.destination,
            destination=self.source,
            source_port=self.destination_port,
            destination_port=self.source_port,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet: its flow, and what decides whether it may begin one.

    An ICMP error's flow is that of the packet inside of it, turned round: the direction in which the error travels.
    `datagram` is IP's identification where the packet is a fragment; a `later` one has no ports: its flow has 0.
    Of TCP there are the sequence and acknowledgement numbers, the window, how many bytes it
    carries, and a SYN's window scale (RFC 7323).
    """

    flow: Flow
    is_error: bool = False
    may_begin: bool = True
    tcp_flags: int = 0
    sequence: int = 0
    acknowledgement: int = 0
    window: int = 0
    scale: int | None = None
    payload: int = 0
    datagram: int | None = None
    later: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What tracking says, and the flow that the packet shall become; None where there is no translation."""

    state: State
    becomes: Flow | None = None


class Conntrack(Protocol):
    """Keeps connections."""

    def look(self, seen: Seen, now_ns: int) -> Answer:
        """What is known of a packet; refreshes what it belongs to."""

    def allocate(self, seen: Seen, now_ns: int) -> Flow | None:
        """Makes a connection that begins with this packet; its new flow, or None where no rule or no room is left."""


def read(frame: bytes, meta: int) -> Seen | None:
    """The packet right behind eth; None when it is none that can be tracked."""
    parts = headers(frame)
    if len(parts) < 3 or parts[1].kind not in IP or parts[2].kind not in TRACKED:
        return None
    ip, transport = parts[1], parts[2]
    source, destination = field(frame, ip, "src"), field(frame, ip, "dst")
    kind, version = transport.kind, int(ip.kind[-1])
    if kind == "fragment":
        protocol = PROTOCOLS.get((ip.kind, frame[ip.begin + 9 if version == 4 else ip.end - FRAGMENT_BYTES]))
        if protocol is None:
            return None
        flow = Flow(meta, version, protocol, source, destination, 0, 0)
        return Seen(flow, may_begin=False, datagram=_datagram(frame, ip), later=True)
    datagram = _datagram(frame, ip) if is_first_fragment(frame, ip) else None
    if kind in ("tcp", "udp"):
        ports = field(frame, transport, "src"), field(frame, transport, "dst")
        flow = Flow(meta, version, kind, source, destination, *ports)
        if kind == "udp":
            return Seen(flow, datagram=datagram)
        flags = field(frame, transport, "flags")
        return Seen(
            flow,
            may_begin=flags & (FIN | SYN | RST | ACK) == SYN,
            tcp_flags=flags,
            sequence=_number(frame, transport.begin + 4, 4),
            acknowledgement=_number(frame, transport.begin + 8, 4),
            window=_number(frame, transport.begin + 14, 2),
            scale=_scale(frame[transport.begin + 20 : transport.end]) if flags & SYN else None,
            payload=transport.limit - transport.end,
            datagram=datagram,
        )
    message = field(frame, transport, "type")
    if message in ICMP_ERRORS[kind]:
        inner = None if datagram is not None else embedded(frame, transport)
        if inner is None or inner.flow(frame, meta).source != destination:
            return None
        return Seen(inner.flow(frame, meta).reversed(), is_error=True, may_begin=False)
    if message not in ICMP_REQUESTS[kind] + ICMP_REPLIES[kind]:
        return None
    number = int.from_bytes(frame[transport.begin + 4 : transport.begin + 6], "big")
    return Seen(
        Flow(meta, version, kind, source, destination, number, number),
        may_begin=message in ICMP_REQUESTS[kind],
        datagram=datagram,
    )


def _datagram(frame: bytes, ip: Part) -> int:
    return _number(frame, ip.begin + 4, 2) if ip.kind == "ipv4" else _number(frame, ip.end - 4, 4)


def _number(frame: bytes, at: int, width: int) -> int:
    return int.from_bytes(frame[at : at + width], "big")


def _scale(options: bytes) -> int | None:
    """The shift of the option window scale (RFC 7323 2.2), at most 14; None where there is none that can be read."""
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 >= len(options) or options[at + 1] < 2:
            return None
        if options[at] == 3 and options[at + 1] == 3 and at + 2 < len(options):
            return min(options[at + 2], 14)
        at += options[at + 1]
    return None


@dataclass(frozen=True, slots=True)
class Embedded:
    """The packet inside of an ICMP error: where its IP header and its first eight bytes behind it begin."""

    ip: Part
    transport: int
    protocol: str

    def flow(self, frame: bytes, meta: int) -> Flow:
        """The flow of that packet."""
        at = self.transport
        if self.protocol in ("icmp4", "icmp6"):
            first = second = int.from_bytes(frame[at + 4 : at + 6], "big")
        else:
            first, second = (int.from_bytes(frame[at + n : at + n + 2], "big") for n in (0, 2))
        addresses = field(frame, self.ip, "src"), field(frame, self.ip, "dst")
        return Flow(meta, int(self.ip.kind[-1]), self.protocol, *addresses, first, second)


def embedded(frame: bytes, icmp: Part) -> Embedded | None:
    """What an ICMP error carries, when it is enough to know its flow (RFC 792: header and eight bytes)."""
    at = icmp.end
    version = 4 if icmp.kind == "icmp4" else 6
    if at + 20 > icmp.limit or frame[at] >> 4 != version:
        return None
    length = (frame[at] & 15) * 4 if version == 4 else IPV6_BYTES
    kind, follows = f"ipv{version}", at + (9 if version == 4 else 6)
    if at + length > icmp.limit:
        return None
    if version == 6 and frame[follows] == FRAGMENT_HEADER:
        follows, length = at + length, length + FRAGMENT_BYTES
        if at + length > icmp.limit or _number(frame, follows + 2, 2) & 0xFFF8:
            return None
    protocol = PROTOCOLS.get((kind, frame[follows]))
    transport = at + length
    if length < 20 or transport + 8 > icmp.limit or protocol is None:
        return None
    if version == 4 and int.from_bytes(frame[at + 6 : at + 8], "big") & 0x1FFF:
        return None
    if protocol in ICMP_REQUESTS and frame[transport] not in ICMP_REQUESTS[protocol] + ICMP_REPLIES[protocol]:
        return None
    return Embedded(Part(kind, at, transport, icmp.limit), transport, protocol)
