# SPDX-License-Identifier: Apache-2.0
"""Boxes → pattern items. Hardware matches value and mask: a range becomes several items, none of which overlap.

Called by `compile` and by the report, which wants to know how many rules a case costs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

from mizar.pipeline.box import Box
from mizar.pipeline.headers import CONNECTIONS, HEADERS, ND_TYPES, Notation
from mizar.pipeline.ranges import Ranges, Span
from mizar.pipeline.rte_flow.rules import Item, Match

_ND = Ranges(8, ((ND_TYPES[0], ND_TYPES[-1]),))
_ITEMS = {"arp": "arp_eth_ipv4", "icmp4": "icmp", "nd": "icmp6"}
# Fields that testpmd calls otherwise, with how far they are shifted in a field of eight bits.
_FIELDS = {
    ("ipv4", "dscp"): ("tos", 2),
    ("ipv6", "dscp"): ("tc", 2),
    ("ipv6", "ttl"): ("hop", 0),
}
UNKNOWN_FIELDS = {("arp", "op")}
"""What testpmd 22.11 has no word for."""

Limit = tuple[int, str, Ranges]


def rules_needed(box: Box, meta: Ranges | None = None) -> int:
    """How many rules match exactly this box."""
    ranges = [limit[2] for limit in _limits(box)] + ([meta] if meta is not None else [])
    return prod(sum(1 for _ in one.prefixes()) for one in ranges)


def unknown_field(box: Box) -> str | None:
    """A field that the box limits, or a header, that rte_flow cannot match."""
    if "fragment" in box.shape:
        return "fragment"
    for (index, field), _ in box.limits:
        if (box.shape[index], field) in UNKNOWN_FIELDS:
            return f"{box.shape[index]} {field}"
    return None


def patterns(box: Box, meta: Ranges | None = None) -> Iterator[tuple[Item, ...]]:
    """The pattern items of every rule that is needed for a box, with metadata in a set."""
    limits = _limits(box)
    metas = [None] if meta is None or meta.is_full else list(meta.prefixes())
    for found in metas:
        for spans in product(*(ranges.prefixes() for _, _, ranges in limits)):
            placed = [(index, field, span) for (index, field, _), span in zip(limits, spans, strict=True)]
            yield (*_meta(found), *_items(box, placed))


def _limits(box: Box) -> list[Limit]:
    """The box's limits, and those that its kinds imply."""
    found = {(index, field): ranges for (index, field), ranges in box.limits}
    for index, kind in enumerate(box.shape):
        if kind in ("icmp6", "nd"):
            implied = _ND if kind == "nd" else ~_ND
            found[index, "type"] = found.get((index, "type"), implied) & implied
    return [(index, field, ranges) for (index, field), ranges in sorted(found.items())]


def _meta(span: Span | None) -> tuple[Item, ...]:
    return () if span is None else (Item("meta", (Match("data", span[0], span[1], 32),)),)


def _items(box: Box, placed: list[tuple[int, str, Span]]) -> Iterator[Item]:
    for index, kind in enumerate(box.shape):
        following = box.shape[index + 1] if index + 1 < len(box.shape) else None
        fields = [_match(kind, field, span) for at, field, span in placed if at == index]
        yield Item(_ITEMS.get(kind, kind), (*fields, *_next(kind, following, index < (box.tunnel or 0))))


def _match(kind: str, field: str, span: Span) -> Match:
    spec, mask = span
    width, notation = HEADERS[kind].fields[field].width, HEADERS[kind].fields[field].notation
    name, shift = _FIELDS.get((kind, field), (field, 0))
    return Match(name, spec << shift, mask << shift, 8 if shift else width, notation)


def _next(kind: str, following: str | None, tunnelled: bool) -> tuple[Match, ...]:
    """That the next header is there and no tag between; of fragments, only the first has a transport header.

    Outer headers have no options: raw decap takes off what it knows the length of.
    """
    if kind == "eth" and following == "vlan":
        return (Match("type", 0x8100, 0xFFFF, 16, Notation.NUMBER),)
    if kind == "vlan" and following == "vlan":
        return (Match("inner_type", 0x8100, 0xFFFF, 16),)
    if kind in ("eth", "vlan") and following is not None:
        return (Match("has_vlan" if kind == "eth" else "has_more_vlan", 0, 1, 1),)
    if kind == "ipv4" and following in CONNECTIONS:
        whole = Match("fragment_offset", 0, 0x1FFF, 16)
        return (Match("version_ihl", 0x45, 0xFF, 8), whole) if tunnelled else (whole,)
    if kind == "geneve":
        return (Match("optlen", 0, 0x3F, 6),)
    return ()
