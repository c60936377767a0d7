# SPDX-License-Identifier: Apache-2.0
"""Long lists of prefixes, as they are stored and sent: of each family sorted, without those inside of others, packed.

Called where a list enters (a file of a million lines, a manifest) and where a droplet makes a table of it. Pure. Raises
InvalidError that names the line. Built for length: a million lines take about two seconds.
"""

from __future__ import annotations

import socket
import struct
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mizar.model.errors import InvalidError, Problem

MOST = 1_000_000
BYTES = {4: 16, 6: 48}
"""What a prefix of a family takes on a droplet at most: two boundaries, where it begins and behind its end. See
table_bytes() for the whole."""
UNLISTED, BLOCKED, ALLOWED = 0, 1, 2
"""enum prefix_verdict of dataplane/ddos/lists.h."""
_HEAD, _PAGE = struct.Struct("=II"), 4096
_SHOWN = 10
_BITS = {4: 32, 6: 128}
_LENGTHS = {family: {str(length): length for length in range(bits + 1)} for family, bits in _BITS.items()}
_packed, _IPV4, _IPV6 = socket.inet_pton, int(socket.AF_INET), int(socket.AF_INET6)  # looked up a million times
_MOST_PACKED = 17 * MOST + _HEAD.size


@dataclass(frozen=True)
class PrefixList:
    """Prefixes by family, each (first address, length), ascending, none inside of another."""

    ipv4: Sequence[tuple[int, int]] = ()
    ipv6: Sequence[tuple[int, int]] = ()

    def __len__(self) -> int:
        return len(self.ipv4) + len(self.ipv6)

    @cached_property
    def packed(self) -> bytes:
        """What is stored and sent."""
        parts = [_HEAD.pack(len(self.ipv4), len(self.ipv6))]
        parts += [
            struct.pack(f"!{len(self.ipv4)}I", *(one for one, _ in self.ipv4)),
            bytes(one for _, one in self.ipv4),
        ]
        parts += [address.to_bytes(16, "big") for address, _ in self.ipv6] + [bytes(one for _, one in self.ipv6)]
        return zlib.compress(b"".join(parts), 1)

    def holds(self, family: int, address: int) -> bool:
        """Whether one of them has an address."""
        rows = self.ipv4 if family == 4 else self.ipv6
        place = bisect_right(rows, (address, _BITS[family])) - 1
        if place < 0:
            return False
        first, length = rows[place]
        return address - first < 1 << _BITS[family] - length

    def ranges(self, family: int) -> list[tuple[int, int]]:
        """First and last addresses, ascending, with a gap between each two."""
        found: list[tuple[int, int]] = []
        bits = _BITS[family]
        for address, length in self.ipv4 if family == 4 else self.ipv6:
            last = address + (1 << bits - length) - 1
            if found and found[-1][1] + 1 == address:
                found[-1] = found[-1][0], last
            else:
                found.append((address, last))
        return found


def unpacked(data: bytes) -> PrefixList:
    """Raises InvalidError for what packed() does not make."""
    return PrefixList(*([*zip(addresses, lengths, strict=True)] for addresses, lengths in _columns(data)))


def count_packed(data: bytes) -> int:
    """How many there are, without unpacking each. Raises InvalidError for what packed() does not make."""
    return sum(len(lengths) for _, lengths in _columns(data))


def is_empty(data: bytes) -> bool:
    """Whether a packed list has none."""
    return zlib.decompressobj().decompress(data, _HEAD.size) == bytes(_HEAD.size)


def counts(data: bytes) -> tuple[int, int]:
    """How many of IPv4 and of IPv6 a packed list has, by what its head says. Raises InvalidError where it has none."""
    try:
        count4, count6 = _HEAD.unpack(zlib.decompressobj().decompress(data, _HEAD.size))
    except (zlib.error, struct.error) as error:
        raise InvalidError("expected a packed list of prefixes") from error
    return int(count4), int(count6)


