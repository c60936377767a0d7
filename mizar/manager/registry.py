# SPDX-License-Identifier: Apache-2.0
"""All objects in memory, by name, by uid, by parent, and by what they hold: one entry per thing, no scans.

Read by every part of the manager and, through it, by the API; changed only by mizar.manager.manager, after the store
has kept the same change. It must never decide anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import BaseModel

from mizar.model.addresses import parse_prefix
from mizar.model.prefixes import PrefixTable
from mizar.model.resources import KINDS, VPC, Endpoint, Network, Phase, Ref, Resource
from mizar.model.secret import REVEAL
from mizar.store.protocol import Allocation, Record


class Trouble(NamedTuple):
    """Why a droplet does not hold an object as it should; `permanent`: repeating it cannot help."""

    permanent: bool
    message: str


@dataclass(slots=True, eq=False)
class Item:
    """One object: its resource (with uid, times and what was allocated) and how far it has come.

    `resource.status` has what was allocated and placed; phase, reason and message are worked out from the rest.
    """

    resource: Resource
    allocations: tuple[Allocation, ...] = ()
    former: tuple[str, ...] = ()
    forced: bool = False
    phase: Phase = Phase.INIT
    observed_generation: int = 0
    host_interface: str = ""
    waiting: set[str] = field(default_factory=set)  # droplets that have not acknowledged the last change
    troubles: dict[str, Trouble] = field(default_factory=dict)  # by droplet
    stored: Phase = Phase.INIT
    """The phase that the store knows. After a crash those that it calls finished are not waited for again."""
    uid: str = field(init=False)
    """`metadata.uid`, which every stored object has."""
    ref: Ref = field(init=False)
    """What names it. Neither changes as long as it lives, and both are asked for all the time."""

    def __post_init__(self) -> None:
        self.uid, self.ref = self.resource.metadata.uid or "", self.resource.ref

    @property
    def deleting(self) -> bool:
        """Whether its deletion has begun."""
        return self.resource.metadata.deleted_at is not None

    @property
    def placement(self) -> tuple[str, ...]:
        """Names of the droplets that are its bouncers or dividers."""
        return members_of(self.resource)

    def status(self) -> dict[str, Any]:
        """Status as JSON values, without what only a fleet knows."""
        found = self.resource.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        found["phase"], found["observedGeneration"] = self.phase.value, self.observed_generation
        if self.host_interface:
            found["hostInterface"] = self.host_interface
        return found

    def status_text(self) -> str:
        """Status as the store keeps it, with the text of secrets."""
        news: dict[str, object] = {"phase": self.phase, "observed_generation": self.observed_generation}
        if self.host_interface:
            news["host_interface"] = self.host_interface
        return _json(self.resource.status.model_copy(update=news))

    def record(self, *, new: bool = False) -> Record:
        """As the store keeps it. `new`: it has not kept it yet."""
        resource, metadata = self.resource, self.resource.metadata
        manifest = (
            f'{{"apiVersion":"{resource.api_version}","kind":"{resource.kind}",'
            f'"metadata":{_json(metadata, _SERVERS_OWN)},"spec":{_json(resource.spec)}}}'
        )
        return Record(
            uid=self.uid,
            kind=resource.kind,
            tenant=resource.tenant,
            name=metadata.name,
            generation=metadata.generation,
            manifest=manifest,
            created_at=_text(metadata.created_at) or "",
            deleted_at=_text(metadata.deleted_at),
            forced=self.forced,
            status=self.status_text(),
            allocations=self.allocations,
            placement=self.placement,
            former=self.former,
            new=new,
        )


_SERVERS_OWN = frozenset({"uid", "generation", "created_at", "deleted_at"})
"""What columns of their own tell of an object."""


def _json(part: BaseModel, exclude: frozenset[str] = frozenset()) -> str:
    """A part of a resource as JSON text, with the text of secrets: for the store alone."""
    return part.model_dump_json(by_alias=True, exclude_none=True, exclude=set(exclude) or None, context=REVEAL)


def item_of(record: Record) -> Item:
    """The item that a stored record tells of."""
    manifest = json.loads(record.manifest)
    manifest["status"] = json.loads(record.status)
    manifest["metadata"] = {
        **manifest["metadata"],
        "uid": record.uid,
        "generation": record.generation,
        "createdAt": record.created_at,
        "deletedAt": record.deleted_at,
    }
    resource = KINDS[record.kind].model.model_validate(manifest, context={"stored": True})
    status = resource.status
    return Item(
        resource=resource,
        allocations=record.allocations,
        former=record.former,
        forced=record.forced,
        phase=status.phase,
        stored=status.phase,
        observed_generation=status.observed_generation,
        host_interface=getattr(status, "host_interface", ""),
    )


def members_of(resource: Resource) -> tuple[str, ...]:
    """Names of the droplets that are a network's bouncers, a VPC's dividers, or carry a proxied endpoint; else none."""
    match resource:
        case Network():
            return resource.status.bouncers
        case VPC():
            return resource.status.dividers
        case Endpoint() if resource.spec.type in ("proxied", "source") and resource.status.host:
            return (resource.status.host,)
    return ()


def target_of(resource: Resource) -> Ref | None:
    """The name of what a proxied endpoint leads to; None for anything else."""
    target = resource.spec.target if isinstance(resource, Endpoint) else None
    return Ref("Endpoint", target.tenant or resource.tenant, target.endpoint) if target else None


def _text(time: datetime | None) -> str | None:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z") if time else None


class Registry:
    """Every object that is known."""

    def __init__(self) -> None:
        self._by_ref: dict[Ref, Item] = {}
        self._by_uid: dict[str, Item] = {}
        self._by_kind: dict[str, dict[str, Item]] = {name: {} for name in KINDS}
        self._children: dict[str, dict[str, Item]] = {}
        self._leading: dict[Ref, dict[str, Item]] = {}  # proxied endpoints, by the name of their target
        self._sources: dict[str, dict[str, Item]] = {}  # what stands for clients, by the uid of the proxied endpoint
        self.holders: dict[Allocation, str] = {}
        """uid of the object that holds a value."""
        self.troubled: dict[str, Item] = {}
        """Objects that some droplet could not take, by uid."""
        self._prefixes: dict[Ref, PrefixTable[Ref]] = {}
        self._groups: dict[Ref, dict[Ref, Item]] = {}

    def find(self, ref: Ref) -> Item | None:
        """By name."""
        return self._by_ref.get(ref)

    def by_uid(self, uid: str) -> Item | None:
        """By uid."""
        return self._by_uid.get(uid)

    def holder(self, scope: str, value: str) -> Item | None:
        """Who holds a value."""
        uid = self.holders.get(Allocation(scope, value))
        return None if uid is None else self._by_uid[uid]

    def of_kind(self, kind: str) -> Iterator[Item]:
        """All objects of a kind, in the order of their creation."""
        return iter(self._by_kind[kind].values())

    def children(self, item: Item) -> Iterator[Item]:
        """What is inside of it: VPCs of a tenant, networks of a VPC, endpoints of a network or on a droplet."""
        return iter(self._children.get(item.uid, {}).values())

    def has_children(self, item: Item) -> bool:
        """Whether anything is inside of it."""
        return bool(self._children.get(item.uid))

    def parents(self, resource: Resource) -> Iterator[Item]:
        """What it is inside of, as far as that is there."""
        return (item for ref in parent_refs(resource) if (item := self._by_ref.get(ref)) is not None)

    def leading_to(self, target: Ref) -> Iterator[Item]:
        """The proxied endpoints whose target has this name."""
        return iter(self._leading.get(target, {}).values())

    def source_of(self, uid: str) -> Item | None:
        """What stands for the clients of a proxied endpoint in service."""
        return next((item for item in self._sources.get(uid, {}).values() if not item.deleting), None)

    def find_droplet(self, name: str) -> Item | None:
        """A droplet by name."""
        return self._by_ref.get(Ref("Droplet", "", name))

    def groups(self, vpc: Ref) -> Iterator[Item]:
        """The networks of type group of a VPC."""
        return iter(self._groups.get(vpc, {}).values())

    def prefixes(self, vpc: Ref) -> PrefixTable[Ref]:
        """The prefixes of a VPC's networks, those of networks that are being deleted included."""
        return self._prefixes.get(vpc) or PrefixTable()

    def put(self, item: Item) -> None:
        """Takes a new object, or the next state of one whose name, parents and allocations stay."""
        self._by_ref[item.ref] = self._by_uid[item.uid] = self._by_kind[item.resource.kind][item.uid] = item
        for allocation in item.allocations:
            self.holders[allocation] = item.uid
        for parent in self.parents(item.resource):
            self._children.setdefault(parent.uid, {})[item.uid] = item
        self._index_proxied(item, None, item.resource)
        if isinstance(item.resource, Network):
            table = self._prefixes.setdefault(vpc_of(item.resource), PrefixTable())
            for cidr in item.resource.spec.cidrs:
                table.put(parse_prefix(cidr), item.ref)
            if item.resource.is_group:
                self._groups.setdefault(vpc_of(item.resource), {})[item.ref] = item

    def change(self, item: Item, resource: Resource) -> None:
        """Takes the next state of an object, which may be inside of others than before."""
        before, after = set(parent_refs(item.resource)), set(parent_refs(resource))
        for ref in before - after:
            if (parent := self._by_ref.get(ref)) is not None:
                self._children.get(parent.uid, {}).pop(item.uid, None)
        for ref in after - before:
            if (parent := self._by_ref.get(ref)) is not None:
                self._children.setdefault(parent.uid, {})[item.uid] = item
        self._index_proxied(item, item.resource, resource)
        item.resource = resource

    def _index_proxied(self, item: Item, before: Resource | None, after: Resource | None) -> None:
        for resource in (before, after):
            if resource is None or not isinstance(resource, Endpoint) or resource.spec.type in ("simple", "scaled"):
                continue
            if (target := target_of(resource)) is not None:
                place = self._leading.setdefault(target, {})
            elif resource.spec.clients is not None:
                place = self._sources.setdefault(resource.spec.clients.proxied, {})
            else:
                continue
            place.pop(item.uid, None)
            if resource is after:
                place[item.uid] = item

    def remove(self, item: Item) -> None:
        """Forgets an object that has no children."""
        del self._by_ref[item.ref], self._by_uid[item.uid], self._by_kind[item.resource.kind][item.uid]
        self._children.pop(item.uid, None)
        self.troubled.pop(item.uid, None)
        for allocation in item.allocations:
            del self.holders[allocation]
        for parent in self.parents(item.resource):
            self._children.get(parent.uid, {}).pop(item.uid, None)
        self._index_proxied(item, item.resource, None)
        if isinstance(item.resource, Network):
            for cidr in item.resource.spec.cidrs:
                self._prefixes[vpc_of(item.resource)].remove(parse_prefix(cidr))
            self._groups.get(vpc_of(item.resource), {}).pop(item.ref, None)
        self._prefixes.pop(item.ref, None)
        self._groups.pop(item.ref, None)

    def load(self, records: Iterable[Record]) -> None:
        """Takes everything that a store kept."""
        items = [item_of(record) for record in records]
        order = {name: number for number, name in enumerate(KINDS)}
        for item in sorted(items, key=lambda item: order[item.resource.kind]):  # stable: creation order stays
            self.put(item)


