# SPDX-License-Identifier: Apache-2.0
"""The substrate's IP, of both families: which address of a droplet is spoken to, and the outer headers up to UDP.

A droplet is named by its IPv4 address, or by its IPv6 address where it has no other. Two droplets talk in a family that
both have, IPv4 where they have the choice (contracts/wire.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mizar.oracle.checksum import checksum
from mizar.oracle.outcome import RefusedError
from mizar.oracle.tables import Droplet

UDP = 17
OUTER_TTL = 64
DONT_FRAGMENT, MORE_FRAGMENTS, FRAGMENT_OFFSET = 0x4000, 0x2000, 0x1FFF
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram for this droplet: `payload` from the UDP header on, as long as the IP header says."""

    source: bytes
    service: int
    fragment: bool
    payload: bytes
    trailer: bytes


def own_address(here: Droplet, size: int) -> bytes | None:
    """This droplet's address of a family, 4 or 16 bytes."""
    return next((own for own in (here.address, here.address6) if len(own) == size), None)


def address_to(here: Droplet, droplet: bytes) -> bytes | None:
    """The address at which this droplet writes to another; None where they share no family."""
    addresses = (droplet, here.addresses6.get(droplet, b""))
    return next((address for address in addresses if address and own_address(here, len(address))), None)


def sender_of(here: Droplet, source: bytes) -> bytes | None:
    """The known droplet that has this address."""
    if source in here.droplets:
        return source
    return next((name for name, other in here.addresses6.items() if other == source and name in here.droplets), None)


def parse_ipv4(ip: bytes, here: Droplet) -> Datagram | None:
    """None when it is no UDP datagram for this droplet."""
    if len(ip) < 20:
        raise RefusedError("OUTER_TRUNCATED")
    first, service, total, _, fragment, _, protocol, _, source, destination = struct.unpack_from("!BBHHHBBH4s4s", ip)
    if protocol != UDP or fragment & FRAGMENT_OFFSET or destination != own_address(here, 4):
        return None
    if first != 0x45 or not 20 <= total <= len(ip):
        raise RefusedError("OUTER_IP_HEADER")
    return Datagram(source, service, fragment & MORE_FRAGMENTS != 0, ip[20:total], ip[total:])


def parse_ipv6(ip: bytes, here: Droplet) -> Datagram | None:
    """None when it is no UDP datagram for this droplet."""
    if len(ip) < 40:
        raise RefusedError("OUTER_TRUNCATED")
    first, length, protocol, _, source, destination = struct.unpack_from("!IHBB16s16s", ip)
    if destination != own_address(here, 16):
        return None
    if first >> 28 != 6 or 40 + length > len(ip) or source.startswith(_MAPPED):
        if protocol != UDP:
            return None
        raise RefusedError("OUTER_IP_HEADER")
    payload, fragment = ip[40 : 40 + length], False
    if protocol != UDP:
        if not is_first_fragment(protocol, payload):
            return None
        payload, fragment = payload[8:], True
    return Datagram(source, first >> 20 & 0xFF, fragment, payload, ip[40 + length :])


def is_first_fragment(protocol: int, rest: bytes) -> bool:
    """Behind the outer header stands the first fragment of a UDP datagram. No other extension header is ours."""
    if len(rest) < 8 or rest[0] != UDP or protocol not in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION):
        return False
    (offset,) = struct.unpack_from("!H", rest, 2)
    if protocol == FRAGMENT and offset & 0xFFF8:
        return False
    if protocol == FRAGMENT and offset & 1:
        return True
    raise RefusedError("OUTER_EXTENSION")


def ip_header(here: Droplet, to: bytes, service: int, udp_length: int, source_port: int) -> bytes:
    """In front of a UDP datagram to an address."""
    own = own_address(here, len(to))
    assert own is not None
    if len(to) == 4:
        return ipv4_header(service, 20 + udp_length, own, to)
    first = 6 << 28 | service << 20 | source_port
    return struct.pack("!IHBB16s16s", first, udp_length & 0xFFFF, UDP, OUTER_TTL, own, to)


def ipv4_header(service: int, total: int, source: bytes, destination: bytes, identification: int = 0) -> bytes:
    """DF set, TTL 64, no options."""
    form = "!BBHHHBBH4s4s"
    fields = (0x45, service, total & 0xFFFF, identification, DONT_FRAGMENT, OUTER_TTL, UDP)
    summed = checksum(struct.pack(form, *fields, 0, source, destination))
    return struct.pack(form, *fields, summed, source, destination)


def turned_header(here: Droplet, ip: bytes, datagram_bytes: int, source: bytes, service: int) -> bytes:
    """The header of a datagram, as it goes back. IPv4's identification and IPv6's flow label are the request's."""
    own = own_address(here, len(source))
    assert own is not None
    if len(source) == 4:
        return ipv4_header(service, 20 + datagram_bytes, own, source, int.from_bytes(ip[4:6], "big"))
    return ip[:7] + bytes([OUTER_TTL]) + own + source
