# SPDX-License-Identifier: Apache-2.0
"""Reading of inner frames: Ethernet, then IPv4, IPv6 or ARP, as far as the data plane looks into them.

Called by agent and transit for the same frame. Raises RefusedError with the reason; never looks anything up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from mizar.oracle.outcome import RefusedError

ETHERNET = 14
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ICMP, ICMPV6 = 1, 58
_ND_MESSAGES = range(133, 138)
_FRAGMENT = 44
_EXTENSIONS = (0, 43, _FRAGMENT, 60)


class Kind(Enum):
    """What the inner frame is."""

    ARP = "ARP"
    IPV4 = "IPv4"
    IPV6 = "IPv6"
    ND = "neighbour discovery"


@dataclass(frozen=True, slots=True)
class Inner:
    """An inner frame that is sound as far as its kind goes."""

    kind: Kind
    frame: bytes
    """All of it: what may stand behind its end as padding stays with it."""
    source: bytes
    destination: bytes
    protocol: int = 0
    """IPv4's protocol, or IPv6's first next header."""
    ttl: int = 0
    fragment: bool = False
    """IPv4 only: IPv6's fragment header is not looked into."""
    header: int = 0
    """Where the IP header ends and its payload begins, in the frame."""
    payload: bytes = b""
    """As long as the IP header says."""

    @property
    def ether_destination(self) -> bytes:
        """Destination MAC."""
        return self.frame[:6]

    @property
    def ether_source(self) -> bytes:
        """Source MAC."""
        return self.frame[6:12]


def parse_inner(frame: bytes) -> Inner:
    """The inner frame, or why it is refused."""
    if len(frame) < ETHERNET:
        raise RefusedError("INNER_TRUNCATED")
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    parsers = {IPV4: parse_ipv4, IPV6: parse_ipv6, ARP: parse_arp}
    if ethertype not in parsers:
        raise RefusedError("INNER_ETHERTYPE")
    return parsers[ethertype](frame, frame[ETHERNET:])


def parse_arp(frame: bytes, arp: bytes) -> Inner:
    """RFC 826: a request for an IPv4 address over Ethernet. Sender and target are its source and destination."""
    if len(arp) < 28:
        raise RefusedError("INNER_TRUNCATED")
    if struct.unpack_from("!HHBBH", arp) != (1, IPV4, 6, 4, 1):
        raise RefusedError("ARP_MALFORMED")
    return Inner(Kind.ARP, frame, source=arp[14:18], destination=arp[24:28])


def parse_ipv4(frame: bytes, packet: bytes) -> Inner:
    """RFC 791, with options."""
    if len(packet) < 20:
        raise RefusedError("INNER_TRUNCATED")
    first, _, total, _, fragment, ttl, protocol, _, source, destination = struct.unpack_from("!BBHHHBBH4s4s", packet)
    version, header = first >> 4, (first & 15) * 4
    if version != 4 or header < 20:
        raise RefusedError("INNER_IP_HEADER")
    if not header <= total <= len(packet):
        raise RefusedError("INNER_IP_LENGTH")
    if is_group(frame) or destination[0] >= 224:  # 224.0.0.0/4, the reserved 240.0.0.0/4 and the limited broadcast
        raise RefusedError("INNER_MULTICAST")
    return Inner(
        Kind.IPV4, frame, source, destination, protocol, ttl,
        fragment=fragment & 0x3FFF != 0, header=ETHERNET + header, payload=packet[header:total],
    )  # fmt: skip


def parse_ipv6(frame: bytes, packet: bytes) -> Inner:
    """RFC 8200. A message of neighbour discovery is told from other packets, because it goes to groups too."""
    if len(packet) < 40:
        raise RefusedError("INNER_TRUNCATED")
    first, length, protocol, ttl, source, destination = struct.unpack_from("!B3xHBB16s16s", packet)
    mapped = bytes(10) + b"\xff\xff"  # belongs on no wire, RFC 4291 2.5.5.2
    if first >> 4 != 6 or destination.startswith(mapped) or source.startswith(mapped):
        raise RefusedError("INNER_IP_HEADER")
    if 40 + length > len(packet):
        raise RefusedError("INNER_IP_LENGTH")
    payload = packet[40 : 40 + length]
    kind = Kind.IPV6
    if protocol == ICMPV6:
        if len(payload) < 8:
            raise RefusedError("INNER_TRUNCATED")
        if payload[0] in _ND_MESSAGES:
            kind = Kind.ND
    if kind is not Kind.ND and (is_group(frame) or destination[0] == 0xFF):
        raise RefusedError("INNER_MULTICAST")
    if protocol != ICMPV6:
        refuse_hidden_discovery(protocol, payload)
    return Inner(kind, frame, source, destination, protocol, ttl, header=ETHERNET + 40, payload=payload)


def refuse_hidden_discovery(protocol: int, rest: bytes) -> None:
    """Neighbour discovery behind extension headers (RFC 8200 4) is malformed; of these a packet bears at most seven."""
    for _ in range(9):
        if protocol == ICMPV6 and rest and rest[0] in _ND_MESSAGES:
            raise RefusedError("ND_MALFORMED")
        if protocol not in _EXTENSIONS:
            return
        if len(rest) < 4:
            raise RefusedError("INNER_TRUNCATED")
        if protocol == _FRAGMENT and struct.unpack_from("!H", rest, 2)[0] & 0xFFF8:
            return  # a later fragment
        size = 8 if protocol == _FRAGMENT else (rest[1] + 1) * 8
        if len(rest) < size:
            raise RefusedError("INNER_TRUNCATED")
        protocol, rest = rest[0], rest[size:]
    raise RefusedError("INNER_IP_HEADER")


def is_group(frame: bytes) -> bool:
    """Whether the frame is sent to a group of stations or to all."""
    return frame[0] & 1 == 1
