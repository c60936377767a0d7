# SPDX-License-Identifier: Apache-2.0
"""Prefixes with exceptions → for each prefix that matters, which rules hold there. Pure.

Used by mizar.planner.policy alone. All addresses are 16 bytes (IPv4 mapped), lengths 0 to 128. The longest prefix of
the result that holds an address tells all rules that match it, so one lookup finds what any number of rules say of a
peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mizar.model.addresses import MAPPED, Prefix, mapped_length, to_mapped

Place = tuple[bytes, int]
"""A prefix: 16 bytes, host bits zero, and its length."""
EVERYWHERE: Place = bytes(16), 0
_IPV4: Place = MAPPED + bytes(4), 96


@dataclass(frozen=True, slots=True)
class Area:
    """A prefix, less others that lie in it."""

    place: Place
    holes: tuple[Place, ...] = ()


def area_of(prefix: Prefix, holes: Iterable[Prefix] = ()) -> Area:
    """Of a prefix as people write it: one of IPv6 holds no IPv4 address, though these are written as IPv6."""
    place, inner = place_of(prefix), [place_of(hole) for hole in holes]
    if prefix.version == 6 and holds(place, _IPV4):
        inner.append(_IPV4)
    return Area(place, tuple(inner))


def place_of(prefix: Prefix) -> Place:
    """As maps hold it."""
    packed = prefix.network_address.packed
    return to_mapped(packed), mapped_length(packed, prefix.prefixlen)


def holds(outer: Place, inner: Place) -> bool:
    """Whether all of one prefix lies in another."""
    length = outer[1]
    return length <= inner[1] and not _differ(outer[0], inner[0]) >> (128 - length)


def _differ(one: bytes, other: bytes) -> int:
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


def partition(areas: Iterable[tuple[int, Area]]) -> Iterator[tuple[Place, frozenset[int]]]:
    """Areas, each with the rank of its rule → prefixes, outer before inner, each with the ranks that hold there.

    A prefix where the same rules hold as around it is left out.
    """
    begin: dict[Place, list[int]] = {}
    end: dict[Place, list[int]] = {}
    ranks: list[int] = []
    whole: dict[int, int] = {}  # rank → the number of all its areas without holes: those never end, and are as one
    for rank, area in areas:
        number = len(ranks) if area.holes else whole.setdefault(rank, len(ranks))
        if number == len(ranks):
            ranks.append(rank)
        begin.setdefault(area.place, []).append(number)
        for hole in area.holes:
            end.setdefault(hole, []).append(number)
    none = frozenset[int]()
    around: list[tuple[Place, frozenset[int], frozenset[int]]] = []  # place, areas, ranks that were told
    known: dict[tuple[frozenset[int], tuple[int, ...]], tuple[frozenset[int], frozenset[int]]] = {}
    for place in sorted({*begin, *end}):
        while around and not holds(around[-1][0], place):
            around.pop()
        outer, told = (around[-1][1], around[-1][2]) if around else (none, none)
        starting, ending = tuple(begin.get(place, ())), end.get(place)
        pair = None if ending else known.get((outer, starting))
        if pair is None:
            inside = (outer | frozenset(starting)) - frozenset(ending or ())
            pair = inside, frozenset(ranks[number] for number in inside)
            if not ending:
                known[outer, starting] = pair
        around.append((place, *pair))
        if pair[1] != told:
            yield place, pair[1]
