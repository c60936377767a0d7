# SPDX-License-Identifier: Apache-2.0
"""What daemon and server both tell of themselves: version, memory, processor, open files.

Called by mizar.transit.metrics and mizar.manager.metrics.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Literal

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily


class Process:
    """One process; `registry` is for histograms and counters that it keeps itself."""

    def __init__(self, component: Literal["daemon", "gateway", "server"]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._component = component

    def read(self) -> Iterable[Metric]:
        """All of it, as of now."""
        yield gauge(
            "mizar_build_info", "Which Mizar this is; the value is 1.", ("component", "version"),
            [((self._component, version("mizar")), 1)],
        )  # fmt: skip
        yield from self.registry.collect()


def gauge(name: str, help_text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """One gauge with all of its series."""
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
