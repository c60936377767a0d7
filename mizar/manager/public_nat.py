# SPDX-License-Identifier: Apache-2.0
"""Load balancers whose public addresses are translated both ways (mode nat): the instance that each one brings, and
what it has to know.

Asked by intake, by mizar.manager.desired and by load_balancers for its status. It must never write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mizar.manager.draft import Draft
from mizar.manager.engines import EngineReports
from mizar.manager.instances import Wish, instances_of
from mizar.manager.load_balancers import public_of
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.manager.scaled import Services, listeners_of
from mizar.model.address_pool import AddressPool
from mizar.model.addresses import parse_address, parse_prefix
from mizar.model.errors import ExhaustedError, Problem
from mizar.model.load_balancer import LoadBalancer
from mizar.model.resources import VPC, Endpoint, Network, Ref, Resource
from mizar.model.scaled import Affinity
from mizar.planner.engines import EngineEntry, PublicBalancerEntry, PublicMemberEntry

MOST_OF_TENANT, MOST_CONNECTIONS = 16, 1 << 19
"""Load balancers in mode nat, and connections of all of them."""
MOST_NAME = 50
"""Characters of a name: instances have it with a number behind, which grows."""
_STATES = {0: "unknown", 1: "starting", 2: "running", 3: "failed"}


def is_nat(resource: Resource) -> bool:
    """Whether an object is a load balancer that brings an instance."""
    public = resource.spec.public if isinstance(resource, LoadBalancer) else None
    return public is not None and public.mode == "nat"


def wish_of(balancer: LoadBalancer, pool: AddressPool | None) -> Wish:
    """The endpoint that it needs: where the pool's addresses are attracted."""
    return Wish(balancer.spec.network, 1, pool.spec.droplets if pool else ())


def problems(new: LoadBalancer, others: Iterable[LoadBalancer]) -> Iterator[Problem]:
    """What speaks against one as it would be. Raises ExhaustedError for what would be too much of a tenant."""
    if not is_nat(new) or new.spec.public is None:
        return
    if len(new.name) > MOST_NAME:
        message = f"expected at most {MOST_NAME} characters, because its endpoint has a number behind it"
        yield Problem(message, "metadata.name", str(new.ref))
    held = [one for one in others if is_nat(one) and one.tenant == new.tenant and one.ref != new.ref]
    if len(held) >= MOST_OF_TENANT:
        message = f"tenant {new.tenant} has {len(held)} load balancers in mode nat, of {MOST_OF_TENANT} at most"
        raise ExhaustedError(message)
    used = sum(one.spec.public.quota for one in (new, *held) if one.spec.public is not None)
    if used > MOST_CONNECTIONS:
        message = f"load balancers of tenant {new.tenant} would have {used}; expected at most {MOST_CONNECTIONS}"
        raise ExhaustedError(Problem(message, "spec.public.connections"))


def pool_of(draft: Draft, balancer: LoadBalancer) -> AddressPool | None:
    """Whose addresses it has."""
    found = draft.find(Ref("AddressPool", "", balancer.spec.public.pool)) if balancer.spec.public else None
    return found if isinstance(found, AddressPool) else None


def service_of(registry: Registry, owner: Item) -> Item | None:
    """The scaled endpoint that a load balancer is made of."""
    endpoints = (one for one in registry.children(owner) if isinstance(one.resource, Endpoint))
    return next((one for one in endpoints if one.resource.spec.type == "scaled"), None)


def entry_of(registry: Registry, services: Services, owner: Item, instance: Item) -> EngineEntry | None:
    """What an instance runs."""
    balancer, service = owner.resource, service_of(registry, owner)
    assert isinstance(balancer, LoadBalancer)
    network = registry.find(Ref("Network", balancer.tenant, balancer.spec.network))
    vpc = registry.find(vpc_of(network.resource)) if network and isinstance(network.resource, Network) else None
    if service is None or vpc is None or not isinstance(vpc.resource, VPC) or balancer.spec.public is None:
        return None
    scaled = service.resource
    assert isinstance(scaled, Endpoint)
    public = public_of(registry, scaled)
    inside = [parse_prefix(text) for text in vpc.resource.spec.cidrs]
    return EngineEntry.of(
        PublicBalancerEntry(
            balancer.tenant,
            balancer.name,
            instance.resource.name,
            public.addresses if public else (),
            tuple((one.network_address.packed, one.prefixlen) for one in inside),
            tuple((one.protocol, one.port, one.target) for one in listeners_of(scaled)),
            tuple(_members(services, service)),
            balancer.spec.affinity is Affinity.CLIENT,
            balancer.spec.public.quota,
            public.inside if public else (),
        )
    )


def _members(services: Services, service: Item) -> Iterator[PublicMemberEntry]:
    for weight, state, member in services.standings(service):
        addresses = sorted((parse_address(text).packed for text in member.status.addresses), key=len)
        if addresses:
            yield PublicMemberEntry(tuple(addresses), weight, state)


def told(registry: Registry, reports: EngineReports, owner: Item) -> dict[str, Any]:
    """What its status says of its public addresses."""
    balancer = owner.resource
    assert isinstance(balancer, LoadBalancer)
    if balancer.spec.public is None:
        return {}
    if not is_nat(balancer):
        return {"mode": "direct", "vip": balancer.spec.public.vip}
    found: dict[str, Any] = {"mode": "nat", "quota": balancer.spec.public.quota}
    carriers = instances_of(registry, owner)
    if not carriers:
        return found | {"state": "waiting", "detail": "no droplet of the pool can carry it"}
    report = reports.of(carriers[-1])
    found |= {"droplet": carriers[-1].resource.spec.droplet, "state": _STATES[report.state if report else 0]}
    if report is not None:
        found["detail"] = report.reason
        if report.HasField("nat"):
            found |= {"connections": report.nat.connections, "refused": report.nat.refused}
    return found
