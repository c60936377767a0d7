# SPDX-License-Identifier: Apache-2.0
"""The endpoints of this droplet: made, adjusted, ended, and noticed when they vanish.

Called by the servicer (Attach, Detach), by the watch of links, and at the daemon's start. What it makes comes in the
order link, agent program, entries, so that nothing leads to what is not there yet; it goes in the reverse order, and
the agent's entry is the commitment by which the next daemon knows a whole endpoint from a half-made one. It must
never leave anything of an endpoint that it reported as failed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from mizar.kernel.bpffs import Pins
from mizar.kernel.interfaces import Interface
from mizar.kernel.links import Change
from mizar.kernel.pulse import Pulse
from mizar.model.errors import ConflictError, InvalidError, MizarError
from mizar.transit import without_xdp
from mizar.transit.engines.host import Engines
from mizar.transit.errors import is_permanent
from mizar.transit.events import Hub
from mizar.transit.installer import Installer, host_name
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.marks import option_bytes
from mizar.transit.options import Options
from mizar.transit.readback import Found
from mizar.transit.room import Room
from mizar.transit.state import State
from mizar.transit.values import Local, Network, Wanted

T = TypeVar("T")

WORKERS = 4
"""Threads that talk to netlink: the kernel does one change at a time, the rest of the work overlaps."""

QUIET_S = 0.1
"""How long nothing has come or gone before agents are attached for good."""

RETRY_S = 5.0
"""After so long what the pool lacks is made again, where it could not be."""

READY_S = 0.1
"""How long a workload may take to get its first answer, before it is moved all the same."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one endpoint of a request; `error` is None when it is as was asked."""

    uid: str
    error: MizarError | None = None
    host_interface: str = ""
    elapsed_us: int = 0

    @property
    def permanent(self) -> bool:
        """Whether repeating the request cannot help."""
        return self.error is not None and is_permanent(self.error)


