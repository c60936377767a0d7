# SPDX-License-Identifier: Apache-2.0
"""Counters of this droplet, summed over CPUs, under the names of what they count.

Called by the servicer. It only reads.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.model import drop_reasons
from mizar.transit import limit_counters
from mizar.transit.execute import Maps
from mizar.transit.state import State


def read(maps: Maps, state: State) -> pb.Counters:
    """All counters: of every local endpoint and VPC, of every limit, and of every reason that has occurred."""
    reasons: Mapping[int, drop_reasons.DropReason] = drop_reasons.by_number()
    limiters = limit_counters.read(maps, state)
    limited: defaultdict[Any, Counter[str]] = defaultdict(Counter)
    for _, uid, sums in limit_counters.dropped(limiters, "endpoint"):
        limited[uid].update(sums)
    for vni, _, sums in limit_counters.dropped(limiters, "network", "vpc"):
        limited[vni].update(sums)
    endpoints = [(uid, maps.endpoint_counters.get(local.slot)) for uid, local in state.locals.items()]
    vpcs = [(vni, maps.vpc_counters.get(vpc.slot)) for vni, vpc in state.vpcs.items()]
    return pb.Counters(
        endpoints=[pb.EndpointCounters(uid=uid, **(sums or {}), **limited[uid]) for uid, sums in endpoints],
        vpcs=[pb.VpcCounters(vni=vni, **(sums or {}), **limited[vni]) for vni, sums in vpcs],
        drops=[
            pb.DropCounter(reason=number, name=reasons[number].name if number in reasons else "", **sums)
            for number, sums in maps.drop_counters.items()
        ],
        limiters=limiters,
    )
