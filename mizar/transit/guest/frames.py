# SPDX-License-Identifier: Apache-2.0
"""The frames around requests and answers: Ethernet, IP and UDP, as far as they are looked into.

The agent has checked already who sent a frame and to which ports; lengths are checked here once more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mizar.model.addresses import ROUTER_MAC
from mizar.transit.guest.lease import LINK_LOCAL, BadRequestError

IPV4, IPV6 = 0x0800, 0x86DD
UDP, ICMPV6 = 17, 58
DHCP4_SERVER, DHCP4_CLIENT, DHCP6_SERVER, DHCP6_CLIENT = 67, 68, 547, 546
BROADCAST_MAC, BROADCAST = b"\xff" * 6, b"\xff" * 4


@dataclass(frozen=True, slots=True)
class Request:
    """Who asked (MAC, IP), by which protocol, and what: the message behind UDP, or of ICMPv6 as a whole."""

    mac: bytes
    source: bytes
    protocol: int
    port: int
    message: bytes
    hop_limit: int = 0


def parse(frame: bytes) -> Request:
    """A frame that an agent trapped. Raises BadRequestError."""
    try:
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        if ethertype == IPV4:
            return _ipv4(frame, frame[14:])
        if ethertype == IPV6:
            return _ipv6(frame, frame[14:])
    except (struct.error, IndexError) as error:
        raise BadRequestError(f"the frame of {len(frame)} bytes ends early") from error
    raise BadRequestError(f"ethertype {ethertype:#x} asks for nothing")


def _ipv4(frame: bytes, packet: bytes) -> Request:
    first, total, protocol, source = struct.unpack_from("!BxH5xB2x4s", packet)
    header = (first & 15) * 4
    if protocol != UDP or header < 20 or not header + 8 <= total <= len(packet):
        raise BadRequestError("no UDP in IPv4")
    return _udp(frame, source, packet[header:total])


def _ipv6(frame: bytes, packet: bytes) -> Request:
    length, protocol, hop_limit, source = struct.unpack_from("!4xHBB16s", packet)
    payload = packet[40 : 40 + length]
    if len(payload) < length:
        raise BadRequestError("IPv6 is longer than the frame")
    if protocol == ICMPV6:
        return Request(frame[6:12], source, ICMPV6, 0, payload, hop_limit)
    if protocol != UDP or length < 8:
        raise BadRequestError("neither UDP nor ICMPv6 in IPv6")
    return _udp(frame, source, payload)


def _udp(frame: bytes, source: bytes, segment: bytes) -> Request:
    port, length = struct.unpack_from("!2xHH", segment)
    if not 8 <= length <= len(segment):
        raise BadRequestError("UDP is longer than its packet")
    return Request(frame[6:12], source, UDP, port, segment[8:length])


def udp4(to_mac: bytes, source: bytes, to: bytes, message: bytes) -> bytes:
    """A frame from the DHCPv4 server's port to the client's."""
    length = 8 + len(message)
    udp = struct.pack("!HHHH", DHCP4_SERVER, DHCP4_CLIENT, length, 0) + message
    summed = checksum(source + to + struct.pack("!HH", UDP, length) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", summed) + udp[8:]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0x4000, 64, UDP, 0, source, to)
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return to_mac + ROUTER_MAC + struct.pack("!H", IPV4) + header + udp


def udp6(to_mac: bytes, to: bytes, message: bytes) -> bytes:
    """A frame from the DHCPv6 server's port to the client's."""
    udp = struct.pack("!HHHH", DHCP6_SERVER, DHCP6_CLIENT, 8 + len(message), 0) + message
    summed = checksum(_pseudo(to, udp, UDP) + udp) or 0xFFFF
    return _ipv6_frame(to_mac, to, UDP, udp[:6] + struct.pack("!H", summed) + udp[8:])


def icmpv6(to_mac: bytes, to: bytes, message: bytes) -> bytes:
    """A frame with an ICMPv6 message of the router; its checksum field is zero."""
    summed = checksum(_pseudo(to, message, ICMPV6) + message)
    return _ipv6_frame(to_mac, to, ICMPV6, message[:2] + struct.pack("!H", summed) + message[4:])


def _ipv6_frame(to_mac: bytes, to: bytes, protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!IHBB", 0x60000000, len(payload), protocol, 255) + LINK_LOCAL + to
    return to_mac + ROUTER_MAC + struct.pack("!H", IPV6) + header + payload


def _pseudo(to: bytes, payload: bytes, protocol: int) -> bytes:
    return LINK_LOCAL + to + struct.pack("!II", len(payload), protocol)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
