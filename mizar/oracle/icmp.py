# SPDX-License-Identifier: Apache-2.0
"""The virtual router's ICMP errors: a packet whose TTL ran out, or that does not fit on the way, is told to its sender.

RFC 792 and 1812 4.3.2 for IPv4, RFC 4443 for IPv6. How many are sent in a time is no question here.
"""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC, SERVICE_MAC
from mizar.oracle.checksum import checksum, pseudo_header
from mizar.oracle.frames import ETHERNET, ICMP, ICMPV6, IPV4, IPV6, Kind, parse_inner
from mizar.oracle.outcome import Packet, RefusedError, Step
from mizar.oracle.substrate import DONT_FRAGMENT, OUTER_TTL, address_to
from mizar.oracle.tables import Agent, Droplet, Network, Tunnel
from mizar.oracle.tunnel import CRITICAL_BIT, GENEVE_ETHERNET, Outer

TOLD = ("TTL_EXPIRED", "PACKET_TOO_BIG", "SERVICE_WITHOUT_MEMBER")
MOST = {4: 576 - 28, 6: 1280 - 48}
"""Bytes of the packet that a message is about, by family."""
QUERIES = (0, 8, 13, 14, 15, 16, 17, 18)
"""Types of ICMP that are no errors."""
FRAGMENT, OTHER_EXTENSIONS = 44, (0, 43, 60)
CONTROL = 0xC0
"""TOS of errors: RFC 1812 4.3.2.5."""


def room_to(here: Droplet, droplet: bytes, option_bytes: int) -> int:
    """The longest inner IP packet that fits on the way to a droplet, behind so many bytes of options; 0: any."""
    ip = 20 if len(address_to(here, droplet) or b"") == 4 else 40
    return max(0, here.mtus.get(droplet, 0) - (ETHERNET + ip + 8 + 8) - option_bytes)


def refuse_too_big(frame: bytes, room: int) -> None:
    """Refuse a packet that is longer than the way has room for; 0: any fits. The frame as it would have gone on."""
    if room and len(frame) > room + ETHERNET:
        raise RefusedError("PACKET_TOO_BIG", room)


def answer_agent(here: Droplet, packet: Packet, sender: Agent, refused: RefusedError) -> bytes | None:
    """The frame that tells an endpoint what became of its packet, if it is told."""
    if refused.reason not in TOLD or not here.icmp_errors:
        return None
    inner = parse_inner(packet.inner)
    leg = sender.leg(4 if inner.kind is Kind.IPV4 else 6)
    if leg is None:
        return None
    message = error_about(inner.frame, leg.gateway, refused.reason, refused.mtu)
    return sender.mac + ROUTER_MAC + inner.frame[12:14] + message if message else None


def answer_tunnel(here: Droplet, packet: Packet, outer: Outer, refused: RefusedError) -> bytes | None:
    """The tunnel packet that brings the message to the sender, as if the droplet before this one had sent it."""
    if refused.reason not in TOLD or not here.icmp_errors:
        return None
    inner = parse_inner(packet.inner)
    leaving = packet.step is Step.TO_DIVIDER
    router = router_of(here, packet.vni, inner.source, inner.destination, leaving=leaving)
    if router is None or len(router.gateway) != len(inner.destination):
        return None
    message = error_about(inner.frame, router.gateway, refused.reason, refused.mtu)
    if not message:
        return None
    carried = ROUTER_MAC + SERVICE_MAC + inner.frame[12:14] + message
    ipv6 = packet.frame[12:14] == struct.pack("!H", IPV6)
    begin = ETHERNET + (40 if ipv6 else 20)
    behind = tunnel_header(outer, packet.identity) + carried
    udp = packet.frame[begin : begin + 4] + struct.pack("!HH", 8 + len(behind), 0)
    return packet.frame[:ETHERNET] + ip_header(packet.frame[ETHERNET:begin], 8 + len(behind)) + udp + behind


