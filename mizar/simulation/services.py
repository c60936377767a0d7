# SPDX-License-Identifier: Apache-2.0
"""A scaled endpoint as a row of the oracle's tables. Called by tables.py alone.

How droplets give places to members is theirs (mizar/transit/maglev.py). Where nobody says how, members come in turn:
which one takes a flow is an example then; who may take one at all is not.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from itertools import cycle, islice

from mizar.oracle.tables import PLACES_OF_SERVICE, Endpoint, Member, Service, Tunnel
from mizar.planner.entries import MemberEntry, ServiceEntry

Places = Callable[[Mapping[bytes, int]], tuple[bytes | None, ...]]
"""Members by MAC, and their weights → the member at each place."""

HEALTHY, DRAINING, UNKNOWN, DOWN = 1, 2, 3, 4
"""enum State of Member in contracts/transit.proto. A member of whom nothing is known (0) is taken for healthy."""
_TUNNELS = {1: Tunnel.GENEVE, 2: Tunnel.VXLAN}


def in_turn(weights: Mapping[bytes, int]) -> tuple[bytes | None, ...]:
    """Members one after the other, those of more weight more often."""
    turns = [mac for mac, weight in weights.items() for _ in range(weight)]
    return tuple(islice(cycle(turns), PLACES_OF_SERVICE)) if turns else (None,) * PLACES_OF_SERVICE


def service_row(
    entry: ServiceEntry,
    own: bytes,
    here: Mapping[bytes, tuple[int, str]],
    places: Places,
    cut_off: Container[bytes] = (),
) -> Endpoint:
    """`own`: the droplet; `here`: interface and uid of the VPC's endpoints that live on it, by MAC; `cut_off`: droplets
    with which it shares no family, whose members are passed over where there are others."""
    members = tuple(_member(member, own, here) for member in entry.members)
    numbers = {one.mac: number for number, one in enumerate(entry.members)}
    ready = {one.mac: one.weight for one in entry.members if one.state in (0, HEALTHY)}
    ready = {
        mac: weight for mac, weight in ready.items() if members[numbers[mac]].endpoint.host not in cut_off
    } or ready
    near = {mac: weight for mac, weight in ready.items() if members[numbers[mac]].endpoint.ifindex}
    spread, nearer = (
        tuple(-1 if mac is None else numbers[mac] for mac in places(those))
        for those in (ready, near if entry.colocated else {})
    )
    service = Service(members, spread, nearer if near and entry.colocated else ())
    return Endpoint(entry.network_id, bytes(6), b"", service=service)


def _member(member: MemberEntry, own: bytes, here: Mapping[bytes, tuple[int, str]]) -> Member:
    ifindex, uid = here.get(member.mac, (0, "")) if member.host == own else (0, "")
    row = Endpoint(0, member.mac, member.host, _TUNNELS[member.tunnel], ifindex, uid)
    return Member(row, draining=member.state in (DRAINING, UNKNOWN), down=member.state == DOWN)
