# SPDX-License-Identifier: Apache-2.0
"""The steps of a pipeline: what is done to a packet, one frozen value for each kind.

Each value is valid by itself (numbers in range, names well formed); whether it makes sense where it stands is the
validator's question. `where` is the place of writing, for messages, and no part of the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.ranges import Ranges

META_BITS = 32
NAME = re.compile(r"[A-Za-z][A-Za-z0-9 _./-]{0,62}")
SOURCE_BITS = {"vni": 24, "vlan": 12}


@dataclass(frozen=True, slots=True)
class Where:
    """A line of a file (from 1; 0: unknown)."""

    file: str = ""
    line: int = 0


class Style(StrEnum):
    """How a step is coloured: `future` is what a first device may come without. Drawn only."""

    ACTION = "action"
    FUTURE = "future"


@dataclass(frozen=True, slots=True)
class Note:
    """A note beside a step or a question, drawn only."""

    text: str
    side: Literal["left", "right"] = "left"
    attention: bool = False

    def __post_init__(self) -> None:
        lines = [line.rstrip() for line in self.text.strip().splitlines()]
        for line in lines:
            line_of_text("note", line)
        object.__setattr__(self, "text", "\n".join(lines))


@dataclass(frozen=True, slots=True)
class Table:
    """A function by its values: pairs of number and value, ascending; what it lacks has no value."""

    entries: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("expected at least one entry in the table")
        ordered = tuple(sorted(self.entries))
        if len({key for key, _ in ordered}) < len(ordered):
            raise ValueError("expected each key once in the table")
        object.__setattr__(self, "entries", ordered)

    def get(self, number: int) -> int | None:
        """The value, or None where there is none."""
        return dict(self.entries).get(number)

    def image(self, numbers: Ranges, width: int) -> Ranges:
        """All values for a set of numbers."""
        return Ranges.of(width, (value for key, value in self.entries if key in numbers))

    def check(self, key_bits: int, value_bits: int) -> None:
        """Raises ValueError unless all keys and values fit."""
        for key, value in self.entries:
            if not 0 <= key < 1 << key_bits or not 0 <= value < 1 << value_bits:
                limits = f"{(1 << key_bits) - 1} to values up to {(1 << value_bits) - 1}"
                raise ValueError(f"expected a table from numbers up to {limits}, found {key}: {value}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all steps have: text and colour in the drawing (`label` "": made from the step), a note, the place."""

    label: str = ""
    style: Style = Style.ACTION
    note: Note | None = None
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        line_of_text("label", self.label)


class Ending(Step):
    """A step that ends a way: nothing may stand behind it."""


@dataclass(frozen=True, kw_only=True)
class Goto(Ending):
    """Go on at the beginning of a later group."""

    group: str


@dataclass(frozen=True, kw_only=True)
class Trap(Ending):
    """Hand the frame to the kernel (its representor, or the host stack)."""


@dataclass(frozen=True, kw_only=True)
class Queue(Ending):
    """Hand the frame to queue `number` of a user-space program."""

    number: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _between("queue", self.number, 0, 65535)


@dataclass(frozen=True, kw_only=True)
class Drop(Ending):
    """The frame ends here."""


@dataclass(frozen=True, kw_only=True)
class Stop(Ending):
    """The frame leaves the pipeline at its egress."""


@dataclass(frozen=True, kw_only=True)
class SetMeta(Step):
    """Metadata (32 bits) becomes f(the outermost tunnel's VNI) or f(the outermost VLAN's id).

    f is a table, or the number plus `add`, whose low bits (24, 12) are 0: then no carry is needed, and hardware can
    do it. A packet whose number the table lacks is dropped and counted.
    """

    source: Literal["vni", "vlan"]
    add: int = 0
    table: Table | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        bits = SOURCE_BITS[self.source]
        if self.table is not None:
            if self.add:
                raise ValueError("expected add or a table, found both")
            self.table.check(bits, META_BITS)
        if not 0 <= self.add < 1 << META_BITS or self.add % (1 << bits):
            raise ValueError(f"add: expected a multiple of {1 << bits:#x} of {META_BITS} bits, found {self.add:#x}")


@dataclass(frozen=True, kw_only=True)
class PopVlan(Step):
    """The outermost VLAN tag goes."""


@dataclass(frozen=True, kw_only=True)
class PushVlan(Step):
    """A new outermost VLAN tag (0x8100, priority 0) comes; `SetVid` has to fill it in."""


@dataclass(frozen=True, kw_only=True)
class Decap(Step):
    """Raw decap: everything in front of the inner Ethernet header goes; `vlan`: one outer tag among it."""

    tunnel: str
    vlan: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _tunnel(self.tunnel)


@dataclass(frozen=True, kw_only=True)
class Encap(Step):
    """Raw encap: fixed headers in front of the frame, from the pipeline's tunnel end `to`; `vlan`: one tag among them.

    The VNI is 0 until `SetVni` fills it in; the tag's id is the tunnel end's.
    """

    tunnel: str
    to: str
    vlan: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _tunnel(self.tunnel)


@dataclass(frozen=True, kw_only=True)
class SetVni(Step):
    """The outermost tunnel's VNI becomes f(metadata): a table, or without one the low 24 bits."""

    table: Table | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table is not None:
            self.table.check(META_BITS, 24)


@dataclass(frozen=True, kw_only=True)
class SetVid(Step):
    """The outermost VLAN's id becomes f(metadata): a table, or without one the low 12 bits."""

    table: Table | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table is not None:
            self.table.check(META_BITS, 12)


@dataclass(frozen=True, kw_only=True)
class Nat(Step):
    """Addresses, ports and metadata become the connection's other side's.

    `allocate`: one is made for a new connection; where none can be, the packet is dropped and counted.
    """

    allocate: bool = False


@dataclass(frozen=True, kw_only=True)
class Count(Step):
    """Packets and bytes are counted under `name`, for each metadata value by itself when `per_meta`."""

    name: str
    per_meta: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _name(self.name)


@dataclass(frozen=True, kw_only=True)
class Limit(Step):
    """A token bucket: what exceeds it is dropped and counted under `name exceeded`; one per metadata value if asked."""

    name: str
    packets_per_s: int
    burst: int
    per_meta: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _name(self.name)
        _between("packets_per_s", self.packets_per_s, 1, 1_000_000_000)
        _between("burst", self.burst, 1, 1_000_000)


def line_of_text(what: str, text: str) -> None:
    """Raises ValueError unless the text is one printable line of at most 120 characters."""
    if len(text) > 120 or not text.isprintable():
        raise ValueError(f"{what}: expected one printable line of at most 120 characters, found {text[:130]!r}")


def _between(what: str, number: int, low: int, high: int) -> None:
    if not low <= number <= high:
        raise ValueError(f"{what}: expected {low} to {high}, found {number}")


def _name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits, space and _./- (at most 63), found {name[:70]!r}")


def _tunnel(tunnel: str) -> None:
    if tunnel not in TUNNELS:
        raise ValueError(f"expected one of {', '.join(TUNNELS)}, found {tunnel!r}")