def table_bytes(found: Iterable[tuple[int, int]]) -> int:
    """What lists of so many prefixes of IPv4 and of IPv6 take on a droplet at most, together in one protection: both
    tables with what is in front of the boundaries, in pages, and a page of the kernel's for each."""
    rows = list(found)
    count4, count6 = sum(one for one, _ in rows), sum(one for _, one in rows)
    if not count4 + count6:
        return 0
    boundaries4, boundaries6 = 2 * count4 + 1, 2 * count6 + 1
    cells = (1 << _index_bits(boundaries4)) + 2 + boundaries4, 1 + 3 * boundaries6
    return sum(_PAGE - (-8 * one // _PAGE) * _PAGE for one in cells)


def _columns(data: bytes) -> list[tuple[Sequence[int], bytes]]:
    """Of each family: first addresses and lengths. No tuple for each, which would cost more than all else."""
    try:
        whole = zlib.decompressobj()
        raw = whole.decompress(data, _MOST_PACKED + 1)
        count4, count6 = _HEAD.unpack_from(raw)
    except (zlib.error, struct.error) as error:
        raise InvalidError("expected a packed list of prefixes") from error
    if not whole.eof or whole.unused_data:  # cut off, or something is behind it
        raise InvalidError("expected a packed list of prefixes")
    if len(raw) != _HEAD.size + 5 * count4 + 17 * count6 or count4 + count6 > MOST:
        raise InvalidError("expected a packed list of prefixes")
    lengths4, lengths6 = _HEAD.size + 4 * count4, _HEAD.size + 5 * count4 + 16 * count6
    addresses4 = struct.unpack_from(f"!{count4}I", raw, _HEAD.size)
    halves = struct.unpack_from(f"!{2 * count6}Q", raw, lengths4 + count4)
    addresses6 = [high << 64 | low for high, low in zip(halves[::2], halves[1::2], strict=True)]
    found: list[tuple[Sequence[int], bytes]] = [
        (addresses4, raw[lengths4 : lengths4 + count4]),
        (addresses6, raw[lengths6 : lengths6 + count6]),
    ]
    for family, (addresses, lengths) in zip((4, 6), found, strict=True):
        bits, behind = _BITS[family], 0
        sizes = [1 << bits - length for length in range(bits + 1)]
        if lengths and max(lengths) > bits:
            raise InvalidError("expected a packed list of prefixes")
        for address, length in zip(addresses, lengths, strict=True):
            size = sizes[length]
            if address < behind or address & (size - 1):
                raise InvalidError("expected a packed list of prefixes, sorted")
            behind = address + size
    return found


def read_lines(lines: Iterable[str], file: str = "") -> PrefixList:
    """One prefix or address in each line; what is behind # is not looked at. Raises InvalidError with the lines."""
    rows: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        text = (line.partition("#")[0] if "#" in line else line).strip()
        if not text:
            continue
        try:
            family, address, length = parse(text)
        except ValueError as error:
            problems.append(Problem(str(error), file=file, line=number))
            if len(problems) >= _SHOWN:
                break
            continue
        rows[family == 6].append((address, length))
    if problems:
        raise InvalidError(problems)
    return listed(rows[0], rows[1])


def parse(text: str) -> tuple[int, int, int]:
    """Family, first address, length. Raises ValueError in words."""
    address, slash, length = text.partition("/")
    try:
        if ":" in address:
            family, lengths, first = 6, _LENGTHS[6], int.from_bytes(_packed(_IPV6, address), "big")
        else:
            family, lengths, first = 4, _LENGTHS[4], int.from_bytes(_packed(_IPV4, address), "big")
    except OSError:
        raise ValueError(f"expected a prefix such as 198.51.100.0/24, found {text!r}") from None
    bits = _BITS[family]
    many = lengths.get(length) if slash else bits
    if many is None:
        raise ValueError(f"expected a length of 0 to {bits} behind the /, found {text!r}")
    if first & ((1 << bits - many) - 1):
        raise ValueError(f"expected the first address of the prefix, found {text}: it has bits behind its length")
    return family, first, many


def listed(ipv4: list[tuple[int, int]], ipv6: list[tuple[int, int]]) -> PrefixList:
    """Sorted, and without what lies inside of another. Raises InvalidError where there are too many."""
    found = PrefixList(_outermost(ipv4, 32), _outermost(ipv6, 128))
    if len(found) > MOST:
        raise InvalidError(f"the list has {len(found)} prefixes; a protection takes {MOST} at most")
    return found


def _outermost(rows: list[tuple[int, int]], bits: int) -> list[tuple[int, int]]:
    rows.sort()
    found: list[tuple[int, int]] = []
    behind = -1
    for address, length in rows:
        last = address + (1 << bits - length) - 1
        if last <= behind:
            continue
        while found and found[-1][0] >= address:  # a shorter one with the same first address comes later
            found.pop()
        found.append((address, length))
        behind = last
    return found


def boundaries(block: PrefixList, allow: PrefixList, family: int) -> Iterator[tuple[int, int]]:
    """From an address on, a verdict, until the next one; begins with address 0."""
    allowed = allow.ranges(family)
    if not allowed:
        yield from _blocked_alone(block.ipv4 if family == 4 else block.ipv6, _BITS[family])
        return
    events = [(first, last, BLOCKED) for first, last in block.ranges(family)]
    starts = [first for first, _ in allowed]
    pieces: list[tuple[int, int, int]] = [(first, last, ALLOWED) for first, last in allowed]
    for first, last, verdict in events:
        at, place = first, max(bisect_right(starts, first) - 1, 0)
        while at <= last:
            while place < len(allowed) and allowed[place][1] < at:
                place += 1
            if place == len(allowed) or allowed[place][0] > last:
                pieces.append((at, last, verdict))
                break
            if allowed[place][0] > at:
                pieces.append((at, allowed[place][0] - 1, verdict))
            at = allowed[place][1] + 1
    pieces.sort()
    behind, end = 0, 1 << _BITS[family]
    if not pieces or pieces[0][0]:
        yield 0, UNLISTED
    for place, (first, last, verdict) in enumerate(pieces):
        if place and behind != first:
            yield behind, UNLISTED
        yield first, verdict
        behind = last + 1
    if pieces and behind != end:
        yield behind, UNLISTED


def _blocked_alone(rows: Sequence[tuple[int, int]], bits: int) -> Iterator[tuple[int, int]]:
    """The same where nothing is allowed, as most long lists are: each prefix is looked at once."""
    if not rows or rows[0][0]:
        yield 0, UNLISTED
    behind = -1
    for address, length in rows:
        if address != behind:
            if behind >= 0:
                yield behind, UNLISTED
            yield address, BLOCKED
        behind = address + (1 << bits - length)
    if rows and behind != 1 << bits:
        yield behind, UNLISTED


def table4(found: Iterable[tuple[int, int]]) -> array[int]:
    """prefixes4 of the data plane: shift of the index, the index, then the boundaries."""
    cells = array("Q", ((address << 8) | verdict for address, verdict in found))
    bits = _index_bits(len(cells))
    shift, places = 32 - bits, (1 << bits) + 1
    index = array("Q", [shift])
    base, at = 1 + places, 0
    for bucket in range(places):
        at = bisect_left(cells, bucket << shift << 8, at)
        index.append(base + at)
    return index + cells


def _index_bits(boundaries: int) -> int:
    return min(16, boundaries.bit_length())


def table6(found: Iterable[tuple[int, int]]) -> array[int]:
    """prefixes6 of the data plane: how many, and for each the halves of its address and the verdict."""
    cells = array("Q", [0])
    count = 0
    for address, verdict in found:
        cells.extend((address >> 64, address & 0xFFFFFFFFFFFFFFFF, verdict))
        count += 1
    cells[0] = count
    return cells
