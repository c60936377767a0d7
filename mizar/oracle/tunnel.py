# SPDX-License-Identifier: Apache-2.0
"""The outer headers of contracts/wire.md: reading, writing anew for the next hop, turning around to the sender."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mizar.oracle.frames import ETHERNET, IPV4, IPV6
from mizar.oracle.outcome import RefusedError
from mizar.oracle.substrate import address_to, ip_header, own_address, parse_ipv4, parse_ipv6, turned_header
from mizar.oracle.tables import Droplet, Tunnel

GENEVE_ETHERNET, CRITICAL_BIT = 0x6558, 0x40
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
    trace: int = 0
    """Mark of a traced packet; 0: it is none."""


def parse_outer(frame: bytes, here: Droplet) -> Outer | None:
    """None when the frame is no tunnel packet for this droplet: of a family it does not speak, not UDP, not ours, not
    a tunnel's port."""
    if len(frame) < ETHERNET:
        raise RefusedError("OUTER_TRUNCATED")
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    parsers = {IPV4: (4, parse_ipv4), IPV6: (16, parse_ipv6)}
    size, parse = parsers.get(ethertype, (0, parse_ipv4))
    found = parse(frame[ETHERNET:], here) if own_address(here, size) else None
    if found is None:
        return None
    if len(found.payload) < 8:
        raise RefusedError("OUTER_TRUNCATED")
    source_port, port, length = struct.unpack_from("!HHH", found.payload)
    if port not in (Tunnel.GENEVE.value, Tunnel.VXLAN.value):
        return None
    body = found.payload[8:]
    return Outer(
        Tunnel(port), found.source, source_port, found.service, found.fragment, length, body, found.trailer
    )  # fmt: skip


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
    return Overlay(last >> 8, option_bytes, outer.body[8:], control, group_set, last & 0xFF)


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
    trace: int = 0,
    *,
    critical: bool = False,
) -> bytes:
    """A tunnel packet on its way to the droplet `to`. The first `words` words of `body` are Geneve options;
    `critical`: the header says that one of them is.

    `group_set`: what VXLAN's header says of the sender (draft-smith-vxlan-group-policy).
    """
    udp_length = 8 + 8 + len(body)
    if tunnel is Tunnel.GENEVE:
        header = struct.pack("!BBHI", words, CRITICAL_BIT if critical else 0, GENEVE_ETHERNET, vni << 8 | trace)
    else:
        flags = VXLAN_VNI_FLAG | (VXLAN_GROUP_FLAG if group_set else 0)
        header = struct.pack("!BBHI", flags, 0, group_set, vni << 8 | trace)
    address = address_to(here, to)
    assert address is not None
    ethernet = mac + here.mac + struct.pack("!H", IPV4 if len(address) == 4 else IPV6)
    udp = struct.pack("!HHHH", port, tunnel.value, udp_length & 0xFFFF, 0)
    return ethernet + ip_header(here, address, service, udp_length, port) + udp + header + body


def turn_around(here: Droplet, frame: bytes, outer: Outer, inner: bytes) -> bytes:
    """An answer, back to the droplet that asked and over the neighbour that its packet came from.

    Identification or flow label, ports, tunnel header and options are the request's.
    """
    ethernet = frame[6:12] + frame[:6] + frame[12:14]
    ip = turned_header(here, frame[ETHERNET:], 8 + len(outer.body), outer.source, outer.service)
    udp = frame[ETHERNET + len(ip) :][:6] + bytes(2)
    tunnel = outer.body[: len(outer.body) - len(inner)]
    return ethernet + ip + udp + tunnel + inner + outer.trailer