def tunnel_header(outer: Outer, identity: tuple[int, int] | None) -> bytes:
    """That of the packet, but what was the packet's own: its options and groups. The VPC's identity stays."""
    vni = outer.body[4:8]
    if outer.tunnel is Tunnel.VXLAN:
        return bytes([8, 0, 0, 0]) + vni
    option = struct.pack("!HBBQQ", 0xFF01, 0x83, 4, *identity) if identity else b""
    return struct.pack("!BBH", len(option) // 4, CRITICAL_BIT if identity else 0, GENEVE_ETHERNET) + vni + option


def ip_header(header: bytes, payload: int) -> bytes:
    """The same outer header in front of so many bytes."""
    if len(header) == 40:
        return header[:4] + struct.pack("!H", payload) + header[6:]
    fields = header[:2] + struct.pack("!H", len(header) + payload) + header[4:10] + bytes(2) + header[12:]
    return fields[:10] + struct.pack("!H", checksum(fields)) + fields[12:]


def router_of(here: Droplet, vni: int, source: bytes, destination: bytes, *, leaving: bool) -> Network | None:
    """Where the packet was: on its way to a divider in its sender's network, else in its destination's."""
    first, second = (source, destination) if leaving else (destination, source)
    return here.find_network(vni, first) or here.find_network(vni, second)


def error_about(frame: bytes, router: bytes, reason: str, mtu: int) -> bytes:
    """The IP packet with the message, or nothing when none is due."""
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    about = frame[ETHERNET:]
    if ethertype == IPV4:
        return icmpv4_about(about[: MOST[4]], router, reason, mtu)
    assert ethertype == IPV6
    return icmpv6_about(about[: MOST[6]], router, reason, mtu)


def icmpv4_about(about: bytes, router: bytes, reason: str, mtu: int) -> bytes:
    """Time exceeded, or fragmentation needed (RFC 1191 4). As much of the packet as 576 bytes have room for."""
    total, fragment = struct.unpack_from("!HxxH", about, 2)
    about = about[: max(total, 20)]
    header, source = (about[0] & 15) * 4, about[12:16]
    if source[0] in (0, 127) or source[0] >= 224 or fragment & 0x1FFF:
        return b""
    if about[9] == ICMP and (len(about) <= header or about[header] not in QUERIES):
        return b""
    messages = {"TTL_EXPIRED": (11, 0, 0), "PACKET_TOO_BIG": (3, 4, mtu), "SERVICE_WITHOUT_MEMBER": (3, 1, 0)}
    kind, code, rest = messages[reason]
    message = struct.pack("!BBHI", kind, code, 0, rest) + about
    message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    fields = (0x45, CONTROL, 20 + len(message), 0, DONT_FRAGMENT, OUTER_TTL, ICMP)
    summed = checksum(struct.pack("!BBHHHBBH4s4s", *fields, 0, router, source))
    return struct.pack("!BBHHHBBH4s4s", *fields, summed, router, source) + message


def icmpv6_about(about: bytes, router: bytes, reason: str, mtu: int) -> bytes:
    """Time exceeded, or packet too big. As much of the packet as 1280 bytes have room for."""
    about = about[: 40 + int.from_bytes(about[4:6], "big")]
    following, source = about[6], about[8:24]
    number = int.from_bytes(source, "big")
    if source[0] == 0xFF or number <= 1 or number >> 32 == 0xFFFF or following in OTHER_EXTENSIONS:
        return b""
    if following == FRAGMENT and (len(about) <= 48 or about[40] in (ICMPV6, *OTHER_EXTENSIONS)):
        return b""
    if following == ICMPV6 and (len(about) <= 40 or about[40] < 128):
        return b""
    messages = {"TTL_EXPIRED": (3, 0, 0), "PACKET_TOO_BIG": (2, 0, mtu), "SERVICE_WITHOUT_MEMBER": (1, 3, 0)}
    kind, code, rest = messages[reason]
    message = struct.pack("!BBHI", kind, code, 0, rest) + about
    summed = checksum(pseudo_header(router, source, len(message), ICMPV6) + message)
    message = message[:2] + struct.pack("!H", summed) + message[4:]
    return struct.pack("!IHBB", 0x60000000, len(message), ICMPV6, OUTER_TTL) + router + source + message
