# SPDX-License-Identifier: Apache-2.0
"""Proxied endpoints: which target each leads to, whether that one grants it, and that no chain of them is a loop.

Called by mizar.manager.intake, which decides, and mizar.manager.manager, which deletes. Pure: objects are found through
`find`. What is not granted is answered like what does not exist: a tenant learns nothing of another's objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mizar.manager.registry import Item, Registry, target_of
from mizar.model.errors import Problem
from mizar.model.resources import Endpoint, Network, Ref, Resource

Find = Callable[[Ref], Resource | None]


def granted_target(find: Find, endpoint: Endpoint) -> Endpoint | None:
    """The target, if it is there and its tenant lets the proxied endpoint lead to it."""
    ref = target_of(endpoint)
    target = find(ref) if ref else None
    if not isinstance(target, Endpoint) or target.spec.type == "source" or target.ref == endpoint.ref:
        return None
    vpc = vpc_name(find, endpoint)
    granted = target.tenant == endpoint.tenant or any(
        grant.tenant == endpoint.tenant and grant.vpc in (None, vpc) for grant in target.spec.grants
    )
    return target if granted else None


def vpc_name(find: Find, endpoint: Endpoint) -> str:
    """Of the VPC that an endpoint is in."""
    network = find(Ref("Network", endpoint.tenant, endpoint.spec.network))
    return network.spec.vpc if isinstance(network, Network) else ""


def shared_families(endpoint: Endpoint, target: Endpoint) -> tuple[int, ...]:
    """The address families, 4 and 6, that both ends have: only these are proxied."""
    ends = [{6 if ":" in text else 4 for text in end.status.addresses} for end in (endpoint, target)]
    return tuple(sorted(ends[0] & ends[1]))


def problems_of(find: Find, endpoint: Endpoint, visible: Callable[[Ref], bool]) -> Iterator[Problem]:
    """Why a proxied endpoint may not lead where it wants to."""
    target = granted_target(find, endpoint)
    ref = target_of(endpoint)
    if ref == endpoint.ref:
        yield Problem(f"a loop: {ref.tenant}/{ref.name} → itself", field="spec.target")
        return
    if target is None and ref is not None:
        who = f"{endpoint.tenant}, VPC {vpc_name(find, endpoint)}"
        message = f"there is no endpoint {ref.tenant}/{ref.name} that grants it to tenant {who}"
        yield Problem(message, field="spec.target")
        return
    chain = loop_of(find, endpoint)
    if chain:
        yield Problem(f"a loop: {' → '.join(_named(chain, visible))}", field="spec.target")
    elif target is not None and not shared_families(endpoint, target):
        yield Problem("it has no address of a family that its target has", field="spec.target")


def loop_of(find: Find, endpoint: Endpoint) -> list[Ref]:
    """The chain of targets from a proxied endpoint back to itself; empty when it ends.

    Grants do not matter: one that is given later must not close a loop.
    """
    chain = [endpoint.ref]
    here: Resource | None = endpoint
    while isinstance(here, Endpoint) and (ref := target_of(here)) is not None and ref not in chain[1:]:
        chain.append(ref)
        if ref == endpoint.ref:
            return chain
        here = find(ref)
    return []


def _named(chain: Iterable[Ref], visible: Callable[[Ref], bool]) -> Iterator[str]:
    for ref in chain:
        yield f"{ref.tenant}/{ref.name}" if visible(ref) else "an endpoint of another tenant"


def out_of_service(registry: Registry, dooms: Iterable[Item]) -> tuple[list[Item], list[Item]]:
    """What else changes when objects go: the sources of proxied endpoints that go or lose their target, and those that
    lose their target and stay."""
    doomed = {item.uid: item for item in dooms}
    left = {
        item.uid: item
        for doom in doomed.values()
        for item in registry.leading_to(doom.ref)
        if item.uid not in doomed and not item.deleting
    }
    sources = [registry.source_of(uid) for uid in (*doomed, *left)]
    return [source for source in sources if source and source.uid not in doomed], list(left.values())


def without_target(resource: Resource) -> Resource:
    """A proxied endpoint out of service."""
    status = resource.status.model_copy(update={"target": "", "source_addresses": ()})
    return resource.model_copy(update={"status": status})
