# SPDX-License-Identifier: Apache-2.0
"""What limits of this droplet have let pass, held back and dropped. Called by `counters`; it only reads."""

from collections.abc import Iterable, Iterator, Mapping

from mizar._built import transit_pb2 as pb
from mizar.kernel import shaper
from mizar.kernel.layout import constant
from mizar.kernel.shaper import REST, Passed
from mizar.transit.execute import Maps
from mizar.transit.limit_values import UNLIMITED, LimiterKey
from mizar.transit.state import State

_PLACES = ("endpoint", "network", "vpc", "guarantee", "uplink")
_DIRECTIONS = ("egress", "ingress")
_NOTHING = Passed(0, 0, 0, 0)


def read(maps: Maps, state: State) -> list[pb.LimiterCounters]:
    """Of every limiter."""
    wanted = [(limiter.key, limiter.slot) for limiter in state.limiters.values()]
    if state.limits.uplink != UNLIMITED:
        wanted.append(((constant("LIMIT_UPLINK"), 0, 0, 0), constant("LIMITER_UPLINK")))
    if not wanted:
        return []
    ifindex = maps.shaper.get(0)
    classes = shaper.statistics(ifindex) if ifindex else {}
    uids = {local.slot: uid for uid, local in state.locals.items()}
    return [_counters(maps, key, slot, uids, classes) for key, slot in wanted]


def _counters(
    maps: Maps, key: LimiterKey, slot: int, uids: Mapping[int, str], classes: Mapping[int, Passed]
) -> pb.LimiterCounters:
    place, direction, vni, owner = key
    sums = dict(maps.limiter_states.get(slot) or {})
    sums.pop("bytes_due", None)
    sums.pop("packets_due", None)
    own, rest = classes.get(slot, _NOTHING), classes.get(REST | slot, _NOTHING)
    leaf = own if _PLACES[place] == "endpoint" else rest
    sums["dropped_packets"] = sums.get("dropped_packets", 0) + leaf.dropped
    return pb.LimiterCounters(
        vni=vni,
        network_id=owner if _PLACES[place] == "network" else 0,
        uid=uids.get(owner, "") if _PLACES[place] in ("endpoint", "guarantee") else "",
        place=_PLACES[place],
        direction=_DIRECTIONS[direction],
        shaped_packets=own.packets,
        shaped_bytes=own.bytes,
        waiting_bytes=leaf.waiting,
        **sums,
    )


def dropped(limiters: Iterable[pb.LimiterCounters], *places: str) -> Iterator[tuple[int, str, dict[str, int]]]:
    """Of limiters in these places: VPC, uid, and what they have dropped, as fields of other counters."""
    for one in limiters:
        if one.place in places:
            sums = {"limited_packets": one.dropped_packets, "limited_bytes": one.dropped_bytes}
            yield one.vni, one.uid, sums
