# SPDX-License-Identifier: Apache-2.0
"""Which values of metadata, VNI or VLAN id need a rule of their own: hardware has no tables and no per-value counters.

Called by `compile`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from mizar.pipeline.box import Box
from mizar.pipeline.description import Block
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.rte_flow.lowering import CannotError
from mizar.pipeline.steps import (
    META_BITS,
    SOURCE_BITS,
    Count,
    Decap,
    Encap,
    Limit,
    Nat,
    PopVlan,
    PushVlan,
    SetMeta,
    SetVid,
    SetVni,
    Step,
)


@dataclass(frozen=True, slots=True)
class Key:
    """One value of a source (`meta`, `vni`, `vlan`), and the metadata that the block's steps then have."""

    source: str
    number: int
    meta: int


def keys(block: Block, tenants: tuple[int, ...], box: Box) -> list[Key]:
    """The values that the block's steps treat each by itself, for frames of a box. Raises CannotError."""
    steps = _before_nat(block)
    _check_order(steps, box)
    setter = next((step for step in steps if isinstance(step, SetMeta)), None)
    tables = [step.table for step in steps if isinstance(step, SetVni | SetVid) and step.table is not None]
    per_meta = any(isinstance(step, Count | Limit) and step.per_meta for step in steps)
    if setter is not None and setter.table is not None:
        return [Key(setter.source, number, meta) for number, meta in setter.table.entries]
    wanted = dict.fromkeys(tenants if per_meta else ())
    if tables:
        wanted = dict.fromkeys(number for table in tables for number, _ in table.entries)
    if setter is None:
        return [Key("meta", meta, meta) for meta in wanted]
    if not _plain(steps, box):
        return []
    top = 1 << SOURCE_BITS[setter.source]
    return [Key(setter.source, meta - setter.add, meta) for meta in wanted if 0 <= meta - setter.add < top]


def keyed(box: Box, meta: Ranges | None, key: Key | None) -> tuple[Box, Ranges | None] | None:
    """The box and the metadata of a key's rules; None where the key cannot be."""
    if key is None:
        return box, meta
    if key.source == "meta":
        one = Ranges.of(META_BITS, [key.number])
        found = one if meta is None else one & meta
        return None if found.is_empty else (box, found)
    index, field = _place(box, key.source)
    limit = box.limit(index, field) & Ranges.of(SOURCE_BITS[key.source], [key.number])
    return None if limit.is_empty else (box.with_limit(index, field, limit), meta)


def _check_order(steps: list[Step], box: Box) -> None:
    """A rule matches once, before its steps: what they look up has to be known by then. Raises CannotError."""
    setters = [place for place, step in enumerate(steps) if isinstance(step, SetMeta)]
    if not setters:
        return
    looking = [place for place, step in enumerate(steps) if _looks_up(step)]
    tables = any(getattr(step, "table", None) is not None for step in steps)
    if (len(setters) > 1 and (looking or tables)) or (looking and looking[0] < setters[0]):
        raise CannotError("set_meta beside steps that look metadata up: put it, or them, into a later group")
    if tables and not _plain(steps, box):
        raise CannotError("a table has to stand in the case that asks for the header, or in a later group")


def _looks_up(step: Step) -> bool:
    """Whether a step does something else for each value of metadata."""
    if isinstance(step, SetVni | SetVid):
        return step.table is not None
    return isinstance(step, Count | Limit) and step.per_meta


def _plain(steps: list[Step], box: Box) -> bool:
    """Whether the first set_meta reads a header that the rule's pattern shows, before any header came or went."""
    first = next(place for place, step in enumerate(steps) if isinstance(step, SetMeta))
    setter = steps[first]
    moved = any(isinstance(step, Decap | Encap | PopVlan | PushVlan) for step in steps[:first])
    return isinstance(setter, SetMeta) and not moved and _shows(box, setter.source)


def _shows(box: Box, source: str) -> bool:
    """Whether the box has the header that a source is read from."""
    return "vlan" in box.shape[1:2] if source == "vlan" else box.tunnel is not None


def _place(box: Box, source: str) -> tuple[int, str]:
    if source == "vlan":
        return box.shape.index("vlan"), "vid"
    return next(index for index, kind in enumerate(box.shape) if kind in TUNNELS), "vni"


def _before_nat(block: Block) -> list[Step]:
    found = []
    for step in block.steps:
        if isinstance(step, Nat):
            break
        found.append(step)
    return found
