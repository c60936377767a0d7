# SPDX-License-Identifier: Apache-2.0
"""SubstrateRoute: what the operator allows VPCs to reach in the substrate. Owns its shape.

A network's route `via: substrate` does something while a SubstrateRoute allows its prefix to its VPC, and no longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mizar.model import fields
from mizar.model.addresses import Prefix, parse_prefix, within
from mizar.model.base import Ref, Resource, Scope, Status
from mizar.model.fields import Value


def _any_prefix(text: str) -> str:
    return str(parse_prefix(text))


class ListedVpc(Value):
    """A VPC by name; it need not be there."""

    tenant: fields.Name
    name: fields.Name


def _vpcs_once(listed: Sequence[ListedVpc]) -> Sequence[ListedVpc]:
    for place, vpc in enumerate(listed):
        if vpc in listed[:place]:
            raise ValueError(f"expected each VPC once, found {vpc.tenant}/{vpc.name} again")
    return listed


class SubstrateRouteSpec(Value):
    """Each VPC may reach each of the prefixes, and be reached from there."""

    prefixes: Annotated[tuple[Annotated[str, AfterValidator(_any_prefix)], ...], Field(min_length=1, max_length=256)]
    vpcs: Annotated[tuple[ListedVpc, ...], Field(max_length=1024), AfterValidator(_vpcs_once)] = ()


class SubstrateRoute(Resource):
    """A part of the substrate, and the VPCs that may speak with it. The operator's alone."""

    scope = Scope.CLUSTER
    kind: Literal["SubstrateRoute"] = "SubstrateRoute"
    spec: SubstrateRouteSpec
    status: Status = Status()

    @property
    def vpcs(self) -> frozenset[Ref]:
        """Names of the VPCs."""
        return frozenset(Ref("VPC", listed.tenant, listed.name) for listed in self.spec.vpcs)

    def allows(self, vpc: Ref, prefix: Prefix) -> bool:
        """Whether the VPC may have a route to all of the prefix."""
        return vpc in self.vpcs and any(within(prefix, parse_prefix(text)) for text in self.spec.prefixes)
