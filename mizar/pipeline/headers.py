# SPDX-License-Identifier: Apache-2.0
"""The headers that a pipeline knows: their fields, and which may follow which.

The one list that patterns, the validator, the interpreter and every target share. Kinds are disjoint: a neighbour
discovery message is `nd` and never `icmp6`; `icmp6` is every other ICMPv6 message. A later fragment is `fragment`,
which has no fields; IPv6's fragment header belongs to `ipv6`. Never touches a packet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

VXLAN_PORT = 4789
GENEVE_PORT = 6081
ND_TYPES = range(133, 138)
"""ICMPv6 types of neighbour discovery: router and neighbour solicitation and advertisement, redirect (RFC 4861)."""


class Notation(Enum):
    """How people write a field's value."""

    NUMBER = "a number"
    MAC = "a MAC address"
    IPV4 = "an IPv4 address or prefix"
    IPV6 = "an IPv6 address or prefix"


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its first bit in the header, counted from the header's first bit on the wire, and its width in bits."""

    bit: int
    width: int
    notation: Notation = Notation.NUMBER


@dataclass(frozen=True, slots=True)
class Header:
    """A kind of header. `main` is the field that a value without a field's name means, as 2 in `vlan 2`."""

    name: str
    fields: Mapping[str, Field]
    followers: tuple[str, ...] = ()
    main: str = ""


_PORTS = {"src": Field(0, 16), "dst": Field(16, 16)}
_ICMP = {"type": Field(0, 8), "code": Field(8, 8)}
_AFTER_ETH = ("vlan", "ipv4", "ipv6", "arp")
_MACS = {"dst": Field(0, 48, Notation.MAC), "src": Field(48, 48, Notation.MAC)}
_IPV4 = {
    "dscp": Field(8, 6),
    "ttl": Field(64, 8),
    "src": Field(96, 32, Notation.IPV4),
    "dst": Field(128, 32, Notation.IPV4),
}
_IPV6 = {
    "dscp": Field(4, 6),
    "ttl": Field(56, 8),
    "src": Field(64, 128, Notation.IPV6),
    "dst": Field(192, 128, Notation.IPV6),
}

HEADERS: Mapping[str, Header] = {
    header.name: header
    for header in (
        Header("eth", _MACS, _AFTER_ETH),
        Header("vlan", {"pcp": Field(0, 3), "vid": Field(4, 12)}, _AFTER_ETH, "vid"),
        Header("arp", {"op": Field(48, 16)}, (), "op"),
        Header("ipv4", _IPV4, ("tcp", "udp", "icmp4", "fragment")),
        Header("ipv6", _IPV6, ("tcp", "udp", "icmp6", "nd", "fragment")),
        Header("fragment", {}),
        Header("tcp", _PORTS | {"flags": Field(104, 8)}),
        Header("udp", _PORTS, ("vxlan", "geneve")),
        Header("icmp4", _ICMP, (), "type"),
        Header("icmp6", _ICMP, (), "type"),
        Header("nd", {"type": Field(0, 8)}, (), "type"),
        Header("vxlan", {"vni": Field(32, 24)}, ("eth",), "vni"),
        Header("geneve", {"vni": Field(32, 24)}, ("eth",), "vni"),
    )
}

ALIASES: Mapping[str, tuple[str, ...]] = {"ip": ("ipv4", "ipv6"), "icmp": ("icmp4", "icmp6")}
"""Names that stand for several kinds; which of them is meant follows from what may follow what."""

IP = ("ipv4", "ipv6")
CONNECTIONS = ("tcp", "udp", "icmp4", "icmp6")
"""What connection tracking knows; it stands right behind `eth / ip`."""
TRACKED = (*CONNECTIONS, "fragment")
"""And later fragments, which belong to the connection of their first one."""
TUNNELS: Mapping[str, int] = {"vxlan": VXLAN_PORT, "geneve": GENEVE_PORT}
"""Tunnels, each with the UDP destination port that it is recognised by (RFC 7348, RFC 8926)."""


def kinds(name: str) -> tuple[str, ...]:
    """The kinds that a written name stands for; none when it is unknown."""
    if name in HEADERS:
        return (name,)
    return ALIASES.get(name, ())


def may_follow(before: str | None, after: str) -> bool:
    """Whether `after` may stand directly behind `before` (None: at the frame's beginning)."""
    return after == "eth" if before is None else after in HEADERS[before].followers


def fields_of(name: str) -> Mapping[str, Field]:
    """The fields that all kinds behind a written name have, by name; an alias has only fields of equal shape."""
    found = [HEADERS[kind].fields for kind in kinds(name)]
    first = found[0]
    return {
        key: item
        for key, item in first.items()
        if all(key in other and _shape(other[key]) == _shape(item) for other in found)
    }


def _shape(item: Field) -> tuple[int, Notation]:
    return item.width, item.notation
