# SPDX-License-Identifier: Apache-2.0
"""The outer headers of contracts/wire.md: reading, writing anew for the next hop, turning around to the sender."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mizar.oracle.checksum import checksum
from mizar.oracle.frames import ETHERNET, IPV4
from mizar.oracle.outcome import RefusedError
from mizar.oracle.tables import Droplet, Tunnel

HEADERS = ETHERNET + 20 + 8 + 8
"""Ethernet, IPv4, UDP, and Geneve or VXLAN: all that is put on and taken off, but for Geneve options."""
UDP = 17
OUTER_TTL = 64
DONT_FRAGMENT, MORE_FRAGMENTS, FRAGMENT_OFFSET = 0x4000, 0x2000, 0x1FFF
GENEVE_ETHERNET = 0x6558
VXLAN_VNI_FLAG, VXLAN_GROUP_FLAG = 0x08, 0x80


@dataclass(frozen=True, slots=True)
class Outer:
    """The outer headers of a tunnel packet for this droplet."""

    tunnel: Tunnel
    source: bytes
    source_port: int
    service: int
    """DSCP and ECN."""
    fragment: bool
    udp_length: int
    body: bytes
    """Behind the UDP header, as long as the IP header says."""
    trailer: bytes
    """Behind the IP packet: padding of the frame."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """What a tunnel header says, and what it carries."""

    vni: int
    option_bytes: int
    rest: bytes
    """Options and inner frame."""
    control: bool = False
    """Geneve's O bit."""
    group_set: int = 0
    """Of VXLAN's header; 0: it says nothing."""


def parse_outer(frame: bytes, here: Droplet) -> Outer | None:
    """None when the frame is no tunnel packet for this droplet: not IPv4, not UDP, not ours, not a tunnel's port."""
    if len(frame) < ETHERNET:
        raise RefusedError("OUTER_TRUNCATED")
    if frame[12:14] != struct.pack("!H", IPV4):
        return None
    ip = frame[ETHERNET:]
    if len(ip) < 20:
        raise RefusedError("OUTER_TRUNCATED")
    first, service, total, _, fragment, _, protocol, _, source, destination = struct.unpack_from("!BBHHHBBH4s4s", ip)
    if protocol != UDP or fragment & FRAGMENT_OFFSET or destination != here.address:
        return None
    if first != 0x45 or not 20 <= total <= len(ip):
        raise RefusedError("OUTER_IP_HEADER")
    if total < 28:
        raise RefusedError("OUTER_TRUNCATED")
    source_port, port, length = struct.unpack_from("!HHH", ip, 20)
    if port not in (Tunnel.GENEVE.value, Tunnel.VXLAN.value):
        return None
    more = fragment & MORE_FRAGMENTS != 0
    return Outer(Tunnel(port), source, source_port, service, more, length, ip[28:total], ip[total:])


def parse_tunnel(outer: Outer) -> Overlay:
    """UDP's length and the tunnel's header. Options are left to options.py."""
    if outer.fragment:
        raise RefusedError("OUTER_FRAGMENT")
    if outer.udp_length != 8 + len(outer.body):
        raise RefusedError("OUTER_UDP_LENGTH")
    if len(outer.body) < 8:
        raise RefusedError("TUNNEL_TRUNCATED")
    first, second, protocol, last = struct.unpack_from("!BBHI", outer.body)
    option_bytes, control = 0, False
    if outer.tunnel is Tunnel.GENEVE:  # RFC 8926 3.4
        if first >> 6:
            raise RefusedError("GENEVE_VERSION")
        if protocol != GENEVE_ETHERNET:
            raise RefusedError("GENEVE_PROTOCOL")
        option_bytes, control = (first & 0x3F) * 4, second & 0x80 != 0
    elif not first & VXLAN_VNI_FLAG:  # RFC 7348 5
        raise RefusedError("VXLAN_FLAGS")
    group_set = protocol if outer.tunnel is Tunnel.VXLAN and first & VXLAN_GROUP_FLAG else 0
    return Overlay(last >> 8, option_bytes, outer.body[8:], control, group_set)


def write_outer(
    here: Droplet,
    to: bytes,
    mac: bytes,
    tunnel: Tunnel,
    vni: int,
    port: int,
    body: bytes,
    service: int = 0,
    words: int = 0,
    group_set: int = 0,
) -> bytes:
    """A tunnel packet on its way to the droplet `to`. The first `words` words of `body` are Geneve options.

    `group_set`: what VXLAN's header says of the sender (draft-smith-vxlan-group-policy).
    """
    udp_length = 8 + 8 + len(body)
    if tunnel is Tunnel.GENEVE:
        header = struct.pack("!BBHI", words, 0, GENEVE_ETHERNET, vni << 8)
    else:
        flags = VXLAN_VNI_FLAG | (VXLAN_GROUP_FLAG if group_set else 0)
        header = struct.pack("!BBHI", flags, 0, group_set, vni << 8)
    ethernet = mac + here.mac + struct.pack("!H", IPV4)
    udp = struct.pack("!HHHH", port, tunnel.value, udp_length & 0xFFFF, 0)
    return ethernet + ipv4_header(service, 20 + udp_length, here.address, to) + udp + header + body


def ipv4_header(service: int, total: int, source: bytes, destination: bytes, identification: int = 0) -> bytes:
    """DF set, TTL 64, no options."""
    form = "!BBHHHBBH4s4s"
    fields = (0x45, service, total & 0xFFFF, identification, DONT_FRAGMENT, OUTER_TTL, UDP)
    summed = checksum(struct.pack(form, *fields, 0, source, destination))
    return struct.pack(form, *fields, summed, source, destination)


def turn_around(here: Droplet, frame: bytes, outer: Outer, inner: bytes) -> bytes:
    """An answer, back to the droplet that asked and over the neighbour that its packet came from.

    Identification, ports, tunnel header and options are the request's.
    """
    ethernet = frame[6:12] + frame[:6] + frame[12:14]
    total = 28 + len(outer.body)
    udp = frame[34:40] + bytes(2)
    tunnel = outer.body[: len(outer.body) - len(inner)]
    identification = int.from_bytes(frame[18:20], "big")
    ip = ipv4_header(outer.service, total, here.address, outer.source, identification)
    return ethernet + ip + udp + tunnel + inner + outer.trailer
