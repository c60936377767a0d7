# SPDX-License-Identifier: Apache-2.0
"""Whether a set of manifests may become desired state, and what it then is: the checks between objects.

Called by mizar.manager.manager with resources that are valid in themselves; answers with a Draft or with every error at
once. It must never write: neither the registry nor the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mizar.manager import (
    address_pools,
    balancers,
    groups,
    load_balancers,
    marking,
    nat_gateways,
    network_acls,
    protections,
    public_nat,
    substrate,
    vpns,
)
from mizar.manager.draft import Cursors, Draft
from mizar.manager.function_code import with_code
from mizar.manager.instances import NONE_FLEETING, OWNERS, Fleeting, refuse_meddling, settle
from mizar.manager.nesting import outside, squatters
from mizar.manager.peering import check_peering
from mizar.manager.proxied import problems_of
from mizar.manager.registry import Registry, parent_refs, target_of
from mizar.manager.scaled import problems_of as problems_of_members
from mizar.model.address_pool import AddressPool
from mizar.model.checks import check_endpoint, check_immutable, check_network
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError, MizarError, Problem
from mizar.model.http_balancer import HttpLoadBalancer
from mizar.model.load_balancer import LoadBalancer
from mizar.model.nat_gateway import NatGateway, NatGatewayStatus
from mizar.model.peering import VPCPeering
from mizar.model.resources import (
    KINDS,
    VPC,
    DdosProtection,
    Droplet,
    Endpoint,
    EndpointSpec,
    Network,
    NetworkAcl,
    Ref,
    Resource,
    VpnConnection,
)
from mizar.model.secret import keep_secrets

_ORDER = {name: number for number, name in enumerate(KINDS)}
_FIELDS = {
    "Tenant": "metadata.tenant",
    "VPC": "spec.vpc",
    "Network": "spec.network",
    "Droplet": "spec.droplet",
    "Endpoint": "spec.endpoint",
    "HttpLoadBalancer": "spec.instanceOf",
    "VpnConnection": "spec.instanceOf",
    "NatGateway": "spec.instanceOf",
    "AddressPool": "spec.pool",
    "LoadBalancer": "spec.instanceOf",
}

_BRINGERS = OWNERS | {"AddressPool"}
"""Kinds whose change may bring endpoints, or take some away."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became, or would become, of one manifest: created, changed or unchanged."""

    ref: Ref
    change: str
    warnings: tuple[str, ...] = ()
    """What its author should know all the same."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One manifest of an apply: its place in the request and what it says."""

    index: int
    resource: Resource


def draft_apply(
    registry: Registry,
    cursors: Cursors,
    submissions: Sequence[Submission],
    refused: Iterable[Problem] = (),
    visible: Callable[[Ref], bool] = lambda _: True,
    droplets: Fleeting = NONE_FLEETING,
) -> tuple[Draft, list[Result]]:
    """The draft that the manifests make together, and per manifest what became of it, in the order of the request.

    `refused` are problems that the request has beside these; then nothing can succeed, but all is checked. `visible`
    says what the caller may be told of; `droplets` where instances of functions had better not be.
    Raises InvalidError, ConflictError or ExhaustedError, each with every problem.
    """
    intake = _Intake(Draft(registry, cursors, visible), registry, visible, droplets)
    intake.errors += [(InvalidError, problem) for problem in refused]
    intake.broken |= {problem.resource for problem in refused}
    results = {}
    for submission in sorted(submissions, key=_rank):
        results[submission.index] = intake.take(submission)
    intake.settle_proxied({submission.resource.ref: submission.index for submission in submissions})
    if intake.errors:
        kinds = {kind for kind, _ in intake.errors}
        first = next(kind for kind in (InvalidError, ConflictError, ExhaustedError) if kind in kinds)
        problems = sorted(
            (problem for _, problem in intake.errors), key=lambda p: p.index if p.index is not None else -1
        )
        raise first(problems)
    return intake.draft, [results[submission.index] for submission in submissions]


def _rank(submission: Submission) -> tuple[int, int]:
    """Objects after those that they refer to: scaled endpoints name others, and load balancers both."""
    resource = submission.resource
    scaled = isinstance(resource, Endpoint) and resource.spec.type == "scaled"
    if isinstance(resource, HttpLoadBalancer | LoadBalancer | NatGateway):
        return _ORDER["Endpoint"], 2
    return _ORDER[resource.kind], int(scaled)


