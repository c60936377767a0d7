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
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

from mizar._built import transit_pb2 as pb
from mizar.model import drop_reasons
from mizar.model.addresses import from_mapped
from mizar.transit.logs import event

QUEUE = 4096

_HOOKS = {1: "agent", 2: "transit", 3: "deliver", 4: "proxy", 5: "substrate"}  # enum hook
_log = logging.getLogger(__name__)


class DropSource(Protocol):
    """The kernel's side of drops: a switch, and what comes while it is on."""

    def switch(self, on: bool) -> None:
        """Make the programs write events of drops, or not."""

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Events (struct event) without end."""


class Subscription:
    """One watcher's queue."""

    def __init__(self, drops: bool) -> None:
        self.drops = drops
        self.lost = 0
        self._queue: asyncio.Queue[pb.Event] = asyncio.Queue(QUEUE)

    def offer(self, message: pb.Event) -> None:
        """Queue an event, or count it as lost when the watcher is too slow."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.lost += 1

    async def next(self) -> pb.Event:
        """The next event."""
        return await self._queue.get()


class Hub:
    """Hands each event to every watcher. `name_of` tells an interface's name by its index."""

    def __init__(self, source: DropSource, name_of: Callable[[int], str]) -> None:
        self._source = source
        self._name_of = name_of
        self._subscriptions: set[Subscription] = set()
        self._reader: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def subscribed(self, drops: bool) -> Iterator[Subscription]:
        """A subscription for the length of the block."""
        subscription = Subscription(drops)
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

    def link_changed(self, interface: str, up: bool, mtu: int) -> None:
        """Publish a change of the droplet's own interface."""
        self._publish(pb.Event(link_changed=pb.LinkChanged(interface=interface, up=up, mtu=mtu)))

    def close(self) -> None:
        """Stop reading drops."""
        self._subscriptions.clear()
        self._follow()

    def _publish(self, message: pb.Event, drop: bool = False) -> None:
        message.time_unix_ns = message.time_unix_ns or time.time_ns()
        for subscription in self._subscriptions:
            if subscription.drops or not drop:
                subscription.offer(message)

    def _follow(self) -> None:
        """Read drops exactly while somebody asks for them."""
        asked = any(subscription.drops for subscription in self._subscriptions)
        if asked and self._reader is None:
            self._source.switch(True)
            self._reader = asyncio.create_task(self._read_drops())
        elif not asked and self._reader is not None:
            self._source.switch(False)
            self._reader.cancel()
            self._reader = None

    async def _read_drops(self) -> None:
        offset_ns = time.time_ns() - time.monotonic_ns()
        async for fields in self._source:
            self._publish(self._drop(fields, offset_ns), drop=True)

    def _drop(self, fields: dict[str, Any], offset_ns: int) -> pb.Event:
        reason = drop_reasons.by_number().get(fields["reason"])
        return pb.Event(
            time_unix_ns=fields["time_ns"] + offset_ns,
            drop=pb.Drop(
                reason=fields["reason"],
                name=reason.name if reason else "",
                sentence=reason.sentence if reason else "",
                vni=fields["vni"],
                source=from_mapped(fields["src"]) if any(fields["src"]) else b"",
                destination=from_mapped(fields["dst"]) if any(fields["dst"]) else b"",
                interface=self._name_of(fields["ifindex"]),
                length=fields["length"],
                hook=_HOOKS.get(fields["hook"], ""),
            ),
        )
