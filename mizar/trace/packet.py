# SPDX-License-Identifier: Apache-2.0
"""The packet that is asked about, as the source endpoint would send it. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mizar.model.addresses import ROUTER_MAC
from mizar.model.errors import InvalidError
from mizar.oracle.checksum import checksum

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
PROTOCOLS = {"icmp": ICMP, "tcp": TCP, "udp": UDP}
TTL = 64
MOST_BYTES = 9216
_IP = {4: 20, 6: 40}
_TRANSPORT = {ICMP: 8, TCP: 20, UDP: 8, ICMPV6: 8}


@dataclass(frozen=True, slots=True)
class Asked:
    """What kind of packet. `size`: bytes of the IP packet, headers included; 0: as short as it can be, or 100.

    Ports of ICMP: the first is the echo's identifier.
    """

    protocol: str = "icmp"
    source_port: int = 40000
    destination_port: int = 80
    size: int = 0


def build(asked: Asked, mac: bytes, source: bytes, destination: bytes) -> bytes:
    """The frame, from an endpoint with a MAC and address to its virtual router. Raises InvalidError."""
    family = 4 if len(source) == 4 else 6
    protocol = PROTOCOLS.get(asked.protocol)
    if protocol is None:
        raise InvalidError(f"protocol {asked.protocol!r}: expected {', '.join(PROTOCOLS)}")
    if protocol == ICMP and family == 6:
        protocol = ICMPV6
    least = _IP[family] + _TRANSPORT[protocol]
    size = asked.size or max(least, 84 if protocol in (ICMP, ICMPV6) else least)
    if not least <= size <= MOST_BYTES:
        raise InvalidError(f"size {size}: such a packet has {least} to {MOST_BYTES} bytes")
    if not all(0 <= port <= 0xFFFF for port in (asked.source_port, asked.destination_port)):
        raise InvalidError("a port is a number from 0 to 65535")
    payload = _transport(asked, protocol, size - _IP[family])
    payload = _summed(payload, protocol, source, destination)
    if family == 4:
        fields = (0x45, 0, size, 0, 0x4000, TTL, protocol)
        head = struct.pack("!BBHHHBBH4s4s", *fields, 0, source, destination)
        ip = struct.pack("!BBHHHBBH4s4s", *fields, checksum(head), source, destination)
        ethertype = 0x0800
    else:
        ip = struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, TTL, source, destination)
        ethertype = 0x86DD
    return ROUTER_MAC + mac + struct.pack("!H", ethertype) + ip + payload


def _transport(asked: Asked, protocol: int, size: int) -> bytes:
    source, destination = asked.source_port, asked.destination_port
    match protocol:
        case 17:
            head = struct.pack("!HHHH", source, destination, size, 0)
        case 6:
            head = struct.pack("!HHIIBBHHH", source, destination, 1, 0, 5 << 4, 2, 65535, 0, 0)
        case _:
            head = struct.pack("!BBHHH", 8 if protocol == ICMP else 128, 0, 0, source, 1)
    return head + bytes(size - len(head))


def _summed(payload: bytes, protocol: int, source: bytes, destination: bytes) -> bytes:
    at = {ICMP: 2, ICMPV6: 2, TCP: 16, UDP: 6}[protocol]
    pseudo = b"" if protocol == ICMP else source + destination + struct.pack("!II", len(payload), protocol)
    value = checksum(pseudo + payload) or (0xFFFF if protocol == UDP else 0)
    return payload[:at] + struct.pack("!H", value) + payload[at + 2 :]
