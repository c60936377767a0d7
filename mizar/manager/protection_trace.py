# SPDX-License-Identifier: Apache-2.0
"""What a protection would make of a packet that is traced: which one it is, and what the oracle says that it does.

Called by mizar.manager.functions for traces. Which measures are engaged, droplets have told. What they have not told is
said as a condition: how near a limit somebody is, what the endpoint has asked, which connections its kernel has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mizar._built import transit_pb2 as pb
from mizar.manager.registry import Registry
from mizar.model.addresses import text_of
from mizar.model.ddos import DdosProtection
from mizar.model.prefix_list import ALLOWED, PrefixList
from mizar.model.resources import VPC, Endpoint, Ref
from mizar.oracle.protection import Judged, Protection, verdict
from mizar.oracle.protection_cookies import Connection
from mizar.oracle.protection_state import Rule, State, Threshold, per_kib, per_packet

_SECOND_NS = 10**9
_CONDITIONS = {
    "NO_SUCH_CONNECTION": "unless the endpoint's kernel has the connection, or made the cookie that it brings back",
    "REFLECTED": "unless the endpoint has asked for it a few seconds ago",
    "SYN_MALFORMED": "no answer can be made of this SYN",
}


class _Stranger:
    """A kernel that knows nothing of a packet."""

    def cookie(self, _connection: Connection, _segment: bytes) -> tuple[int, int] | None:
        return 1460, 0

    def has(self, _connection: Connection) -> bool:
        return False

    def made(self, _connection: Connection, _began: int, _acknowledged: int) -> bool:
        return False


@dataclass(slots=True)
class ProtectionTrace:
    """`said`: what a droplet said last of a protection. `lists`: of protections, kept unpacked as long as they are of
    one generation."""

    registry: Registry
    said: Callable[[str, str], pb.DdosStatus | None]
    lists: dict[str, tuple[int, PrefixList, PrefixList]] = field(default_factory=dict)

    def told(self, droplet: str, vpc: VPC, frame: bytes, uid: str = "") -> list[str]:
        """A sentence for the protection of the endpoint that an inner frame is for; `uid`: of the member that it is
        handed to, where it is addressed to a scaled endpoint or a load balancer."""
        found = self._of(droplet, vpc, frame, uid)
        if found is None:
            return []
        protected, protection = found
        block, allow = self._lists(protected, protection)
        name, source = f"protection {protection.tenant}/{protection.name}", _address(frame, 26, 22)
        if verdict(block, allow, frame) == ALLOWED:
            return [f"{name} lets it pass: {source} is on its allow list"]
        status = self.said(protected, droplet) or pb.DdosStatus()
        now, asks = time.monotonic_ns(), bool(status.cookie_endpoints)
        twin = Protection(rule(protection, block, allow), kernel=_Stranger(), asks=asks, state=_state(status, now))
        return [f"{name} {_sentence(protection, status, source, twin.judge(frame, now))}"]

    def _of(self, droplet: str, vpc: VPC, frame: bytes, uid: str) -> tuple[str, DdosProtection] | None:
        by_address = self.registry.holder(f"address/{vpc.metadata.uid}", _address(frame, 30, 38))
        holder = self.registry.by_uid(uid) if uid else by_address
        endpoint = holder.resource if holder is not None else None
        if not isinstance(endpoint, Endpoint):
            return None
        found: list[tuple[int, bool, Ref, str, DdosProtection]] = []
        for item in self.registry.of_kind("DdosProtection"):
            one = item.resource
            if (
                isinstance(one, DdosProtection)
                and not item.deleting
                and (one.tenant, one.spec.vpc) == (vpc.tenant, vpc.name)
                and one.spec.is_on(droplet)
            ):
                breadth = _breadth(one, endpoint)
                found += [(breadth, not one.spec.droplets, one.ref, item.uid, one)] if breadth is not None else []
        if not found:
            return None
        *_, uid, protection = min(found, key=lambda row: row[:3])
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


def rule(protection: DdosProtection, block: PrefixList, allow: PrefixList) -> Rule:
    """As the oracle has it."""
    spec = protection.spec
    source, target, cookies, reflection = spec.per_source, spec.per_target, spec.syn_cookies, spec.reflection
    return Rule(
        source_packet_ns=per_packet((source and source.packets_per_s) or 0),
        source_kib_ns=per_kib((source and source.bytes_per_s) or 0),
        target_packet_ns=per_packet((target and target.packets_per_s) or 0),
        target_kib_ns=per_kib((target and target.bytes_per_s) or 0),
        burst_ns=spec.burst_ms * 10**6,
        syn_ns=per_packet(cookies.syns_per_s if cookies else 0),
        reflected_ns=per_packet(reflection.packets_per_s if reflection else 0),
        hold_ns=spec.hold_s * _SECOND_NS,
        cookies=cookies.mode if cookies else "off",
        reflection=reflection.mode if reflection else "off",
        ports=frozenset(reflection.ports if reflection else ()),
        block=block,
        allow=allow,
    )


def _state(status: pb.DdosStatus, now: int) -> State:
    """With what is engaged, as a droplet has told."""
    one, other = (Threshold(until=now + _SECOND_NS if on else 0) for on in (status.cookies, status.filter))
    return State(one, other)


def _sentence(protection: DdosProtection, status: pb.DdosStatus, source: str, judged: Judged) -> str:
    if judged.answer is not None:
        return f"answers it in the endpoint's stead, with {_answer(status)}: the endpoint does not see it"
    if judged.reason == "SOURCE_BLOCKED":
        return f"drops it: SOURCE_BLOCKED, {source} is on its block list"
    if judged.reason:
        return f"drops it: {judged.reason}, {_CONDITIONS[judged.reason]}"
    conditions = "; ".join(_conditions(protection, status))
    return f"lets it pass: {source} is on no list{'; ' if conditions else ''}{conditions}"


def _answer(status: pb.DdosStatus) -> str:
    challenge = "what its sender has to refuse or acknowledge, and is let in when it asks again"
    if not status.cookie_endpoints:
        return challenge
    return "a SYN cookie" + (f", or {challenge}" if status.cookie_endpoints < status.endpoints else "")


def _conditions(one: DdosProtection, status: pb.DdosStatus) -> Iterator[str]:
    """What would stop another packet like it, or this one in other circumstances."""
    spec = one.spec
    if spec.syn_cookies is not None and spec.syn_cookies.mode == "auto" and not status.cookies:
        yield f"synCookies engages at {spec.syn_cookies.syns_per_s} SYNs/s"
    if spec.reflection is not None and spec.reflection.mode == "auto" and not status.filter:
        yield f"reflection engages at {spec.reflection.packets_per_s} packets/s"
    for name, limit in (("source", spec.per_source), ("endpoint", spec.per_target)):
        if limit is not None:
            rates = ((limit.packets_per_s, "packets/s"), (limit.bytes_per_s, "bytes/s"))
            yield f"a {name} is limited to " + " and ".join(f"{rate} {unit}" for rate, unit in rates if rate)


def _address(frame: bytes, at4: int, at6: int) -> str:
    at, size = (at6, 16) if frame[12:14] == b"\x86\xdd" else (at4, 4)
    return text_of(frame[at : at + size])
