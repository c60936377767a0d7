# SPDX-License-Identifier: Apache-2.0
"""Runs a pipeline: one frame in; a verdict, a frame and counters out.

The meaning of every word of the description is here; other targets are compared with this one. Made for being right
and readable, not for being fast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from mizar.pipeline.description import Block, Case, Pipeline, Spot, State, Switch
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.interpreter import connection, edit
from mizar.pipeline.interpreter.buckets import Buckets, Key, Tally
from mizar.pipeline.interpreter.connection import Answer, Conntrack, Seen
from mizar.pipeline.interpreter.frame import field as value_of
from mizar.pipeline.interpreter.frame import headers, with_field
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.interpreter.translate import translated
from mizar.pipeline.nat import NatRules
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import (
    Count,
    Decap,
    Drop,
    Encap,
    Goto,
    Limit,
    Nat,
    PopVlan,
    PushVlan,
    Queue,
    SetMeta,
    SetVid,
    SetVni,
    Step,
    Stop,
    Trap,
)

NO_ETHERNET = "no Ethernet header"


class Verdict(StrEnum):
    """Where a frame ended."""

    EGRESS = "egress"
    KERNEL = "kernel"
    QUEUE = "queue"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a frame ended: the frame as it was then, the queue's number, and for a drop the counter that has it."""

    verdict: Verdict
    frame: bytes
    meta: int | None = None
    queue: int | None = None
    reason: str = ""


@dataclass(slots=True)
class Packet:
    """A frame on its way."""

    frame: bytes
    meta: int | None = None
    seen: Seen | None = None
    answer: Answer | None = None


class _Ended(Exception):  # noqa: N818 - a way's end is no error
    def __init__(self, verdict: Verdict, reason: str = "", queue: int | None = None) -> None:
        super().__init__(reason)
        self.verdict, self.reason, self.queue = verdict, reason, queue


class _Goto(Exception):  # noqa: N818
    def __init__(self, group: str) -> None:
        super().__init__(group)
        self.group = group


