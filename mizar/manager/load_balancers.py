# SPDX-License-Identifier: Apache-2.0
"""Load balancers: the scaled endpoint that each one is made of, and what its status tells.

Called by intake when one is applied, and by mizar.manager.manager when it is shown. All that droplets hear of it is its
scaled endpoint (mizar.manager.scaled).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mizar.manager.draft import Draft
from mizar.manager.instances import put_shared
from mizar.manager.registry import Item, Registry
from mizar.manager.scaled import problems_of as problems_of_members
from mizar.model.errors import Problem
from mizar.model.instances import InstanceSpec
from mizar.model.load_balancer import LoadBalancer
from mizar.model.resources import Endpoint, EndpointSpec, Metadata, Network, Ref, Resource

Find = Callable[[Ref], Resource | None]


def shared_endpoint(balancer: LoadBalancer) -> Endpoint:
    """The scaled endpoint that it is made of."""
    spec = balancer.spec
    made = EndpointSpec(
        network=spec.network, type="scaled", addresses=spec.addresses, members=spec.members, selector=spec.selector,
        selection=spec.selection, health=spec.health, listeners=spec.listeners, affinity=spec.affinity,
        instance_of=InstanceSpec(kind=balancer.kind, name=balancer.name),
    )  # fmt: skip
    labels = balancer.metadata.labels
    return Endpoint(metadata=Metadata(name=balancer.name, tenant=balancer.tenant, labels=labels), spec=made)


def problems_of(find: Find, balancer: LoadBalancer, network: Network) -> list[Problem]:
    """What speaks against the objects that it names."""
    if network.is_group:
        return [Problem(f"{network.ref} is a group, and has no addresses", "spec.network", str(balancer.ref))]
    return problems_of_members(find, shared_endpoint(balancer), network)


def settle(draft: Draft, registry: Registry, balancer: LoadBalancer) -> None:
    """Puts its scaled endpoint into the draft. Raises ConflictError where another has the name, ExhaustedError."""
    put_shared(draft, registry, balancer, shared_endpoint(balancer).spec)


def told(registry: Registry, owner: Item, members: Callable[[Item], dict[str, Any]]) -> dict[str, Any]:
    """What its status says. `members`: what a scaled endpoint says of its members."""
    service = next((one for one in registry.children(owner) if isinstance(one.resource, Endpoint)), None)
    if service is None or not isinstance(service.resource, Endpoint):
        return {"addresses": [], "members": [], "ready": "0/0"}
    rows = members(service)
    for row in rows["members"]:
        found = registry.find(Ref("Endpoint", owner.resource.tenant, row["endpoint"]))
        if found is not None and found.resource.spec.droplet:
            row["droplet"] = found.resource.spec.droplet
    return {"addresses": list(service.resource.status.addresses)} | rows
