# SPDX-License-Identifier: Apache-2.0
"""By which number a VPC is known, and what its packets bear: a VNI of its own, or one that it shares and its identity.

Called by mizar.manager.draft. At most one VPC of a VNI is without identity, and its number is the VNI. Of the scope
"vni" a VPC holds its number, so that a VNI that only VPCs with identity use is still free for one without. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from mizar.model.errors import ExhaustedError
from mizar.model.resources import VPC, Identity
from mizar.planner import vni
from mizar.store.protocol import Allocation

Taken = Callable[[int], bool]


def allocate(
    vpc: VPC, taken: Taken, tenant_uid: str, *, vnis: range, cursor: int, number_cursor: int
) -> tuple[dict[str, object], tuple[Allocation, ...]]:
    """What a new VPC has in its status, and what it holds. Raises ConflictError or ExhaustedError.

    `vnis` are those that may be chosen where none was asked for, `taken` tells of a number whether it is held.
    """
    identity = vni.vpc_identity(tenant_uid, vpc.metadata.uid or "")
    number, wire_vni = _numbers(vpc, taken, vnis, cursor, number_cursor)
    status: dict[str, object] = {"vni": wire_vni, "number": number, "identity": identity}
    return status, (Allocation("vni", str(number)), Allocation("identity", identity))


def _numbers(vpc: VPC, taken: Taken, vnis: range, cursor: int, number_cursor: int) -> tuple[int, int]:
    """Number and VNI: where no VNI is left, VPCs are spread over those that may be chosen."""
    asked = vpc.spec.vni
    if vpc.spec.identity is not Identity.REQUIRED:
        try:
            number = vni.allocate_vni(taken, requested=asked, cursor=cursor, vnis=vnis)
        except ExhaustedError:
            pass
        else:
            return number, number
    number = vni.allocate_number(taken, cursor=number_cursor)
    return number, asked or vnis[(number - vni.FIRST_NUMBER) % len(vnis)]
