# SPDX-License-Identifier: Apache-2.0
"""What protections have kept from endpoints, as metrics of their daemon. Called by mizar.transit.metrics.

A droplet has at most 63 of them, so nothing has to be left out. Counters go on over a restart of the daemon, and begin
anew with a protection. They are as old as what the daemon has told last: three seconds at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from mizar._built import transit_pb2 as pb

_OF = ("tenant", "protection")


def families(found: Iterable[tuple[str, pb.DdosStatus]]) -> Iterator[Metric]:
    """Of each protection: TENANT/NAME, and what it does."""
    text = "Packets that a protection has looked at, and what it took them for."
    packets = CounterMetricFamily("mizar_ddos_packets", text, labels=(*_OF, "kind"))
    octets = CounterMetricFamily("mizar_ddos_bytes", "The same in bytes.", labels=(*_OF, "kind"))
    engaged = GaugeMetricFamily("mizar_ddos_engaged", "1: a measure is engaged.", labels=(*_OF, "measure"))
    for name, status in found:
        of = tuple(name.split("/", 1))
        for one in status.counts:
            packets.add_metric((*of, one.kind), one.packets)
            octets.add_metric((*of, one.kind), one.bytes)
        engaged.add_metric((*of, "synCookies"), float(status.cookies))
        engaged.add_metric((*of, "reflection"), float(status.filter))
    yield from (packets, octets, engaged)
