# SPDX-License-Identifier: Apache-2.0
"""What a protection would make of a packet that is traced: which one it is, and what its lists say.

Called by mizar.manager.functions for traces. What depends on rates is known only live, and is told as what might be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mizar.manager.registry import Registry
from mizar.model.addresses import text_of
from mizar.model.ddos import DdosProtection
from mizar.model.prefix_list import ALLOWED, BLOCKED, PrefixList
from mizar.model.resources import VPC, Endpoint, Ref
from mizar.oracle.protection import verdict


@dataclass(slots=True)
class ProtectionTrace:
    """`lists`: of protections, kept unpacked as long as they are of one generation."""

    registry: Registry
    lists: dict[str, tuple[int, PrefixList, PrefixList]] = field(default_factory=dict)

    def told(self, vpc: VPC, frame: bytes) -> list[str]:
        """A sentence for the protection of the endpoint that an inner frame is for."""
        found = self._of(vpc, frame)
        if found is None:
            return []
        uid, protection = found
        block, allow = self._lists(uid, protection)
        name, source = f"protection {protection.tenant}/{protection.name}", _address(frame, 26, 22)
        match verdict(block, allow, frame):
            case code if code == BLOCKED:
                return [f"{name} drops it: SOURCE_BLOCKED, {source} is on its block list"]
            case code if code == ALLOWED:
                return [f"{name} lets it pass: {source} is on its allow list"]
        measures = ", ".join(_measures(protection))
        return [f"{name}: {source} is on no list; {measures or 'nothing else'} may stop it"]

    def _of(self, vpc: VPC, frame: bytes) -> tuple[str, DdosProtection] | None:
        holder = self.registry.holder(f"address/{vpc.metadata.uid}", _address(frame, 30, 38))
        endpoint = holder.resource if holder is not None else None
        if not isinstance(endpoint, Endpoint):
            return None
        found: list[tuple[int, Ref, str, DdosProtection]] = []
        for item in self.registry.of_kind("DdosProtection"):
            one = item.resource
            if (
                isinstance(one, DdosProtection)
                and not item.deleting
                and (one.tenant, one.spec.vpc) == (vpc.tenant, vpc.name)
            ):
                breadth = _breadth(one, endpoint)
                found += [(breadth, one.ref, item.uid, one)] if breadth is not None else []
        if not found:
            return None
        _, _, uid, protection = min(found, key=lambda row: row[:2])
        return uid, protection

    def _lists(self, uid: str, protection: DdosProtection) -> tuple[PrefixList, PrefixList]:
        generation, block, allow = self.lists.get(uid, (-1, PrefixList(), PrefixList()))
        if generation != protection.metadata.generation:
            block, allow = protection.spec.blocked, protection.spec.allowed
            self.lists[uid] = protection.metadata.generation, block, allow
        return block, allow


def _breadth(one: DdosProtection, endpoint: Endpoint) -> int | None:
    """How wide the narrowest scope is that means an endpoint; None: none does."""
    spec = one.spec
    if endpoint.name in spec.endpoints:
        return 0
    if set(spec.groups) & set(endpoint.status.groups):
        return 1
    if endpoint.spec.network in spec.networks:
        return 2
    return 3 if not (spec.endpoints or spec.groups or spec.networks) else None


def _measures(one: DdosProtection) -> Iterator[str]:
    spec = one.spec
    for name, measure in (("synCookies", spec.syn_cookies), ("reflection", spec.reflection)):
        if measure is not None and measure.mode != "off":
            yield f"{name} ({measure.mode})"
    yield from (name for name, limit in (("perSource", spec.per_source), ("perTarget", spec.per_target)) if limit)


def _address(frame: bytes, at4: int, at6: int) -> str:
    at, size = (at6, 16) if frame[12:14] == b"\x86\xdd" else (at4, 4)
    return text_of(frame[at : at + size])
