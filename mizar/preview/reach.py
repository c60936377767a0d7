# SPDX-License-Identifier: Apache-2.0
"""Pairs of endpoints that gain or lose reach by a change, as the oracle finds. Called by preview.py. Pure.

Looked at are the pairs that the change may matter to: those of an endpoint whose own entries change, and, where tables
of a whole VPC or of a network change, all of that VPC and of its peers. Of very many an even sample is taken, and said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from mizar.manager.registry import Item, Registry
from mizar.model.resources import Endpoint, Network, Ref
from mizar.planner.entries import (
    DropletEntry,
    EndpointEntry,
    Entry,
    GroupSetEntry,
    Key,
    LocalEntry,
    NetworkAclEntry,
    NetworkEntry,
    PeeringEntry,
    PolicySetEntry,
    ProxyEntry,
    ServiceEntry,
    VpcEntry,
    VpnEntry,
)
from mizar.planner.plan import Change
from mizar.simulation.fleet import Deployed, deploy
from mizar.simulation.packets import PROTOCOLS
from mizar.simulation.reach import Reach, reach

MOST_PAIRS = 300
"""Of more pairs so many are looked at: each takes up to twelve packets and their answers, some 10 ms in all."""

Held = Mapping[str, Mapping[Key, Entry]]
"""By droplet."""


@dataclass(frozen=True, slots=True)
class PairChange:
    """A pair whose reach changes: the ways (icmp4, udp6 …) that come or go; of lost ones why the first is, in words,
    and by the name of the drop reason, where a droplet refuses it."""

    source: Ref
    destination: Ref
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    reason: str = ""
    drop: str = ""


@dataclass(frozen=True, slots=True)
class ReachChange:
    """What the oracle found. `pairs`: how many the change may matter to; `looked_at`: how many of them were asked."""

    changes: tuple[PairChange, ...]
    pairs: int
    looked_at: int


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint that can be asked."""

    uid: str
    ref: Ref
    vni: int
    addresses: tuple[bytes, ...]
    proxied: bool


def reach_changes(
    registry: Registry, after: Mapping[str, Sequence[Entry]], changes: Iterable[Change], visible: Callable[[Ref], bool]
) -> ReachChange:
    """`after`: what droplets should hold then; without `changes`, what they should hold now."""
    merged = merge(changes)
    held = {name: {entry.key: entry for entry in own} for name, own in after.items()}
    former = undo(held, merged)
    concerned = _Concerned(merged, held, former)
    if not concerned.vnis:
        return ReachChange((), 0, 0)
    then, now = (deploy(_in_order(each), concerned.keeps) for each in (held, former))
    if not visible(Ref("Droplet", "", "")):  # reasons tell where
        then, now = (replace(each, names={}) for each in (then, now))
    blocks = list(_blocks(registry, concerned, then, now, visible))
    looked = list(_sample(blocks))
    total = sum(len(sources) * len(targets) - _selves(sources, targets) for sources, targets in blocks)
    found = (_compare(now, then, source, target) for source, target in looked)
    return ReachChange(tuple(each for each in found if each.gained or each.lost), total, len(looked))


def merge(changes: Iterable[Change]) -> dict[tuple[str, Key], tuple[Entry | None, Entry | None]]:
    """By droplet and entry: before the first change and after the last, where these are not equal."""
    merged: dict[tuple[str, Key], tuple[Entry | None, Entry | None]] = {}
    for change in changes:
        place = change.droplet, change.key
        before = merged[place][0] if place in merged else change.before
        merged[place] = before, change.after
    return {place: states for place, states in merged.items() if states[0] != states[1]}


def undo(held: Held, merged: Mapping[tuple[str, Key], tuple[Entry | None, Entry | None]]) -> Held:
    """What droplets should hold without the changes."""
    former = {name: dict(own) for name, own in held.items()}
    for (name, key), (before, _) in merged.items():
        own = former.setdefault(name, {})
        if before is None:
            own.pop(key, None)
        else:
            own[key] = before
    return former


def _in_order(held: Held) -> dict[str, list[Entry]]:
    return {name: sorted(own.values(), key=lambda entry: entry.order) for name, own in held.items()}


