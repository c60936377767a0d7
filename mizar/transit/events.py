# SPDX-License-Identifier: Apache-2.0
"""Events on their way to those who watch.

Owns the subscribers and their queues. Called by the attachments and watches (publish), and by the servicer (one
subscription per caller). A subscriber that is too slow loses events, and learns of it from the log of the daemon; it
must never slow down the daemon. Drops are read from the kernel only while somebody asks for them.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from mizar._built import transit_pb2 as pb
from mizar.transit.logs import event

QUEUE = 4096
SUMMARY_S = 1.0
"""How often watchers of drops are told what was left out."""

_log = logging.getLogger(__name__)


class DropSource(Protocol):
    """Refused packets: a switch, and what comes while it is on."""

    def switch(self, on: bool) -> None:
        """Make the programs write events of drops, or not."""

    def __aiter__(self) -> AsyncIterator[tuple[int, pb.Drop]]:
        """Refused packets without end, each with the time of CLOCK_MONOTONIC in nanoseconds."""

    async def suppressed(self) -> list[pb.Suppressed]:
        """What was left out since the last time."""


class Subscription:
    """One watcher's queue."""

    def __init__(self, drops: bool, traps: bool = False, paths: bool = False, verdicts: bool = False) -> None:
        self.drops = drops
        self.verdicts = verdicts
        self.lost = 0
        unasked = (("suppressed", drops or verdicts), ("trapped", traps), ("path_changed", paths))
        self._unasked = frozenset(kind for kind, asked in unasked if not asked)
        self._told = 0
        self._queue: asyncio.Queue[pb.Event] = asyncio.Queue(QUEUE)

    def offer(self, message: pb.Event) -> None:
        """Queue an event that was asked for, or count it as lost when the watcher is too slow."""
        kind = message.WhichOneof("event")
        if kind in self._unasked:
            return
        if kind == "drop" and not (self.drops if message.drop.outcome == pb.Drop.REFUSED else self.verdicts):
            return
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.lost += 1

    @property
    def of_packets(self) -> bool:
        """Whether packets are told of: for that the programs have to write events."""
        return self.drops or self.verdicts

    async def next(self) -> pb.Event:
        """The next event; what was lost is told as soon as there is room for it again."""
        if self.of_packets and self.lost > self._told and self._queue.empty():
            lost, self._told = self.lost - self._told, self.lost
            return pb.Event(time_unix_ns=time.time_ns(), suppressed=pb.Suppressed(events=lost))
        return await self._queue.get()


class Hub:
    """Hands each event to every watcher."""

    def __init__(self, source: DropSource) -> None:
        self._source = source
        self._subscriptions: set[Subscription] = set()
        self._reader: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def subscribed(
        self, drops: bool, traps: bool = False, paths: bool = False, verdicts: bool = False
    ) -> Iterator[Subscription]:
        """A subscription for the length of the block."""
        subscription = Subscription(drops, traps, paths, verdicts)
        self._subscriptions.add(subscription)
        self._follow()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            self._follow()
            if subscription.lost:
                event(_log, logging.WARNING, "watcher_too_slow", events_lost=subscription.lost)

    def endpoint_changed(self, uid: str, state: str, detail: str = "", blackout_us: int = 0) -> None:
        """Publish that an endpoint is "attached", "detached", "lost" or "moved"."""
        change = pb.EndpointChanged(uid=uid, state=state, detail=detail, blackout_us=blackout_us)
        self._publish(pb.Event(endpoint_changed=change))

    def droplet_changed(self, address: bytes, down: bool) -> None:
        """Publish that another droplet answers probes no more, or again."""
        self._publish(pb.Event(droplet_changed=pb.DropletChanged(address=address, down=down)))

    def member_health(self, found: pb.MemberHealth) -> None:
        """Publish what was found out about a member of a scaled endpoint that lives here."""
        self._publish(pb.Event(member_health=found))

    def engine(self, report: pb.EngineReport) -> None:
        """Publish how a function that runs here fares."""
        self._publish(pb.Event(engine=report))

    def vpn_status(self, found: pb.VpnStatus) -> None:
        """Publish how a tunnel of this droplet is."""
        self._publish(pb.Event(vpn_status=found))

    def ddos_status(self, found: pb.DdosStatus) -> None:
        """Publish what a protection of this droplet does."""
        self._publish(pb.Event(ddos_status=found))

    def link_changed(self, interface: str, up: bool, mtu: int) -> None:
        """Publish a change of the droplet's own interface."""
        self._publish(pb.Event(link_changed=pb.LinkChanged(interface=interface, up=up, mtu=mtu)))

    def trapped(self, uid: str, vni: int, kind: str, answered: bool) -> None:
        """Publish what an endpoint asked."""
        self._publish(pb.Event(trapped=pb.Trapped(uid=uid, vni=vni, kind=kind, answered=answered)))

    def path_changed(self, vni: int, address: bytes, host: bytes) -> None:
        """Publish where the direct path to an endpoint leads; no `host`: nowhere any more."""
        self._publish(pb.Event(path_changed=pb.PathChanged(vni=vni, address=address, host=host)))

    @property
    def watchers(self) -> int:
        """How many are there."""
        return len(self._subscriptions)

    def close(self) -> None:
        """Stop reading drops."""
        self._subscriptions.clear()
        self._follow()

    def _publish(self, message: pb.Event) -> None:
        message.time_unix_ns = message.time_unix_ns or time.time_ns()
        for subscription in self._subscriptions:
            subscription.offer(message)

    def _follow(self) -> None:
        """Read drops exactly while somebody asks for them."""
        asked = any(subscription.of_packets for subscription in self._subscriptions)
        if asked and self._reader is None:
            self._source.switch(True)
            self._reader = asyncio.create_task(self._read())
            self._reader.add_done_callback(_report)
        elif not asked and self._reader is not None:
            self._source.switch(False)
            self._reader.cancel()
            self._reader = None

    async def _read(self) -> None:
        await self._source.suppressed()  # of an earlier time; what is told from here on is complete
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_drops())
            group.create_task(self._read_suppressed())

    async def _read_drops(self) -> None:
        offset_ns = time.time_ns() - time.monotonic_ns()
        async for time_ns, drop in self._source:
            self._publish(pb.Event(time_unix_ns=time_ns + offset_ns, drop=drop))

    async def _read_suppressed(self) -> None:
        while True:
            await asyncio.sleep(SUMMARY_S)
            for one in await self._source.suppressed():
                self._publish(pb.Event(suppressed=one))


def _report(reader: asyncio.Task[None]) -> None:
    """Watchers would wait for drops in vain: that it ended by itself has to be known."""
    if not reader.cancelled() and (error := reader.exception()) is not None:
        event(_log, logging.ERROR, "drops_not_read", error=repr(error))