@dataclass
class Machine:
    """A validated pipeline with its state; without a `conntrack` it is a table of the pipeline's own rules.

    `watch` is told of every step before it is done, for tests and traces.
    """

    pipeline: Pipeline
    conntrack: Conntrack = None  # type: ignore[assignment]
    counters: defaultdict[Key, Tally] = field(default_factory=lambda: defaultdict(Tally))
    watch: Callable[[Spot, Packet], None] | None = None
    _buckets: Buckets = field(default_factory=Buckets)

    def __post_init__(self) -> None:
        if self.conntrack is None:
            self.conntrack = NatTable(self.pipeline.nat or NatRules())

    def run(self, frame: bytes, now_ns: int = 0) -> Outcome:
        """What becomes of a frame that enters at the first group at a time; one without Ethernet header is dropped."""
        return self._to_its_end(Packet(bytes(frame)), 0, now_ns)

    def resume(self, frame: bytes, meta: int, group: str, now_ns: int = 0) -> Outcome:
        """What becomes of a frame of a tenant that goes on at the beginning of a group, its way before it done
        elsewhere."""
        return self._to_its_end(Packet(bytes(frame), meta), self.pipeline.number(group), now_ns)

    def _to_its_end(self, packet: Packet, number: int, now_ns: int) -> Outcome:
        try:
            if not headers(packet.frame):
                raise _Ended(Verdict.DROP, NO_ETHERNET)
            self._groups(packet, number, now_ns)
        except _Ended as end:
            if end.verdict is Verdict.DROP:
                self.counters[end.reason, None].add(packet.frame)
            return Outcome(end.verdict, packet.frame, packet.meta, end.queue, end.reason)
        raise AssertionError("a validated pipeline always ends")

    def _groups(self, packet: Packet, number: int, now_ns: int) -> None:
        while True:
            group = self.pipeline.groups[number]
            try:
                self._block(Spot(group.name), group.block, packet, now_ns)
                number += 1
            except _Goto as jump:
                number = self.pipeline.number(jump.group)

    def _block(self, spot: Spot, block: Block, packet: Packet, now_ns: int) -> None:
        for number, step in enumerate(block.steps, 1):
            here = Spot(spot.group, spot.cases, number)
            if self.watch is not None:
                self.watch(here, packet)
            self._step(here, step, packet, now_ns)
        if block.switch is not None:
            self._switch(spot, block.switch, packet, now_ns)

    def _switch(self, spot: Spot, switch: Switch, packet: Packet, now_ns: int) -> None:
        if switch.on == "conntrack":
            assert packet.meta is not None
            packet.seen = connection.read(packet.frame, packet.meta)
            unread = Answer(State.INVALID)
            packet.answer = unread if packet.seen is None else self.conntrack.look(packet.seen, now_ns)
        for number, case in enumerate(switch.cases, 1):
            if _fits(case, packet):
                self._block(Spot(spot.group, (*spot.cases, number)), case.block, packet, now_ns)
                return
        raise _Ended(Verdict.DROP, f"{spot}: no case")

    def _step(self, here: Spot, step: Step, packet: Packet, now_ns: int) -> None:
        match step:
            case Goto():
                raise _Goto(step.group)
            case Stop():
                raise _Ended(Verdict.EGRESS)
            case Trap():
                raise _Ended(Verdict.KERNEL)
            case Queue():
                raise _Ended(Verdict.QUEUE, queue=step.number)
            case Drop():
                raise _Ended(Verdict.DROP, f"{here}: drop")
            case Count():
                self.counters[step.name, packet.meta if step.per_meta else None].add(packet.frame)
            case Limit():
                meta = packet.meta if step.per_meta else None
                if not self._buckets.take(step, meta, now_ns):
                    if meta is not None:
                        self.counters[f"{step.name} exceeded", meta].add(packet.frame)
                    raise _Ended(Verdict.DROP, f"{step.name} exceeded")
            case Nat():
                self._nat(here, packet, now_ns)
            case _:
                self._edit(here, step, packet)

    def _edit(self, here: Spot, step: Step, packet: Packet) -> None:
        """Steps that change the frame or its metadata, and need no state."""
        match step:
            case SetMeta():
                number = _field(packet.frame, step.source)
                found = number + step.add if step.table is None else step.table.get(number)
                if found is None:
                    raise _Ended(Verdict.DROP, f"{here}: not in the table")
                packet.meta = found
            case PopVlan():
                packet.frame = edit.pop_vlan(packet.frame)
            case PushVlan():
                packet.frame = edit.push_vlan(packet.frame)
            case Decap():
                packet.frame = edit.decap(packet.frame)
            case Encap():
                longer = edit.encap(packet.frame, step, self.pipeline.tunnel(step.to))
                if longer is None:
                    raise _Ended(Verdict.DROP, f"{here}: too long")
                packet.frame = longer
            case SetVni() | SetVid():
                assert packet.meta is not None
                value = packet.meta if step.table is None else step.table.get(packet.meta)
                if value is None:
                    raise _Ended(Verdict.DROP, f"{here}: not in the table")
                packet.frame = _with_field(packet.frame, "vni" if isinstance(step, SetVni) else "vlan", value)

    def _nat(self, here: Spot, packet: Packet, now_ns: int) -> None:
        assert packet.seen is not None
        assert packet.answer is not None
        becomes = packet.answer.becomes
        if becomes is None:
            becomes = self.conntrack.allocate(packet.seen, now_ns)
        if becomes is None:
            raise _Ended(Verdict.DROP, f"{here}: no translation")
        packet.frame = translated(packet.frame, packet.seen, becomes)
        packet.meta = becomes.meta


def _fits(case: Case, packet: Packet) -> bool:
    when = case.when
    if isinstance(when, Pattern):
        return matches(when, packet.frame)
    if isinstance(when, Ranges):
        assert packet.meta is not None
        return packet.meta in when
    if isinstance(when, frozenset):
        assert packet.answer is not None
        return packet.answer.state in when
    return True


def matches(pattern: Pattern, frame: bytes) -> bool:
    """Whether a frame's headers begin as a pattern asks for, with fields that it lets through."""
    parts = headers(frame)
    kinds = tuple(part.kind for part in parts)
    return any(
        kinds[: len(box.shape)] == box.shape
        and all(value_of(frame, parts[index], name) in ranges for (index, name), ranges in box.limits)
        for box in pattern.boxes
    )


def _field(frame: bytes, source: str) -> int:
    """The outermost tunnel's VNI, or the outermost VLAN's id."""
    part = next(part for part in headers(frame) if part.kind in (TUNNELS if source == "vni" else ("vlan",)))
    return value_of(frame, part, "vni" if source == "vni" else "vid")


def _with_field(frame: bytes, source: str, number: int) -> bytes:
    part = next(part for part in headers(frame) if part.kind in (TUNNELS if source == "vni" else ("vlan",)))
    return with_field(frame, part, "vni" if source == "vni" else "vid", number)
