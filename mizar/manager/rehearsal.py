# SPDX-License-Identifier: Apache-2.0
"""A change rehearsed: the manager's own decisions over a copy of its objects, without a store, links or droplets.

Called by mizar.preview and mizar.lab.simulated.
Needs neither gRPC nor anything that is built. It must never touch an object of the manager's own registry.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mizar.manager.desired import Desired
from mizar.manager.draft import Cursors
from mizar.manager.groups import Groups
from mizar.manager.intake import Result, Submission, draft_apply
from mizar.manager.members import Members, Moved
from mizar.manager.policies import warned
from mizar.manager.registry import Item, Registry
from mizar.manager.revision import State, drafted, revise, take
from mizar.manager.scaled import Verdict
from mizar.model.errors import Problem
from mizar.model.resources import KINDS, Droplet, Ref, Resource
from mizar.planner.entries import Entry
from mizar.planner.plan import Change


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a manager knows at one moment. Its items are copies."""

    items: tuple[Item, ...] = ()
    cursors: Cursors = field(default_factory=Cursors)
    away: Container[str] = ()
    """Droplets that cannot be told of a place now."""
    verdicts: Mapping[str, Mapping[str, Verdict]] = field(default_factory=dict)
    """Of members of scaled endpoints."""
    mtus: Mapping[str, int] = field(default_factory=dict)
    """What droplets told of their interface, by name."""


def snapshot(
    registry: Registry,
    cursors: Cursors,
    away: Container[str],
    verdicts: Mapping[str, Mapping[str, Verdict]],
    mtus: Mapping[str, int],
) -> Snapshot:
    """A copy that later changes do not touch; parents first."""
    items = (item for kind in KINDS for item in registry.of_kind(kind))
    return Snapshot(tuple(map(_copy, items)), Cursors(cursors), away, verdicts, mtus)


class Rehearsal:
    """Objects, and what droplets should hold because of them."""

    def __init__(self, known: Snapshot) -> None:
        self.registry = Registry()
        items = [_copy(item) for item in known.items]
        for item in items:
            self.registry.put(item)
        self.changes: list[Change] = []
        """What has changed of what droplets should hold, in order."""
        self.touched: dict[Ref, None] = {}
        """All objects that have changed, are new or go, in order."""
        self.before: dict[Ref, Resource] = {}
        """What those were that were there before."""
        self._mtus = known.mtus
        self._desired = Desired(self.registry, lambda name: self._mtus.get(name, 0))
        self._desired.services.adopt(known.verdicts)
        for item in items:
            if not item.deleting:
                self._desired.put(item)
        for _ in self._desired.settle():
            pass
        self._members = Members(items, known.away)
        self._cursors = Cursors(known.cursors)
        self._groups = Groups(self.registry)
        self._groups.load(self.registry.of_kind("Endpoint"))

    def apply(
        self,
        submissions: Sequence[Submission],
        refused: Iterable[Problem] = (),
        visible: Callable[[Ref], bool] = lambda _: True,
    ) -> list[Result]:
        """As the manager's: all manifests or none. Raises what that raises. Daemons of new droplets answer at once."""
        draft, results = draft_apply(self.registry, self._cursors, submissions, refused, visible)
        for endpoint in list(self._groups.regrouped(draft)):
            draft.amend(endpoint)
        new = [planned.resource for planned in draft.planned.values() if planned.before is None]
        self._keep(*drafted(self.registry, self._members, draft))
        self._cursors.merge(draft.cursors)
        self.connect(one.name for one in new if isinstance(one, Droplet) and one.spec.has_daemon)
        return warned(self.registry, self._desired.policies, self._desired.acls, results)

    def find(self, ref: Ref) -> Resource | None:
        """An object as it would be."""
        item = self.registry.find(ref)
        return None if item is None or item.deleting else item.resource

    def connect(self, droplets: Iterable[str]) -> None:
        """The daemons of some droplets answer: they are given places."""
        for name in droplets:
            self._keep((), (), self._members.come_back(name))

    def droplets(self) -> list[Droplet]:
        """All that are there."""
        found = (item.resource for item in self.registry.of_kind("Droplet") if not item.deleting)
        return [droplet for droplet in found if isinstance(droplet, Droplet)]

    def entries(self) -> dict[str, list[Entry]]:
        """What every droplet with a daemon should hold, by its name."""
        names = [droplet.name for droplet in self.droplets() if droplet.spec.has_daemon]
        return {name: list(self._desired.topology.desired_for(name)) for name in names}

    def _keep(self, created: Sequence[Item], changed: Sequence[State], moved: Moved) -> None:
        revision = revise(self.registry, created, changed, moved)
        for item, resource in revision.before.values():
            self.before.setdefault(item.ref, resource)
        self.touched |= dict.fromkeys(item.ref for item in (*revision.created, *revision.after))
        told, dooms = take(self.registry, self, revision)
        for item in (*told, *dooms):
            self._groups.follow(item)

    # ---- as an Audience

    def put(self, item: Item, inside: Iterable[Item] = ()) -> None:
        """Notes what follows from an object."""
        self.changes += self._desired.put(item, inside)

    def remove(self, item: Item, inside: Iterable[Item] = ()) -> None:
        """Notes what follows from the end of one."""
        self.changes += self._desired.remove(item, inside)

    def settle(self) -> None:
        """Notes what follows from a change as a whole."""
        for changes, _ in self._desired.settle():
            self.changes += changes

    def open_link(self, droplet: Droplet) -> None:
        """Nobody is called."""


def _copy(item: Item) -> Item:
    """Resources are frozen and shared."""
    return replace(item, waiting=set(), troubles={})
