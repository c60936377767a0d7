# SPDX-License-Identifier: Apache-2.0
"""The audit of droplets: what each holds, compared with what the planner wants of it; now, or again and again.

Owned by mizar.manager.manager. Two comparisons make one audit. The daemon compares its maps, interfaces and programs
with what it was told (`kernel`), and here what it was told is compared with what is desired (`daemon`). It must never
take a change on its way for a fault: what differs is looked at twice, and what waits for the droplet is left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from mizar._built import transit_pb2 as pb
from mizar.manager.audit_text import Names, entry_key, entry_table, entry_text
from mizar.manager.droplet_link import Link
from mizar.manager.fleet import Fleet
from mizar.manager.registry import Registry
from mizar.manager.translate import entries
from mizar.model.errors import MizarError, NotFoundError, Problem, TemporaryError
from mizar.planner.entries import Entry, Key, LocalEntry
from mizar.planner.plan import Action, Step, Wave, diff, in_order

if TYPE_CHECKING:
    from mizar._built.transit_pb2_grpc import TransitAsyncStub

log = logging.getLogger(__name__)

CALL_S = 300.0
"""How long a daemon may look at its maps."""
QUIET_S = 5.0
"""How long changes may take to arrive, before what differs is looked at again."""
KINDS = {pb.Finding.MISSING: "missing", pb.Finding.FOREIGN: "foreign", pb.Finding.ALTERED: "altered"}


@dataclass(frozen=True, slots=True)
class Audits:
    """Those that nobody asks for: how long until each droplet had one (0: never), and whether they mend."""

    interval_s: float = 0.0
    repair: bool = False


NO_AUDITS = Audits()


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is not as it should be. `at`: "kernel", where a droplet holds something else than its daemon was
    told, or "daemon", where that was told something else than is desired."""

    kind: str
    at: str
    table: str
    key: str
    object: str
    vpc: str
    wanted: str
    found: str
    repair: str = ""
    error: str = ""

    @property
    def place(self) -> tuple[str, ...]:
        """What makes it another finding than another."""
        return (self.kind, self.at, self.table, self.key, self.object, self.wanted, self.found)


@dataclass(frozen=True, slots=True)
class DropletAudit:
    """Of one droplet; `reason`: why it could not be audited. `more`: findings that are not told, being too many."""

    droplet: str
    time: str
    reason: str = ""
    findings: tuple[Found, ...] = ()
    looked_at: int = 0
    more: int = 0

    @property
    def summary(self) -> dict[str, Any]:
        """For the droplet's status."""
        repaired = sum(bool(found.repair) for found in self.findings)
        told: dict[str, Any] = {"time": self.time, "findings": len(self.findings) + self.more, "repaired": repaired}
        return {**told, "reason": self.reason} if self.reason else told


