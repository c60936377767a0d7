# SPDX-License-Identifier: Apache-2.0
"""Established flows that a change ends. Called by preview.py. Pure.

What follows from the tables is certain: a proxied endpoint that changes ends its flows, and a member that is no member
any more takes no packet of a service. How many flows there are, daemons alone know (`counts`). What follows from lost
reach is an estimate: whether anybody talks there is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mizar.manager.registry import Registry
from mizar.model.resources import Ref
from mizar.planner.entries import Entry, Key, LocalEntry, MemberEntry, ProxyEntry, ServiceEntry
from mizar.preview.reach import PairChange

DRAINING, DOWN = 2, 4
Merged = Mapping[tuple[str, Key], tuple[Entry | None, Entry | None]]


@dataclass(frozen=True, slots=True)
class BrokenFlows:
    """Flows of one endpoint that end. `certain`: no estimate; `flows`: how many there are now, None: not known."""

    endpoint: Ref
    what: str
    certain: bool
    flows: int | None = None


def broken_flows(
    registry: Registry,
    merged: Merged,
    pairs: Sequence[PairChange],
    visible: Callable[[Ref], bool],
    counts: Mapping[tuple[int, bytes], int],
) -> list[BrokenFlows]:
    """`counts`: live flows of proxied endpoints, by number of the VPC and address, as droplets told."""
    found = {(one.endpoint, one.what): one for one in _certain(registry, merged, counts)}
    lost = Counter(pair.destination for pair in pairs if pair.lost)
    for ref, count in lost.items():
        who = "an endpoint that loses" if count == 1 else f"{count} endpoints that lose"
        what = f"flows from {who} reach to it, if there are any"
        found[ref, what] = BrokenFlows(ref, what, certain=False)
    return [one for one in found.values() if visible(one.endpoint)]


def _certain(registry: Registry, merged: Merged, counts: Mapping[tuple[int, bytes], int]) -> Iterator[BrokenFlows]:
    for before, after in merged.values():
        match before:
            case ProxyEntry():
                ref = _named(registry, before.vni, before.addresses)
                if ref is not None and (after is None or not after.same(before)):
                    known = [counts[before.vni, one] for one in before.addresses if (before.vni, one) in counts]
                    what = "all its flows: it is made anew" if after else "all its flows: it leaves its carrier"
                    yield BrokenFlows(ref, what, certain=True, flows=max(known, default=None))
            case ServiceEntry():
                yield from _of_members(registry, before, after)
            case LocalEntry() if after is None and not before.standby:
                item = registry.by_uid(before.uid)
                if item is not None:
                    yield BrokenFlows(item.ref, "all its flows: it goes, or moves", certain=True)


def _of_members(registry: Registry, before: ServiceEntry, after: Entry | None) -> Iterator[BrokenFlows]:
    ref = _named(registry, before.vni, before.addresses)
    kept = {one.mac: one for one in after.members} if isinstance(after, ServiceEntry) else {}
    for member in before.members if ref is not None else ():
        name = _named(registry, before.vni, member.addresses)
        told = f"flows that {name.name if name else 'a member'} takes"
        assert ref is not None
        if member.mac not in kept:
            yield BrokenFlows(ref, f"{told}: it is no member any more", certain=True)
        elif _fell(member, kept[member.mac]):
            yield BrokenFlows(ref, f"{told}, but for TCP connections: it is down", certain=True)


def _fell(before: MemberEntry, after: MemberEntry) -> bool:
    return after.state == DOWN and before.state != DOWN


def _named(registry: Registry, vni: int, addresses: Sequence[bytes]) -> Ref | None:
    vpc = registry.holder("vni", str(vni))
    item = registry.holder(f"address/{vpc.uid}", str(ip_address(addresses[0]))) if vpc and addresses else None
    return item.ref if item else None
