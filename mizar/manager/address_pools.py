# SPDX-License-Identifier: Apache-2.0
"""Public addresses: what speaks against a pool, and who has which address.

Whoever uses one (a kind in USERS) says `pool` and `addresses` (mizar.model.address_pool.Wanted) in its spec and has
`addresses` in its status; it is inside of its pool, so that the pool cannot go before it. What it has are allocations
that the store keeps with it in one transaction: an address has one owner at most, whoever writes. `claim` is called by
mizar.manager.draft, `problems` by intake, `told` by the manager. It must never write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from mizar.manager.registry import Item, Registry
from mizar.model.address_pool import ANY, EVERYBODY, AddressPool, AddressPoolStatus, ClaimStatus
from mizar.model.addresses import overlap, parse_address, parse_prefix
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError, Problem
from mizar.model.resources import VPC, Droplet, Ref, Resource
from mizar.model.substrate import SubstrateRoute
from mizar.store.protocol import Allocation

if TYPE_CHECKING:
    from mizar.manager.draft import Draft

SCOPE = "public"
"""Of allocations; no two pools share an address, so its text alone names it."""
USERS = frozenset({"NatGateway"})
"""Kinds whose objects have public addresses."""


def claim(
    draft: Draft, user: Resource, asked: Any = None, at: str = "spec"
) -> tuple[dict[str, object], tuple[Allocation, ...]]:
    """The addresses that a new user of a pool gets, as its status, and what it then holds. `asked`: the part of its
    spec, called `at`, that says `pool` and `addresses`; without, all of it.

    Raises InvalidError for what it may not have, ConflictError for what another has, ExhaustedError when none is left.
    """
    asked = asked or user.spec
    pool = pool_of(draft, user, asked.pool, f"{at}.pool")
    wanted = asked.addresses or tuple(word for word, version in ANY.items() if _has(pool, version))
    found = {text for text in wanted if text not in ANY}
    for place, text in enumerate(wanted):
        if text in ANY:
            continue
        field = f"{at}.addresses[{place}]"
        if not pool.holds(parse_address(text)):
            prefixes = ", ".join(pool.spec.prefixes)
            raise InvalidError(Problem(f"expected an address of {pool.ref} ({prefixes}), found {text}", field))
        draft.refuse_taken(Allocation(SCOPE, text), f"the address {text}", field)
    addresses = []
    for place, text in enumerate(wanted):
        address = _free(draft, pool, ANY[text], found, f"{at}.addresses[{place}]") if text in ANY else text
        found.add(address)
        addresses.append(address)
    return {"addresses": tuple(addresses)}, tuple(Allocation(SCOPE, text) for text in addresses)


def pool_of(draft: Draft, user: Resource, name: str = "", field: str = "spec.pool") -> AddressPool:
    """The pool that an object names. One that is not for its tenant is none: tenants learn nothing of it."""
    ref = Ref("AddressPool", "", name or user.spec.pool)
    pool = draft.find(ref)
    if not isinstance(pool, AddressPool) or not pool.serves(user.tenant):
        known = pool is not None and draft.sees(ref)
        message = f"{ref} is not for tenant {user.tenant}" if known else f"there is no {ref}"
        raise InvalidError(Problem(message, field))
    return pool


def _has(pool: AddressPool, version: int) -> bool:
    return any(prefix.version == version for prefix in pool.prefixes)


def _free(draft: Draft, pool: AddressPool, version: int, taken: set[str], field: str) -> str:
    prefixes = [prefix for prefix in pool.prefixes if prefix.version == version]
    edges = [end for prefix in prefixes for end in (prefix[0], prefix[-1])]  # not everybody takes them for a host's
    inner = (address for prefix in prefixes for address in prefix if address not in edges)
    for text in map(str, chain(inner, edges)):
        if text not in taken and draft.holder(Allocation(SCOPE, text)) is None:
            return text
    raise ExhaustedError(Problem(f"{pool.ref} has no free IPv{version} address", field))


def problems(new: Resource, draft: Draft, registry: Registry, visible: Callable[[Ref], bool]) -> list[Problem]:
    """What speaks against an object as it would be. Raises ConflictError where a pool lacks what others have of it."""
    match new:
        case AddressPool():
            _refuse_loss(new, registry)
            return list(_of_pool(new, draft))
        case Droplet():
            return list(_of_droplet(new, draft))
        case VPC():
            listed = new.ref in {ref for route in draft.of_kind(SubstrateRoute) for ref in route.vpcs}
            seen = visible(Ref("AddressPool", "", ""))
            return list(_of_vpc(new, draft, "spec.cidrs", seen)) if listed else []
        case SubstrateRoute():
            found: list[Problem] = []
            for place, listed_vpc in enumerate(new.spec.vpcs):
                vpc = draft.find(Ref("VPC", listed_vpc.tenant, listed_vpc.name))
                if isinstance(vpc, VPC):
                    found += _of_vpc(vpc, draft, f"spec.vpcs[{place}]", True)
            return found
    return []


def _of_pool(pool: AddressPool, draft: Draft) -> Iterator[Problem]:
    others = [other for other in draft.of_kind(AddressPool) if other.ref != pool.ref]
    droplets = draft.of_kind(Droplet)
    listed = {ref for route in draft.of_kind(SubstrateRoute) for ref in route.vpcs}
    vpcs = [vpc for ref in sorted(listed) if isinstance(vpc := draft.find(ref), VPC)]
    for place, prefix in enumerate(pool.prefixes):
        field = f"spec.prefixes[{place}]"
        for other in others:
            for theirs in other.prefixes:
                if overlap(prefix, theirs):
                    yield Problem(f"{prefix} overlaps {theirs} of {other.ref}", field)
        for droplet in droplets:
            for text in droplet.spec.addresses:
                if parse_address(text) in prefix:
                    yield Problem(f"{prefix} holds {text} of {droplet.ref}", field)
        for vpc in vpcs:
            for cidr in vpc.spec.cidrs:
                if overlap(prefix, parse_prefix(cidr)):
                    yield Problem(f"{prefix} overlaps {cidr} of {vpc.ref}, to whose endpoints hosts have routes", field)
    known = {droplet.name for droplet in droplets if droplet.spec.has_daemon}
    before = draft.find(pool.ref)
    kept = before.spec.droplets if isinstance(before, AddressPool) else ()
    for place, name in enumerate(pool.spec.droplets):
        if name not in known and name not in kept:  # one that has gone since may stay listed
            yield Problem(f"there is no droplet {name} with a daemon", f"spec.droplets[{place}]")
    for place, tenant in enumerate(pool.spec.tenants):
        if tenant != EVERYBODY and draft.find(Ref("Tenant", "", tenant)) is None and tenant not in _tenants(before):
            yield Problem(f"there is no Tenant {tenant}", f"spec.tenants[{place}]")


def _tenants(pool: Resource | None) -> tuple[str, ...]:
    return pool.spec.tenants if isinstance(pool, AddressPool) else ()


def _refuse_loss(pool: AddressPool, registry: Registry) -> None:
    """Addresses that are in use stay, and so do the tenants that have them."""
    found = []
    for text, user in claims(registry, pool.name):
        if not pool.holds(parse_address(text)):
            found.append(Problem(f"{text} would be in no prefix, and {user.ref} has it", "spec.prefixes"))
        elif not pool.serves(user.resource.tenant):
            found.append(Problem(f"{user.ref} has {text}", "spec.tenants"))
    if found:
        raise ConflictError(found)


def _of_droplet(droplet: Droplet, draft: Draft) -> Iterator[Problem]:
    for pool in draft.of_kind(AddressPool):
        for text in droplet.spec.addresses:
            if pool.holds(parse_address(text)):
                field = "spec.address" if text == droplet.spec.address else "spec.secondAddress"
                yield Problem(f"{text} is an address of {pool.ref}", field)


def _of_vpc(vpc: VPC, draft: Draft, field: str, seen: bool) -> Iterator[Problem]:
    for pool in draft.of_kind(AddressPool):
        for prefix in pool.prefixes:
            for cidr in vpc.spec.cidrs:
                if overlap(prefix, parse_prefix(cidr)):
                    told = f"{cidr} of {vpc.ref} overlaps {prefix} of {pool.ref}"
                    hidden = f"the operator lets {vpc.ref} into the substrate, where addresses of its CIDRs are in use"
                    yield Problem(told if seen else hidden, field)


def claims(registry: Registry, pool: str) -> Iterator[tuple[str, Item]]:
    """The addresses of a pool that are in use, in the order in which they were given, and by whom."""
    item = registry.find(Ref("AddressPool", "", pool))
    for user in registry.children(item) if item else ():
        for allocation in user.allocations:
            if allocation.scope == SCOPE:
                yield allocation.value, user


def told(registry: Registry, pool: AddressPool) -> dict[str, object]:
    """What the status of a pool says."""
    found = tuple(ClaimStatus(address=text, by=str(user.ref)) for text, user in claims(registry, pool.name))
    size = sum(prefix.num_addresses for prefix in pool.prefixes)
    status = AddressPoolStatus(claims=found, free=size - len(found))
    return status.model_dump(mode="json", by_alias=True, include={"claims", "free"})
