# SPDX-License-Identifier: Apache-2.0
"""The manager's end of one droplet: one task that connects to its daemon, brings it up to date and keeps it so.

Made by mizar.manager.fleet, one per droplet that has a daemon. Each connection begins with a comparison of what the
daemon holds and what it should hold; after that steps arrive through `submit`. It must never decide what is desired,
and never end because of what a daemon does: it reconnects until `stop`.

    connect: GetInfo (is it the right droplet?), WatchEvents, GetState → diff → deliver
    then:    steps as they are submitted; troubles again after a while; GetInfo as a probe
    end:     the stream or a probe fails, or another instance answers → connect again, backing off
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from mizar._built import transit_pb2 as pb
from mizar._built.transit_pb2_grpc import TransitStub
from mizar.manager.delivery import Delivery
from mizar.manager.registry import Trouble
from mizar.manager.translate import entries, local_entry
from mizar.model.errors import MizarError, TemporaryError
from mizar.planner.entries import Entry, Key, LocalEntry
from mizar.planner.plan import Step, Wave, diff, in_order

if TYPE_CHECKING:
    from mizar._built.transit_pb2_grpc import TransitAsyncStub

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a link is, in seconds; tests are less so."""

    first_retry_s: float = 0.05
    longest_retry_s: float = 1.0
    first_repair_s: float = 0.25
    longest_repair_s: float = 30.0
    probe_s: float = 5.0
    call_s: float = 5.0
    state_s: float = 60.0
    away_s: float = 5.0
    """How long a droplet may be away until others have its places and carry the proxied endpoints that it carried.
    Longer than a daemon takes to start, and than the pause between two attempts to reach it."""


class Owner(Protocol):
    """Who made the link, and hears from it; all calls come from the link's task."""

    def desired(self, droplet: str) -> tuple[list[Entry], int]:
        """What the droplet must hold now, and the number of the last change in it."""
        ...

    async def kept(self) -> None:
        """Returns when what is desired now outlives a power cut."""
        ...

    def local(self, droplet: str, uid: str) -> LocalEntry | None:
        """One endpoint that the droplet must hold now."""
        ...

    def acknowledged(self, droplet: str, serial: int) -> None:
        """The droplet holds all changes up to this one, but for what `outcome` told of."""
        ...

    def outcome(self, step: Step, trouble: Trouble | None, host_interface: str) -> None:
        """What became of one step."""
        ...

    def moved(self, uid: str, blackout_us: int) -> None:
        """An endpoint lives here now, and its former interface is gone."""
        ...

    def link_changed(self, droplet: str) -> None:
        """It connected, disconnected, or did not answer at first."""
        ...

    def peers_down(self, droplet: str, down: Sequence[bytes]) -> None:
        """Which of the others the droplet calls down, by their addresses."""
        ...

    def vpns_told(self, droplet: str, found: Sequence[pb.VpnStatus]) -> None:
        """How the tunnels are that a droplet carries."""
        ...

    def protections_told(self, droplet: str, found: Sequence[pb.DdosStatus]) -> None:
        """What the protections of a droplet do."""
        ...

    def members_checked(self, droplet: str, found: Sequence[pb.MemberHealth]) -> None:
        """What the droplet found out about members of scaled endpoints that live on it."""
        ...

    def engines_told(self, droplet: str, found: Sequence[pb.EngineReport]) -> None:
        """How functions that the droplet runs fare."""
        ...

    def peer_changed(self, droplet: str, address: bytes, down: bool) -> None:
        """The droplet calls another down, or no more."""
        ...


@dataclass(slots=True)
class _Attempt:
    """A step that failed: when it is tried again (loop time), if ever, and how long to wait the time after."""

    step: Step
    delay_s: float
    due: float | None


