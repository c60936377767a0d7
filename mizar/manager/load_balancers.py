# SPDX-License-Identifier: Apache-2.0
"""Load balancers: the scaled endpoint that each one is made of, and what its status tells.

Called by intake when one is applied, and by mizar.manager.manager when it is shown. All that droplets hear of it is its
scaled endpoint (mizar.manager.scaled).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any

from mizar.manager.draft import Draft
from mizar.manager.instances import put_shared
from mizar.manager.peering import peers_of
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.manager.scaled import BYPASSES, CANNOT_ANSWER, NO_OPTIONS, families, speaks_vxlan
from mizar.manager.scaled import problems_of as problems_of_members
from mizar.manager.vpns import with_vpns
from mizar.model.addresses import Prefix, parse_address, parse_prefix
from mizar.model.errors import InvalidError, Problem
from mizar.model.instances import InstanceSpec
from mizar.model.load_balancer import LoadBalancer
from mizar.model.resources import VPC, Endpoint, EndpointSpec, Metadata, Network, Ref, Resource
from mizar.planner.facts import PublicFact

Find = Callable[[Ref], Resource | None]
MOST_INSIDE = 1024
"""Prefixes that a droplet takes for a load balancer."""
LEAST_BITS = 2
"""Of a route to an appliance that tells what is behind it. What is shorter, a default route or the halves of one, leads
to the world, where clients are."""


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
    vpc = find(Ref("VPC", network.tenant, network.spec.vpc))
    if balancer.spec.public is not None and isinstance(vpc, VPC) and vpc.shares_vni:
        message = f"{vpc.ref} shares its VNI with others, which packets from the substrate could not tell"
        return [Problem(message, "spec.public", str(balancer.ref))]
    public = balancer.spec.public
    by_option = public is not None and public.by_option
    foreign = {} if public is None else {"foreign": CANNOT_ANSWER if _is_direct(balancer) and not by_option else ""}
    found = problems_of_members(find, shared_endpoint(balancer), network, **foreign)
    for place, one in enumerate(balancer.spec.members):
        ref = Ref("Endpoint", balancer.tenant, one.endpoint)
        member = find(ref)
        if isinstance(member, Endpoint) and member.spec.bypass_decapsulation:
            message = f"{ref} cannot be a member: {BYPASSES}"
            found.append(Problem(message, f"spec.members[{place}].endpoint", str(balancer.ref)))
        elif by_option and isinstance(member, Endpoint) and speaks_vxlan(find, member):
            message = f"{ref} cannot be a member: {NO_OPTIONS}"
            found.append(Problem(message, f"spec.members[{place}].endpoint", str(balancer.ref)))
    return found


def _is_direct(balancer: LoadBalancer) -> bool:
    return balancer.spec.public is not None and balancer.spec.public.mode == "direct"


def settle(draft: Draft, registry: Registry, balancer: LoadBalancer) -> None:
    """Puts its scaled endpoint into the draft. Raises ConflictError where another has the name, ExhaustedError."""
    put_shared(draft, registry, balancer, shared_endpoint(balancer).spec)
    made = draft.find(Ref("Endpoint", balancer.tenant, balancer.name))
    if isinstance(made, Endpoint):
        for text in balancer.status.public_addresses:
            if families((text,)) - families(made.status.addresses):
                message = f"{text} is of a family of which its members have no address"
                raise InvalidError(Problem(message, "spec.public.addresses", str(balancer.ref)))


def public_of(registry: Registry, service: Endpoint) -> PublicFact | None:
    """What a scaled endpoint has of public addresses, because it is a load balancer's."""
    made = service.spec.instance_of
    owner = registry.find(Ref(made.kind, service.tenant, made.name)) if made and made.kind == "LoadBalancer" else None
    balancer = owner.resource if owner else None
    if not isinstance(balancer, LoadBalancer) or balancer.spec.public is None:
        return None
    pool = registry.find(Ref("AddressPool", "", balancer.spec.public.pool))
    droplets = pool.resource.spec.droplets if pool and not pool.deleting else ()
    network = registry.find(Ref("Network", balancer.tenant, balancer.spec.network))
    vpc = registry.find(vpc_of(network.resource)) if network and isinstance(network.resource, Network) else None
    return PublicFact(
        tuple(sorted((parse_address(one).packed for one in balancer.status.public_addresses), key=len)),
        frozenset(droplets if _is_direct(balancer) else ()),
        tuple((one.network_address.packed, one.prefixlen) for one in _inside(registry, vpc)),
        not _is_direct(balancer),
        balancer.spec.public.by_option,
    )


def _inside(registry: Registry, vpc: Item | None) -> list[Prefix]:
    """What nobody outside can be: the VPC's and its peers' addresses, and what is behind its VPN connections and
    appliances, from where clients come by those and are answered so. The widest, where they are too many."""
    found: set[Prefix] = set()
    if vpc is None or not isinstance(vpc.resource, VPC):
        return []
    # Of a peer that has not agreed nothing is told: from what is refused its prefixes could be found out.
    found.update(parse_prefix(text) for one in (vpc.resource, *peers_of(registry, vpc.ref)) for text in one.spec.cidrs)
    for child in registry.children(vpc):
        resource = child.resource
        if isinstance(resource, Network) and not child.deleting:
            routes = (parse_prefix(route.to) for route in with_vpns(registry, resource).spec.routes if route.appliance)
            found.update(prefix for prefix in routes if prefix.prefixlen >= LEAST_BITS)
    each: list[Prefix] = [*collapse_addresses(one for one in found if isinstance(one, IPv4Network))]
    each += collapse_addresses(one for one in found if isinstance(one, IPv6Network))
    widest = sorted(each, key=lambda one: one.prefixlen)[:MOST_INSIDE]
    return sorted(widest, key=lambda one: (one.version, one))


def told(registry: Registry, owner: Item, members: Callable[[Item], dict[str, Any]]) -> dict[str, Any]:
    """What its status says. `members`: what a scaled endpoint says of its members."""
    endpoints = (one for one in registry.children(owner) if isinstance(one.resource, Endpoint))
    service = next((one for one in endpoints if one.resource.spec.type == "scaled"), None)
    if service is None or not isinstance(service.resource, Endpoint):
        return {"addresses": [], "members": [], "ready": "0/0"}
    rows = members(service)
    for row in rows["members"]:
        found = registry.find(Ref("Endpoint", owner.resource.tenant, row["endpoint"]))
        if found is not None and found.resource.spec.droplet:
            row["droplet"] = found.resource.spec.droplet
    return {"addresses": list(service.resource.status.addresses)} | rows
