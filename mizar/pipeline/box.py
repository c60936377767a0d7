# SPDX-License-Identifier: Apache-2.0
"""A set of frames: those whose headers begin with a shape and whose fields lie in ranges.

What a pattern expands to, and what the validator follows along the ways through a pipeline: `meet` and `minus` decide
which case can still be reached, the editing methods what an action leaves behind. Never sees a byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mizar.pipeline.headers import HEADERS, TUNNELS
from mizar.pipeline.ranges import Ranges

MAX_PIECES = 2000
Place = tuple[int, str]
"""A field of the frame: the header's index from the outside, and the field's name."""


@dataclass(frozen=True, slots=True)
class Box:
    """Frames that begin with `shape` (kinds from the outside); what follows the last kind is unknown.

    `limits` has the ranges of fields that are limited, in the order of their places; a field that it lacks is free.
    """

    shape: tuple[str, ...]
    limits: tuple[tuple[Place, Ranges], ...] = ()

    @classmethod
    def of(cls, shape: Iterable[str], limits: Mapping[Place, Ranges]) -> Box:
        """A box in its one normal form: full ranges left out, places in order."""
        kept = sorted((place, ranges) for place, ranges in limits.items() if not ranges.is_full)
        return cls(tuple(shape), tuple(kept))

    def limit(self, index: int, field: str) -> Ranges:
        """The range of a field; the full one when it is free."""
        found = dict(self.limits).get((index, field))
        return found or Ranges.full(HEADERS[self.shape[index]].fields[field].width)

    def with_limit(self, index: int, field: str, ranges: Ranges) -> Box:
        """The same frames with that field anywhere in `ranges`, whatever it was limited to before."""
        return Box.of(self.shape, dict(self.limits) | {(index, field): ranges})

    def meet(self, other: Box) -> Box | None:
        """The frames that are in both; None when there are none."""
        long, short = (self, other) if len(self.shape) >= len(other.shape) else (other, self)
        if long.shape[: len(short.shape)] != short.shape:
            return None
        limits = dict(long.limits)
        for place, ranges in short.limits:
            limits[place] = limits[place] & ranges if place in limits else ranges
            if limits[place].is_empty:
                return None
        return Box.of(long.shape, limits)

    def minus(self, other: Box) -> list[Box]:
        """Frames of this box that are not in `other`, as disjoint boxes.

        A frame that may or may not go on as `other` does stays in: the result may be too large, never too small.
        """
        if self.meet(other) is None or len(other.shape) > len(self.shape):
            return [self]
        rest: list[Box] = []
        inside = self
        for (index, field), ranges in other.limits:
            mine = inside.limit(index, field)
            outside = mine - ranges
            if not outside.is_empty:
                rest.append(inside.with_limit(index, field, outside))
            inside = inside.with_limit(index, field, mine & ranges)
        return rest

    def left_by(self, others: Iterable[Box]) -> list[Box]:
        """What is left of this box after all others have taken theirs; too large when it falls into too many pieces."""
        rest = [self]
        for other in others:
            if len(rest) > MAX_PIECES:
                break
            rest = [piece for box in rest for piece in box.minus(other)]
        return rest

    # ---- what actions do to the frames

    @property
    def tunnel(self) -> int | None:
        """Index of the outermost tunnel header, if one is known to be there."""
        return next((index for index, kind in enumerate(self.shape) if kind in TUNNELS), None)

    def without(self, first: int, count: int) -> Box:
        """The frames with `count` headers taken out."""
        shape = self.shape[:first] + self.shape[first + count :]
        limits = {
            (index if index < first else index - count, field): ranges
            for (index, field), ranges in self.limits
            if not first <= index < first + count
        }
        return Box.of(shape, limits)

    def insert(self, at: int, shape: tuple[str, ...], limits: Mapping[Place, Ranges]) -> Box:
        """The frames with headers put in; `limits` counts from the first of the new headers."""
        moved = {(i if i < at else i + len(shape), field): ranges for (i, field), ranges in self.limits}
        new = {(i + at, field): ranges for (i, field), ranges in limits.items()}
        return Box.of(self.shape[:at] + shape + self.shape[at:], moved | new)

    def free(self, indices: Iterable[int]) -> Box:
        """The frames with nothing known of the fields of some headers."""
        gone = set(indices)
        return Box.of(self.shape, {place: ranges for place, ranges in self.limits if place[0] not in gone})

    def __str__(self) -> str:
        return " / ".join(self.shape) + " …"