class _Concerned:
    """The VPCs whose tables change, with those that packets reach from there, and the endpoints."""

    def __init__(
        self, merged: Mapping[tuple[str, Key], tuple[Entry | None, Entry | None]], held: Held, former: Held
    ) -> None:
        self.uids: set[str] = set()
        self.addresses: set[tuple[int, bytes]] = set()
        self.wide: set[int] = set()
        self.vnis: set[int] = set()
        self.all = False
        self.sets: set[tuple[int, int]] = set()
        for before, after in merged.values():
            for entry in (before, after):
                if entry is not None:
                    self._note(entry, before)
        for droplets in (held, former) if self.sets else ():
            self.uids |= set(_judged(droplets, self.sets))
            self.wide |= set(_ruled(droplets, self.sets))
        self.peers = _peers(held) | _peers(former)
        proxied = _proxied(held) | _proxied(former)
        grown = -1
        while grown != len(self.vnis):
            grown = len(self.vnis)
            reached = (pair for pair in (*self.peers, *proxied) if pair[0] in self.vnis or pair[1] in self.vnis)
            self.vnis |= {vni for pair in list(reached) for vni in pair}

    def keeps(self, entry: Entry) -> bool:
        """Whether an entry is of a VPC that is looked at."""
        if isinstance(entry, ProxyEntry):
            return self.all or bool({entry.client.vni, entry.source.vni} & self.vnis)
        vni = entry.endpoint.vni if isinstance(entry, LocalEntry) else getattr(entry, "vni", 0)
        return self.all or vni in self.vnis

    def touched(self, one: Target) -> bool:
        """Whether its own entries change."""
        return one.uid in self.uids or any((one.vni, address) in self.addresses for address in one.addresses)

    def _note(self, entry: Entry, before: Entry | None) -> None:
        match entry:
            case DropletEntry():
                self.all = self.all or (before is not None and not _only_mtu(entry, before))
            case LocalEntry():
                self.uids.add(entry.uid)
                self.vnis.add(entry.endpoint.vni)
            case EndpointEntry() | ServiceEntry():
                self._touch(entry)
            case ProxyEntry():
                self._touch(entry.client)
                self._touch(entry.source)
            case PeeringEntry():
                self.wide |= {entry.vni, entry.peer}
                self.vnis |= {entry.vni, entry.peer}
            case NetworkAclEntry():  # any pair of its VPC may cross
                self.vnis.add(entry.vni)
                self.wide.add(entry.vni)
            case NetworkEntry() | VpcEntry():
                self.vnis.add(entry.vni)
                if before is not None:  # an entry that is new here says nothing that others did not say before
                    self.wide.add(entry.vni)
            case PolicySetEntry():
                self.vnis.add(entry.vni)
                self.sets.add((entry.vni, entry.id))
            case GroupSetEntry() | VpnEntry():
                pass

    def _touch(self, entry: EndpointEntry | ServiceEntry) -> None:
        self.vnis.add(entry.vni)
        self.addresses.update((entry.vni, address) for address in entry.addresses)


def _only_mtu(entry: DropletEntry, before: Entry) -> bool:
    return isinstance(before, DropletEntry) and (entry.address, entry.second) == (before.address, before.second)


def _judged(held: Held, sets: set[tuple[int, int]]) -> Iterator[str]:
    """Endpoints that some sets of rules are about."""
    entries = (entry for own in held.values() for entry in own.values())
    for entry in entries:
        if isinstance(entry, LocalEntry) and any((entry.endpoint.vni, one) in sets for one in entry.policy.sets):
            yield entry.uid


def _ruled(held: Held, sets: set[tuple[int, int]]) -> Iterator[int]:
    """VPCs of which some network is judged by sets of rules."""
    for entry in (entry for own in held.values() for entry in own.values()):
        if isinstance(entry, NetworkAclEntry):
            bound = entry.ingress, entry.ingress_later, entry.egress, entry.egress_later
            if any((entry.vni, one) in sets for one in bound):
                yield entry.vni


def _peers(held: Held) -> set[tuple[int, int]]:
    """VPCs and those that packets may cross to from there."""
    entries = (entry for own in held.values() for entry in own.values())
    return {(entry.vni, entry.peer) for entry in entries if isinstance(entry, PeeringEntry)}


def _proxied(held: Held) -> set[tuple[int, int]]:
    """VPCs of both sides of proxied endpoints."""
    entries = (entry for own in held.values() for entry in own.values())
    return {(entry.client.vni, entry.source.vni) for entry in entries if isinstance(entry, ProxyEntry)}


Block = tuple[Sequence[Target], Sequence[Target]]
"""Senders and destinations: each with each. Blocks have no pair in common."""


