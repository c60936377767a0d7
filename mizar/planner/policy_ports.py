# SPDX-License-Identifier: Apache-2.0
"""Rules of one class of peers → rows that a longest-prefix match over (protocol, port) can decide by. Pure.

Used by mizar.planner.policy alone. The longest row that holds a packet's protocol and port is the first rule that
matches it, because each row is written only where its rule stands before all others.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

ALL_PORTS = (0, 0xFFFF)


class Span(NamedTuple):
    """A protocol and its ports, first to last; of ICMP, type times 256 plus code. Protocol None: every one."""

    protocol: int | None
    first: int = 0
    last: int = 0xFFFF


class Row(NamedTuple):
    """What a packet meets: `bits` of protocol (8) and port (16) count, 0, 8 or more. `rank`: place of its rule."""

    protocol: int
    port: int
    bits: int
    rank: int


def flatten(rules: Iterable[tuple[int, Sequence[Span]]]) -> tuple[Row, ...]:
    """Rules as (rank, spans), in any order; no spans: everything. The rows, shortest first."""
    anything: int | None = None
    whole: dict[int, int] = {}
    parts: dict[int, list[tuple[int, int, int]]] = {}  # by protocol: rank, first, last
    for rank, spans in rules:
        for protocol, first, last in spans or (Span(None),):
            if protocol is None:
                anything = _least(anything, rank)
            elif (first, last) == ALL_PORTS:
                whole[protocol] = min(rank, whole.get(protocol, rank))
            else:
                parts.setdefault(protocol, []).append((rank, first, last))
    rows = [] if anything is None else [Row(0, 0, 0, anything)]
    for protocol in sorted({*whole, *parts}):
        base = _least(anything, whole.get(protocol))
        if base is not None and base != anything:
            rows.append(Row(protocol, 0, 8, base))
        before = [part for part in parts.get(protocol, ()) if base is None or part[0] < base]
        for rank, first, last in _winners(before):
            rows += [Row(protocol, port, 8 + bits, rank) for port, bits in prefixes_of(first, last)]
    return tuple(rows)


def prefixes_of(first: int, last: int) -> Iterator[tuple[int, int]]:
    """A range of ports as prefixes (port, bits of 16), the fewest that there are."""
    while first <= last:
        size = first & -first or 0x10000
        while size > last - first + 1:
            size >>= 1
        yield first, 17 - size.bit_length()
        first += size


def _winners(parts: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Which rule stands first where: (rank, first, last), ascending, neighbours of one rule joined."""
    starts = sorted(parts, key=lambda part: part[1])
    edges = sorted({part[1] for part in parts} | {part[2] + 1 for part in parts})
    active: list[tuple[int, int]] = []  # rank, last
    place, joined = 0, None
    for edge, end in pairwise(edges):
        while place < len(starts) and starts[place][1] <= edge:
            heapq.heappush(active, (starts[place][0], starts[place][2]))
            place += 1
        while active and active[0][1] < edge:
            heapq.heappop(active)
        if not active:
            continue
        rank = active[0][0]
        if joined and joined[0] == rank and joined[2] == edge - 1:
            joined = rank, joined[1], end - 1
            continue
        if joined:
            yield joined
        joined = rank, edge, end - 1
    if joined:
        yield joined


def _least(one: int | None, other: int | None) -> int | None:
    return min((rank for rank in (one, other) if rank is not None), default=None)
