# SPDX-License-Identifier: Apache-2.0
"""Which endpoints are in which groups, and by what number packets tell.

Owned by mizar.manager.manager. Before a change is kept, `regrouped` says which endpoints it puts into other groups;
after that `follow` is told of every object. A set of groups has a number, unique in its VPC, as long as an endpoint is
in it; a number that was given back rests as long as possible, because packets that bear it may be under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from mizar.manager.draft import Draft
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.model.errors import ExhaustedError, InvalidError, Problem
from mizar.model.groups import MAX_GROUPS
from mizar.model.resources import VPC, Endpoint, Network, Ref, Resource

LAST_SET = 0xFFFF
Ids = tuple[int, ...]


@dataclass
class _Sets:
    """Sets of one VPC: their numbers, and how many endpoints are in each."""

    numbers: dict[Ids, int] = field(default_factory=dict)
    users: Counter[Ids] = field(default_factory=Counter)
    cursor: int = 0

    def number(self, ids: Ids, planned: dict[Ids, int]) -> int:
        """The number of a set: its own, or the next free one, noted in `planned`. Raises ExhaustedError."""
        found = self.numbers.get(ids) or planned.get(ids)
        if found is None:
            taken = {*self.numbers.values(), *planned.values()}
            cursor = max(self.cursor, *planned.values(), 0) if planned else self.cursor
            numbers = (*range(cursor + 1, LAST_SET + 1), *range(1, cursor + 1)) if len(taken) < LAST_SET else ()
            found = next((number for number in numbers if number not in taken), None)
            if found is None:
                raise ExhaustedError(f"all {LAST_SET} sets of groups of the VPC are in use")
            planned[ids] = found
        return found


class Groups:
    """The groups of all VPCs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sets: dict[Ref, _Sets] = {}
        self._in: dict[str, tuple[Ref, Ids, tuple[str, ...]]] = {}  # endpoint's uid → VPC, ids and uids of its groups
        self._members: Counter[str] = Counter()

    def members(self, item: Item) -> int:
        """How many endpoints are in a group."""
        return self._members[item.uid]

    # ---- before a change

    def regrouped(self, draft: Draft, gone: Collection[Ref] = ()) -> Iterator[Endpoint]:
        """Endpoints with the groups that they will be in, as far as those are others than before.

        `gone`: objects that are being deleted with this change. Raises InvalidError or ExhaustedError.
        """
        affected: dict[Ref, Endpoint] = {}
        for ref, planned in draft.planned.items():
            if isinstance(planned.resource, Endpoint):
                affected[ref] = planned.resource
            elif isinstance(planned.resource, Network) and planned.resource.is_group:
                affected |= self._endpoints(draft, vpc_of(planned.resource))
        for ref in gone:
            item = self._registry.find(ref)
            if item is not None and isinstance(item.resource, Network) and item.resource.is_group:
                affected |= self._endpoints(draft, vpc_of(item.resource))
        rules: dict[Ref, list[Network]] = {}
        numbers: dict[Ref, dict[Ids, int]] = {}
        for ref, endpoint in affected.items():
            network = draft.find(Ref("Network", endpoint.tenant, endpoint.spec.network))
            if ref in gone or not isinstance(network, Network):
                continue
            vpc = vpc_of(network)
            if vpc not in rules:
                rules[vpc] = [group for group in draft.groups_of(vpc) if group.ref not in gone]
            if not rules[vpc] and not endpoint.status.groups:
                continue
            found = self._with_groups(endpoint, vpc, rules[vpc], numbers.setdefault(vpc, {}))
            if found.status != endpoint.status:
                yield found

    def _endpoints(self, draft: Draft, vpc: Ref) -> dict[Ref, Endpoint]:
        """All endpoints of a VPC as they would be."""
        found: dict[Ref, Endpoint] = {}
        item = self._registry.find(vpc)
        for network in self._registry.children(item) if item else ():
            for child in self._registry.children(network):
                if isinstance(child.resource, Endpoint) and not child.deleting:
                    found[child.ref] = child.resource
        for ref, planned in draft.planned.items():
            if isinstance(planned.resource, Endpoint):
                network_ref = Ref("Network", ref.tenant, planned.resource.spec.network)
                inside = draft.find(network_ref)
                if isinstance(inside, Network) and vpc_of(inside) == vpc:
                    found[ref] = planned.resource
        return found

    def _with_groups(self, endpoint: Endpoint, vpc: Ref, rules: Iterable[Network], planned: dict[Ids, int]) -> Endpoint:
        mine = sorted((group for group in rules if holds(group, endpoint)), key=lambda group: group.status.id or 0)
        if len(mine) > MAX_GROUPS:
            message = f"{endpoint.ref} would be in {len(mine)} groups; expected at most {MAX_GROUPS}"
            raise InvalidError(Problem(message, "spec.selector", str(mine[-1].ref)))
        ids = tuple(group.status.id or 0 for group in mine)
        number = self._sets.setdefault(vpc, _Sets()).number(ids, planned) if ids else 0
        status = endpoint.status.model_copy(
            update={"groups": tuple(group.name for group in mine), "group_ids": ids, "group_set": number}
        )
        return endpoint.model_copy(update={"status": status})

    # ---- after it

    def follow(self, item: Item) -> set[str]:
        """Takes the next state of an object, or its end; returns uids of groups whose number of members changed."""
        if not isinstance(item.resource, Endpoint):
            if isinstance(item.resource, VPC) and item.deleting:
                self._sets.pop(item.ref, None)
            return set()
        before = self._in.pop(item.uid, None)
        if before is not None:
            self._leave(*before)
        now = None if item.deleting else self._place(item.resource)
        if now is not None:
            self._in[item.uid] = now
            self._join(now, item.resource.status.group_set)
        return set(before[2] if before else ()) ^ set(now[2] if now else ())

    def load(self, items: Iterable[Item]) -> None:
        """Takes everything that a store kept."""
        for item in items:
            self.follow(item)

    def _place(self, endpoint: Endpoint) -> tuple[Ref, Ids, tuple[str, ...]] | None:
        if not endpoint.status.group_ids:
            return None
        network = self._registry.find(Ref("Network", endpoint.tenant, endpoint.spec.network))
        if network is None:
            return None
        assert isinstance(network.resource, Network)
        named = (self._registry.find(Ref("Network", endpoint.tenant, name)) for name in endpoint.status.groups)
        return vpc_of(network.resource), endpoint.status.group_ids, tuple(group.uid for group in named if group)

    def _join(self, place: tuple[Ref, Ids, tuple[str, ...]], number: int) -> None:
        vpc, ids, uids = place
        sets = self._sets.setdefault(vpc, _Sets())
        if ids not in sets.numbers:
            sets.numbers[ids] = sets.cursor = number
        sets.users[ids] += 1
        self._members.update(uids)

    def _leave(self, vpc: Ref, ids: Ids, uids: tuple[str, ...]) -> None:
        sets = self._sets.get(vpc)
        if sets is not None:
            sets.users[ids] -= 1
            if not sets.users[ids]:
                del sets.users[ids], sets.numbers[ids]
        self._members.subtract(uids)


def holds(group: Network, endpoint: Endpoint) -> bool:
    """Whether an endpoint of the VPC is in a group: it is named, or its labels are selected."""
    selector = group.spec.selector
    return endpoint.name in group.spec.members or (selector is not None and selector.holds(endpoint.metadata.labels))


def problems(resource: Resource, draft: Draft) -> Iterator[Problem]:
    """What speaks against a group, or against a network that an endpoint wants to be in."""
    if isinstance(resource, Network) and resource.is_group:
        for other in draft.groups_of(vpc_of(resource)):
            if other.ref != resource.ref and other.label == resource.label:
                message = f"{resource.label} is the label of {other.ref} in the same VPC"
                yield Problem(message, "spec.label", str(resource.ref))
    elif isinstance(resource, Endpoint):
        network, _ = draft.parent(resource)
        if network is not None and network.is_group:
            message = f"expected a subnet; {network.ref} is a group, which endpoints join by its selector"
            yield Problem(message, "spec.network", str(resource.ref))
