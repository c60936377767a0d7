# SPDX-License-Identifier: Apache-2.0
"""Boxes → fields of flower. It matches VLAN ids, VNIs and protocols one by one, all else under a mask.

So a set of VLAN ids is either listed, or its complement is taken out by filters before (`excluded`). Called by
`compile` and by the report. Raises CannotError with what flower cannot say. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from mizar.pipeline.box import Box
from mizar.pipeline.headers import CONNECTIONS, HEADERS, IP, ND_TYPES, Notation
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.tc.rules import Field, Flags, Match, Word

MAX_LISTED = 64
"""VLAN ids or VNIs that have filters of their own."""
_ONE_BY_ONE = {"vid", "pcp", "vni", "op"}
_ARP_OPS = Ranges.of(16, (1, 2))
_ND = Ranges(8, ((ND_TYPES[0], ND_TYPES[-1]),))
_ETHERTYPES = {"ipv4": "ip", "ipv6": "ipv6", "arp": "arp", "vlan": "802.1q"}
_FIRST = Flags("ip_flags", ("frag", "firstfrag"))
_PROTOCOLS = {"tcp": "tcp", "udp": "udp", "icmp4": "icmp", "icmp6": "icmpv6", "nd": "icmpv6"}


class CannotError(Exception):
    """tc cannot say this; the text says why, for the one who wrote the description."""


def fields_of(box: Box) -> Iterator[tuple[str, tuple[Field, ...]]]:
    """Protocol and fields of every filter for a box without tunnel; none of them overlap. Raises CannotError.

    What `excluded` gives for the box has to be taken out before.
    """
    shape = box.shape
    tags = sum(1 for kind in shape if kind == "vlan")
    if tags > 2:
        raise CannotError("flower looks at two VLAN tags, not at three")
    protocol = _ETHERTYPES[shape[1]] if len(shape) > 1 else "all"
    fixed: list[Field] = []
    for place, kind in enumerate(shape[1:], 1):
        after = shape[place + 1] if place + 1 < len(shape) else None
        if kind == "vlan" and after is not None:
            fixed.append(Word(("vlan_ethtype", "cvlan_ethtype")[place - 1], _ETHERTYPES[after]))
        if kind in IP and after is not None and after != "fragment":
            fixed.append(Word("ip_proto", _PROTOCOLS[after]))
    limits = _limits(box)
    for choice in _every(box, limits):
        for fragments in _fragments(shape, bool(_transport_limits(box))):
            yield protocol, (*fixed, *fragments, *choice)
    if shape[-1] == "icmp6" and not any(place == len(shape) - 1 for place, _ in dict(box.limits)):
        # A first fragment shows flower no type; neighbour discovery is never in fragments (RFC 6980).
        for choice in _every(box, [one for one in limits if one[0][0] < len(shape) - 1]):
            yield protocol, (*fixed, _FIRST, *choice)


def excluded(box: Box) -> list[Box]:
    """Frames that filters of a higher priority have to take out, because flower cannot say `all but these`."""
    found = []
    for (place, name), ranges in box.limits:
        if name in ("vid", "vni") and not _listed(ranges):
            rest = ~ranges
            if _size(rest) > MAX_LISTED:
                raise CannotError(f"flower matches one {name} at a time, {_size(ranges)} are too many")
            found.append(Box.of(box.shape[: place + 1], {(place, name): rest}))
    return found


def vni_fields(ranges: Ranges) -> list[Match | None]:
    """The fields for a set of VNIs, of frames that a tunnel device has decapsulated; None: any. Raises CannotError."""
    if ranges.is_full:
        return [None]
    if not _listed(ranges):
        raise CannotError(f"flower matches one VNI at a time, {_size(ranges)} are too many")
    return [vni_field(number) for low, high in ranges.spans for number in range(low, high + 1)]


def vni_field(number: int) -> Match:
    """The VNI of the tunnel that was taken off."""
    return Match("enc_key_id", number, 0xFFFFFF, 24)


def vlan_field(number: int) -> Match:
    """The outermost VLAN id."""
    return Match("vlan_id", number, 0xFFF, 12)


def _limits(box: Box) -> list[tuple[tuple[int, str], Ranges]]:
    """The box's limits, and those that its kinds imply."""
    found = dict(box.limits)
    for place, kind in enumerate(box.shape):
        if kind in ("icmp6", "nd"):
            implied = _ND if kind == "nd" else ~_ND
            found[place, "type"] = found.get((place, "type"), implied) & implied
        if kind == "arp":
            found[place, "op"] = found.get((place, "op"), _ARP_OPS) & _ARP_OPS
            if found[place, "op"].is_empty:
                raise CannotError("flower knows ARP requests and replies alone")
    return sorted(found.items())


