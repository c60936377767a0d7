# SPDX-License-Identifier: Apache-2.0
"""Sets of unsigned numbers of a fixed width. Owns the algebra that conditions, metadata and coverage are made of.

Called by patterns (what a condition lets through), by the validator (what is left for a later case) and by targets
that match with a value and a mask (`prefixes`). Never knows what a number means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]
"""First and last number, both inside."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """A set of numbers of `width` bits as ascending spans with gaps between them. Raises ValueError out of range."""

    width: int
    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        merged: list[Span] = []
        for low, high in sorted(self.spans):
            if not 0 <= low <= high < 1 << self.width:
                raise ValueError(f"expected numbers from 0 to {(1 << self.width) - 1} in order, found {low}-{high}")
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        object.__setattr__(self, "spans", tuple(merged))

    @classmethod
    def full(cls, width: int) -> Ranges:
        """Every number of the width."""
        return cls(width, ((0, (1 << width) - 1),))

    @classmethod
    def of(cls, width: int, numbers: Iterable[int]) -> Ranges:
        """Exactly these numbers."""
        return cls(width, tuple((number, number) for number in numbers))

    @property
    def is_empty(self) -> bool:
        """No number is in it."""
        return not self.spans

    @property
    def is_full(self) -> bool:
        """Every number of the width is in it."""
        return self.spans == ((0, (1 << self.width) - 1),)

    @property
    def single(self) -> int | None:
        """The number, when it is exactly one."""
        if len(self.spans) == 1 and self.spans[0][0] == self.spans[0][1]:
            return self.spans[0][0]
        return None

    def __contains__(self, number: int) -> bool:
        return any(low <= number <= high for low, high in self.spans)

    def __and__(self, other: Ranges) -> Ranges:
        spans = [
            (max(a[0], b[0]), min(a[1], b[1]))
            for a in self.spans
            for b in other.spans
            if max(a[0], b[0]) <= min(a[1], b[1])
        ]
        return Ranges(self.width, tuple(spans))

    def __or__(self, other: Ranges) -> Ranges:
        return Ranges(self.width, self.spans + other.spans)

    def __invert__(self) -> Ranges:
        spans, begin = [], 0
        for low, high in self.spans:
            if begin < low:
                spans.append((begin, low - 1))
            begin = high + 1
        if begin < 1 << self.width:
            spans.append((begin, (1 << self.width) - 1))
        return Ranges(self.width, tuple(spans))

    def __sub__(self, other: Ranges) -> Ranges:
        return self & ~other

    def low(self, width: int) -> Ranges:
        """The low `width` bits of every number."""
        mask = (1 << width) - 1
        spans: list[Span] = []
        for low, high in self.spans:
            if high - low >= mask:
                return Ranges.full(width)
            first, last = low & mask, high & mask
            spans += [(first, last)] if first <= last else [(first, mask), (0, last)]
        return Ranges(width, tuple(spans))

    def prefixes(self) -> Iterator[Span]:
        """The same set as value and mask, each a block of 2^n numbers; no number is in two, none fewer would do."""
        everything = (1 << self.width) - 1
        for low, high in self.spans:
            begin = low
            while begin <= high:
                size = begin & -begin or 1 << self.width
                while begin + size - 1 > high:
                    size >>= 1
                yield begin, everything & ~(size - 1)
                begin += size
