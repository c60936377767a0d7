# SPDX-License-Identifier: Apache-2.0
"""When something that is bounded will be used up, if its use goes on growing as it did lately. Pure.

Called by the gateway's process with what is in use: connections of tenants with a quota, and of the tables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

WINDOW_S = 600.0
_SAMPLES = 60


@dataclass(frozen=True, slots=True)
class Forecast:
    """`seconds_left` is None while use does not grow."""

    name: str
    in_use: int
    limit: int
    seconds_left: float | None


@dataclass
class Forecasts:
    """Keeps what was in use over the last ten minutes."""

    _seen: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)
    _limits: dict[str, int] = field(default_factory=dict)

    def observe(self, now_s: float, uses: dict[str, tuple[int, int]]) -> None:
        """What is in use now and its limit, by name. A name that is left out is forgotten.

        May be called as often as anybody asks: of what comes more often than every ten seconds the last is kept.
        """
        for name in self._seen.keys() - uses.keys():
            del self._seen[name]
        self._limits = {name: limit for name, (_, limit) in uses.items()}
        for name, (used, _) in uses.items():
            samples = self._seen.setdefault(name, deque(maxlen=_SAMPLES))
            if len(samples) > 1 and now_s - samples[-2][0] < WINDOW_S / _SAMPLES:
                samples.pop()
            samples.append((now_s, used))
            while now_s - samples[0][0] > WINDOW_S:
                samples.popleft()

    def read(self) -> Iterator[Forecast]:
        """All, the most urgent first."""
        found = [self._forecast(name, list(samples)) for name, samples in self._seen.items()]
        yield from sorted(found, key=lambda one: (one.seconds_left is None, one.seconds_left or 0.0, one.name))

    def _forecast(self, name: str, samples: list[tuple[float, int]]) -> Forecast:
        """By the straight line that fits best."""
        used, limit = samples[-1][1], self._limits[name]
        middle_s = sum(at for at, _ in samples) / len(samples)
        middle = sum(count for _, count in samples) / len(samples)
        spread = sum((at - middle_s) ** 2 for at, _ in samples)
        growth = sum((at - middle_s) * (count - middle) for at, count in samples) / spread if spread else 0.0
        left = None if growth <= 0 else max(0.0, (limit - used) / growth)
        return Forecast(name, used, limit, 0.0 if used >= limit else left)
