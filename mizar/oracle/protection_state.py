# SPDX-License-Identifier: Apache-2.0
"""What a protection goes by and remembers: limits, thresholds and questions, in places as the data plane has them.

Asked by mizar.oracle.protection. All state is told, the clock too; whoever has a packet judged keeps what comes of it.
Pure. Not here: who is named in reports, which is a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mizar.model.prefix_list import PrefixList

Mode = Literal["off", "auto", "always"]
SKETCH, VERIFIED, QUESTIONS, TRUSTED = 4096, 4096, 4096, 4096
"""Places of one protection: of each row for sources, for flows, for questions, for sources that met a challenge."""
_ENGAGE_NS, _WRITE_NS = 100_000_000, 10_000_000
_TICK_BITS, _TICKS, _TRUST_TICKS, _TRUST_TICK = 30, 8, 64, 0xFFFF
_64 = (1 << 64) - 1
_MAPPED = bytes(10) + b"\xff\xff"
_S = 10**9


def per_packet(packets_per_s: int) -> int:
    """Nanoseconds between packets at a limit; 0 where there is none."""
    return max(_S // packets_per_s, 1) if packets_per_s else 0


def per_kib(bytes_per_s: int) -> int:
    """Nanoseconds for 1024 bytes."""
    return max(1024 * _S // bytes_per_s, 1) if bytes_per_s else 0


@dataclass(frozen=True, slots=True)
class Rule:
    """A protection, in nanoseconds; 0 is no limit. `seed`: of its hashes."""

    seed: int = 0
    source_packet_ns: int = 0
    source_kib_ns: int = 0
    target_packet_ns: int = 0
    target_kib_ns: int = 0
    burst_ns: int = 0
    syn_ns: int = 0
    reflected_ns: int = 0
    hold_ns: int = 0
    cookies: Mode = "off"
    reflection: Mode = "off"
    ports: frozenset[int] = frozenset()
    block: PrefixList = field(default_factory=PrefixList)
    allow: PrefixList = field(default_factory=PrefixList)


@dataclass(slots=True)
class Threshold:
    """A measure that engages by itself: its clock, until when it is engaged, and since when."""

    at: int = 0
    until: int = 0
    since: int = 0

    def engages(self, now: int, interval_ns: int, hold_ns: int) -> bool:
        """One more of what it counts has come: is it engaged? While it is, half of the rate holds it."""
        engaged = self.until > now
        if not interval_ns:
            return False
        if self.at - now <= _ENGAGE_NS:
            self.at = max(self.at, now) + interval_ns * (2 if engaged else 1)
            return engaged
        if not engaged:
            self.since = now
        if self.until < now + hold_ns - _WRITE_NS:
            self.until = now + hold_ns
        return True


@dataclass(slots=True)
class Bucket:
    """When somebody is within the limits again, of packets and of bytes."""

    packets_at: int = 0
    bytes_at: int = 0

    def full(self, now: int, burst_ns: int) -> bool:
        """Nothing more may come now."""
        return max(self.packets_at, self.bytes_at) - now > burst_ns

    def charge(self, now: int, packets_ns: int, bytes_ns: int) -> None:
        """For what has passed."""
        if packets_ns:
            self.packets_at = max(self.packets_at, now) + packets_ns
        if bytes_ns:
            self.bytes_at = max(self.bytes_at, now) + bytes_ns


@dataclass(slots=True)
class State:
    """What one protection remembers on one droplet. `sources`: by row and place; `targets`: by endpoint."""

    syns: Threshold = field(default_factory=Threshold)
    reflected: Threshold = field(default_factory=Threshold)
    sources: dict[tuple[int, int], Bucket] = field(default_factory=dict)
    targets: dict[int, Bucket] = field(default_factory=dict)
    questions: dict[int, int] = field(default_factory=dict)
    verified: dict[int, int] = field(default_factory=dict)
    trusted: dict[int, int] = field(default_factory=dict)

    def trust(self, rule: Rule, source: bytes, vni: int, now: int) -> None:
        """A source has met its challenge."""
        hashed = _source(rule, source, vni)
        self.trusted[(hashed >> 32) % TRUSTED] = hashed & ~_TRUST_TICK | now >> _TICK_BITS & _TRUST_TICK

    @staticmethod
    def is_sound(rule: Rule, source: bytes, vni: int, now: int) -> bool:
        """Whether a source gets a sound answer now, which acknowledges its own number: a quarter of the time."""
        return mixed(_source(rule, source, vni), now >> _TICK_BITS) >> 32 & 3 == 3

    def trusts(self, rule: Rule, source: bytes, vni: int, now: int) -> bool:
        """Whether it has done so within a little more than a minute."""
        hashed = _source(rule, source, vni)
        found = self.trusted.get((hashed >> 32) % TRUSTED, 0)
        return found >> 16 == hashed >> 16 and (now >> _TICK_BITS) - found & _TRUST_TICK < _TRUST_TICKS

    def source_over(self, rule: Rule, source: bytes, now: int, packets: int, size: int) -> bool:
        """Whether a source is over its limit, which it is where both of its places are; else both are charged."""
        hashed = hash_of(rule.seed, source)
        places = ((0, hashed % SKETCH), (1, (hashed >> 32) % SKETCH))
        found = [self.sources.setdefault(place, Bucket()) for place in places]
        if all(one.full(now, rule.burst_ns) for one in found):
            return True
        for one in found:
            one.charge(now, rule.source_packet_ns * packets, rule.source_kib_ns * size >> 10)
        return False

    def target_over(self, rule: Rule, endpoint: int, now: int, packets: int, size: int) -> bool:
        """Whether an endpoint is over its limit; else it is charged."""
        one = self.targets.setdefault(endpoint, Bucket())
        if one.full(now, rule.burst_ns):
            return True
        one.charge(now, rule.target_packet_ns * packets, rule.target_kib_ns * size >> 10)
        return False

    def ask(self, rule: Rule, endpoint: int, other: bytes, ports: bytes, now: int) -> None:
        """An endpoint asks somebody. `ports`: the other's and its own as the answer bears them, or none."""
        hashed = _question(rule.seed, endpoint, other, ports)
        self.questions[hashed % QUESTIONS] = hashed & ~0xFF | now >> _TICK_BITS & 0xFF

    def was_asked(self, rule: Rule, endpoint: int, other: bytes, ports: bytes, now: int) -> bool:
        """Whether it has asked so a short while ago."""
        hashed = _question(rule.seed, endpoint, other, ports)
        found = self.questions.get(hashed % QUESTIONS, 0)
        return found >> 8 == hashed >> 8 and (now >> _TICK_BITS) - found & 0xFF < _TICKS


def hash_of(seed: int, address: bytes) -> int:
    """Of an address of 16 bytes."""
    low, high = (int.from_bytes(address[at : at + 8], "little") for at in (0, 8))
    return mixed(mixed(seed, low), high)


def mixed(hashed: int, value: int) -> int:
    """A hash with one more value in it."""
    found = (hashed ^ value) * 0x9E3779B97F4A7C15 & _64
    return found ^ found >> 29


def words(ports: bytes) -> int:
    """Two ports as the data plane has them in one number: each as it is on the wire, the first above."""
    return int.from_bytes(ports[:2], "little") << 16 | int.from_bytes(ports[2:4], "little")


def _source(rule: Rule, source: bytes, vni: int) -> int:
    """Who meets a challenge, of an address of 16 bytes: in IPv6 its /64."""
    return mixed(hash_of(rule.seed, source if source.startswith(_MAPPED) else source[:8] + bytes(8)), vni)


def _question(seed: int, endpoint: int, other: bytes, ports: bytes) -> int:
    return mixed(mixed(hash_of(seed, other), endpoint), words(ports))
