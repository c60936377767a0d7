# SPDX-License-Identifier: Apache-2.0
"""Whether the members of scaled endpoints on this droplet answer.

Runs beside the server. Each member that lives here is asked from inside of its own namespace, at its own address, in a
task of its own: one that hangs delays no other. What is found is told to whoever watches events, which decides; this
daemon changes no table by itself, and begins with what its tables say, so that its restart changes nothing. It must
never believe more of an answer than its first line.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mizar._built import transit_pb2 as pb
from mizar.model.addresses import mac_text, text_of
from mizar.transit.asking_members import failure_of
from mizar.transit.events import Hub
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.service_values import HealthCheck, Member, MemberState, Service, ServiceKey
from mizar.transit.services import local_of
from mizar.transit.workloads import InNamespace

Ask = Callable[[InNamespace, bytes, HealthCheck], Awaitable[str]]
"""Asks a member at one of its addresses: what is wrong with it, empty when it answers as it should."""

MemberKey = tuple[ServiceKey, bytes]
"""A service, and the MAC of its member."""

_NOT_HERE = "it has no interface on its droplet"
_NO_NAMESPACE = "its workload is not in a namespace, where alone it can be checked"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Verdict:
    """What is held of a member, why, and how many answers in a row spoke against it."""

    state: MemberState
    reason: str = ""
    against: int = 0

    def take(self, check: HealthCheck, failure: str) -> None:
        """One more answer. The first good one of a member that nobody knows is enough."""
        healthy = self.state is MemberState.HEALTHY
        if healthy != bool(failure) and self.state is not MemberState.UNKNOWN:
            self.against = 0
            self.reason = failure
            return
        self.against += 1
        needed = check.unhealthy_after if failure else check.healthy_after
        if self.against >= needed or (not failure and self.state is MemberState.UNKNOWN):
            self.state = MemberState.DOWN if failure else MemberState.HEALTHY
            self.against, self.reason = 0, failure
        elif self.state is MemberState.UNKNOWN:
            self.reason = failure


@dataclass(slots=True)
class _Watched:
    """A member that is checked: by what, by whom, and what was told of it last."""

    service: Service
    member: Member
    verdict: Verdict
    task: asyncio.Task[None] | None = None
    told: tuple[MemberState, str] | None = field(default=None)


class MemberHealth:
    """Checks members. `ask` asks one."""

    def __init__(self, ledger: Ledger, hub: Hub, ask: Ask = failure_of) -> None:
        self._ledger = ledger
        self._hub = hub
        self._ask = ask
        self._watched: dict[MemberKey, _Watched] = {}
        self._changed = asyncio.Event()

    def tables_changed(self) -> None:
        """Scaled endpoints may be others now."""
        self._changed.set()

    async def run(self) -> None:
        """Check until cancelled."""
        try:
            while True:
                self._follow()
                await self._changed.wait()
                self._changed.clear()
        finally:
            for watched in self._watched.values():
                self._end(watched)

    def rows(self) -> list[pb.MemberHealth]:
        """All that has been found out."""
        return [_row(one) for one in self._watched.values() if one.told]

    def _follow(self) -> None:
        state = self._ledger.state
        wanted = {
            (service.key, member.mac): (service, member)
            for service in state.services.values()
            if service.health is not None
            for member in service.members
            if member.host == state.own
        }
        for key in self._watched.keys() - wanted.keys():
            self._end(self._watched.pop(key))
        for key, (service, member) in wanted.items():
            watched = self._watched.get(key)
            if watched is None:
                known = member.state in (MemberState.HEALTHY, MemberState.DOWN)
                verdict = Verdict(member.state if known else MemberState.UNKNOWN)
                watched = self._watched[key] = _Watched(service, member, verdict)
            elif (watched.service.health, watched.member.addresses) != (service.health, member.addresses):
                self._end(watched)
            watched.service, watched.member = service, member
            if watched.task is None:
                watched.verdict.against = 0
                watched.task = asyncio.create_task(self._watch(watched))

    @staticmethod
    def _end(watched: _Watched) -> None:
        if watched.task is not None:
            watched.task.cancel()
            watched.task = None

    async def _watch(self, watched: _Watched) -> None:
        loop = asyncio.get_running_loop()
        while (check := watched.service.health) is not None:
            began = loop.time()
            watched.verdict.take(check, await self._look(watched, check))
            self._tell(watched)
            pause_s = check.interval_s * random.uniform(0.9, 1.0)  # noqa: S311 - spreads checks, keeps no secret
            await asyncio.sleep(max(0.0, began + pause_s - loop.time()))

    async def _look(self, watched: _Watched, check: HealthCheck) -> str:
        """Every family that the service has must answer."""
        local = local_of(self._ledger.state, watched.service.vni, watched.member)
        if local is None or local.wanted.standby:
            return _NOT_HERE
        workload = local.wanted.workload
        if not isinstance(workload, InNamespace):
            return _NO_NAMESPACE
        families = {len(address) for address in watched.service.addresses}
        asked = [address for address in watched.member.addresses if len(address) in families]
        found = await asyncio.gather(*(self._ask(workload, address, check) for address in asked))
        return next(filter(None, found), "")

    def _tell(self, watched: _Watched) -> None:
        verdict, before = watched.verdict, watched.told
        watched.told = (verdict.state, verdict.reason)
        if watched.told == before:
            return
        if before is None or before[0] is not verdict.state:
            level = logging.WARNING if verdict.state is MemberState.DOWN else logging.INFO
            event(
                _log,
                level,
                "member_checked",
                service=text_of(watched.service.addresses[0]),
                vni=watched.service.vni,
                member=mac_text(watched.member.mac),
                state=verdict.state.name.lower(),
                reason=verdict.reason,
            )
        self._hub.member_health(_row(watched))


def _row(watched: _Watched) -> pb.MemberHealth:
    return pb.MemberHealth(
        vni=watched.service.vni,
        service=watched.service.addresses[0],
        mac=watched.member.mac,
        state=pb.Member.State.ValueType(watched.verdict.state),
        reason=watched.verdict.reason,
    )
