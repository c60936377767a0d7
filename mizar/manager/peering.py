# SPDX-License-Identifier: Apache-2.0
"""Peerings: two halves that agree, and what speaks against it.

Called by mizar.manager.intake (may a half be made?), facts and manager (is a half's other half there?). It must never
write. What a tenant may not see is told to it only where its owner has offered it: by the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mizar.manager.draft import Draft
from mizar.manager.registry import Item, Registry, half_of
from mizar.model.addresses import overlap, parse_prefix
from mizar.model.errors import ConflictError, InvalidError, Problem
from mizar.model.peering import VPCPeering
from mizar.model.resources import VPC, Ref


def other_half(registry: Registry, half: VPCPeering) -> Item | None:
    """The half that answers this one, unless it is being deleted."""
    vpc = registry.find(half.other)
    found = registry.holder(*half_of(vpc.uid, half.own)) if vpc else None
    return found if found is not None and not found.deleting else None


def peers_of(registry: Registry, vpc: Ref) -> Iterator[VPC]:
    """The VPCs that one is peered with now."""
    item = registry.find(vpc)
    for half in registry.children(item) if item else ():
        if isinstance(half.resource, VPCPeering) and not half.deleting and other_half(registry, half.resource):
            found = registry.find(half.resource.other)
            if found is not None and isinstance(found.resource, VPC):
                yield found.resource


def agreement(registry: Registry, half: VPCPeering, status: dict[str, Any]) -> dict[str, Any]:
    """What a half's status says of the other half; the message only where there is none yet."""
    if other_half(registry, half) is not None:
        return {"state": "Active"}
    waits = (
        f"waits for tenant {half.other.tenant} to make a VPCPeering of its VPC {half.other.name} "
        f"with {half.own.tenant}/{half.own.name}"
    )
    return {"state": "Pending", "message": status["message"] or waits}


def check_peering(half: VPCPeering, draft: Draft, visible: Callable[[Ref], bool]) -> list[Problem]:
    """What speaks against a new half. Raises ConflictError where another object is in the way."""
    own, other = draft.find(half.own), draft.find(half.other)
    if half.own == half.other:
        raise InvalidError(Problem("a VPC cannot be peered with itself", "spec.peer"))
    assert isinstance(own, VPC)
    if own.number != own.status.vni:
        message = f"{own.ref} shares VNI {own.status.vni}, and is known by its identity: such a VPC cannot be peered"
        return [Problem(message, "spec.vpc")]
    draft.refuse_taken(half_of(own.metadata.uid or "", half.other), f"the peering with {half.other}", "spec.peer")
    if not isinstance(other, VPC):
        return []
    agreed = _answers(draft, other, half.own)
    if agreed or visible(half.other):
        for one, text in _overlaps(own, other):
            message = f"{one} of {own.ref} overlaps {text} of {other.ref}: addresses would have two meanings"
            return [Problem(message, "spec.peer")]
    if agreed:
        for vpc, newcomer in ((own, other), (other, own)):
            _refuse_ambiguous(vpc, newcomer, draft, visible)
    return []


def _answers(draft: Draft, vpc: VPC, other: Ref) -> bool:
    """Whether a VPC has a half towards another."""
    holder = draft.holder(half_of(vpc.metadata.uid or "", other))
    return holder is not None and draft.find(holder) is not None


def _refuse_ambiguous(vpc: VPC, newcomer: VPC, draft: Draft, visible: Callable[[Ref], bool]) -> None:
    """The peers of one VPC must not overlap one another: each address crosses to one of them."""
    for peer in _peers(vpc, draft):
        for one, text in _overlaps(newcomer, peer):
            whom = f"{text} of {peer.ref}, which" if visible(peer.ref) else "addresses of another VPC that"
            raise ConflictError(
                Problem(f"{one} of {newcomer.ref} overlaps {whom} {vpc.ref} is peered with already", "spec.peer")
            )


def _peers(vpc: VPC, draft: Draft) -> Iterator[VPC]:
    for half in draft.peerings_of(vpc):
        peer = draft.find(half.other)
        if isinstance(peer, VPC) and _answers(draft, peer, vpc.ref):
            yield peer


def _overlaps(one: VPC, other: VPC) -> Iterator[tuple[str, str]]:
    for mine in one.spec.cidrs:
        for theirs in other.spec.cidrs:
            if overlap(parse_prefix(mine), parse_prefix(theirs)):
                yield mine, theirs
