# SPDX-License-Identifier: Apache-2.0
"""Counters and token buckets of a running pipeline. Called by the machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from mizar.pipeline.steps import Limit

Key = tuple[str, int | None]
"""A counter's name, and the metadata value that it belongs to, None where it is one for all."""
SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Tally:
    """Packets and bytes."""

    packets: int = 0
    octets: int = 0

    def add(self, frame: bytes) -> None:
        """One more."""
        self.packets += 1
        self.octets += len(frame)


@dataclass(slots=True)
class _Bucket:
    """Tokens in billionths, so that nothing is lost in rounding: a nanosecond brings as many as packets a second."""

    tokens: int
    filled_ns: int


@dataclass
class Buckets:
    """Every limit's bucket, each full when it is first asked."""

    _buckets: dict[Key, _Bucket] = field(default_factory=dict)

    def take(self, limit: Limit, meta: int | None, now_ns: int) -> bool:
        """Whether one more packet passes at this time; time never runs backwards."""
        full = limit.burst * SECOND_NS
        bucket = self._buckets.setdefault((limit.name, meta), _Bucket(full, now_ns))
        passed = max(0, now_ns - bucket.filled_ns)
        bucket.tokens = min(full, bucket.tokens + passed * limit.packets_per_s)
        bucket.filled_ns = max(now_ns, bucket.filled_ns)
        if bucket.tokens < SECOND_NS:
            return False
        bucket.tokens -= SECOND_NS
        return True