class _Intake:
    """One apply under examination."""

    def __init__(self, draft: Draft, registry: Registry, visible: Callable[[Ref], bool], droplets: Fleeting) -> None:
        self.draft = draft
        self._droplets = droplets
        self.errors: list[tuple[type[MizarError], Problem]] = []
        self.broken: set[str] = set()  # objects of this request that were refused: what refers to them is not blamed
        self._registry = registry
        self._visible = visible

    def take(self, submission: Submission) -> Result:
        """Examines one manifest and, if nothing speaks against it, takes it into the draft."""
        resource = submission.resource
        before = len(self.errors)
        change = "unchanged"
        try:
            change = self._decide(resource)
        except MizarError as error:
            kind = next(k for k in (InvalidError, ConflictError, ExhaustedError, MizarError) if isinstance(error, k))
            self.errors += [(kind, problem) for problem in error.problems]
        for place in range(before, len(self.errors)):
            kind, problem = self.errors[place]
            self.errors[place] = kind, replace(problem, index=submission.index, resource=str(resource.ref))
            self.broken.add(str(resource.ref))
        return Result(resource.ref, change)

    def settle_proxied(self, places: Mapping[Ref, int]) -> None:
        """Proxied endpoints of this request must find their targets; those that are there follow theirs.

        After all manifests are in the draft: targets may be among them.
        """
        for ref, planned in list(self.draft.planned.items()):
            resource, before = planned.resource, planned.before
            if isinstance(resource, Endpoint) and target_of(resource) not in (None, before and target_of(before)):
                for problem in problems_of(self.draft.find, resource, self._visible):
                    self.errors.append((InvalidError, replace(problem, index=places[ref], resource=str(ref))))
        if self.errors:
            return
        touched = {ref: planned.resource for ref, planned in self.draft.planned.items()}
        affected = {ref: resource for ref, resource in touched.items() if target_of(resource) is not None}
        for ref in touched:
            for item in self._registry.leading_to(ref):
                if not item.deleting:
                    affected.setdefault(item.ref, item.resource)
        for resource in affected.values():
            assert isinstance(resource, Endpoint)
            try:
                self.draft.settle_proxied(resource)
            except MizarError as error:  # no address is left for a source
                index, named = places.get(resource.ref), str(resource.ref)
                self.errors += [(ExhaustedError, replace(p, index=index, resource=named)) for p in error.problems]

    def _decide(self, resource: Resource) -> str:
        ref = resource.ref
        if ref in self.draft.planned:
            raise InvalidError("the same object is twice in this request")
        item = self._registry.find(ref)
        if item is not None and item.deleting:
            raise ConflictError("it is being deleted; wait until it is gone")
        if not KINDS[resource.kind].served:
            raise InvalidError(f"a server does not take objects of kind {resource.kind}")
        if isinstance(resource, Endpoint) and resource.spec.type == "source" and item is None:
            raise InvalidError(Problem("expected simple or proxied: a source is the server's", field="spec.type"))
        refuse_meddling(resource, item.resource if item else None)
        complete = self._parents_are_there(resource)
        resource = with_code(item.resource if item else None, resource)
        resource = protections.with_lists(item.resource if item else None, resource)
        resource, hidden = keep_secrets(item.resource if item else None, resource)
        if hidden:
            raise InvalidError(hidden)
        if item is not None:
            change = self._change(item.resource, resource)
            self._settle_instances(resource)
            return change
        problems = list(self._relations(resource)) if complete else []
        problems += substrate.problems(resource, self.draft, self._visible) if complete else []
        problems += address_pools.problems(resource, self.draft, self._registry, self._visible) if complete else []
        if problems:
            raise InvalidError(problems)
        if complete:
            self.draft.create(resource)
            self._settle_instances(resource)
        return "created"

    def _settle_instances(self, resource: Resource) -> None:
        """The endpoints that a function brings."""
        if resource.kind not in _BRINGERS:
            return
        found = self.draft.find(resource.ref)
        if isinstance(found, VpnConnection) and found.spec.network:
            settle(self.draft, self._registry, found, vpns.wish_of(found, self.draft), self._droplets)
        if isinstance(found, HttpLoadBalancer):
            settle(self.draft, self._registry, found, balancers.wish_of(found), self._droplets)
        if isinstance(found, LoadBalancer):
            load_balancers.settle(self.draft, self._registry, found)
            if public_nat.is_nat(found):
                wish = public_nat.wish_of(found, public_nat.pool_of(self.draft, found))
                settle(self.draft, self._registry, found, wish, self._droplets)
        if isinstance(found, AddressPool):
            for one in self.draft.of_kind(NatGateway):
                if one.spec.pool == found.name:
                    settle(self.draft, self._registry, one, nat_gateways.wish_of(one, found), self._droplets)
            for balancer in self.draft.of_kind(LoadBalancer):
                if public_nat.is_nat(balancer) and public_nat.pool_of(self.draft, balancer) == found:
                    settle(self.draft, self._registry, balancer, public_nat.wish_of(balancer, found), self._droplets)
        if isinstance(found, NatGateway):
            pool = address_pools.pool_of(self.draft, found)
            settle(self.draft, self._registry, found, nat_gateways.wish_of(found, pool), self._droplets)

    def _change(self, old: Resource, new: Resource) -> str:
        problems = check_immutable(old, new)
        if isinstance(old, Endpoint) and old.spec.type == "source" and old.spec != new.spec:
            raise InvalidError("it stands for the clients of a proxied endpoint, and is the server's to change")
        if isinstance(old, Droplet) and isinstance(new, Droplet) and old.spec.has_daemon != new.spec.has_daemon:
            item = self._registry.find(old.ref)
            if item is not None and self._registry.has_children(item):
                problems.append(Problem("cannot come or go while the droplet has endpoints", field="spec.daemon"))
        problems += vpns.problems(new, self.draft)
        problems += protections.problems(new, self.draft)
        network, _ = self.draft.parent(new)
        if isinstance(new, Endpoint) and network is not None:
            problems += problems_of_members(self.draft.find, new, network)
        if isinstance(new, HttpLoadBalancer) and network is not None:
            problems += balancers.problems_of(self.draft.find, new, network)
            balancers.refuse_excess(new, self.draft.of_kind(HttpLoadBalancer))
        if isinstance(new, LoadBalancer) and network is not None:
            problems += load_balancers.problems_of(self.draft.find, new, network)
            problems += public_nat.problems(new, self.draft.of_kind(LoadBalancer))
        if isinstance(new, NatGateway):
            problems += nat_gateways.problems(new.model_copy(update={"status": old.status}), self.draft)
        problems += network_acls.problems(new, self.draft)
        if problems := problems or [*groups.problems(new, self.draft), *marking.problems(new, self.draft)]:
            raise InvalidError(problems)
        if old.spec == new.spec and old.metadata.labels == new.metadata.labels:
            return "unchanged"
        metadata = old.metadata.model_copy(
            update={"labels": new.metadata.labels, "generation": old.metadata.generation + 1}
        )
        if problems := substrate.problems(new, self.draft, self._visible, old):
            raise InvalidError(problems)
        if problems := address_pools.problems(new, self.draft, self._registry, self._visible):
            raise InvalidError(problems)
        self.draft.keep(new.model_copy(update={"metadata": metadata, "status": old.status}))
        return "changed"

    def _parents_are_there(self, resource: Resource) -> bool:
        """Blames each missing parent, unless this request was to make it and failed."""
        refs = list(parent_refs(resource))
        if resource.tenant and Ref("Tenant", "", resource.tenant) not in refs:
            refs.insert(0, Ref("Tenant", "", resource.tenant))
        complete = True
        for ref in refs:
            if self.draft.find(ref) is None:
                complete = False
                if str(ref) not in self.broken:
                    message = f"there is no {ref}" + (
                        " any more: it is being deleted" if self._registry.find(ref) and self._visible(ref) else ""
                    )
                    self.errors.append((InvalidError, Problem(message, field=_FIELDS[ref.kind])))
        return complete

    def _shared_address(self, balancer: HttpLoadBalancer | LoadBalancer, network: Network) -> list[Problem]:
        """Those of its scaled endpoint must be usable ones of its network."""
        spec = EndpointSpec(network=network.name, type="scaled", addresses=balancer.spec.addresses)
        endpoint = Endpoint(metadata=balancer.metadata, spec=spec)
        return check_endpoint(endpoint, network, None) or list(outside(endpoint, network, self.draft))

    def _relations(self, resource: Resource) -> Iterable[Problem]:
        network, vpc = self.draft.parent(resource)
        if found := list(groups.problems(resource, self.draft)):
            return found
        if isinstance(resource, Network) and isinstance(vpc, VPC):
            found = check_network(resource, vpc, self.draft.networks_of(vpc))
            return found or squatters(resource, self.draft) or list(marking.problems(resource, self.draft))
        if isinstance(resource, HttpLoadBalancer) and network is not None:
            found = list(balancers.problems_of(self.draft.find, resource, network))
            balancers.refuse_excess(resource, self.draft.of_kind(HttpLoadBalancer))
            return found or self._shared_address(resource, network)
        if isinstance(resource, LoadBalancer) and network is not None:
            found = load_balancers.problems_of(self.draft.find, resource, network)
            found += public_nat.problems(resource, self.draft.of_kind(LoadBalancer))
            return found or self._shared_address(resource, network)
        if isinstance(resource, NatGateway):
            return nat_gateways.problems(resource.model_copy(update={"status": NatGatewayStatus()}), self.draft)
        if isinstance(resource, VpnConnection):
            return vpns.problems(resource, self.draft)
        if isinstance(resource, DdosProtection):
            return protections.problems(resource, self.draft)
        if isinstance(resource, NetworkAcl):
            return network_acls.problems(resource, self.draft)
        if isinstance(resource, VPCPeering):
            return check_peering(resource, self.draft, self._visible)
        if isinstance(resource, Endpoint) and network is not None:
            name = resource.spec.droplet
            droplet = None if name is None else self.draft.find(Ref("Droplet", "", name))
            found = check_endpoint(resource, network, droplet if isinstance(droplet, Droplet) else None)
            found += problems_of_members(self.draft.find, resource, network)
            return found or outside(resource, network, self.draft) or list(marking.problems(resource, self.draft))
        return ()
