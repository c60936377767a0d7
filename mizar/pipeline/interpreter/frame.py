# SPDX-License-Identifier: Apache-2.0
"""Frames as bytes: which headers stand in them, their fields, and taking headers off and putting them on.

A header that is cut off or contradicts itself is not there, and neither is anything behind it. Called by the machine
and by NAT. Never keeps state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mizar.pipeline.headers import GENEVE_PORT, HEADERS, ND_TYPES, VXLAN_PORT
from mizar.pipeline.pattern import MAX_HEADERS

ETHERTYPES = {0x8100: "vlan", 0x0800: "ipv4", 0x86DD: "ipv6", 0x0806: "arp"}
IPV6_BYTES, FRAGMENT_BYTES = 40, 8
FRAGMENT_HEADER = 44
"""The next header that says that IPv6's fragment header follows (RFC 8200 4.5)."""
PROTOCOLS = {("ipv4", 6): "tcp", ("ipv4", 17): "udp", ("ipv4", 1): "icmp4"} | {
    ("ipv6", 6): "tcp",
    ("ipv6", 17): "udp",
    ("ipv6", 58): "icmp6",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A header in a frame: its kind, where it begins and where what it carries begins; `limit` ends its packet."""

    kind: str
    begin: int
    end: int
    limit: int


def headers(frame: bytes) -> tuple[Part, ...]:
    """The headers from the outside in, as far as they can be understood, tunnels included."""
    parts: list[Part] = []
    kind: str | None = "eth"
    begin, limit = 0, len(frame)
    while kind is not None and len(parts) < MAX_HEADERS:
        found = _PARSERS[kind](frame, begin, limit)
        if kind == "udp" and is_first_fragment(frame, parts[-1]):
            found = _first_of_udp(frame, begin, limit)
        elif kind == "udp" and found is not None and has_fragment_header(parts[-1]):
            found = (*found[:2], None)
        if found is None:
            break
        end, limit, following = found
        if kind == "icmp6" and frame[begin] in ND_TYPES:
            kind = "nd"
        parts.append(Part(kind, begin, end, limit))
        kind, begin = following, end
    return tuple(parts)


def shape(frame: bytes) -> tuple[str, ...]:
    """The kinds of the headers from the outside in."""
    return tuple(part.kind for part in headers(frame))


def has_fragment_header(ip: Part) -> bool:
    """Whether IPv6's fragment header stands behind an IP header; it belongs to that header here."""
    return ip.kind == "ipv6" and ip.end > ip.begin + IPV6_BYTES


def is_first_fragment(frame: bytes, ip: Part) -> bool:
    """Whether more fragments follow a packet that has a transport header."""
    if ip.kind == "ipv4":
        return bool(frame[ip.begin + 6] & 0x20)
    return has_fragment_header(ip) and bool(frame[ip.end - 5] & 1)


def field(frame: bytes, part: Part, name: str) -> int:
    """A field of a header as a number."""
    place = HEADERS[part.kind].fields[name]
    first, last = part.begin + place.bit // 8, part.begin + (place.bit + place.width + 7) // 8
    spare = (last - part.begin) * 8 - place.bit - place.width
    return int.from_bytes(frame[first:last], "big") >> spare & (1 << place.width) - 1


def with_field(frame: bytes, part: Part, name: str, value: int) -> bytes:
    """The frame with another value in a field; no checksum is touched."""
    place = HEADERS[part.kind].fields[name]
    first, last = part.begin + place.bit // 8, part.begin + (place.bit + place.width + 7) // 8
    spare = (last - part.begin) * 8 - place.bit - place.width
    mask = ((1 << place.width) - 1) << spare
    old = int.from_bytes(frame[first:last], "big")
    new = old & ~mask | value << spare & mask
    return frame[:first] + new.to_bytes(last - first, "big") + frame[last:]


Found = tuple[int, int, str | None] | None
"""Where the header ends, where its packet ends, and the kind that follows (None: nothing that is known)."""


def _eth(frame: bytes, at: int, limit: int) -> Found:
    if at + 14 > limit:
        return None
    return at + 14, limit, ETHERTYPES.get(int.from_bytes(frame[at + 12 : at + 14], "big"))


def _vlan(frame: bytes, at: int, limit: int) -> Found:
    if at + 4 > limit:
        return None
    return at + 4, limit, ETHERTYPES.get(int.from_bytes(frame[at + 2 : at + 4], "big"))


def _arp(frame: bytes, at: int, limit: int) -> Found:
    """Ethernet and IPv4 alone (RFC 826 with hardware 1, protocol 0x0800, lengths 6 and 4)."""
    if at + 28 > limit or frame[at : at + 6] != b"\x00\x01\x08\x00\x06\x04":
        return None
    return at + 28, limit, None


def _ipv4(frame: bytes, at: int, limit: int) -> Found:
    if at + 20 > limit or frame[at] >> 4 != 4:
        return None
    length, total = (frame[at] & 15) * 4, int.from_bytes(frame[at + 2 : at + 4], "big")
    if length < 20 or total < length or at + total > limit:
        return None
    later_fragment = int.from_bytes(frame[at + 6 : at + 8], "big") & 0x1FFF
    return at + length, at + total, "fragment" if later_fragment else PROTOCOLS.get(("ipv4", frame[at + 9]))


def _fragment(_frame: bytes, at: int, limit: int) -> Found:
    """What a later fragment carries: no header that anybody could read."""
    return at, limit, None


def _first_of_udp(frame: bytes, at: int, limit: int) -> Found:
    """Of a datagram in fragments the first has the header, but not all bytes that it counts, and no tunnel."""
    if at + 8 > limit or int.from_bytes(frame[at + 4 : at + 6], "big") < 8:
        return None
    return at + 8, limit, None


def _ipv6(frame: bytes, at: int, limit: int) -> Found:
    """A fragment header right behind is part of it; other extension headers are not looked behind."""
    if at + IPV6_BYTES > limit or frame[at] >> 4 != 6:
        return None
    end, total = at + IPV6_BYTES, IPV6_BYTES + int.from_bytes(frame[at + 4 : at + 6], "big")
    if at + total > limit:
        return None
    if frame[at + 6] != FRAGMENT_HEADER or end + FRAGMENT_BYTES > at + total:
        return end, at + total, PROTOCOLS.get(("ipv6", frame[at + 6]))
    later_fragment = int.from_bytes(frame[end + 2 : end + 4], "big") & 0xFFF8
    return end + FRAGMENT_BYTES, at + total, "fragment" if later_fragment else PROTOCOLS.get(("ipv6", frame[end]))


def _tcp(frame: bytes, at: int, limit: int) -> Found:
    if at + 20 > limit:
        return None
    length = (frame[at + 12] >> 4) * 4
    return (at + length, limit, None) if length >= 20 and at + length <= limit else None


def _udp(frame: bytes, at: int, limit: int) -> Found:
    if at + 8 > limit:
        return None
    length = int.from_bytes(frame[at + 4 : at + 6], "big")
    if length < 8 or at + length > limit:
        return None
    port = int.from_bytes(frame[at + 2 : at + 4], "big")
    return at + 8, at + length, {VXLAN_PORT: "vxlan", GENEVE_PORT: "geneve"}.get(port)


def _icmp(_frame: bytes, at: int, limit: int) -> Found:
    return (at + 8, limit, None) if at + 8 <= limit else None


def _vxlan(frame: bytes, at: int, limit: int) -> Found:
    """The I flag has to be set, and an inner Ethernet header has to be there (RFC 7348)."""
    return (at + 8, limit, "eth") if at + 22 <= limit and frame[at] & 8 else None


def _geneve(frame: bytes, at: int, limit: int) -> Found:
    """Version 0, Ethernet inside, no critical option (RFC 8926): options are taken off unread."""
    if at + 8 > limit or frame[at] >> 6 or frame[at + 1] & 0x40 or frame[at + 2 : at + 4] != b"\x65\x58":
        return None
    end = at + 8 + (frame[at] & 63) * 4
    return (end, limit, "eth") if end + 14 <= limit else None


_PARSERS: dict[str, Callable[[bytes, int, int], Found]] = {
    "eth": _eth,
    "vlan": _vlan,
    "arp": _arp,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "fragment": _fragment,
    "tcp": _tcp,
    "udp": _udp,
    "icmp4": _icmp,
    "icmp6": _icmp,
    "vxlan": _vxlan,
    "geneve": _geneve,
}
