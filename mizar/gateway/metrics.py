# SPDX-License-Identifier: Apache-2.0
"""What a gateway tells Prometheus (docs/metrics.md) and `mizar gateway show`. It only reads.

How many series there are does not follow from what tenants do: those with a quota or a counter of their own are
described ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from mizar.kernel.layout import constant
from mizar.metrics.bounded import Bounded
from mizar.metrics.process import Process, gauge

if TYPE_CHECKING:
    from mizar.gateway.process import Gateway

TENANTS = 100
"""That have series of their own."""
_process = Process


def read(gateway: Gateway) -> Iterator[Metric]:
    """All of it, as of now."""
    yield from _process("gateway").read()
    tallies = list(gateway.plane.counters())
    labels = [((one.name, "" if one.meta is None else f"{one.meta:#x}"), one) for one in tallies[: 10 * TENANTS]]
    for unit, help_text in (("packets", "Packets"), ("octets", "Bytes")):
        rows = [(label, getattr(one, unit)) for label, one in labels]
        yield _counter(f"mizar_gateway_{unit}", f"{help_text} by counter and tenant.", ("counter", "meta"), rows)
    told = [((kind,), count) for kind, count in gateway.events.items()]
    yield _counter("mizar_gateway_events", "Events of the data plane by kind.", ("kind",), told)
    ended = [((why,), count) for why, count in gateway.ended.items()]
    yield _counter("mizar_gateway_ended", "Connections that the process ended, by reason.", ("reason",), ended)
    tenants: Bounded[str] = Bounded(TENANTS)
    counts = {tenant["tenant"]: tenant for tenant in tenants_of(gateway)}
    numbers = {
        name: {key: one[key] for key in ("connections", "begun", "refused", "exhausted")}
        for name, one in counts.items()
    }
    taken = tenants.take(numbers)
    held = [((name,), one["connections"]) for name, one in taken.items()]
    yield gauge("mizar_gateway_connections", "Connections by tenant.", ("tenant",), held)
    for what in ("begun", "refused", "exhausted"):
        of = [((name,), one[what]) for name, one in taken.items()]
        yield _counter(f"mizar_gateway_{what}", f"Connections {what}, by tenant.", ("tenant",), of)
    left = [((one.name,), one.seconds_left) for one in gateway.forecasts.read() if one.seconds_left is not None][
        :TENANTS
    ]
    yield gauge("mizar_gateway_exhausted_in_seconds", "When what is bounded is used up, as it grows.", ("what",), left)
    if gateway.slow is not None:
        sync = gateway.slow.sync
        installs = [(("installed",), sync.installed), (("refused",), sync.refused)]
        yield _counter(
            "mizar_gateway_kernel_connections", "Connections that the kernel translated.", ("what",), installs
        )


def summary(gateway: Gateway) -> dict[str, Any]:
    """For `mizar gateway show`."""
    table = gateway.table
    settings = {} if table is None else table.limits()
    return {
        "gateway": gateway.options.gateway,
        "pipeline": gateway.pipeline.name,
        "interface": gateway.options.interface,
        "egress": gateway.options.egress or gateway.options.interface,
        "rules": settings.get("rules", 0),
        "connections": sum(one["connections"] for one in tenants_of(gateway)),
        "kernelNamespace": None if gateway.slow is None else gateway.slow.plan.path.namespace,
        "queues": [worker.queue for worker in gateway.workers],
        "tenants": tenants_of(gateway),
        "events": dict(gateway.events),
        "ended": dict(gateway.ended),
        "pair": gateway.pair.summary(),
        "forecast": [
            {"what": one.name, "inUse": one.in_use, "limit": one.limit, "secondsLeft": one.seconds_left}
            for one in gateway.forecasts.read()
        ],
    }


def tenants_of(gateway: Gateway) -> list[dict[str, Any]]:
    """Of each tenant what it has and what it was refused."""
    if gateway.table is None:
        return []
    none = constant("QUOTA_NONE")
    return [
        {
            "tenant": f"{meta:#x}",
            "connections": tenant["in_use"],
            "quota": None if tenant["quota"] == none else tenant["quota"],
            "begun": tenant["begun"],
            "refused": tenant["refused"],
            "exhausted": tenant["exhausted"],
        }
        for meta, tenant in sorted(gateway.table.tables.nat_tenants.items())
    ]


def _counter(
    name: str, help_text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
