# SPDX-License-Identifier: Apache-2.0
"""What a case of a parsed switch asks for: headers from the outside in, with conditions on their fields.

Built by `pattern_text.parse_pattern`; expanded to boxes for the validator, the interpreter and the targets. A value
here can always match some frame: what cannot is refused when it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from mizar.pipeline.box import Box
from mizar.pipeline.headers import HEADERS, TUNNELS, fields_of, kinds, may_follow
from mizar.pipeline.ranges import Ranges

MAX_BOXES = 256
MAX_HEADERS = 16
"""As many as the interpreter looks at."""
_MAX_CHAINS = 4096
_Chain = tuple["Term", ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """A field of a header lies in a set."""

    field: str
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Term:
    """One header by its written name (`ip` stands for both), with at most one condition on each field."""

    name: str
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        if not kinds(self.name):
            raise ValueError(f"unknown header {self.name!r}")
        known = fields_of(self.name)
        for condition in self.conditions:
            if condition.field not in known:
                raise ValueError(
                    f"{self.name} has no field {condition.field!r}; known are {', '.join(known) or 'none'}"
                )
            if condition.ranges.is_empty:
                raise ValueError(f"no {condition.field} of {self.name} satisfies this")
        order = list(known)
        limited = [condition for condition in self.conditions if not condition.ranges.is_full]
        ordered = sorted(limited, key=lambda condition: order.index(condition.field))
        if len({condition.field for condition in ordered}) < len(ordered):
            raise ValueError(f"expected one condition on each field of {self.name}")
        object.__setattr__(self, "conditions", tuple(ordered))


@dataclass(frozen=True, slots=True)
class Either:
    """One of several chains, as `(tcp | udp)`."""

    options: tuple[tuple[Term | Either, ...], ...]


@dataclass(frozen=True)
class Pattern:
    """Headers from the outside in; frames may go on behind the last one. Raises ValueError when none can match."""

    parts: tuple[Term | Either, ...]

    def __post_init__(self) -> None:
        if not self.boxes:
            raise ValueError(_contradiction(self.parts))

    @cached_property
    def boxes(self) -> tuple[Box, ...]:
        """All frames that match, as boxes; in the order of writing."""
        found: list[Box] = []
        for number, chain in enumerate(_chains(self.parts)):
            if number == _MAX_CHAINS:
                raise ValueError(f"expected at most {_MAX_CHAINS} ways to choose among alternatives")
            if len(chain) > MAX_HEADERS:
                raise ValueError(f"expected at most {MAX_HEADERS} headers, found {len(chain)}")
            for shape in _shapes(chain):
                box = _box(shape, chain)
                if box is not None and box not in found:
                    found.append(box)
                if len(found) > MAX_BOXES:
                    raise ValueError(f"expected at most {MAX_BOXES} alternatives")
        return tuple(found)


def _chains(parts: tuple[Term | Either, ...]) -> Iterator[_Chain]:
    """The chains without alternatives that the parts stand for."""
    if not parts:
        yield ()
        return
    first, rest = parts[0], parts[1:]
    options = [(first,)] if isinstance(first, Term) else first.options
    for option in options:
        for head in _chains(option) if isinstance(first, Either) else [(first,)]:
            for tail in _chains(rest):
                yield head + tail


def _shapes(chain: _Chain) -> list[tuple[str, ...]]:
    """The kinds that a chain may stand for, where each may follow the one before."""
    shapes: list[tuple[str, ...]] = [()]
    for term in chain:
        shapes = [
            (*shape, kind)
            for shape in shapes
            for kind in kinds(term.name)
            if may_follow(shape[-1] if shape else None, kind)
        ]
    return shapes


def _box(shape: tuple[str, ...], chain: _Chain) -> Box | None:
    """The frames of one shape, or None when a tunnel in it is recognised by another port."""
    limits: dict[tuple[int, str], Ranges] = {}
    for index, (kind, term) in enumerate(zip(shape, chain, strict=True)):
        for condition in term.conditions:
            limits[index, condition.field] = condition.ranges
        if kind in TUNNELS:
            port = Ranges.of(16, [TUNNELS[kind]])
            limits[index - 1, "dst"] = limits.get((index - 1, "dst"), port) & port
            if limits[index - 1, "dst"].is_empty:
                return None
    return Box.of(shape, limits)


def _contradiction(parts: tuple[Term | Either, ...]) -> str:
    """Why no frame matches: the first neighbours that never meet, or a tunnel's port."""
    for chain in islice(_chains(parts), _MAX_CHAINS):
        before: tuple[str | None, ...] = (None,)
        for term in chain:
            if not any(may_follow(one, kind) for one in before for kind in kinds(term.name)):
                if before == (None,):
                    return f"expected eth as the first header, found {term.name}"
                names = " or ".join(str(one) for one in before)
                behind = sorted({name for one in before if one for name in HEADERS[one].followers})
                return f"{term.name} never follows {names}; behind it may stand {', '.join(behind) or 'nothing'}"
            before = tuple(k for k in kinds(term.name) if any(may_follow(one, k) for one in before))
        for term in chain:
            if term.name in TUNNELS:
                return f"{term.name} is recognised by udp dst == {TUNNELS[term.name]}, which is excluded here"
    return "no frame can match"