def _every(box: Box, limits: list[tuple[tuple[int, str], Ranges]]) -> Iterator[tuple[Field, ...]]:
    """Every way to meet the limits, one field for each."""
    for choice in product(*(_choices(box, place, name, ranges) for (place, name), ranges in limits)):
        yield tuple(one for one in choice if one is not None)


def _choices(box: Box, place: int, name: str, ranges: Ranges) -> list[Field | None]:
    """The values of one field, each of which wants a filter of its own; None: any, what is not wanted is taken out."""
    kind = box.shape[place]
    if kind == "vlan":
        second = place == 2
        word = {"vid": "vlan_id", "pcp": "vlan_prio"}[name]
        if not _listed(ranges) and name == "vid":
            return [None]
        width = HEADERS[kind].fields[name].width
        return [Match(f"c{word}" if second else word, one, (1 << width) - 1, width) for one in _numbers(ranges)]
    if kind == "arp":
        return [Word("arp_op", {1: "request", 2: "reply"}[one]) for one in _numbers(ranges)]
    if kind in ("tcp", "udp") and name in ("src", "dst"):
        word = f"{name}_port"
        return [Match(word, low, 0xFFFF, 16, last=None if low == high else high) for low, high in ranges.spans]
    word, width, shift, notation = _field(kind, name)
    return [Match(word, value << shift, mask << shift, width, notation) for value, mask in ranges.prefixes()]


def _field(kind: str, name: str) -> tuple[str, int, int, Notation]:
    """flower's name of a field, its width there, how far it is shifted, and how it is written."""
    known = HEADERS[kind].fields[name]
    if kind == "eth":
        return f"{name}_mac", 48, 0, known.notation
    if kind in IP and name in ("src", "dst"):
        return f"{name}_ip", known.width, 0, known.notation
    if kind in IP:
        return {"ttl": ("ip_ttl", 8, 0), "dscp": ("ip_tos", 8, 2)}[name] + (Notation.NUMBER,)
    if kind == "tcp":
        return "tcp_flags", 12, 0, Notation.NUMBER
    return name, 8, 0, Notation.NUMBER


def _fragments(shape: tuple[str, ...], asks_transport: bool) -> list[tuple[Field, ...]]:
    """Later fragments have no transport header. Of first ones flower sees the protocol, but no port and no type."""
    if shape[-1] == "fragment":
        return [(Flags("ip_flags", ("frag",), ("firstfrag",)),)]
    if shape[-1] not in (*CONNECTIONS, "nd"):
        return [()]
    whole: tuple[Field, ...] = (Flags("ip_flags", (), ("frag",)),)
    if asks_transport:
        return [whole]
    return [whole, (_FIRST,)]


def _transport_limits(box: Box) -> list[str]:
    last = len(box.shape) - 1
    return [name for (place, name), _ in _limits(box) if place == last and box.shape[-1] in (*CONNECTIONS, "nd")]


def _numbers(ranges: Ranges) -> list[int]:
    return [number for low, high in ranges.spans for number in range(low, high + 1)]


def _size(ranges: Ranges) -> int:
    return sum(high - low + 1 for low, high in ranges.spans)


def _listed(ranges: Ranges) -> bool:
    return _size(ranges) <= MAX_LISTED
