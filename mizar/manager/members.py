# SPDX-License-Identifier: Apache-2.0
"""Which droplets bounce each network, divide each VPC and carry each proxied endpoint: the planner's placement, applied
to objects.

Owned by mizar.manager.manager, which keeps in the store what is answered here. After a commit that failed it is thrown
away and made anew from the registry. A group is an object, by its uid.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TypeVar

from mizar.manager.registry import Item
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Resource
from mizar.planner.families import FleetFamilies
from mizar.planner.placement import Placement

_R = TypeVar("_R", bound=Resource)
Moved = dict[str, tuple[str, ...]]
"""uid of a network or VPC → its new members."""


class Members:
    """The bouncers of all networks and the dividers of all VPCs."""

    def __init__(self, items: Iterable[Item], away: Container[str] = ()) -> None:
        """Takes all objects as they are, droplets first; `away`: droplets that cannot be told of a place now."""
        kept = [item for item in items if not item.deleting]
        self.families = FleetFamilies()
        for item in kept:
            if isinstance(item.resource, Droplet):
                self._know(item.resource)
        self._eligible = self.families.members()
        self._away: set[str] = set()
        self._bouncers, self._dividers = Placement(self._eligible), Placement(self._eligible)
        self._carriers = Placement(self._eligible)
        for name in (item.resource.name for item in kept if isinstance(item.resource, Droplet)):
            if name in away:
                self.leave(name)
        for item in kept:
            if (placement := self._of(item.resource)) is not None:
                placement.restore(item.uid, _count(item.resource), item.placement)

    def settle(self) -> Moved:
        """Mends what changed while nobody looked."""
        return _joined(self._bouncers.settle(), self._dividers.settle(), self._carriers.settle())

    def place(self, resource: _R) -> _R:
        """The network or VPC with its members; anything else as it is."""
        placement = self._of(resource)
        if placement is None:
            return resource
        return with_members(resource, placement.put(resource.metadata.uid or "", _count(resource)))

    def remove(self, item: Item) -> None:
        """A network or VPC goes."""
        if (placement := self._of(item.resource)) is not None:
            placement.remove(item.uid)

    def put_droplet(self, droplet: Droplet) -> Moved:
        """A droplet comes, or gets or loses its daemon; a new daemon is away until it has answered."""
        self._know(droplet)
        if droplet.name not in self._eligible:
            self._away.add(droplet.name)
        return self._follow()

    def leave(self, name: str) -> None:
        """A droplet cannot be told of a place now. It keeps those that it has, for a while: its programs go on."""
        self._away.add(name)
        self._bouncers.leave(name)
        self._dividers.leave(name)
        self._carriers.leave(name)

    def stay_away(self, name: str) -> Moved:
        """A droplet could not be told for so long that others take its places, where there are others, and carry what
        it carried: its programs go on, but by tables that no change reaches."""
        return _joined(self.evacuate(name), self._carriers.replace_away(name))

    def evacuate(self, name: str) -> Moved:
        """A droplet is dead: others take its places, where there are others."""
        return _joined(self._bouncers.evacuate(name), self._dividers.evacuate(name))

    def come_back(self, name: str) -> Moved:
        """A droplet can be told of places, for the first time or again."""
        self._away.discard(name)
        # What is carried elsewhere stays there: moving it would disturb its flows.
        carriers = self._carriers.come_back(name, share=False)
        return _joined(self._bouncers.come_back(name), self._dividers.come_back(name), carriers)

    def remove_droplet(self, name: str) -> Moved:
        """A droplet goes."""
        self.families.remove(name)
        self._away.discard(name)
        return self._follow()

    def _know(self, droplet: Droplet) -> None:
        self.families.put(droplet.name, droplet.spec.families, daemon=droplet.spec.has_daemon)

    def _follow(self) -> Moved:
        """Who may have places now. Those that come are taken in before others go: no group is without a member."""
        eligible = self.families.members()
        come, go = sorted(eligible - self._eligible), sorted(self._eligible - eligible)
        self._eligible = eligible
        moved: Moved = {}
        for placement in (self._bouncers, self._dividers, self._carriers):
            for name in come:
                moved |= placement.reserve(name) if name in self._away else placement.add_droplet(name)
            for name in go:
                moved |= placement.remove_droplet(name)
        return moved

    def _of(self, resource: Resource) -> Placement | None:
        match resource:
            case Network() if resource.is_group:
                return None
            case Network():
                return self._bouncers
            case VPC():
                return self._dividers
            case Endpoint() if resource.spec.type == "proxied":
                return self._carriers
        return None


def with_members(resource: _R, members: Iterable[str]) -> _R:
    """A network or VPC with other members, or an endpoint with another carrier."""
    if isinstance(resource, Endpoint):
        host = next(iter(members), "")
        return resource.model_copy(update={"status": resource.status.model_copy(update={"host": host})})
    field = "bouncers" if isinstance(resource, Network) else "dividers"
    return resource.model_copy(update={"status": resource.status.model_copy(update={field: tuple(members)})})


def _count(resource: Resource) -> int:
    if isinstance(resource, Endpoint):
        return 1
    count: int = resource.spec.bouncers if isinstance(resource, Network) else resource.spec.dividers
    return count


def _joined(*changes: Mapping[str, tuple[str, ...]]) -> Moved:
    return {group: members for change in changes for group, members in change.items()}