def half_of(own_uid: str, other: Ref) -> Allocation:
    """What the half of a VPC (by its uid) holds towards another: one of it at most."""
    return Allocation(f"peering/{own_uid}", f"{other.tenant}/{other.name}")


def vpc_of(network: Network) -> Ref:
    """The VPC that a network is in."""
    return Ref("VPC", network.tenant, network.spec.vpc)


def parent_refs(resource: Resource) -> Iterator[Ref]:
    """Names of what a resource is inside of: its tenant, VPC, network and droplets (two while it moves)."""
    spec, tenant = resource.spec, resource.tenant
    match resource.kind:
        case "VPC":
            yield Ref("Tenant", "", tenant)
        case "Network" | "VPCPeering" | "Policy" | "NetworkAcl" | "DdosProtection":
            yield Ref("VPC", tenant, spec.vpc)
        case "HttpLoadBalancer":
            yield Ref("Network", tenant, spec.network)
        case "NatGateway":
            yield Ref("Network", tenant, spec.network)
            yield Ref("AddressPool", "", spec.pool)
        case "LoadBalancer":
            yield Ref("Network", tenant, spec.network)
            if spec.public is not None:
                yield Ref("AddressPool", "", spec.public.pool)
        case "VpnConnection":
            yield Ref("VPC", tenant, spec.vpc)
            yield Ref("Endpoint", tenant, spec.endpoint) if spec.endpoint else Ref("Network", tenant, spec.network)
        case "Endpoint":
            yield Ref("Network", tenant, spec.network)
            if spec.droplet is not None:
                yield Ref("Droplet", "", spec.droplet)
            assert isinstance(resource, Endpoint)
            if (made := spec.instance_of) is not None:
                yield Ref(made.kind, tenant, made.name)
            if (move := resource.status.move) is not None and move.under_way:
                yield from (Ref("Droplet", "", name) for name in (move.source, move.target) if name != spec.droplet)
