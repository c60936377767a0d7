# SPDX-License-Identifier: Apache-2.0
"""How a decided change takes effect: the next states of all objects, and who is told of them in which order.

Called by mizar.manager.manager, which keeps a revision in the store before it is taken, and by mizar.manager.rehearsal,
which keeps nothing. It must never decide anything, nor touch a store or a droplet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mizar.manager.draft import Draft, now
from mizar.manager.members import Members, Moved, with_members
from mizar.manager.registry import Item, Registry, members_of
from mizar.manager.substrate import affected
from mizar.model.resources import KINDS, VPC, Droplet, Endpoint, Network, Resource
from mizar.store.protocol import Record

State = tuple[Item, Resource]
"""An object and what it shall become."""

_ORDER = {name: number for number, name in enumerate(KINDS)}


class Audience(Protocol):
    """Whoever works out what droplets should hold."""

    def put(self, item: Item, inside: Iterable[Item] = ()) -> None:
        """An object, or its next state; the tables of `inside` follow from it."""

    def remove(self, item: Item, inside: Iterable[Item] = ()) -> None:
        """The end of an object."""

    def settle(self) -> None:
        """All of a change was put and removed."""

    def open_link(self, droplet: Droplet) -> None:
        """A droplet came, or its daemon moved."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One change of any number of objects: new ones, and the next states of others beside what they are."""

    created: tuple[Item, ...]
    after: tuple[Item, ...]
    before: dict[str, State]
    settled: frozenset[str]
    """Objects that change by themselves, and not for another's sake."""

    def records(self) -> tuple[Record, ...]:
        """As a store keeps it."""
        return (*(item.record(new=True) for item in self.created), *(item.record() for item in self.after))

    def states(self, item: Item) -> tuple[Resource, ...]:
        """What an object was, if it was, and what it is."""
        was = self.before.get(item.uid)
        return (was[1], item.resource) if was else (item.resource,)


def drafted(registry: Registry, members: Members, draft: Draft) -> tuple[list[Item], list[State], Moved]:
    """What a draft makes and changes, with places for all that needs some, and the groups whose members change."""
    moved: Moved = {}
    for planned in draft.planned.values():
        moved |= _seat(members, planned.before, planned.resource)
    created: list[Item] = []
    changed: list[State] = []
    carriers: dict[str, str] = {}
    for planned in draft.planned.values():
        resource = _carried(members.place(planned.resource), carriers, registry)
        item = registry.find(resource.ref)
        moved.pop(resource.metadata.uid or "", None)
        if item is None:
            created.append(Item(resource, planned.allocations))
        else:
            changed.append((item, resource))
    return created, changed + ending(draft.dooms), moved


def ending(dooms: Iterable[Item]) -> list[State]:
    """The objects as they are from the beginning of their deletion on."""
    time = now()
    found = []
    for doom in dooms:
        metadata = doom.resource.metadata.model_copy(update={"deleted_at": time})
        found.append((doom, doom.resource.model_copy(update={"metadata": metadata})))
    return found


def revise(
    registry: Registry, created: Sequence[Item], changed: Sequence[State], moved: Moved, forced: Item | None = None
) -> Revision:
    """All next states. `moved` are groups that got other members because droplets came or went; `forced` is a droplet
    that nobody shall wait for any more."""
    states = {item.uid: (item, resource) for item, resource in changed}
    for uid, members in moved.items():
        item, resource = states.get(uid) or _known(registry, uid)
        states[uid] = item, with_members(resource, members)
    for item, resource in list(states.values()):
        source = registry.source_of(item.uid)
        if source is not None and members_of(source.resource) != members_of(resource):
            _, as_it_is = states.get(source.uid) or (source, source.resource)
            states[source.uid] = source, with_members(as_it_is, members_of(resource))
    if forced is not None:
        states.setdefault(forced.uid, (forced, forced.resource))
    after = tuple(
        replace(item, resource=resource, former=_former(item, resource), forced=item.forced or item is forced)
        for item, resource in states.values()
    )
    before = {uid: (item, item.resource) for uid, (item, _) in states.items()}
    return Revision(tuple(created), after, before, frozenset(item.uid for item, _ in changed))


def take(registry: Registry, audience: Audience, revision: Revision) -> tuple[list[Item], list[Item]]:
    """Lets the registry and those who work out tables follow; returns what they were told of, and what ends."""
    for item in revision.created:
        registry.put(item)
    dooms: list[Item] = []
    told = list(revision.created)
    fresh = {item.uid for item in revision.created}
    for state in revision.after:
        item = revision.before[state.uid][0]
        (told if not state.deleting else dooms if not item.deleting else []).append(item)
        registry.change(item, state.resource)
        item.former, item.forced, item.stored = state.former, state.forced, state.phase
    for item in sorted(told, key=lambda item: _rank(item, item.uid in revision.settled)):
        settled = item.uid in revision.settled and isinstance(item.resource, Network)
        inside = list(registry.children(item)) if settled else []
        if isinstance(item.resource, VPC) and item.uid not in fresh:
            inside = _ruled_by(registry, item, revision.before[item.uid][1])
        follow = affected(registry, revision.states(item))
        audience.put(item, [one for one in (*inside, *follow) if not one.deleting and one.uid not in fresh])
        if isinstance(item.resource, Droplet):
            audience.open_link(item.resource)
    for item in sorted(dooms, key=_rank, reverse=True):
        audience.remove(item, affected(registry, [item.resource]))
    audience.settle()
    return told, dooms


def _ruled_by(registry: Registry, vpc: Item, before: object) -> list[Item]:
    """The endpoints of a VPC whose rates have changed: droplets are told with each of them."""
    resource = vpc.resource
    if not isinstance(before, VPC) or not isinstance(resource, VPC) or before.spec.qos == resource.spec.qos:
        return []
    networks = [one for one in registry.children(vpc) if isinstance(one.resource, Network)]
    return [child for network in networks for child in registry.children(network)]


def _known(registry: Registry, uid: str) -> State:
    item = registry.by_uid(uid)
    assert item is not None
    return item, item.resource


def _seat(members: Members, before: object, resource: object) -> Moved:
    """Makes a droplet eligible, or no more, as its manifest says."""
    if not isinstance(resource, Droplet) or (isinstance(before, Droplet) and before.spec == resource.spec):
        return {}
    return members.put_droplet(resource)


def _carried(resource: Resource, carriers: dict[str, str], registry: Registry) -> Resource:
    """The source of a proxied endpoint where that one is; `carriers` holds those of this change, by uid."""
    if isinstance(resource, Endpoint) and resource.spec.type == "proxied":
        carriers[resource.metadata.uid or ""] = resource.status.host
    elif isinstance(resource, Endpoint) and resource.spec.clients is not None:
        proxied = registry.by_uid(resource.spec.clients.proxied)
        known = members_of(proxied.resource) if proxied else ()
        host = carriers.get(resource.spec.clients.proxied)
        return with_members(resource, known if host is None else (host,))
    return resource


def _former(item: Item, resource: Resource) -> tuple[str, ...]:
    """Droplets that were members before this state and may not know that they are no more."""
    members = members_of(resource)
    return tuple(dict.fromkeys(name for name in (*item.former, *item.placement) if name not in members))


def _rank(item: Item, changed: bool = False) -> tuple[bool, int]:
    """Parents first; a droplet that may just have lost its daemon last, when it is a member of nothing any more."""
    leaves = changed and isinstance(item.resource, Droplet) and not item.resource.spec.has_daemon
    return leaves, _ORDER[item.resource.kind]
