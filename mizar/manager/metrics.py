# SPDX-License-Identifier: Apache-2.0
"""What a server tells Prometheus (docs/metrics.md): objects, droplets, and how far it is behind.

Made by mizar.manager.manager; read through mizar.metrics.serve. The names of VPCs by the numbers that daemons use are
here too, for `VPCS` of them. It only reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Histogram, Metric

from mizar.manager.registry import Registry
from mizar.metrics.process import Process, gauge
from mizar.model.resources import KINDS, VPC, Droplet

VPCS = 1000
"""Whose names are told."""
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ManagerMetrics:
    """Of one manager. `waiting` is how many acknowledgements are missing, `watchers` how many watch events."""

    def __init__(
        self,
        registry: Registry,
        waiting: Callable[[], int],
        watchers: Callable[[], int],
        health: Callable[[str], str],
    ) -> None:
        self._registry = registry
        self._waiting = waiting
        self._watchers = watchers
        self._health = health
        self._process = Process("server")
        self._rounds = Histogram(
            "mizar_reconcile_seconds", "How long a round took: steps to all droplets, until all have answered.",
            buckets=_BUCKETS_S, registry=self._process.registry,
        )  # fmt: skip

    def observe_round(self, seconds: float) -> None:
        """Takes note of a round."""
        self._rounds.observe(seconds)

    async def read(self, _endpoints: int = 0) -> Iterable[Metric]:
        """All metrics."""
        return [*self._process.read(), *self._objects(), *self._droplets(), *self._vpcs()]

    def _objects(self) -> Iterator[Metric]:
        found = Counter(
            (kind.name, item.phase.value)
            for kind in KINDS.values()
            if kind.served
            for item in self._registry.of_kind(kind.name)
        )
        rows = [(labels, float(count)) for labels, count in sorted(found.items())]
        yield gauge("mizar_objects", "Objects that are kept, by kind and phase.", ("kind", "phase"), rows)
        yield gauge(
            "mizar_reconcile_waiting", "Acknowledgements of droplets that are missing: one per object and droplet.", (),
            [((), self._waiting())],
        )  # fmt: skip
        troubled = len(self._registry.troubled)
        yield gauge("mizar_troubled_objects", "Objects that some droplet could not take.", (), [((), troubled)])
        yield gauge("mizar_monitor_watchers", "Who watches live events.", (), [((), self._watchers())])

    def _droplets(self) -> Iterator[Metric]:
        states = dict.fromkeys(("up", "unreachable", "down", "dead", "none"), 0)
        for item in self._registry.of_kind("Droplet"):
            if isinstance(item.resource, Droplet):
                states[self._health(item.resource.name) or "none"] += 1
        rows = [((state,), float(count)) for state, count in states.items()]
        text = "Droplets by health; none: without a daemon."
        yield gauge("mizar_droplets", text, ("health",), rows)

    def _vpcs(self) -> Iterator[Metric]:
        rows: list[tuple[tuple[str, ...], float]] = []
        for item in self._registry.of_kind("VPC"):
            if isinstance(item.resource, VPC) and len(rows) < VPCS:
                rows.append(((str(item.resource.number), item.resource.tenant, item.resource.name), 1.0))
        text = f"Names of VPCs by the number that daemons use, of the first {VPCS}; the value is 1."
        yield gauge("mizar_vpc_info", text, ("vpc", "tenant", "name"), rows)
