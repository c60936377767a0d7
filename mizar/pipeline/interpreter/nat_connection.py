# SPDX-License-Identifier: Apache-2.0
"""A translated connection and how long it lives: RFC 4787 REQ-5 and 6, RFC 5382 REQ-5, RFC 5508 REQ-1.

Equal to contracts/gateway.h (connection_flag) word by word. Called by the table. Knows nothing of rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mizar.pipeline.interpreter.connection import ACK, FIN, RST, SYN, Flow, Seen
from mizar.pipeline.nat import Timeouts

TICK_SHIFT = 30
_SEQUENCE = (1 << 32) - 1


def tick(now_ns: int) -> int:
    """The coarse time that stamps are in, 1.07 s long."""
    return now_ns >> TICK_SHIFT


def ticks(seconds: int) -> int:
    """A time-out in ticks, never shorter than its seconds."""
    return -(-seconds * 1_000_000_000 >> TICK_SHIFT)


@dataclass(slots=True)
class Direction:
    """What one side has shown: `acknowledges` is its last acknowledgement, or after its SYN alone what answers that."""

    stamp: int = 0
    fin: bool = False
    reset: bool = False
    syn_alone: bool = False
    has_acknowledged: bool = False
    acknowledges: int = 0
    window: int = 0
    scale: int | None = None


@dataclass(slots=True, eq=False)
class Connection:
    """`original` is the first packet's flow, `becomes` what it is translated to; `tenant` pays for it."""

    original: Flow
    becomes: Flow
    tenant: int
    inner: tuple[int, int, str, int, int] | None = None
    contact: int | None = None
    answered: bool = False
    forth: Direction = field(default_factory=Direction)
    back: Direction = field(default_factory=Direction)

    def translated(self, flow: Flow) -> Flow:
        """What a packet of either direction becomes."""
        return self.becomes if flow == self.original else self.original.reversed()

    @property
    def closing(self) -> bool:
        """FINs of both sides, or a RST that counts."""
        return (self.forth.fin and self.back.fin) or self.forth.reset or self.back.reset

    def lives(self, now: int, timeouts: Timeouts) -> bool:
        """Whether it is there at a tick."""
        return now - max(self.forth.stamp, self.back.stamp) <= ticks(self.timeout_s(timeouts))

    def timeout_s(self, timeouts: Timeouts) -> int:
        """How long it may be silent now."""
        if self.original.protocol == "tcp":
            return timeouts.tcp_s if self.answered and not self.closing else timeouts.tcp_transitory_s
        return timeouts.udp_s if self.original.protocol == "udp" else timeouts.icmp_s

    def begin(self, seen: Seen, now: int) -> None:
        """The first packet, or the SYN that begins a closed connection anew."""
        self.answered, self.forth, self.back = False, Direction(stamp=now), Direction(stamp=now)
        if seen.flow.protocol == "tcp":
            _track(self.forth, seen)

    def saw(self, seen: Seen, now: int) -> None:
        """One more packet, of either direction; ICMP errors do not come here."""
        outward = seen.flow == self.original
        mine, theirs = (self.forth, self.back) if outward else (self.back, self.forth)
        if seen.flow.protocol == "tcp" and not seen.later:
            self._saw_tcp(seen, mine, theirs, outward, now)
            return
        self.answered |= not outward and not seen.later
        keeps = outward or seen.flow.protocol == "tcp"  # only inside traffic keeps a mapping: RFC 4787 REQ-6
        if keeps and not self.closing:
            mine.stamp = now

    def _saw_tcp(self, seen: Seen, mine: Direction, theirs: Direction, outward: bool, now: int) -> None:
        flags = seen.tcp_flags
        if outward and self.closing and seen.may_begin:
            self.begin(seen, now)
            return
        was_closing = self.closing
        if flags & RST and not _counts(seen, mine, theirs):
            return
        if flags & RST:
            mine.reset = True
        else:
            mine.reset = False
            _track(mine, seen)
            self.answered |= not outward and bool(flags & SYN)
            mine.fin |= bool(flags & FIN)
        if not self.closing:
            mine.stamp = now
        elif not was_closing:
            mine.stamp = theirs.stamp = now


def _track(mine: Direction, seen: Seen) -> None:
    if seen.tcp_flags & SYN:
        mine.scale = seen.scale
        if not seen.tcp_flags & ACK and not mine.has_acknowledged:
            mine.syn_alone = True
            mine.acknowledges = seen.sequence + 1 + seen.payload & _SEQUENCE
    if seen.tcp_flags & ACK:
        mine.syn_alone, mine.has_acknowledged = False, True
        mine.acknowledges = seen.acknowledgement
    mine.window = seen.window


def _counts(seen: Seen, mine: Direction, theirs: Direction) -> bool:
    """Whether the other side would take a RST (RFC 9293 3.10.7.4, RFC 5961 3.2)."""
    if theirs.has_acknowledged:
        scale = theirs.scale if theirs.scale is not None and mine.scale is not None else 0
        return seen.sequence - theirs.acknowledges & _SEQUENCE <= theirs.window << scale
    if theirs.syn_alone:
        return bool(seen.tcp_flags & ACK) and seen.acknowledgement == theirs.acknowledges
    return not mine.syn_alone or seen.sequence == mine.acknowledges