class Link:
    """One droplet's connection. `info` is what its daemon says of itself, None while there is no connection."""

    def __init__(
        self,
        name: str,
        addresses: Sequence[str],
        target: str,
        credentials: grpc.ChannelCredentials | None,
        owner: Owner,
        timing: Timing,
    ) -> None:
        self.name = name
        self.target = target
        self.info: pb.Info | None = None
        self.reason = "not connected yet"
        self.epoch = 0
        """Grows with each comparison: steps planned before one are part of it."""
        self._addresses = [ip_address(text) for text in addresses]
        self._credentials = credentials
        self._owner = owner
        self._timing = timing
        self._lane = asyncio.Lock()  # deliveries happen one after the other
        self._delivery: Delivery | None = None
        self._channel: grpc.aio.Channel | None = None
        self._serial = 0
        self._troubled: dict[Key, _Attempt] = {}
        self._new_trouble = asyncio.Event()
        self._ended = asyncio.Event()
        self._settled = False
        self._held: list[pb.MemberHealth] | None = None  # what came before the comparison
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the daemon is reachable and holds, or is being given, what it should."""
        return self.info is not None and not self._ended.is_set()

    @property
    def settled(self) -> bool:
        """Whether the daemon has been given all that the last comparison found."""
        return self._settled and not self._ended.is_set()

    @property
    def away(self) -> bool:
        """Whether the last attempt to reach it has failed; a link that has just begun is neither this nor connected."""
        return not self.connected and self._ended.is_set()

    def start(self) -> asyncio.Task[None]:
        """Begins to connect; the task ends by `stop` alone."""
        self._task = asyncio.create_task(self._run(), name=f"link to {self.name}")
        return self._task

    async def stop(self) -> None:
        """Ends the connection for good; the daemon keeps what it holds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def restart(self) -> None:
        """Ends this connection and begins another, with a new comparison."""
        self._end("the manager compares anew")

    async def submit(self, steps: Sequence[Step], serial: int, epoch: int) -> bool:
        """Carries out steps that were planned in `epoch`; False when they were not: then a comparison will, or has."""
        if epoch != self.epoch or self._delivery is None:
            return False
        async with self._lane:
            if epoch != self.epoch or self._delivery is None or self._ended.is_set():
                return False
            try:
                await self._deliver(self._delivery, steps, serial)
            except grpc.aio.AioRpcError as error:
                self._end(_text(error))
                return False
            except asyncio.CancelledError:
                # grpc.aio cancels whoever waits for a call when the channel is closed; that is not our caller's end.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                return False
            return True

    def stub(self) -> TransitAsyncStub:
        """The daemon's service, for questions that change nothing; TemporaryError while it cannot be reached."""
        if self._channel is None or self.info is None:
            raise TemporaryError(f"droplet {self.name} is unreachable: {self.reason}")
        return _stub(self._channel)

    def retry_now(self) -> None:
        """Tries all steps that failed once more, also those for which there was no hope."""
        for attempt in self._troubled.values():
            attempt.due, attempt.delay_s = 0.0, self._timing.first_repair_s
        self._new_trouble.set()

    async def _run(self) -> None:
        delay_s, first = self._timing.first_retry_s, True
        while True:
            try:
                await self._session()
            except grpc.aio.AioRpcError as error:
                self._end(_text(error))
            except MizarError as error:
                self._end(str(error))
            was_connected, self.info, self._delivery = self.info is not None, None, None
            if was_connected:
                log.warning("droplet_unreachable droplet=%s target=%s reason=%s", self.name, self.target, self.reason)
            if was_connected or first:
                self._owner.link_changed(self.name)
            first = False
            if self._settled:
                delay_s = self._timing.first_retry_s
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, keeps no secret
            delay_s = min(delay_s * 2, self._timing.longest_retry_s)

    async def _session(self) -> None:
        """One connection, from its beginning to its end."""
        self._settled = False
        self._held = []
        self._ended.clear()
        async with self._open() as channel:
            stub = _stub(channel)
            info = await stub.GetInfo(pb.GetInfoRequest(), timeout=self._timing.call_s)
            found = [ip_address(one) for one in (info.address, info.second_address) if len(one) in (4, 16)]
            if found != self._addresses:
                theirs, ours = (" and ".join(map(str, each)) or "nothing" for each in (found, self._addresses))
                raise TemporaryError(f"the daemon at {self.target} has address {theirs}, the droplet {ours}")
            self._channel = channel
            events = stub.WatchEvents(pb.WatchEventsRequest())
            tasks = [asyncio.create_task(self._listen(events))]
            try:
                await self._compare(stub, info)
                tasks += [
                    asyncio.create_task(self._probe(stub, info.instance)),
                    asyncio.create_task(self._repair()),
                    asyncio.create_task(self._wait_for_end()),
                ]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await task
            finally:
                self._channel = self._delivery = None
                events.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._end("the daemon ended the connection")

    async def _wait_for_end(self) -> None:
        await self._ended.wait()

    def _end(self, reason: str) -> None:
        """Marks this connection as ended; the first reason stands."""
        if not self._ended.is_set():
            self.reason = reason
            self._ended.set()

    async def _compare(self, stub: TransitAsyncStub, info: pb.Info) -> None:
        """Makes the daemon hold what it should, whatever it holds."""
        async with self._lane:
            actual: list[Entry] = []
            lost: list[Key] = []
            down: list[bytes] = []
            checked: list[pb.MemberHealth] = []
            engines: list[pb.EngineReport] = []
            interfaces: list[tuple[LocalEntry, str]] = []
            async for chunk in stub.GetState(pb.GetStateRequest(), timeout=self._timing.state_s):
                actual += entries(chunk)
                down += [droplet.address for droplet in chunk.droplets if droplet.down]
                checked += chunk.member_health
                engines += chunk.engines
                self._owner.vpns_told(self.name, chunk.vpn_status)
                self._owner.protections_told(self.name, chunk.ddos_status)
                for found in chunk.local_endpoints:
                    entry = local_entry(found.local)
                    if found.problem:
                        lost.append(entry.key)
                    else:
                        interfaces.append((entry, found.host_interface))
            # What came in the meantime may be newer than this state, and must not be hidden by it.
            self._owner.members_checked(self.name, [*checked, *(self._held or ())])
            self._held = None
            self._owner.engines_told(self.name, engines)
            desired, serial = self._owner.desired(self.name)
            # From here to the end of the delivery nothing older than `serial` may come in between.
            self.epoch += 1
            self._troubled.clear()
            delivery = Delivery(stub, self._outcome)
            steps = diff(self.name, desired, actual)
            stepped = {step.entry.key for step in steps}
            wanted = {entry.key: entry for entry in desired} if lost else {}
            steps += [Step(self.name, Wave.LEARN, wanted[key]) for key in lost if key in wanted and key not in stepped]
            reconnected, self.info, self._delivery = self.info is None, info, delivery
            log.info("droplet_connected droplet=%s instance=%s steps=%d", self.name, info.instance, len(steps))
            for entry, interface in interfaces:
                self._owner.outcome(Step(self.name, Wave.LEARN, entry), None, interface)
            await self._owner.kept()
            await self._deliver(delivery, steps, serial)
            self._settled = True
            self._owner.acknowledged(self.name, serial)
            if reconnected:
                self._owner.link_changed(self.name)
            self._owner.peers_down(self.name, down)

    async def _deliver(self, delivery: Delivery, steps: Sequence[Step], serial: int) -> None:
        self._serial = max(self._serial, serial)
        await delivery.carry_out(steps, self._serial)

    def _outcome(self, step: Step, trouble: Trouble | None, host_interface: str = "") -> None:
        before = self._troubled.pop(step.entry.key, None) if self._troubled else None
        if trouble is not None:
            delay_s = before.delay_s if before and before.step == step else self._timing.first_repair_s
            hopeless = trouble.permanent and not step.delete
            due = None if hopeless else asyncio.get_running_loop().time() + delay_s
            self._troubled[step.entry.key] = _Attempt(step, min(delay_s * 2, self._timing.longest_repair_s), due)
            self._new_trouble.set()
        self._owner.outcome(step, trouble, host_interface)

    async def _listen(self, events: grpc.aio.UnaryStreamCall[pb.WatchEventsRequest, pb.Event]) -> None:
        async for event in events:
            what = event.WhichOneof("event")
            if what == "link_changed" and self.info is not None:
                self.info.interface_mtu = event.link_changed.mtu
                self._owner.link_changed(self.name)
            elif what == "endpoint_changed" and event.endpoint_changed.state == "lost":
                self._lost(event.endpoint_changed)
            elif what == "endpoint_changed" and event.endpoint_changed.state == "moved":
                self._owner.moved(event.endpoint_changed.uid, event.endpoint_changed.blackout_us)
            elif what == "vpn_status":
                self._owner.vpns_told(self.name, [event.vpn_status])
            elif what == "ddos_status":
                self._owner.protections_told(self.name, [event.ddos_status])
            elif what == "member_health" and self._held is not None:
                self._held.append(event.member_health)
            elif what == "member_health":
                self._owner.members_checked(self.name, [event.member_health])
            elif what == "engine":
                self._owner.engines_told(self.name, [event.engine])
            elif what == "droplet_changed":
                self._owner.peer_changed(self.name, event.droplet_changed.address, event.droplet_changed.down)

    def _lost(self, change: pb.EndpointChanged) -> None:
        entry = self._owner.local(self.name, change.uid)
        if entry is not None:
            self._outcome(Step(self.name, Wave.LEARN, entry), Trouble(False, change.detail or "its interface is lost"))

    async def _probe(self, stub: TransitAsyncStub, instance: str) -> None:
        while True:
            await asyncio.sleep(self._timing.probe_s)
            info = await stub.GetInfo(pb.GetInfoRequest(), timeout=self._timing.call_s)
            if info.instance != instance:
                return

    async def _repair(self) -> None:
        """Repeats steps that failed for a passing reason, each with a backoff of its own."""
        loop = asyncio.get_running_loop()
        while True:
            dues = [attempt.due for attempt in self._troubled.values() if attempt.due is not None]
            timeout_s = max(0.0, min(dues) - loop.time()) if dues else None
            try:
                async with asyncio.timeout(timeout_s):
                    await self._new_trouble.wait()
            except TimeoutError:
                async with self._lane:
                    ripe = [a.step for a in self._troubled.values() if a.due is not None and a.due <= loop.time()]
                    if self._delivery is not None:
                        await self._deliver(self._delivery, in_order(ripe), self._serial)
            self._new_trouble.clear()

    def _open(self) -> grpc.aio.Channel:
        # Without a pool of its own a new channel would inherit the backoff of the one before.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 * 2**20)]
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, options)
        return grpc.aio.secure_channel(self.target, self._credentials, options)


def untold(error: grpc.aio.AioRpcError) -> str:
    """Why a call failed, for tenants, too: in the daemon's words, but not in those of a channel, which name its
    address."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return "it is not reached, or not ready"
    return error.details() or error.code().name


def _text(error: grpc.aio.AioRpcError) -> str:
    # gRPC wraps what the system said in several layers of its own; people need the innermost.
    return f"{error.code().name}: {(error.details() or '').rpartition('error: ')[2]}"


def _stub(channel: grpc.aio.Channel) -> TransitAsyncStub:
    return TransitStub(channel)
