# SPDX-License-Identifier: Apache-2.0
"""Rates between the planner's values and messages. Called by `translate`."""

from __future__ import annotations

from mizar._built import transit_pb2 as pb
from mizar.planner.entries import NO_RATE, QosEntry, RateEntry


def qos_message(entry: QosEntry) -> pb.Qos:
    """As the daemon is told."""
    out, into = [list(map(_message, chain)) for chain in (entry.egress, entry.ingress)]
    return pb.Qos(
        egress=out[0], network_egress=out[1], vpc_egress=out[2],
        ingress=into[0], network_ingress=into[1], vpc_ingress=into[2],
        guarantee=_message(entry.guarantee), dscp=entry.dscp,
    )  # fmt: skip


def _message(entry: RateEntry) -> pb.Rate | None:
    if entry == NO_RATE:
        return None
    return pb.Rate(
        bits_per_second=entry.bits_per_second, packets_per_second=entry.packets_per_second,
        burst_bytes=entry.burst_bytes, burst_packets=entry.burst_packets,
    )  # fmt: skip


def qos_entry(told: pb.Qos) -> QosEntry:
    """As the daemon tells."""
    return QosEntry(
        (_entry(told.egress), _entry(told.network_egress), _entry(told.vpc_egress)),
        (_entry(told.ingress), _entry(told.network_ingress), _entry(told.vpc_ingress)),
        _entry(told.guarantee),
        told.dscp if told.HasField("dscp") else None,
    )


def _entry(told: pb.Rate) -> RateEntry:
    return RateEntry(told.bits_per_second, told.packets_per_second, told.burst_bytes, told.burst_packets)
