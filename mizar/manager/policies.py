# SPDX-License-Identifier: Apache-2.0
"""Policies: from objects to what the planner knows of them, and which sets of rules follow from a change.

Owned by mizar.manager.desired. A VPC without a policy costs nothing: its endpoints are looked at when its first one
comes. It must never tell a droplet anything: it answers with effects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from mizar.manager.intake import Result
from mizar.manager.network_acls import NetworkAcls
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.model.addresses import parse_prefix
from mizar.model.errors import ExhaustedError, Problem
from mizar.model.network_acl import NetworkAcl
from mizar.model.policy import Policy
from mizar.model.resources import VPC, Endpoint, Network, Ref, Resource, TunnelProtocol
from mizar.planner.entries import NOT_POLICED, PolicyBinding, PolicySetEntry
from mizar.planner.policy import compile_rules
from mizar.planner.policy_findings import Finding, findings
from mizar.planner.policy_sets import Effects, PolicySets
from mizar.planner.policy_world import EndpointView, PolicyView


@dataclass(frozen=True, slots=True)
class Moved:
    """What a change asks for in one VPC, by its number."""

    vni: int
    effects: Effects


class Policies:
    """The policies of all VPCs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._vpcs: dict[Ref, PolicySets] = {}
        self._found: dict[str, tuple[PolicySets, int, list[Finding]]] = {}

    def binding(self, item: Item) -> PolicyBinding:
        """By which sets an endpoint is judged."""
        sets = self._sets_of(item.resource)
        return sets.binding(item.uid) if sets else NOT_POLICED

    def selected(self, item: Item) -> int:
        """How many endpoints a policy selects."""
        sets = self._sets_of(item.resource)
        return len(sets.selected(item.uid)) if sets else 0

    def findings(self, item: Item) -> list[Finding]:
        """What people should know of a policy's rules."""
        sets = self._sets_of(item.resource)
        view = sets.world.policies.get(item.uid) if sets else None
        if sets is None or view is None:
            return []
        known = self._found.get(item.uid)
        if known is None or known[0] is not sets or known[1] != sets.version:
            known = self._found[item.uid] = sets, sets.version, _findings(sets, view)
        return known[2]

    def concerning(self, items: Iterable[Item]) -> dict[Ref, tuple[str, ...]]:
        """What to tell of policies that were just applied: of their own rules, and of others' that stand behind
        them."""
        found: dict[Ref, tuple[str, ...]] = {}
        for item in items:
            vpc = self._registry.find(_vpc_name(item.resource))
            told = [one.message for one in self.findings(item)]
            for other in self._registry.children(vpc) if vpc else ():
                if isinstance(other.resource, Policy) and other is not item and not other.deleting:
                    blamed = f"policy {item.resource.name} "
                    told += [f.message for f in self.findings(other) if any(by.startswith(blamed) for by in f.by)]
            found[item.ref] = tuple(dict.fromkeys(told))
        return found

    def refuse_too_large(self, policies: Iterable[Policy]) -> None:
        """Raises ExhaustedError when the rules for some endpoint would be too many."""
        for policy in policies:
            sets, view = self._vpcs.get(_vpc_name(policy)) or PolicySets(0), policy_view(policy)
            for egress in (False, True):
                for together in sets.companies(view, egress=egress) if view.rules(egress) else ():
                    try:
                        compile_rules([matcher for _, _, matcher in sets.world.matchers(together, egress)])
                    except ExhaustedError as error:
                        field = "spec.egress" if egress else "spec.ingress"
                        raise ExhaustedError(Problem(str(error), field, str(policy.ref))) from error

    def endpoints(self, item: Item) -> Iterator[Item]:
        """The endpoints that a policy selects."""
        sets = self._sets_of(item.resource)
        found = (self._registry.by_uid(uid) for uid in (sets.selected(item.uid) if sets else ()))
        return (one for one in found if one is not None)

    def sets(self, vpc: Ref) -> PolicySets | None:
        """Those of one VPC; None while it has no policy."""
        return self._vpcs.get(vpc)

    # ---- changes

    def put(self, item: Item) -> Moved | None:
        """Takes an object, or its next state; None where no policy is concerned."""
        resource = item.resource
        if isinstance(resource, Policy):
            return self._put_policy(resource)
        sets = self._sets_of(resource)
        if sets is None:
            return None
        if isinstance(resource, Endpoint):
            network = self._network(resource)
            view = endpoint_view(resource, network) if network else None
            return Moved(sets.vni, sets.put_endpoint(view)) if view else None
        if isinstance(resource, Network):
            _put_network(sets, resource)
        return None

    def settle(self) -> Iterator[tuple[PolicySetEntry, Iterable[str]]]:
        """Sets that are other than before all that was put and removed since the last time, and on whose behalf."""
        for sets in list(self._vpcs.values()):
            yield from sets.settle()

    def remove(self, item: Item) -> Moved | None:
        """An object goes."""
        resource, sets = item.resource, self._sets_of(item.resource)
        if sets is None:
            return None
        if isinstance(resource, Endpoint):
            return Moved(sets.vni, sets.remove_endpoint(item.uid))
        if isinstance(resource, Network):
            if resource.is_group:
                sets.world.groups.discard(resource.name)
                sets.version += 1
                return None
            sets.put_network(resource.name, None)
            return None
        if isinstance(resource, Policy):
            effects = sets.remove_policy(item.uid)
            self._found.pop(item.uid, None)
            if not sets.world.policies:
                del self._vpcs[_vpc_name(resource)]
            return Moved(sets.vni, effects)
        return None

    def _put_policy(self, policy: Policy) -> Moved | None:
        ref = _vpc_name(policy)
        sets = self._vpcs.get(ref)
        if sets is None:
            vpc = self._registry.find(ref)
            if vpc is None or not isinstance(vpc.resource, VPC) or vpc.resource.number is None:
                return None
            sets = self._vpcs[ref] = PolicySets(vpc.resource.number)
            for network, endpoint in _inside(self._registry, vpc):
                if endpoint is None:
                    _put_network(sets, network)
                elif (view := endpoint_view(endpoint, network)) is not None:
                    sets.put_endpoint(view)
        return Moved(sets.vni, sets.put_policy(policy_view(policy)))

    def _sets_of(self, resource: Resource) -> PolicySets | None:
        if not self._vpcs:
            return None
        network = self._network(resource) if isinstance(resource, Endpoint) else resource
        if isinstance(network, Network):
            return self._vpcs.get(vpc_of(network))
        return self._vpcs.get(_vpc_name(resource)) if isinstance(resource, Policy) else None

    def _network(self, endpoint: Endpoint) -> Network | None:
        found = self._registry.find(Ref("Network", endpoint.tenant, endpoint.spec.network))
        return found.resource if found and isinstance(found.resource, Network) else None


