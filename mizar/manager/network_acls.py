# SPDX-License-Identifier: Apache-2.0
"""The network ACLs of all VPCs: what droplets are to hold because of them, and what their authors are told.

Owned by mizar.manager.desired. A VPC without one costs nothing. It must never tell a droplet anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mizar.manager.draft import Draft
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.model.addresses import Prefix, parse_prefix, within
from mizar.model.errors import ExhaustedError, Problem
from mizar.model.network_acl import NetworkAcl
from mizar.model.resources import VPC, Network, Ref, Resource
from mizar.planner.entries import NetworkAclEntry
from mizar.planner.network_acl import AclView, set_id, sets_of, warnings
from mizar.planner.records import AclEntry


@dataclass(frozen=True, slots=True)
class _Subnet:
    id: int
    prefixes: tuple[Prefix, ...]


@dataclass(slots=True)
class _Vpc:
    number: int
    acls: dict[str, AclView] = field(default_factory=dict)
    networks: dict[str, _Subnet] = field(default_factory=dict)
    sets: dict[str, tuple[AclEntry, ...]] = field(default_factory=dict)


class NetworkAcls:
    """Those of all VPCs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._vpcs: dict[Ref, _Vpc] = {}
        self._told: dict[str, tuple[AclView, list[str]]] = {}

    def put(self, item: Item) -> tuple[int, list[AclEntry]] | None:
        """Takes an ACL or a network, or its next state. Number of its VPC and all that ACLs ask for there; None where
        that is what it was."""
        resource = item.resource
        if isinstance(resource, NetworkAcl):
            return self._put_acl(resource)
        if isinstance(resource, Network) and not resource.is_group and (vpc := self._vpcs.get(vpc_of(resource))):
            vpc.networks[resource.name] = _subnet(resource)
            return vpc.number, list(_entries(vpc))
        return None

    def remove(self, item: Item) -> tuple[int, list[AclEntry]] | None:
        """An ACL or a network goes."""
        resource = item.resource
        if not isinstance(resource, NetworkAcl | Network):
            return None
        vpc = self._vpcs.get(_vpc_name(resource))
        if vpc is None:
            return None
        if isinstance(resource, NetworkAcl):
            vpc.acls.pop(item.uid, None)
            vpc.sets.pop(item.uid, None)
            self._told.pop(item.uid, None)
            if not vpc.acls:
                del self._vpcs[_vpc_name(resource)]
        else:
            vpc.networks.pop(resource.name, None)
        return vpc.number, list(_entries(vpc))

    def warnings(self, acl: NetworkAcl) -> list[str]:
        """What people should know of an ACL."""
        vpc = self._vpcs.get(_vpc_name(acl))
        known = vpc.networks if vpc else {}
        missing = [f"there is no network {name}" for name in acl.spec.networks if name not in known]
        view = acl_view(acl)
        told = self._told.get(view.uid)
        if told is None or told[0] != view:
            told = self._told[view.uid] = view, warnings(view)
        return missing + told[1]

    def _put_acl(self, acl: NetworkAcl) -> tuple[int, list[AclEntry]] | None:
        ref, view = _vpc_name(acl), acl_view(acl)
        vpc = self._vpcs.get(ref)
        if vpc is None:
            found = self._registry.find(ref)
            if found is None or not isinstance(found.resource, VPC) or found.resource.number is None:
                return None
            vpc = self._vpcs[ref] = _Vpc(found.resource.number)
            for child in self._registry.children(found):
                if isinstance(child.resource, Network) and not child.resource.is_group and not child.deleting:
                    vpc.networks[child.resource.name] = _subnet(child.resource)
        vpc.acls[view.uid] = view
        vpc.sets[view.uid] = tuple(sets_of(vpc.number, view))
        return vpc.number, list(_entries(vpc))


def _entries(vpc: _Vpc) -> Iterator[AclEntry]:
    """Sets of rules, then who is judged by them: networks that ACLs name, and those inside of them."""
    for sets in vpc.sets.values():
        yield from sets
    named = {name: acl for acl in vpc.acls.values() for name in acl.spec.networks}
    ruled = [vpc.networks[name] for name in named if name in vpc.networks]
    for name, network in vpc.networks.items():
        prefixes = tuple((one.network_address.packed, one.prefixlen) for one in network.prefixes)
        acl = named.get(name)
        if acl is not None:
            yield NetworkAclEntry(vpc.number, network.id, prefixes, *_bound(acl))
        elif any(within(inner, outer) for one in ruled for outer in one.prefixes for inner in network.prefixes):
            yield NetworkAclEntry(vpc.number, network.id, prefixes)


def _bound(acl: AclView) -> Iterator[int]:
    for egress in (False, True):
        for later in (False, True):
            yield set_id(acl, egress, later) if acl.rules(egress) is not None else 0


def _subnet(network: Network) -> _Subnet:
    prefixes = sorted(map(parse_prefix, network.spec.cidrs), key=lambda one: one.version)
    return _Subnet(network.status.id or 0, tuple(prefixes))


def acl_view(acl: NetworkAcl) -> AclView:
    """An ACL as the planner sees it."""
    return AclView(acl.metadata.uid or "", acl.status.id or 0, acl.name, acl.spec)


def _vpc_name(resource: Resource) -> Ref:
    return Ref("VPC", resource.tenant, resource.spec.vpc)


def problems(resource: Resource, draft: Draft) -> Iterator[Problem]:
    """A network has one ACL at most, and groups have none."""
    if not isinstance(resource, NetworkAcl):
        return
    for other in draft.of_kind(NetworkAcl):
        if other.ref != resource.ref and _vpc_name(other) == _vpc_name(resource):
            for name in resource.spec.networks:
                if name in other.spec.networks:
                    yield Problem(f"network {name} has network ACL {other.name} already", field="spec.networks")
    for name in resource.spec.networks:
        found = draft.find(Ref("Network", resource.tenant, name))
        if isinstance(found, Network) and found.is_group:
            yield Problem(f"expected networks of type subnet, found the group {name}", field="spec.networks")
        elif isinstance(found, Network) and found.spec.vpc != resource.spec.vpc:
            yield Problem(f"network {name} is of VPC {found.spec.vpc}", field="spec.networks")


def refuse_too_large(acls: Iterable[NetworkAcl]) -> None:
    """Raises ExhaustedError when rules would become too many rows."""
    for acl in acls:
        try:
            list(sets_of(0, acl_view(acl)))
        except ExhaustedError as error:
            raise ExhaustedError(Problem(str(error), "spec", str(acl.ref))) from error
