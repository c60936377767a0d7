# SPDX-License-Identifier: Apache-2.0
"""What a gateway tells Prometheus (docs/metrics.md). It only reads.

How many series there are does not follow from what tenants do: the first TENANTS that are met have series of their
own, all others share `other`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from mizar.gateway.summary import tenants_of
from mizar.metrics.bounded import OTHER, Bounded
from mizar.metrics.process import Process, gauge

if TYPE_CHECKING:
    from mizar.gateway.process import Gateway

TENANTS = 100
"""That have series of their own."""
_Rows = Iterable[tuple[tuple[str, ...], float]]


class GatewayMetrics:
    """Keeps whose series there are, for as long as the process lives."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._process = Process("gateway")
        self._tenants: Bounded[str] = Bounded(TENANTS)
        self._metas: dict[str, Bounded[str]] = {}

    def read(self) -> Iterator[Metric]:
        """All of it, as of now."""
        yield from self._process.read()
        yield from self._counters()
        yield from self._by_tenant()
        gateway = self._gateway
        told = [((kind,), gateway.events[kind]) for kind in ("exhausted", "quota", "report")]
        yield _counter("mizar_gateway_events", "Events of the data plane by kind.", ("kind",), told)
        ended = [((why.replace(" ", "_"),), gateway.ended[why]) for why in ("expired", "not allowed")]
        text = "Connections that the process ended, by reason."
        yield _counter("mizar_gateway_ended_connections", text, ("reason",), ended)
        yield from self._forecast()
        sync = None if gateway.slow is None else gateway.slow.sync
        rows = [] if sync is None else [(("installed",), sync.installed), (("refused",), sync.refused)]
        text = "Connections that the kernel began: made hot, or refused."
        yield _counter("mizar_gateway_kernel_connections", text, ("result",), rows)
        yield from self._pair()

    def _counters(self) -> Iterator[Metric]:
        """As many as the description has; those by metadata bounded."""
        rows: dict[tuple[str, str], Mapping[str, int]] = {}
        by_meta: dict[str, dict[str, Mapping[str, int]]] = {}
        for one in self._gateway.plane.counters():
            counts = {"packets": one.packets, "bytes": one.octets}
            if one.meta is None:
                rows[one.name, ""] = counts
            else:
                by_meta.setdefault(one.name, {})[f"{one.meta:#x}"] = counts
        for name, now in by_meta.items():
            kept = self._metas.setdefault(name, Bounded(TENANTS)).take(now)
            rows |= {(name, meta): counts for meta, counts in kept.items()}
        for unit in ("packets", "bytes"):
            text = f"{unit.capitalize()} by counter of the description and metadata."
            found = [(labels, counts[unit]) for labels, counts in rows.items()]
            yield _counter(f"mizar_gateway_{unit}", text, ("counter", "meta"), found)

    def _by_tenant(self) -> Iterator[Metric]:
        live, counted = {}, {}
        for one in tenants_of(self._gateway):
            live[one["tenant"]] = one["connections"]
            counted[one["tenant"]] = {key: one[key] for key in ("begun", "refused", "exhausted")}
        found = self._tenants.take(counted)
        held: dict[str, int] = dict.fromkeys(found, 0)
        for tenant, count in live.items():
            held[tenant if tenant in found else OTHER] += count
        rows = [((tenant,), count) for tenant, count in held.items()]
        yield gauge("mizar_gateway_connections", "Connections that live, by tenant.", ("tenant",), rows)
        rows = [((tenant,), counts["begun"]) for tenant, counts in found.items()]
        yield _counter("mizar_gateway_begun_connections", "Connections that began, by tenant.", ("tenant",), rows)
        refused = [
            ((tenant, reason), counts[key])
            for tenant, counts in found.items()
            for key, reason in (("refused", "quota"), ("exhausted", "exhausted"))
        ]
        text = "Packets that would have begun a connection; exhausted: no port or no room."
        yield _counter("mizar_gateway_refused_packets", text, ("tenant", "reason"), refused)

    def _forecast(self) -> Iterator[Metric]:
        urgent = list(islice(self._gateway.forecasts.read(), TENANTS))
        used = [((one.name,), one.in_use / one.limit if one.limit else 1.0) for one in urgent]
        yield gauge("mizar_gateway_used_ratio", "How much of what is bounded is in use, 0 to 1.", ("what",), used)
        left = [((one.name,), one.seconds_left) for one in urgent if one.seconds_left is not None]
        yield gauge("mizar_gateway_exhausted_in_seconds", "When it is used up, as it grows.", ("what",), left)

    def _pair(self) -> Iterator[Metric]:
        pair = self._gateway.pair
        led = [] if pair.followers is None else [((), pair.followers)]
        yield gauge("mizar_gateway_followers", "Gateways that learn of this one's connections.", (), led)
        state = pair.following
        kinds = () if state is None else ("apart", "catching_up", "whole")
        at = "" if state is None else "whole" if state.whole else "catching_up" if state.connected else "apart"
        rows = [((kind,), int(kind == at)) for kind in kinds]
        text = "1 for what is so: apart from the other, catching up, or all of its connections are here (whole)."
        yield gauge("mizar_gateway_following", text, ("state",), rows)
        told = [] if state is None else [((), state.told)]
        text = "Connections that the other told of, again and again."
        yield _counter("mizar_gateway_told_connections", text, (), told)
        adopted = [] if state is None else [((), state.adopted)]
        text = "Connections that were taken from the other."
        yield _counter("mizar_gateway_adopted_connections", text, (), adopted)


def _counter(name: str, help_text: str, labels: tuple[str, ...], rows: _Rows) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
