# SPDX-License-Identifier: Apache-2.0
"""NetworkAcl: what may go into networks of a VPC, and out of them. Owns its shape; knows no other object.

Its rules stand in the order in which they are written, and the first that matches decides. Behind the last one stands
another that denies everything. Nothing is remembered: an answer is judged as any other packet.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from mizar.model import fields
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value
from mizar.model.policy import Action, Cidr, Mode, Ports

MOST_RULES = 16384
"""Of one direction. The place behind all that a number of a rule has room for is the last rule's."""


class AclRule(Value):
    """Matches when the other side is in one of its prefixes and one of its ports does. Without `cidrs`: anybody;
    without `ports`: everything. Ports are those of the packet's destination."""

    cidrs: tuple[Cidr, ...] = Field(default=(), max_length=4096)
    ports: tuple[Ports, ...] = Field(default=(), max_length=256)
    action: Action = Action.ALLOW
    log: bool = False


AclRules = Annotated[tuple[AclRule, ...], Field(max_length=MOST_RULES)]


class NetworkAclSpec(Value):
    """`ingress` (what comes into the networks) or `egress` (what goes out of them) absent: that direction is not
    judged; empty: nothing may pass."""

    vpc: fields.Name
    networks: tuple[fields.Name, ...] = Field(min_length=1, max_length=4096)
    ingress: AclRules | None = None
    egress: AclRules | None = None
    mode: Mode = Mode.ENFORCE

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.ingress is None and self.egress is None:
            raise ValueError("expected ingress, egress or both: an empty list allows nothing")
        twice = next((name for name in self.networks if self.networks.count(name) > 1), None)
        if twice is not None:
            raise PydanticCustomError("fit", f"network {twice} is there twice", {"field": "networks"})
        return self


class NetworkAclStatus(Status):
    """`id`: unique within the VPC, policies included. `warnings`: rules that never decide, and names that are
    nobody's."""

    id: int | None = None
    warnings: tuple[str, ...] = ()


class NetworkAcl(Resource):
    """Ordered rules about what crosses between networks."""

    scope = Scope.TENANT
    IMMUTABLE = ("vpc",)
    kind: Literal["NetworkAcl"] = "NetworkAcl"
    spec: NetworkAclSpec
    status: NetworkAclStatus = NetworkAclStatus()
