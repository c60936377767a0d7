# SPDX-License-Identifier: Apache-2.0
"""Routes of networks into the substrate, and the operator's list of what is allowed: what speaks against either.

Called by mizar.manager.intake (may an object be made, or changed?), facts and manager (what is allowed now?). It must
never write. A tenant is told what it may not have, never what others may.

Hosts have routes to the endpoints of listed VPCs. So no address of one may be another's, a droplet's, or inside of
what the substrate is said to have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mizar.manager.draft import Draft
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.model.addresses import Prefix, overlap, parse_address, parse_prefix, within
from mizar.model.errors import Problem
from mizar.model.resources import VPC, Droplet, Network, Ref, Resource
from mizar.model.routes import Via
from mizar.model.substrate import SubstrateRoute


def wanted_of(network: Network) -> Iterator[tuple[int, Prefix]]:
    """The routes of a network that lead into the substrate: their place, and to where."""
    for place, route in enumerate(network.spec.routes):
        if route.via is Via.SUBSTRATE:
            yield place, parse_prefix(route.to)


def allowance(registry: Registry, network: Network) -> Callable[[Prefix], bool]:
    """Tells whether a route of the network to a prefix of the substrate is allowed now."""
    items = registry.of_kind("SubstrateRoute")
    return _allowance((item.resource for item in items if not item.deleting), vpc_of(network))


def _allowance(found: Iterable[Resource], vpc: Ref) -> Callable[[Prefix], bool]:
    routes = [route for route in found if isinstance(route, SubstrateRoute) and vpc in route.vpcs]
    return lambda prefix: any(route.allows(vpc, prefix) for route in routes)


def refused(registry: Registry, network: Network, status: dict[str, object]) -> dict[str, object]:
    """What a network's status says of its routes into the substrate."""
    allowed = allowance(registry, network)
    found = [str(to) for _, to in wanted_of(network) if not allowed(to)]
    if not found:
        return {}
    message = f"no SubstrateRoute allows {', '.join(found)} to the VPC any more: packets there are refused"
    return {"routesRefused": found, "message": status["message"] or message}


def affected(registry: Registry, states: Iterable[Resource]) -> list[Item]:
    """The networks whose tables follow from these states of SubstrateRoutes."""
    routes = [state for state in states if isinstance(state, SubstrateRoute)]
    if not routes:
        return []
    vpcs = sorted({vpc for route in routes for vpc in route.vpcs})
    items = [found for vpc in vpcs if (found := registry.find(vpc)) is not None]
    return [
        child
        for item in items
        for child in registry.children(item)
        if isinstance(child.resource, Network) and not child.deleting and any(wanted_of(child.resource))
    ]


def problems(
    resource: Resource, draft: Draft, visible: Callable[[Ref], bool], old: Resource | None = None
) -> list[Problem]:
    """What speaks against an object as it would be; `old`: as it is."""
    match resource:
        case Network():
            before = set(wanted_prefixes(old)) if isinstance(old, Network) else set()
            return list(_of_network(resource, before, draft))
        case SubstrateRoute():
            return list(_of_list(resource, draft))
        case VPC() if old is None:
            return list(_of_vpc(resource, draft, visible))
        case Droplet() if old is None:
            return list(_of_droplet(resource, draft))
    return []


def wanted_prefixes(network: Network) -> Iterator[Prefix]:
    """To where the routes of a network into the substrate lead."""
    return (to for _, to in wanted_of(network))


def _of_network(network: Network, before: set[Prefix], draft: Draft) -> Iterator[Problem]:
    """A route that was there already may stay, also where it is not allowed any more."""
    vpc = draft.find(vpc_of(network))
    allowed = _allowance(draft.of_kind(SubstrateRoute), vpc_of(network))
    for place, to in wanted_of(network):
        field = f"spec.routes[{place}].to"
        inner = [text for text in (vpc.spec.cidrs if isinstance(vpc, VPC) else ()) if within(to, parse_prefix(text))]
        if inner:
            yield Problem(f"{to} lies in {inner[0]} of the VPC itself, and not in the substrate", field)
        elif to not in before and not allowed(to):
            yield Problem(f"no SubstrateRoute allows {to} to {vpc_of(network)}; ask the operator for it", field)


def _of_list(route: SubstrateRoute, draft: Draft) -> Iterator[Problem]:
    """The operator sees everything."""
    others = [found for found in draft.of_kind(SubstrateRoute) if found.ref != route.ref]
    listed = sorted({vpc for found in (route, *others) for vpc in found.vpcs})
    vpcs = [found for vpc in listed if isinstance(found := draft.find(vpc), VPC)]
    for place, entry in enumerate(route.spec.vpcs):
        own = draft.find(Ref("VPC", entry.tenant, entry.name))
        if isinstance(own, VPC):
            field = f"spec.vpcs[{place}]"
            yield from (Problem(text, field) for text in _clashes(own, vpcs, draft.of_kind(Droplet), others))
    for place, text in enumerate(route.spec.prefixes):
        for vpc in vpcs:
            for cidr in vpc.spec.cidrs:
                if within(parse_prefix(text), parse_prefix(cidr)):
                    yield Problem(f"{text} lies in {cidr} of {vpc.ref}, which is listed", f"spec.prefixes[{place}]")


def _of_vpc(vpc: VPC, draft: Draft, visible: Callable[[Ref], bool]) -> Iterator[Problem]:
    routes = list(draft.of_kind(SubstrateRoute))
    listed = sorted({ref for route in routes for ref in route.vpcs})
    if vpc.ref not in listed:
        return
    vpcs = [found for ref in listed if isinstance(found := draft.find(ref), VPC)]
    for text in _clashes(vpc, vpcs, draft.of_kind(Droplet), routes):
        seen = visible(Ref("SubstrateRoute", "", ""))
        hidden = f"the operator lets {vpc.ref} into the substrate, where addresses of its CIDRs are in use"
        yield Problem(text if seen else hidden, "spec.cidrs")
        return


def _of_droplet(droplet: Droplet, draft: Draft) -> Iterator[Problem]:
    for ref in sorted({ref for route in draft.of_kind(SubstrateRoute) for ref in route.vpcs}):
        vpc = draft.find(ref)
        for text in vpc.spec.cidrs if isinstance(vpc, VPC) else ():
            if parse_address(droplet.spec.address) in parse_prefix(text):
                yield Problem(f"lies in {text} of {ref}, to whose endpoints hosts have routes", "spec.address")


def _clashes(
    vpc: VPC, listed: Iterable[VPC], droplets: Iterable[Droplet], routes: Iterable[SubstrateRoute]
) -> Iterator[str]:
    """Whose addresses a listed VPC has beside its own."""
    for text in vpc.spec.cidrs:
        cidr = parse_prefix(text)
        for other in listed:
            if other.ref != vpc.ref:
                for theirs in other.spec.cidrs:
                    if overlap(cidr, parse_prefix(theirs)):
                        yield f"{text} of {vpc.ref} overlaps {theirs} of {other.ref}, which is listed too"
        for droplet in droplets:
            if parse_address(droplet.spec.address) in cidr:
                yield f"{text} of {vpc.ref} holds {droplet.spec.address} of {droplet.ref}"
        for route in routes:
            for prefix in route.spec.prefixes:
                if within(parse_prefix(prefix), cidr):
                    yield f"{text} of {vpc.ref} holds {prefix} of {route.ref}"
