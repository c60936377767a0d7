# SPDX-License-Identifier: Apache-2.0
"""Flows of scaled endpoints: what names one, in a packet, in a fragment, and in an ICMP error about one.

Called by service.py. The table itself is part of what a droplet knows (tables.py), and changes as packets pass.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

from mizar.model.addresses import to_mapped
from mizar.oracle.flow import TCP, UDP, mix
from mizar.oracle.frames import ETHERNET, ICMP, ICMPV6, Inner, Kind
from mizar.oracle.tables import PLACES_OF_SERVICE, FlowKey

FRAGMENT = 44
_MOST = (1 << 64) - 1
_LEAST_TCP, _LEAST_UDP, _LEAST_ICMP = 20, 8, 8


@dataclass(frozen=True, slots=True)
class Transport:
    """What of a packet matters to a service. Places are in the frame; 0 for what it does not have."""

    other: bytes
    """The address at the other end than the service's."""
    protocol: int
    ports: bytes = bytes(4)
    """The client's, the service's; an echo's identifier twice; zero for later fragments, and for all of ICMP."""
    checksum_at: int = 0
    """Of what the addresses are part of."""
    embedded_at: int = 0
    """Of an ICMP error: the IP header of the packet that it is about."""
    syn: bool = False
    first: bool = False
    """Of the fragments of a datagram of TCP or UDP."""
    later: bool = False

    @property
    def shared(self) -> bytes:
        """The ports by which a member is chosen: all fragments of a datagram have one."""
        return bytes(4) if self.first or self.later else self.ports

    @property
    def error(self) -> bool:
        """Whether it is an ICMP error."""
        return self.embedded_at != 0


def parse_transport(inner: Inner, *, to_service: bool) -> Transport | None:
    """What a packet to a service, or from a member of one, is part of; None: of nothing that a service takes."""
    other = inner.source if to_service else inner.destination
    protocol, payload, at, fragment, first = inner.protocol, inner.payload, inner.header, inner.fragment, True
    if inner.kind is Kind.IPV4:
        first = not struct.unpack_from("!H", inner.frame, ETHERNET + 6)[0] & 0x1FFF
    elif protocol == FRAGMENT:
        if len(payload) < 8:
            return None
        first = not struct.unpack_from("!H", payload, 2)[0] & 0xFFF8
        protocol, payload, at, fragment = payload[0], payload[8:], at + 8, True
    if protocol in (TCP, UDP):
        least = _LEAST_TCP if protocol == TCP else _LEAST_UDP
        if first and len(payload) < least:
            return None
        check = at + (16 if protocol == TCP else 6) if first else 0
        if not first:
            return Transport(other, protocol, checksum_at=check, later=True)
        ports = payload[:4] if to_service else payload[2:4] + payload[:2]
        begins = protocol == TCP and not fragment and payload[13] & 0x12 == 2
        return Transport(other, protocol, ports, check, syn=begins, first=fragment)
    if protocol == (ICMP if inner.kind is Kind.IPV4 else ICMPV6):
        return _parse_icmp(inner, to_service, Transport(other, protocol), payload, at, fragment, first)
    return None


def _parse_icmp(
    inner: Inner, to_service: bool, found: Transport, payload: bytes, at: int, fragment: bool, first: bool
) -> Transport | None:
    if not first:
        return found
    if len(payload) < _LEAST_ICMP:
        return None
    v4 = inner.kind is Kind.IPV4
    check = 0 if v4 else at + 2
    echo = ((8, 0) if v4 else (128, 129))[0 if to_service else 1]
    if payload[0] == echo:
        ports = bytes(4) if fragment else payload[4:6] * 2
        return Transport(found.other, found.protocol, ports, check)
    if fragment or payload[0] not in ((3, 11, 12) if v4 else (1, 2, 3, 4)):
        return None
    return _parse_embedded(inner, to_service, payload[8:], check, at + 8)


def _parse_embedded(inner: Inner, to_service: bool, about: bytes, check: int, at: int) -> Transport | None:
    """An error goes to the sender of the packet that it is about: to a service, or from a member that was sent it."""
    v4 = inner.kind is Kind.IPV4
    size = 20 if v4 else 40
    if len(about) < size + 8:
        return None
    if v4:
        if about[0] & 15 != 5 or struct.unpack_from("!H", about, 6)[0] & 0x1FFF:
            return None
        protocol, source, destination = about[9], about[12:16], about[16:20]
    else:
        protocol, source, destination = about[6], about[8:24], about[24:40]
    own, other = (source, destination) if to_service else (destination, source)
    if own != (inner.destination if to_service else inner.source) or not (to_service or other == inner.destination):
        return None
    rest = about[size:]
    if protocol in (TCP, UDP):
        ports = rest[2:4] + rest[:2] if to_service else rest[:4]
    elif protocol == (ICMP if v4 else ICMPV6):
        ports = rest[4:6] * 2
    else:
        return None
    return Transport(other, protocol, ports, check, at)


def place_of(value: int) -> int:
    """The place of a service's table that a hash names."""
    return (value & 0xFFFFFFFF) * PLACES_OF_SERVICE >> 32


def flow_hash(key: FlowKey, *, by_client: bool = False) -> int:
    """Of the five fields of a flow, or of its addresses. Words are read in the order of the machine, as in flow.py."""
    client, server = _words(key.client), _words(key.server)
    value = 0 if by_client else int.from_bytes(key.ports, sys.byteorder) << 32 | key.protocol
    if len(key.client) == 16:
        value = mix(value ^ (client[0] << 32 | client[1])) + (server[0] << 32 | server[1])
        value = mix(value & _MOST ^ client[2]) + server[2]
    return mix(mix(value & _MOST) ^ (client[3] << 32 | server[3]))


def _words(address: bytes) -> list[int]:
    whole = to_mapped(address)
    return [int.from_bytes(whole[at : at + 4], sys.byteorder) for at in range(0, 16, 4)]
