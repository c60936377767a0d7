# SPDX-License-Identifier: Apache-2.0
"""VPCPeering: one tenant's half of an agreement between two VPCs. Owns its shape.

A peering is there while both halves are: each names its own VPC and the other's. Neither half does anything alone.
"""

from __future__ import annotations

from typing import Literal

from mizar.model import fields
from mizar.model.base import Ref, Resource, Scope, Status
from mizar.model.fields import Value


class PeerSpec(Value):
    """The VPC on the other side, which may be another tenant's."""

    tenant: fields.Name
    vpc: fields.Name


class VPCPeeringSpec(Value):
    """`vpc`: of the tenant itself."""

    vpc: fields.Name
    peer: PeerSpec


class VPCPeeringStatus(Status):
    """`state`: Active while the other half is there, else Pending; `message` tells what is missing."""

    state: Literal["Active", "Pending"] = "Pending"


class VPCPeering(Resource):
    """One half of a peering."""

    scope = Scope.TENANT
    IMMUTABLE = ("vpc", "peer")
    kind: Literal["VPCPeering"] = "VPCPeering"
    spec: VPCPeeringSpec
    status: VPCPeeringStatus = VPCPeeringStatus()

    @property
    def own(self) -> Ref:
        """The VPC of this half's tenant."""
        return Ref("VPC", self.tenant, self.spec.vpc)

    @property
    def other(self) -> Ref:
        """The VPC of the other half's."""
        return Ref("VPC", self.spec.peer.tenant, self.spec.peer.vpc)