def _blocks(
    registry: Registry, concerned: _Concerned, then: Deployed, now: Deployed, visible: Callable[[Ref], bool]
) -> Iterator[Block]:
    """The pairs that the change may matter to, not one by one: a VPC may have a million endpoints."""
    of_vpc: dict[int, list[Target]] = {}
    for target in (target for item in registry.of_kind("Endpoint") if (target := _target(registry, item)) is not None):
        if visible(target.ref) and (concerned.all or target.vni in concerned.vnis):
            of_vpc.setdefault(target.vni, []).append(target)
    senders = {vni: [one for one in own if _sends(one, then, now)] for vni, own in of_vpc.items()}
    for vni in of_vpc:
        for other, targets in of_vpc.items():
            if other != vni and (vni, other) not in concerned.peers:
                continue
            if concerned.all or vni in concerned.wide or other in concerned.wide:
                yield senders[vni], targets
                continue
            special = [one for one in targets if one.proxied or concerned.touched(one)]
            yield [one for one in senders[vni] if concerned.touched(one)], targets
            yield [one for one in senders[vni] if not concerned.touched(one)], special


def _sample(blocks: Sequence[Block]) -> Iterator[tuple[Target, Target]]:
    """All pairs of few, so many of more: steps of the golden section spread evenly, and meet each pair once."""
    total = sum(len(sources) * len(targets) for sources, targets in blocks)
    step = max(1, int(total * 0.618))
    while math.gcd(step, total) != 1:
        step += 1
    for turn in range(min(total, MOST_PAIRS)):
        place = turn * step % total if total > MOST_PAIRS else turn
        for sources, targets in blocks:
            if place < len(sources) * len(targets):
                source, target = sources[place // len(targets)], targets[place % len(targets)]
                if source.uid != target.uid:
                    yield source, target
                break
            place -= len(sources) * len(targets)


def _selves(sources: Sequence[Target], targets: Sequence[Target]) -> int:
    return len({one.uid for one in sources} & {one.uid for one in targets})


def _sends(one: Target, then: Deployed, now: Deployed) -> bool:
    """Who sends tunnel packets of its own is not asked to."""
    attached = then.stations.get(one.uid) or now.stations.get(one.uid)
    return attached is not None and not attached.bypass


def _target(registry: Registry, item: Item) -> Target | None:
    """Endpoints that people know; what stands for clients of a proxied one is nobody's to ask."""
    endpoint = item.resource
    if not isinstance(endpoint, Endpoint) or endpoint.spec.type == "source":
        return None
    network = registry.find(Ref("Network", endpoint.tenant, endpoint.spec.network))
    assert network is not None
    assert isinstance(network.resource, Network)
    vpc = registry.find(Ref("VPC", network.resource.tenant, network.resource.spec.vpc))
    number = getattr(vpc.resource, "number", None) if vpc else None
    addresses = tuple(ip_address(text).packed for text in endpoint.status.addresses)
    return Target(item.uid, item.ref, number, addresses, endpoint.spec.type == "proxied") if number else None


def _compare(now: Deployed, then: Deployed, source: Target, target: Target) -> PairChange:
    before, _, _ = _ways(now, source, target)
    after, reason, drop = _ways(then, source, target)
    gained = tuple(way for way in after if way not in before)
    lost = tuple(way for way in before if way not in after)
    return PairChange(source.ref, target.ref, gained, lost, *((reason, drop) if lost else ()))


def _ways(deployed: Deployed, source: Target, target: Target) -> tuple[tuple[str, ...], str, str]:
    """The ways that work, and why the first other does not: in words, and the drop reason's name."""
    station = deployed.stations.get(source.uid)
    if station is None:
        return (), "the sender is not there", ""
    ways, reason, drop = [], "", ""
    for address in target.addresses:
        if any(len(own) == len(address) for own in station.addresses):
            for protocol in PROTOCOLS:
                found = reach(deployed, station, address, protocol)
                if found.ok and _right(deployed, target, found):
                    ways.append(protocol + ("4" if len(address) == 4 else "6"))
                elif not reason:
                    reason, drop = found.detail or "another endpoint answers", found.reason
    return tuple(ways), reason, drop


def _right(deployed: Deployed, target: Target, found: Reach) -> bool:
    """An address of an endpoint that is attached is answered by that one and nobody else."""
    return target.uid not in deployed.stations or found.receiver == target.uid
