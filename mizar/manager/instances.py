# SPDX-License-Identifier: Apache-2.0
"""Endpoints that a function brings: instances on droplets, and the scaled endpoint that they are members of.

Called by mizar.manager.manager when the function is applied, and when droplets come or go. Instances are ordinary
endpoints in namespaces that their daemons bring; they say whose they are in `spec.instanceOf`, and nobody else changes
them. What an instance runs is no part of this: mizar.manager.desired asks the function.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mizar.manager.draft import Draft
from mizar.manager.registry import Item, Registry
from mizar.model.errors import ConflictError, InvalidError, Problem
from mizar.model.instances import InstanceSpec
from mizar.model.resources import Droplet, Endpoint, EndpointSpec, Metadata, Ref, Resource
from mizar.model.scaled import HealthSpec, MemberSpec
from mizar.model.workloads import WorkloadSpec
from mizar.planner.instances import seats

OWNERS = frozenset({"HttpLoadBalancer", "LoadBalancer", "NatGateway", "VpnConnection"})
"""Kinds whose objects bring endpoints."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a function wants: so many instances in a network, on some droplets (none: on any), sharing `addresses`.

    `health`: how the scaled endpoint checks them; None: there is no scaled endpoint. `refused`: droplets that get no
    new one. `forwarding`: they may send what is not theirs. `apart`: no two on one droplet; rather there are fewer.
    """

    network: str
    count: int
    droplets: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    health: HealthSpec | None = None
    refused: frozenset[str] = frozenset()
    forwarding: bool = False
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Fleeting:
    """Droplets that are `away` get no new instance where others can have it; those that are `gone` lose theirs."""

    away: Collection[str] = ()
    gone: Collection[str] = field(default_factory=frozenset)


NONE_FLEETING = Fleeting()


def owner_of(endpoint: Endpoint) -> Ref | None:
    """The object that has made an endpoint, if any."""
    made = endpoint.spec.instance_of
    return Ref(made.kind, endpoint.tenant, made.name) if made else None


def instances_of(registry: Registry, owner: Item) -> list[Item]:
    """The instances of a function that do not end, by name."""
    found = [item for item in registry.children(owner) if isinstance(item.resource, Endpoint) and not item.deleting]
    return sorted((item for item in found if item.resource.spec.type == "simple"), key=lambda item: _number(item))


def settle(draft: Draft, registry: Registry, owner: Resource, wish: Wish, droplets: Fleeting) -> None:
    """Puts into the draft what is missing, and dooms what is too much. Raises ConflictError or ExhaustedError."""
    item = registry.find(owner.ref)
    held = {one.resource.name: one for one in (instances_of(registry, item) if item else ())}
    going, new = _seats(draft, registry, wish, droplets, held)
    draft.dooms += [held[name] for name in going]
    made = InstanceSpec(kind=owner.kind, name=owner.name)
    names = [name for name in held if name not in going]
    for name in names:
        _relabel(draft, held[name].resource, owner)
    number = max((_number(one) for one in held.values()), default=0)
    for droplet in new:
        number += 1
        while _taken(draft, registry, Ref("Endpoint", owner.tenant, f"{owner.name}-{number}")):
            number += 1
        workload = WorkloadSpec(namespace=f"fn-{uuid.uuid4()}", pool=True)
        spec = EndpointSpec(
            network=wish.network, droplet=droplet, workload=workload, instance_of=made, forwarding=wish.forwarding
        )
        metadata = Metadata(name=f"{owner.name}-{number}", tenant=owner.tenant, labels=owner.metadata.labels)
        draft.create(Endpoint(metadata=metadata, spec=spec))
        names.append(metadata.name)
    if wish.health is not None:
        _share(draft, registry, owner, wish, names)


def _share(draft: Draft, registry: Registry, owner: Resource, wish: Wish, names: list[str]) -> None:
    """The scaled endpoint with these members."""
    made = InstanceSpec(kind=owner.kind, name=owner.name)
    members = tuple(MemberSpec(endpoint=name) for name in names)
    spec = EndpointSpec(
        network=wish.network, type="scaled", addresses=wish.addresses, members=members,
        health=wish.health or HealthSpec(), instance_of=made,
    )  # fmt: skip
    put_shared(draft, registry, owner, spec)


def put_shared(draft: Draft, registry: Registry, owner: Resource, spec: EndpointSpec) -> None:
    """The scaled endpoint of a function, of its name. Raises ConflictError where an endpoint of another has it."""
    ref = Ref("Endpoint", owner.tenant, owner.name)
    there = registry.find(ref)
    old = there.resource if there else draft.find(ref)
    if isinstance(old, Endpoint) and old.spec.instance_of != spec.instance_of:
        message = f"there is {ref} already, and a {owner.kind} makes one of its own name"
        raise ConflictError(Problem(message, field="metadata.name"))
    metadata = Metadata(name=owner.name, tenant=owner.tenant, labels=owner.metadata.labels)
    if not isinstance(old, Endpoint):
        draft.create(Endpoint(metadata=metadata, spec=spec))
    elif (old.spec, old.metadata.labels) != (spec, owner.metadata.labels):
        _amend(draft, old.model_copy(update={"spec": spec}), owner)


def _seats(
    draft: Draft, registry: Registry, wish: Wish, droplets: Fleeting, held: Mapping[str, Item]
) -> tuple[list[str], list[str]]:
    known = {one.name for one in draft.of_kind(Droplet) if one.spec.has_daemon}
    allowed = known & set(wish.droplets) if wish.droplets else known
    usable = allowed - wish.refused
    reachable = usable - set(droplets.away)
    load = Counter(
        item.resource.spec.droplet
        for item in registry.of_kind("Endpoint")
        if item.resource.spec.instance_of is not None and not item.deleting
    )
    where = {name: item.resource.spec.droplet or "" for name, item in held.items()}
    gone = {name for name in where.values() if name not in allowed} | set(droplets.gone)
    return seats(wish.count, where, reachable or usable - set(droplets.gone), gone, load, apart=wish.apart)


def _relabel(draft: Draft, instance: Resource, owner: Resource) -> None:
    if instance.metadata.labels != owner.metadata.labels:
        _amend(draft, instance, owner)


def _amend(draft: Draft, resource: Resource, owner: Resource) -> None:
    generation = resource.metadata.generation + 1
    metadata = resource.metadata.model_copy(update={"generation": generation, "labels": owner.metadata.labels})
    draft.amend(resource.model_copy(update={"metadata": metadata}))


def _taken(draft: Draft, registry: Registry, ref: Ref) -> bool:
    return draft.find(ref) is not None or registry.find(ref) is not None


def _number(item: Item) -> int:
    text = item.resource.name.rpartition("-")[2]
    return int(text) if text.isdecimal() else 0


def refuse_meddling(resource: Resource, old: Resource | None) -> None:
    """Raises InvalidError for an endpoint that says that it is a function's, or is one's and shall be another."""
    spec = resource.spec
    before = old.spec.instance_of if isinstance(old, Endpoint) else None
    if not isinstance(resource, Endpoint) or (spec.instance_of is None and before is None):
        return
    if before is None:
        raise InvalidError(Problem("unexpected: it is the server's to write", field="spec.instanceOf"))
    if old is not None and (old.spec != spec or old.metadata.labels != resource.metadata.labels):
        raise InvalidError(f"it is an endpoint of {before.kind} {resource.tenant}/{before.name}: change that instead")
