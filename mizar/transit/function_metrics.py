# SPDX-License-Identifier: Apache-2.0
"""What network functions have done, as metrics of their daemon. Called by mizar.transit.metrics.

A droplet has at most 64 of them, with seven stages and 31 reasons each, so nothing has to be left out. Counters go on
over a restart of the daemon, and begin anew with a function.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from mizar._built import transit_pb2 as pb
from mizar.model.function_object import STAGES

_AT = ("function", "stage")


def families(told: pb.Functions) -> Iterator[Metric]:
    """Of all that are loaded."""
    name = "mizar_network_function"
    packets = CounterMetricFamily(f"{name}_packets", "Packets that a network function was asked about.", labels=_AT)
    text = "Of these, what was not let on to the next function."
    verdicts = CounterMetricFamily(f"{name}_verdicts", text, labels=(*_AT, "verdict"))
    timed = CounterMetricFamily(f"{name}_timed_packets", "Of these, packets that were timed.", labels=_AT)
    seconds = CounterMetricFamily(f"{name}_timed_seconds", "How long it took for those.", labels=_AT)
    drops = CounterMetricFamily(f"{name}_dropped_packets", "Refused, by its own reason.", labels=("function", "reason"))
    octets = CounterMetricFamily(f"{name}_dropped_bytes", "The same in bytes.", labels=("function", "reason"))
    missing = GaugeMetricFamily(f"{name}_missing", "1: it cannot be loaded any more.", labels=("function",))
    for one in told.functions:
        function = one.function.name
        missing.add_metric((function,), float(bool(one.problem)))
        for row in one.stages:
            at = function, STAGES[row.stage]
            packets.add_metric(at, row.packets)
            timed.add_metric(at, row.sampled)
            seconds.add_metric(at, row.sampled_ns / 1e9)
            for verdict in ("dropped", "passed", "redirected", "transmitted"):
                verdicts.add_metric((*at, verdict), getattr(row, verdict))
        for drop in one.drops:
            drops.add_metric((function, drop.name), drop.packets)
            octets.add_metric((function, drop.name), drop.bytes)
    yield from (packets, verdicts, timed, seconds, drops, octets, missing)
