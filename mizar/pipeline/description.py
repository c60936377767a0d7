# SPDX-License-Identifier: Apache-2.0
"""A pipeline as a value: groups of steps, each ending in a switch, in a step that ends the way, or in the next group.

Made by the reader (YAML) and by the builder (Python), equal when they say the same. Illegal values cannot be built;
whether the whole makes sense is for `validation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.kernel_path import KernelPath
from mizar.pipeline.nat import NatRules
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import META_BITS, NAME, Note, Step, Where, line_of_text


class State(StrEnum):
    """What connection tracking says of a packet."""

    NEW = "new"
    ESTABLISHED = "established"
    RELATED = "related"
    INVALID = "invalid"


class On(StrEnum):
    """What a switch looks at."""

    PARSE = "parse"
    CONNTRACK = "conntrack"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Otherwise:
    """Everything that no case before took."""


When = Pattern | frozenset[State] | Ranges | Otherwise


@dataclass(frozen=True, slots=True)
class Block:
    """Steps in order, then the switch if there is one. Without switch and ending the next group follows."""

    steps: tuple[Step, ...] = ()
    switch: Switch | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer of a switch and what follows from it."""

    when: When
    block: Block
    label: str = ""
    note: Note | None = None
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        line_of_text("label", self.label)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """The first case that fits takes the packet; one that none takes is dropped and counted. Raises ValueError."""

    on: On
    cases: tuple[Case, ...]
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("expected at least one case")
        for case in self.cases:
            if not fits(self.on, case.when):
                raise ValueError(f"a case of switch {self.on} cannot ask for {type(case.when).__name__}")


@dataclass(frozen=True, kw_only=True)
class Group:
    """A named part of a pipeline; the ways lead from groups to later groups."""

    name: str
    block: Block
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"expected a name of letters, digits, space and _./- (at most 63), found {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class TunnelEnd:
    """Where encapsulated frames go: the fixed headers of raw encap. MACs as numbers of 48 bits."""

    name: str
    source: IPv4Address
    destination: IPv4Address
    source_mac: int
    destination_mac: int
    vid: int | None = None
    source_port: int = 49152
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.vid is not None and not 1 <= self.vid <= 4094:
            raise ValueError(f"vid: expected 1 to 4094, found {self.vid}")
        if not 1 <= self.source_port <= 65535 or self.source_port in TUNNELS.values():
            raise ValueError(f"source_port: expected 1 to 65535 and no tunnel's port, found {self.source_port}")
        for mac in (self.source_mac, self.destination_mac):
            if not 0 < mac < 1 << 48 or mac >> 40 & 1:
                raise ValueError(f"expected a MAC address of one station, found {mac.to_bytes(8, 'big')[2:].hex(':')}")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The whole description; `name` is its file's and its programs' name, `title` stands above the drawing."""

    name: str
    groups: tuple[Group, ...]
    tunnels: tuple[TunnelEnd, ...] = ()
    title: str = ""
    nat: NatRules | None = None
    kernel: KernelPath | None = None
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"expected a name of letters, digits, space and _./- (at most 63), found {self.name!r}")
        line_of_text("title", self.title)
        if not self.groups:
            raise ValueError("expected at least one group")

    def tunnel(self, name: str) -> TunnelEnd:
        """The tunnel end of a name. Raises KeyError; a validated pipeline names only what is there."""
        return {end.name: end for end in self.tunnels}[name]

    def number(self, group: str) -> int:
        """A group's place, from 0. Raises ValueError; a validated pipeline names only what is there."""
        return [one.name for one in self.groups].index(group)


def fits(on: On, when: When) -> bool:
    """Whether a switch may have such a case."""
    if isinstance(when, Pattern):
        return on is On.PARSE
    if isinstance(when, Ranges):
        return on is On.METADATA and when.width == META_BITS and not when.is_empty
    if isinstance(when, Otherwise):
        return True
    return on is On.CONNTRACK and bool(when)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where something stands in a pipeline: the group and, inwards, the numbers (from 1) of cases and of the step."""

    group: str
    cases: tuple[int, ...] = ()
    step: int = 0

    def __str__(self) -> str:
        parts = [self.group, *(f"case {number}" for number in self.cases)]
        return ", ".join([*parts, f"step {self.step}"] if self.step else parts)


def blocks(pipeline: Pipeline) -> Iterator[tuple[Spot, Block]]:
    """Every block with its spot, outer ones first, in the order of writing."""
    for group in pipeline.groups:
        yield from _inner(Spot(group.name), group.block)


def _inner(spot: Spot, block: Block) -> Iterator[tuple[Spot, Block]]:
    yield spot, block
    for number, case in enumerate(block.switch.cases if block.switch else (), 1):
        yield from _inner(Spot(spot.group, (*spot.cases, number)), case.block)
