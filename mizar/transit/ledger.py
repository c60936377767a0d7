# SPDX-License-Identifier: Apache-2.0
"""The tables of a droplet as one thing: the state, the maps that it is the image of, and the lock for both.

Called by the servicer, by `attachments` and by the watches. Every change goes through a `Plan` and is executed whole
or not at all; a change that has begun ends even when its caller goes away. It must never let two plans overlap
that have anything in common (`locks`).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeVar

from mizar.model.errors import MizarError, Problem
from mizar.transit import entries
from mizar.transit.batch import Plan
from mizar.transit.errors import DamagedError
from mizar.transit.execute import Maps, execute
from mizar.transit.locks import Both
from mizar.transit.logs import event
from mizar.transit.policy_values import NOT_BOUND, DeleteNetworkAcl, DeletePolicySet, PutNetworkAcl, PutPolicySet
from mizar.transit.readback import Found, read
from mizar.transit.state import Limits, State
from mizar.transit.values import Change, DeleteVpc, Learned, Local, Wanted

T = TypeVar("T")
_OF_RULES = (PutPolicySet, DeletePolicySet, PutNetworkAcl, DeleteNetworkAcl)

_log = logging.getLogger(__name__)


class Ledger:
    """State and maps. `interfaces` lists those that bear this daemon's alias; it is called from other threads.

    `on_lost` is called, on any thread, for a local endpoint that is no longer found in the kernel; `followers` after
    each change of the state, on any thread.
    """

    def __init__(
        self, maps: Maps, own: bytes, limits: Limits, interfaces: Callable[[], list[Found]], own6: bytes = b""
    ) -> None:
        self.maps = maps
        self.state = State(own, limits, own6)
        self.rules, self.rest = asyncio.Lock(), asyncio.Lock()
        """The former: sets of rules, and endpoints that are judged by them; the latter: everything else."""
        self.lock = Both(self.rules, self.rest, self._mend)
        self._damaged = False
        self.on_lost: Callable[[Local], None] = lambda _: None
        self.followers: list[Callable[[], None]] = []
        self.before_change: Callable[[State], None] = lambda _: None
        """Is called with the state to come, before the maps are written; it may raise MizarError."""
        self._interfaces = interfaces
        self._running: set[asyncio.Task[Any]] = set()

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that holds the lock, and let it end even when the one who waits is cancelled."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def drain(self, limit_s: float) -> None:
        """Wait for what has begun."""
        if self._running:
            await asyncio.wait(self._running, timeout=limit_s)

    async def apply(self, changes: Sequence[Change]) -> int:
        """Apply a batch; returns how many changes were not there already. The error names the change by its index."""
        return await self.whole(self._apply(changes))

    async def _apply(self, changes: Sequence[Change]) -> int:
        try:
            async with self._lock_for(changes):
                return await asyncio.to_thread(self._apply_now, changes)
        except DamagedError:
            async with self.lock:  # which mends
                raise

    def _lock_for(self, changes: Sequence[Change]) -> AbstractAsyncContextManager[None]:
        ruling = [isinstance(change, _OF_RULES) for change in changes]
        if any(isinstance(change, DeleteVpc) for change in changes):
            return self.lock
        return self.rules if all(ruling) and ruling else self.lock if any(ruling) else self.rest

    def lock_of(self, uid: str, wanted: Wanted | None = None) -> AbstractAsyncContextManager[None]:
        """What whoever changes a local endpoint has to hold: that of rules too, where it is judged by some."""
        old = self.state.locals.get(uid)
        bound = any(one is not None and one.policy != NOT_BOUND for one in (wanted, old.wanted if old else None))
        return self.lock if bound else self.rest

    async def _mend(self) -> None:
        if self._damaged:
            self._damaged = False
            await asyncio.to_thread(self.reread)

    def _apply_now(self, changes: Sequence[Change]) -> int:
        def fill(plan: Plan) -> int:
            changed = 0
            for index, change in enumerate(changes):
                try:
                    changed += plan.add(change)
                except MizarError as error:
                    raise of_change(error, index, _name_of(change)) from error
            return changed

        return self.carry_out(fill)

    def check(self, wanted: Wanted) -> None:
        """Raise what would keep a local endpoint from being put. The caller holds the lock."""
        Plan(self.state).check_local(wanted)

    def put_local(self, wanted: Wanted, host_interface: str, ifindex: int) -> bool:
        """Commit to a local endpoint; returns whether anything is new about it. The caller holds the lock."""
        old = self.state.locals.get(wanted.uid)
        new = self.carry_out(lambda plan: plan.put_local(wanted, host_interface, ifindex))
        return new != old

    def delete_local(self, uid: str) -> Local | None:
        """End the commitment to a local endpoint; None when there was none. The caller holds the lock."""
        return self.carry_out(lambda plan: plan.delete_local(uid))

    def carry_out(self, fill: Callable[[Plan], T]) -> T:
        """Fill a plan and execute it, whole or not at all. The caller holds the lock."""
        plan = Plan(self.state)
        try:
            result = fill(plan)
            self.before_change(self.state)
            execute(self.maps, plan.ops)
        except DamagedError as error:
            event(_log, logging.ERROR, "tables_damaged", error=error)
            if self.lock.held or not (self.rules.locked() or self.rest.locked()):
                self.reread()
            else:  # others may be in the middle of something: whoever has both locks next reads
                self._damaged = True
            raise
        except BaseException:
            plan.journal.roll_back()
            raise
        plan.journal.commit()
        for follower in self.followers:
            follower()
        return result

    def reread(self) -> list[Found]:
        """Make the state the image of the maps again, and the maps free of what is half-made.

        Returns the interfaces that no entry commits to. The caller holds the lock.
        """
        reading = read(self.maps, self.state.own, self.state.limits, self._interfaces(), self.state.own6)
        if reading.repairs:
            event(_log, logging.WARNING, "tables_repaired", operations=len(reading.repairs))
            execute(self.maps, reading.repairs)
        fresh = reading.state
        fresh.own_mtu = self.state.own_mtu
        for address, droplet in self.state.droplets.items():
            if address in fresh.droplets:
                fresh.droplets[address] = replace(fresh.droplets[address], name=droplet.name)
        for key, network in self.state.networks.items():
            if key in fresh.networks:
                fresh.networks[key] = replace(fresh.networks[key], dhcp=network.dhcp)
        for name, service in self.state.services.items():
            if name in fresh.services:
                fresh.services[name] = replace(fresh.services[name], health=service.health)
        gone = [local for uid, local in self.state.locals.items() if uid not in fresh.locals]
        if fresh != self.state:
            self.state = fresh
        for local in gone:
            self.on_lost(local)
        self.before_change(self.state)
        for follower in self.followers:
            follower()
        return reading.strays

    async def snapshot(self) -> State:
        """The state as the kernel holds it now."""
        return await self.whole(self._snapshot())

    async def _snapshot(self) -> State:
        async with self.lock:
            await asyncio.to_thread(self.reread)
            return self.state.copy()

    async def set_macs(self, macs: Mapping[bytes, bytes]) -> None:
        """Write which MAC leads to a droplet, by its address; zero when none is known."""
        async with self.rest:
            for address, mac in macs.items():
                droplet = self.state.droplets.get(address)
                if droplet and droplet.mac != mac:
                    resolved = replace(droplet, mac=mac)
                    execute(self.maps, entries.droplet_put(resolved, self.state.own_mtu)[:1])
                    self.state.droplets[address] = resolved

    async def set_own_mtu(self, mtu: int) -> None:
        """Write how long packets may be, of which this droplet's own interface is one limit."""
        async with self.rest:
            self.state.own_mtu = mtu
            for droplet in self.state.droplets.values():
                execute(self.maps, entries.droplet_put(droplet, mtu)[:1])

    async def learn(self, found: Sequence[Learned], forgotten: Iterable[tuple[int, bytes]] = ()) -> list[Learned]:
        """Change what the direct path knows; returns what was taken of `found`."""

        def fill(plan: Plan) -> list[Learned]:
            plan.unlearn(forgotten)
            return [one for one in found if plan.learn(one)]

        async with self.lock:
            return self.carry_out(fill)

    async def set_down(self, verdicts: Mapping[bytes, bool]) -> list[bytes]:
        """Mark droplets as down or up, by their address; returns those whose mark has changed."""
        changed = []
        async with self.rest:
            for address, down in verdicts.items():
                droplet = self.state.droplets.get(address)
                if droplet and droplet.down != down:
                    marked = replace(droplet, down=down)
                    execute(self.maps, entries.droplet_put(marked, self.state.own_mtu)[:1])
                    self.state.droplets[address] = marked
                    changed.append(address)
        return changed


def of_change(error: MizarError, index: int, name: str) -> MizarError:
    """The same error, saying which change of the batch it is about."""
    problems = [replace(problem, index=index, resource=f"change {index} ({name})") for problem in error.problems]
    return type(error)(problems or [Problem(str(error))])


def _name_of(change: Change) -> str:
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in type(change).__name__)
    return words.lstrip("_")
