# SPDX-License-Identifier: Apache-2.0
"""What functions have counted, as metrics of their daemon. Called by mizar.transit.metrics, on a thread of its own.

Tenants can have any number of functions: the first so many instances have series, and each of those no more than so
many. Numbers of a process begin anew with it, as Prometheus expects.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from mizar._built import transit_pb2 as pb
from mizar.transit.engines.engine import Sample

MOST_INSTANCES, MOST_SAMPLES = 50, 250
_OWN = ("tenant", "function", "instance")


def families(samples: Iterable[tuple[pb.Engine, Sample]]) -> Iterator[Metric]:
    """One for each name, in the order of names."""
    found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    counts: dict[bytes, int] = {}
    for engine, sample in samples:
        key = engine.digest
        if key not in counts and len(counts) >= MOST_INSTANCES:
            continue
        counts[key] = counts.get(key, 0) + 1
        if counts[key] > MOST_SAMPLES:
            continue
        family = found.get(sample.name)
        if family is None:
            labels = (*_OWN, *(name for name, _ in sample.labels))
            kind = CounterMetricFamily if sample.counter else GaugeMetricFamily
            text = sample.name.replace("_", " ").capitalize()
            family = found[sample.name] = kind(f"mizar_{sample.name}", f"{text}.", labels=labels)
        family.add_metric((*_names(engine), *(value for _, value in sample.labels)), sample.value)
    yield from (found[name] for name in sorted(found))


def _names(engine: pb.Engine) -> tuple[str, str, str]:
    own = engine.nat if engine.HasField("nat") else engine.http
    return own.tenant, own.name, own.instance
