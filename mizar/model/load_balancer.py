# SPDX-License-Identifier: Apache-2.0
"""LoadBalancer: an address whose ports members share, flow by flow. Owns the shape of its manifest.

Part of mizar.model.resources. What depends on other objects is in mizar.manager.load_balancers.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from mizar.model import fields
from mizar.model.address_pool import ANY, Wanted
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value
from mizar.model.scaled import (
    MOST_LISTENERS,
    MOST_MEMBERS,
    Affinity,
    HealthSpec,
    ListenerSpec,
    MemberSpec,
    Selection,
)

CONNECTIONS, MOST_CONNECTIONS = 32768, 1 << 17


class PublicSpec(Value):
    """Addresses of an operator's pool, at which clients on the substrate reach it: at most one of each family.

    `mode`: members answer straight (`direct`), or one droplet translates both ways (`nat`). `connections`: of `nat`.
    `vip`, of `direct`: where members find the address, in the inner destination or in an option of the tunnel.
    """

    pool: fields.Name
    addresses: Wanted = ()
    mode: Literal["direct", "nat"] = "direct"
    connections: Annotated[int, Field(strict=True, ge=16, le=MOST_CONNECTIONS)] | None = None
    vip: Literal["destination", "option"] = "destination"

    @model_validator(mode="after")
    def _one_of_each_family(self) -> Self:
        families = [ANY.get(text) or (6 if ":" in text else 4) for text in self.addresses]
        if len(set(families)) != len(families):
            _refuse("expected at most one of each family", "addresses")
        if self.connections is not None and self.mode == "direct":
            _refuse("unexpected: it is for mode nat", "connections")
        if self.by_option and self.mode == "nat":
            _refuse("unexpected: in mode nat members see the load balancer's instance; it is for mode direct", "vip")
        return self

    @property
    def by_option(self) -> bool:
        """Whether members learn the address from an option."""
        return self.vip == "option"

    @property
    def quota(self) -> int:
        """Connections at once, in mode nat."""
        return self.connections or CONNECTIONS


class LoadBalancerSpec(Value):
    """Listeners, and the endpoints of the VPC that share what comes to them: by name, and by labels."""

    network: fields.Name
    addresses: fields.Addresses = ()
    listeners: Annotated[tuple[ListenerSpec, ...], Field(min_length=1, max_length=MOST_LISTENERS)]
    affinity: Affinity = Affinity.FLOW
    members: Annotated[tuple[MemberSpec, ...], Field(max_length=MOST_MEMBERS)] = ()
    selector: dict[fields.LabelKey, fields.LabelValue] = Field(default_factory=dict)
    selection: Selection = Selection.HASH
    health: HealthSpec = HealthSpec()
    public: PublicSpec | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        seen: dict[tuple[str, int], int] = {}
        for place, one in enumerate(self.listeners):
            if (one.protocol, one.port) in seen:
                before = seen[one.protocol, one.port]
                _refuse(f"listeners[{before}] has {one.protocol} port {one.port} already", f"listeners[{place}].port")
            seen[one.protocol, one.port] = place
        if not self.members and not self.selector:
            _refuse("missing; expected members or a selector", "members")
        return self


def _refuse(message: str, field: str) -> None:
    raise PydanticCustomError("fit", "{message}", {"message": message, "field": field})


class LoadBalancerStatus(Status):
    """`publicAddresses` are of a pool; its others are those of its scaled endpoint.

    In mode nat: the droplet that translates, how it fares (`state`, `detail`), `connections` now, and how many were
    `refused` beyond `quota` since it is there.
    """

    public_addresses: tuple[str, ...] = ()
    mode: str = ""
    vip: str = ""
    droplet: str = ""
    state: str = ""
    detail: str = ""
    quota: int | None = None
    connections: int | None = None
    refused: int | None = None


class LoadBalancer(Resource):
    """A scaled endpoint of the same name that takes what its listeners say, and nothing else."""

    scope = Scope.TENANT
    IMMUTABLE = ("network", "addresses", "public")
    kind: Literal["LoadBalancer"] = "LoadBalancer"
    spec: LoadBalancerSpec
    status: LoadBalancerStatus = LoadBalancerStatus()