class Attachments:
    """Makes and ends local endpoints. `room` tells how large packets may be."""

    def __init__(
        self,
        ledger: Ledger,
        agent_fd: int,
        pins: Pins,
        options: Options,
        hub: Hub,
        room: Room,
        engines: Engines,
    ) -> None:
        self._ledger = ledger
        self._engines = engines
        self._hub = hub
        self._mtu, self._whole = room.mtu, room.whole
        self._fitted = 0
        self._refitting: asyncio.Task[None] | None = None
        self._installer = Installer(agent_fd, pins, options, room)
        self._without_xdp = options.xdp == without_xdp.MODE
        self._lock = asyncio.Lock()
        self._pool = ThreadPoolExecutor(WORKERS, "attach")
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._unsettled: dict[str, int] = {}
        self._settling: asyncio.Task[None] | None = None
        self._busy_at = 0.0
        self._measuring: set[asyncio.Task[None]] = set()

    # ---- requests

    async def attach(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """Make endpoints, side by side; one outcome each, in order."""
        return await self._ledger.whole(self._attach_all(wanted))

    async def detach(self, uids: Sequence[str]) -> list[Outcome]:
        """End endpoints; one that is not there has ended already."""
        return await self._ledger.whole(self._detach_all(uids))

    async def _attach_all(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        async with self._busy():
            try:
                return list(await asyncio.gather(*(self._outcome(one.uid, self._attach(one)) for one in wanted)))
            finally:  # what failed may have taken from the pool, too
                self.settle_later()

    async def _detach_all(self, uids: Sequence[str]) -> list[Outcome]:
        async with self._busy():
            return list(await asyncio.gather(*(self._outcome(uid, self._detach(uid)) for uid in uids)))

    @contextlib.asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        async with self._lock:
            yield
            self._busy_at = time.monotonic()

    async def _outcome(self, uid: str, work: Coroutine[None, None, str]) -> Outcome:
        started = time.perf_counter_ns()
        try:
            name = await work
            return Outcome(uid, None, name, (time.perf_counter_ns() - started) // 1000)
        except MizarError as error:
            event(_log, logging.WARNING, "endpoint_failed", uid=uid, error=error)
            return Outcome(uid, error, "", (time.perf_counter_ns() - started) // 1000)

    async def _attach(self, wanted: Wanted) -> str:
        limit = self._room(wanted)
        if wanted.mtu > limit:
            raise InvalidError(f"the MTU {wanted.mtu} is more than the {limit} that the droplet's wire has room for")
        if wanted.mtu == limit:
            wanted = replace(wanted, mtu=0)
        self._engines.check(wanted)
        if self._without_xdp:
            without_xdp.refuse_endpoint(wanted)
        async with self._ledger.lock_of(wanted.uid, wanted):
            self._ledger.check(wanted)
            network = self._ledger.state.networks[wanted.endpoint.vni, wanted.endpoint.network_id]
            old = self._ledger.state.locals.get(wanted.uid)
            before = replace(old, wanted=self._sized(old.wanted)) if old else None
        arrives = old is not None and old.wanted.standby and not wanted.standby
        pulse = await self._measure(wanted, network) if arrives else None
        interface, change = await self._make(self._sized(wanted), network, arrives)
        try:
            async with self._ledger.lock_of(wanted.uid, wanted):
                changed = self._ledger.put_local(wanted, interface.name, interface.index)
            self._engines.put(wanted)
            if pulse is not None:
                pulse.exchanged = True
        except MizarError:
            await self._in_pool(lambda: self._installer.restore(interface, before, network, change == "created"))
            raise
        if change == "created":
            self._unsettled[interface.name] = interface.index
        if changed or change != "unchanged":
            event(_log, logging.INFO, "endpoint_attached", uid=wanted.uid, interface=interface.name)
            self._hub.endpoint_changed(wanted.uid, "attached", str(wanted.workload))
        return interface.name

    async def _make(self, wanted: Wanted, network: Network, arrives: bool) -> tuple[Interface, Change]:
        """What is still going may have the names that are wanted: it is waited for where it is in the way."""
        going = self._ending.get(host_name(wanted.uid, wanted.workload))
        if going is not None:
            await asyncio.wait([going])
        try:
            return await self._in_pool(lambda: self._installer.make(wanted, network, arrives))
        except ConflictError:
            if not self._ending:
                raise
        await asyncio.wait(self._ending.values())
        return await self._in_pool(lambda: self._installer.make(wanted, network, arrives))

    async def _detach(self, uid: str) -> str:
        async with self._ledger.lock_of(uid):
            local = self._ledger.delete_local(uid)
        self._engines.remove(uid)
        if local is not None:
            self._remove_later(local.host_interface)
            event(_log, logging.INFO, "endpoint_detached", uid=uid)
            self._hub.endpoint_changed(uid, "detached")
        return ""

    # ---- what nobody waits for

    async def _measure(self, wanted: Wanted, network: Network) -> Pulse | None:
        """Begins to measure how long the workload is cut off; tells it when the endpoint's former interface is gone."""
        pulse = await self._in_pool(lambda: self._installer.pulse(wanted, network))
        if pulse is None:
            return None

        async def follow() -> None:
            blackout_us = round(1e6 * await asyncio.to_thread(pulse.run))
            event(_log, logging.INFO, "endpoint_moved", uid=wanted.uid, blackout_us=blackout_us)
            self._hub.endpoint_changed(wanted.uid, "moved", blackout_us=blackout_us)
            self._measuring.discard(task)

        task = asyncio.create_task(follow())
        self._measuring.add(task)
        deadline = time.monotonic() + READY_S
        while not pulse.ready and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        return pulse

    def _remove_later(self, name: str) -> None:
        """An interface without entries carries nothing any more; the kernel takes tens of milliseconds to end it."""

        async def remove() -> None:
            try:
                await self._in_pool(lambda: self._installer.remove(name))
            except MizarError as error:
                event(_log, logging.WARNING, "link_left", interface=name, error=error)
            finally:
                self._ending.pop(name, None)

        self._unsettled.pop(name, None)
        self._ending[name] = asyncio.create_task(remove())

    def settle_later(self) -> None:
        """Do what can wait, once nothing comes or goes: agents attached for good, the pool filled."""
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        """One by one, not while endpoints come and go: each holds up the kernel's changes."""
        pause_s = 0.0
        while self._unsettled or self._installer.pool_is_short:
            await asyncio.sleep(max(pause_s, self._busy_at + QUIET_S - time.monotonic()))
            pause_s = 0.0
            if time.monotonic() - self._busy_at < QUIET_S:
                continue
            async with self._lock:
                name, ifindex = self._unsettled.popitem() if self._unsettled else ("", 0)
                try:
                    if name:
                        await self._in_pool(partial(self._installer.settle, name, ifindex))
                    else:
                        await self._in_pool(self._installer.refill)
                # An interface has vanished, or keeps its filter, which does the same; or the kernel has no room for an
                # answer (ENOBUFS), or none for a thread: whatever it is must not be the last that was tried.
                except Exception as error:  # noqa: BLE001
                    event(_log, logging.WARNING, "not_settled", interface=name or "pool", error=repr(error))
                    pause_s = 0.0 if name else RETRY_S

    def _room(self, wanted: Wanted) -> int:
        """The largest IP packet of the endpoint that fits into one of the substrate, with its options; or that one."""
        if wanted.bypass:
            return self._whole()
        vpc = self._ledger.state.vpcs.get(wanted.endpoint.vni)
        return self._mtu() - (len(option_bytes(wanted, vpc)) if vpc else 0)

    def _sized(self, wanted: Wanted) -> Wanted:
        return replace(wanted, mtu=wanted.mtu or self._room(wanted))

    def refit_soon(self) -> None:
        """Droplets came or went: the largest overhead may be another, and with it the size of packets here."""
        if self._mtu() != self._fitted and (self._refitting is None or self._refitting.done()):
            self._refitting = asyncio.create_task(self._refit())

    async def _refit(self) -> None:
        while self._mtu() != self._fitted:
            self._fitted = self._mtu()
            event(_log, logging.INFO, "packet_size_changed", mtu=self._fitted)
            for uid in list(self._ledger.state.locals):
                async with self._lock:
                    local = self._ledger.state.locals.get(uid)
                    if local is not None and not local.wanted.mtu:
                        await self._resize(local)

    async def _resize(self, local: Local) -> None:
        network = self._ledger.state.networks[local.endpoint.vni, local.endpoint.network_id]
        try:
            await self._in_pool(lambda: self._installer.make(self._sized(local.wanted), network))
        except MizarError as error:
            event(_log, logging.WARNING, "endpoint_not_resized", uid=local.wanted.uid, error=error)

    # ---- what vanishes by itself

    async def lost(self, ifindex: int) -> None:
        """An interface is gone: if it was an endpoint's, so is the endpoint."""
        await self._ledger.whole(self._lost(ifindex))

    async def _lost(self, ifindex: int) -> None:
        async with self._lock:
            async with self._ledger.lock:
                found = next((x for x in self._ledger.state.locals.values() if x.ifindex == ifindex), None)
                if found is not None:
                    self._ledger.delete_local(found.wanted.uid)
            if found is not None:
                self._engines.remove(found.wanted.uid)
                await self._in_pool(lambda: self._installer.forget(found))
                self._report_lost(found)

    async def found_lost(self, local: Local) -> None:
        """An endpoint was found to be gone when the tables were read, before its interface's end was heard of."""
        async with self._lock:
            await self._in_pool(lambda: self._installer.unpin_dead(local.host_interface))
        self._report_lost(local)

    def _report_lost(self, local: Local) -> None:
        detail = f"its interface {local.host_interface} vanished, with its {local.wanted.workload} or without"
        event(_log, logging.WARNING, "endpoint_lost", uid=local.wanted.uid, interface=local.host_interface)
        self._hub.endpoint_changed(local.wanted.uid, "lost", detail)

    # ---- the daemon's start and end

    def interfaces(self) -> list[Found]:
        """The interfaces that this daemon, or the one before it, made for endpoints."""
        return self._installer.found()

    def take_over(self) -> None:
        """Give every endpoint the new agent program; remove links and pins that belong to no endpoint.

        Called once, after the tables were read and before requests are taken.
        """
        kept = list(self._ledger.state.locals.values())
        sizes = self._installer.take_over(kept)
        if all(sizes.get(local.host_interface) == self._sized(local.wanted).mtu for local in kept):
            self._fitted = self._mtu()

    async def look_at(self, uid: str, call: Callable[[Installer, Local, Network], T]) -> T | None:
        """Calls, on another thread while none is made or ended, with a local endpoint as it should be, with its size.

        None when it has ended, or when all are about to get another size.
        """
        async with self._lock:
            async with self._ledger.rest:
                local = self._ledger.state.locals.get(uid)
                if local is None or self._mtu() != self._fitted:
                    return None
                network = self._ledger.state.networks[local.endpoint.vni, local.endpoint.network_id]
                sized = replace(local, wanted=self._sized(local.wanted))
            return await self._in_pool(lambda: call(self._installer, sized, network))

    def problems(self, state: State) -> dict[str, str]:
        """What is wrong with the local endpoints of a state, by uid."""
        return self._installer.problems(state)

    async def drain(self, limit_s: float) -> None:
        """Wait for interfaces that are being removed."""
        if self._ending:
            await asyncio.wait(self._ending.values(), timeout=limit_s)

    def close(self) -> None:
        """Let go of the threads."""
        for task in (self._settling, self._refitting):
            if task is not None:
                task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._installer.close()

    async def _in_pool(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