class Auditor:
    """Audits droplets. `noted` is told the name of a droplet with another result than before."""

    def __init__(self, registry: Registry, fleet: Fleet, noted: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._noted = noted
        self._names = Names(registry)
        self._last: dict[str, DropletAudit] = {}

    def last(self, droplet: str) -> DropletAudit | None:
        """What was found the last time."""
        return self._last.get(droplet)

    async def run(self, interval_s: float, *, repair: bool) -> None:
        """Again and again, one droplet after the other: each once in an interval. Until cancelled."""
        while True:
            names = self._fleet.linked()
            for name in names:
                await asyncio.sleep(interval_s / len(names))
                try:
                    await self.audit(name, repair=repair)
                except MizarError as error:  # it has gone in the meantime
                    log.debug("audit_left_out droplet=%s reason=%s", name, error)
            if not names:
                await asyncio.sleep(interval_s)

    async def audit(self, droplet: str, *, repair: bool) -> DropletAudit:
        """One droplet, now; with `repair` mends what is found. Raises NotFoundError where there is no daemon."""
        link = self._fleet.link(droplet)
        if link is None:
            raise NotFoundError(Problem("it has no daemon that could be asked", resource=f"Droplet {droplet}"))
        time = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            found = await self._kernel(link, repair=repair)
            found = replace(found, time=time, findings=(*found.findings, *await self._daemon(link, repair=repair)))
        except grpc.aio.AioRpcError as error:
            reason = f"its daemon did not answer: {error.details() or error.code().name}"
            found = DropletAudit(droplet, time, reason)
        except TemporaryError as error:
            found = DropletAudit(droplet, time, str(error))
        self._keep(found)
        return found

    def forget(self, droplet: str) -> None:
        """It is gone."""
        self._last.pop(droplet, None)

    def _keep(self, found: DropletAudit) -> None:
        """Tells what is new."""
        before = self._last.get(found.droplet)
        known = {one.place for one in before.findings} if before else set()
        self._last[found.droplet] = found
        if found.reason and (before is None or before.reason != found.reason):
            log.warning("audit_not_possible droplet=%s reason=%s", found.droplet, found.reason)
        for one in found.findings:
            if one.place not in known or one.repair:
                log.warning(
                    "audit_found droplet=%s kind=%s at=%s table=%s key=%s object=%s wanted=%s found=%s repair=%s",
                    found.droplet, one.kind, one.at, one.table, one.key, one.object, one.wanted, one.found,
                    one.repair or one.error or "none",
                )  # fmt: skip
        if before is None or (before.findings, before.reason) != (found.findings, found.reason):
            self._noted(found.droplet)

    # ---- the kernel, and what the daemon was told

    async def _kernel(self, link: Link, *, repair: bool) -> DropletAudit:
        result = DropletAudit(link.name, "")
        async for reply in _ask(link.stub(), pb.AuditRequest(kernel=True, repair=repair)):
            findings = tuple(self._found(one) for one in reply.findings)
            result = replace(
                result,
                findings=result.findings + findings,
                looked_at=result.looked_at + reply.looked_at,
                more=result.more + reply.more,
            )
        return result

    def _found(self, one: pb.Finding) -> Found:
        name, vpc = self._names.of_finding(one)
        return Found(
            KINDS.get(one.kind, "altered"), "kernel", one.table, one.key, name, vpc, one.wanted, one.found,
            one.repair, one.error,
        )  # fmt: skip

    # ---- what the daemon was told, and what is desired

    async def _daemon(self, link: Link, *, repair: bool) -> list[Found]:
        first, _ = await self._differences(link)
        if not first:
            return []
        await self._fleet.quiet(QUIET_S)
        second, told = await self._differences(link)
        steps = [step for key, step in second.items() if first.get(key) == step and not self._on_its_way(link, step)]
        found = {step.entry.key: self._difference(step, told.get(step.entry.key)) for step in steps}
        if repair and steps:
            carried = await link.submit(in_order(steps), 0, link.epoch)
            left, _ = await self._differences(link)
            for step in steps:
                key = step.entry.key
                done = carried and key not in left
                what = "removed" if step.delete else "told again"
                why = self._trouble(link, step) or "it is so still"
                found[key] = replace(found[key], repair=what if done else "", error="" if done else why)
        return list(found.values())

    async def _differences(self, link: Link) -> tuple[dict[Key, Step], dict[Key, Entry]]:
        """The steps that the daemon would have to be told, by key, and what it was told."""
        actual: list[Entry] = []
        async for reply in _ask(link.stub(), pb.AuditRequest(state=True)):
            actual += entries(reply.state)
        desired = self._fleet.wanted(link.name)
        told = {entry.key: entry for entry in actual}
        steps = {step.entry.key: step for step in diff(link.name, desired, actual)}
        for entry in desired:
            present = told.get(entry.key)
            if isinstance(entry, LocalEntry) and isinstance(present, LocalEntry) and present.mtu and not entry.mtu:
                steps.setdefault(entry.key, Step(link.name, Wave.POINT, entry, Action.CHANGE))
        return steps, told

    def _on_its_way(self, link: Link, step: Step) -> bool:
        owner = self._fleet.owner(step.entry)
        return owner is not None and link.name in owner.waiting

    def _trouble(self, link: Link, step: Step) -> str:
        owner = self._fleet.owner(step.entry)
        trouble = owner.troubles.get(link.name) if owner is not None else None
        return trouble.message if trouble is not None else ""

    def _difference(self, step: Step, told: Entry | None) -> Found:
        wanted = None if step.delete else step.entry
        kind = "foreign" if wanted is None else "missing" if told is None else "altered"
        name, vpc = self._names.of_item(self._fleet.owner(step.entry)), self._names.vpc_of(step.entry)
        return Found(
            kind, "daemon", entry_table(step.entry), entry_key(step.entry), name, vpc,
            entry_text(wanted, told), entry_text(told, wanted),
        )  # fmt: skip


async def _ask(stub: TransitAsyncStub, request: pb.AuditRequest) -> AsyncIterator[pb.AuditReply]:
    async for reply in stub.Audit(request, timeout=CALL_S):
        yield reply


def as_dict(found: DropletAudit) -> dict[str, Any]:
    """For the API."""

    def row(one: Found) -> dict[str, str]:
        names: Sequence[str] = Found.__slots__
        return {name: getattr(one, name) for name in names}

    return {
        "droplet": found.droplet,
        "time": found.time,
        "reached": not found.reason,
        "reason": found.reason,
        "lookedAt": found.looked_at,
        "more": found.more,
        "findings": [row(one) for one in found.findings],
    }
