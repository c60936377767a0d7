# SPDX-License-Identifier: Apache-2.0
"""Rates of objects as droplets hold them. Called by who makes facts of endpoints. Pure."""

from __future__ import annotations

from mizar.model.qos import EndpointQos, QosSpec, RateSpec
from mizar.planner.entries import NO_QOS, NO_RATE, QosEntry, RateEntry


def entry_of(own: EndpointQos, network: QosSpec, vpc: QosSpec) -> QosEntry:
    """What holds for an endpoint of this network and VPC. The innermost DSCP that is set holds."""
    rates = (own.egress, own.ingress, own.guarantee, network.egress, network.ingress, vpc.egress, vpc.ingress)
    if not any(rates) and own.dscp is network.dscp is vpc.dscp is None:
        return NO_QOS
    marks = (one.dscp for one in (own, network, vpc) if one.dscp is not None)
    return QosEntry(
        (_rate(own.egress), _rate(network.egress), _rate(vpc.egress)),
        (_rate(own.ingress), _rate(network.ingress), _rate(vpc.ingress)),
        _rate(own.guarantee),
        next(marks, None),
    )


def _rate(spec: RateSpec | None) -> RateEntry:
    if spec is None:
        return NO_RATE
    return RateEntry(spec.bits_per_second or 0, spec.packets_per_second or 0, spec.most_bytes, spec.most_packets)