def _findings(sets: PolicySets, view: PolicyView) -> list[Finding]:
    return findings(sets.world, view, lambda egress: sets.companies(view, egress=egress))


def policy_view(policy: Policy) -> PolicyView:
    """A policy as the planner sees it."""
    return PolicyView(policy.metadata.uid or "", policy.status.id or 0, policy.name, policy.spec)


def endpoint_view(endpoint: Endpoint, network: Network) -> EndpointView | None:
    """An endpoint as policies see it; None while it has no addresses.

    The number of its groups comes along all the way where it sends in Geneve from an agent of its own; from VXLAN to
    Geneve it is lost (contracts/wire.md).
    """
    spec, status = endpoint.spec, endpoint.status
    if not status.addresses:
        return None
    tunnel = spec.tunnel_protocol or network.spec.tunnel_protocol
    judged = spec.type == "simple" and spec.workload is not None and not spec.bypass_decapsulation
    return EndpointView(
        endpoint.metadata.uid or "",
        endpoint.name,
        endpoint.metadata.labels,
        endpoint.spec.network,
        status.groups,
        status.group_set,
        tuple(ip_address(text).packed for text in status.addresses),
        judged and tunnel is TunnelProtocol.GENEVE and bool(status.group_set),
        judged,
    )


def _inside(registry: Registry, vpc: Item) -> Iterator[tuple[Network, Endpoint | None]]:
    """The networks of a VPC, each before its endpoints."""
    for child in registry.children(vpc):
        if isinstance(child.resource, Network) and not child.deleting:
            yield child.resource, None
            for inner in registry.children(child):
                if isinstance(inner.resource, Endpoint) and not inner.deleting:
                    yield child.resource, inner.resource


def _put_network(sets: PolicySets, network: Network) -> None:
    if network.is_group:
        sets.world.groups.add(network.name)
        sets.version += 1
    else:
        sets.put_network(network.name, tuple(map(parse_prefix, network.spec.cidrs)))


def _vpc_name(policy: Resource) -> Ref:
    return Ref("VPC", policy.tenant, policy.spec.vpc)


def policed(policies: Policies, item: Item) -> dict[str, Any]:
    """What a policy's status says of what follows from it."""
    return {
        "endpoints": policies.selected(item),
        "warnings": [finding.message for finding in policies.findings(item)],
    }


def warned(registry: Registry, policies: Policies, acls: NetworkAcls, results: Iterable[Result]) -> list[Result]:
    """The results of an apply, those of policies and network ACLs with what their author should know."""
    given = list(results)
    items = [item for one in given if one.ref.kind == "Policy" and (item := registry.find(one.ref)) is not None]
    told = policies.concerning(items)
    for one in given:
        if one.ref.kind == "NetworkAcl" and (item := registry.find(one.ref)) is not None:
            told[one.ref] = tuple(acls.warnings(item.resource)) if isinstance(item.resource, NetworkAcl) else ()
    return [replace(one, warnings=told[one.ref]) if told.get(one.ref) else one for one in given]
