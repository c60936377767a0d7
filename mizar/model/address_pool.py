# SPDX-License-Identifier: Apache-2.0
"""AddressPool: public addresses of the operator, and who may have them. Owns its shape, and that of asking for some.

Users of a pool (NatGateway, LoadBalancer) have a field `addresses` of type Wanted. What depends on other objects is in
mizar.manager.address_pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mizar.model import fields
from mizar.model.addresses import Address, Prefix, overlap, parse_address, parse_prefix
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value

EVERYBODY = "all"
ANY = {"ipv4": 4, "ipv6": 6}
"""Words that ask for any free address of a family."""
MOST_HOST_BITS = 16
"""Of a prefix: free addresses are looked for one by one."""
MOST_WANTED = 16


def _pool_prefix(text: str) -> str:
    prefix = parse_prefix(text)
    if prefix.max_prefixlen - prefix.prefixlen > MOST_HOST_BITS:
        shortest = prefix.max_prefixlen - MOST_HOST_BITS
        raise ValueError(f"expected an IPv{prefix.version} prefix of /{shortest} or longer, found {text!r}")
    fields.droplet_address(str(prefix[0]))
    fields.droplet_address(str(prefix[-1]))
    if prefix[0].is_link_local:
        raise ValueError(f"expected unicast addresses that are routed, found {text!r}")
    return str(prefix)


def _any_prefix(text: str) -> str:
    return str(parse_prefix(text))


def _apart(texts: Sequence[str]) -> Sequence[str]:
    for place, text in enumerate(texts):
        for other in texts[:place]:
            if overlap(parse_prefix(text), parse_prefix(other)):
                raise ValueError(f"expected prefixes that share no address, found {other} and {text}")
    return texts


def _once(texts: Sequence[str]) -> Sequence[str]:
    for place, text in enumerate(texts):
        if text in texts[:place]:
            raise ValueError(f"expected each once, found {text} again")
    return texts


def _tenants(value: Any) -> Any:
    if isinstance(value, str):
        if value != EVERYBODY:
            raise ValueError(f"expected a list of tenants or {EVERYBODY}, found {value!r}")
        return (EVERYBODY,)
    if isinstance(value, list | tuple) and EVERYBODY in value and len(value) > 1:
        raise ValueError(f"expected names of tenants or {EVERYBODY} alone, found both")
    return value


def _wanted(text: str) -> str:
    return text if text in ANY else str(parse_address(text))


def _wanted_once(texts: Sequence[str]) -> Sequence[str]:
    _once([text for text in texts if text not in ANY])
    return texts


Wanted = Annotated[
    tuple[Annotated[str, AfterValidator(_wanted)], ...], Field(max_length=MOST_WANTED), AfterValidator(_wanted_once)
]
"""Addresses of a pool by name, or `ipv4`, `ipv6` for any that is free; none: one of each family that the pool has."""


class AddressPoolSpec(Value):
    """Addresses that the droplets attract on the substrate. `tenants`: who may have some; `all` is kept as [all].

    `reach`: of the ranges that are nobody's on the Internet (as 10.0.0.0/8), those that tenants may speak with from
    these addresses. Never are it addresses of droplets.
    """

    prefixes: Annotated[
        tuple[Annotated[str, AfterValidator(_pool_prefix)], ...],
        Field(min_length=1, max_length=64),
        AfterValidator(_apart),
    ]
    tenants: Annotated[
        tuple[fields.Name, ...], Field(max_length=1024), AfterValidator(_once), BeforeValidator(_tenants)
    ] = ()
    reach: Annotated[tuple[Annotated[str, AfterValidator(_any_prefix)], ...], Field(max_length=64)] = ()
    droplets: Annotated[tuple[fields.Name, ...], Field(min_length=1, max_length=64), AfterValidator(_once)]


class ClaimStatus(Value):
    """An address that is in use, and by what: `kind tenant/name`."""

    address: str
    by: str


class AddressPoolStatus(Status):
    """`claims`: addresses in use; `free`: how many are left, of both families. Worked out when asked."""

    claims: tuple[ClaimStatus, ...] = ()
    free: int | None = None


class AddressPool(Resource):
    """Public addresses. The operator's alone."""

    scope = Scope.CLUSTER
    kind: Literal["AddressPool"] = "AddressPool"
    spec: AddressPoolSpec
    status: AddressPoolStatus = AddressPoolStatus()

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """As values."""
        return tuple(map(parse_prefix, self.spec.prefixes))

    def holds(self, address: Address) -> bool:
        """Whether an address is one of the pool's."""
        return any(address in prefix for prefix in self.prefixes)

    def serves(self, tenant: str) -> bool:
        """Whether a tenant may have addresses of it."""
        return tenant in self.spec.tenants or self.spec.tenants == (EVERYBODY,)
