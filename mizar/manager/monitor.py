# SPDX-License-Identifier: Apache-2.0
"""Live events of all droplets that matter to a watcher, as one stream.

Made by mizar.manager.manager, read by the API. For each droplet there is one call of WatchEvents while somebody
watches, and the daemon turns its events on for as long as that lasts. A watcher that is slow slows its calls, and the
daemons then count what they leave out: nothing piles up here. It must never touch what is desired.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.droplet_link import Link
from mizar.manager.names import Names
from mizar.manager.policy_names import PolicyNames
from mizar.manager.registry import Item, Registry
from mizar.manager.sightings import TYPES, Sighting, Teller, Wish
from mizar.model import drop_reasons
from mizar.model.errors import ExhaustedError, InvalidError, MizarError, NotFoundError, Problem
from mizar.model.resources import Droplet, Endpoint, Ref

log = logging.getLogger(__name__)

MOST_WATCHERS, MOST_OF_TENANT = 64, 8
"""At the same time: of all tenants, and as many of administrators; of one tenant."""
ROOM = 512
"""Sightings that wait for their watcher."""
LOOK_S = 1.0
"""How often it is looked for droplets that came, or can be reached again."""
READY_S = 5.0
"""How long the first answers of droplets are waited for."""


class Monitor:
    """Watches droplets for those who ask."""

    def __init__(self, registry: Registry, links: Callable[[str], Link | None], policies: PolicyNames) -> None:
        self._registry = registry
        self.policies = policies
        self._links = links
        self._names = Names(registry)
        self._watching: dict[str | None, int] = {}

    @property
    def watchers(self) -> int:
        """How many watch."""
        return sum(self._watching.values())

    def wish(
        self,
        sees: Callable[[Ref], bool],
        *,
        types: Sequence[str] = (),
        tenant: str | None = None,
        vpc: str | None = None,
        endpoint: str | None = None,
        droplet: str | None = None,
        reasons: Sequence[str] = (),
        address: str | None = None,
        policy: str | None = None,
    ) -> Wish:
        """What a watcher wants, looked up. Raises InvalidError or NotFoundError, also for what it may not see."""
        if unknown := [one for one in types if one not in TYPES]:
            raise InvalidError(Problem(f"there is no {', '.join(unknown)}; there are {', '.join(TYPES)}", field="type"))
        if tenant is not None:
            self._known(Ref("Tenant", "", tenant), sees)
        if droplet is not None and self._registry.find_droplet(droplet) is None:
            raise NotFoundError(Problem("there is no such object", resource=f"Droplet {droplet}"))
        return Wish(
            frozenset(types or TYPES),
            tenant,
            self._named("VPC", vpc, tenant, sees),
            self._named("Endpoint", endpoint, tenant, sees),
            droplet,
            frozenset(map(_reason, reasons)),
            _prefix(address),
            self._named("Policy", policy, tenant, sees),
        )

    def _named(self, kind: str, name: str | None, tenant: str | None, sees: Callable[[Ref], bool]) -> Ref | None:
        if name is None:
            return None
        before, slash, after = name.partition("/")
        owner = before if slash else tenant
        if not owner:
            raise InvalidError(Problem(f"which tenant's {name}? write TENANT/{name}", field=kind.lower()))
        return self._known(Ref(kind, owner, after if slash else name), sees)

    def _known(self, ref: Ref, sees: Callable[[Ref], bool]) -> Ref:
        if not sees(ref) or self._registry.find(ref) is None:
            raise NotFoundError(Problem("there is no such object", resource=str(ref)))
        return ref

    async def watch(
        self, wish: Wish, sees: Callable[[Ref], bool], tenant: str | None, alive_s: float
    ) -> AsyncIterator[Sighting]:
        """Sightings without end; {"type": "ready"} when droplets are being watched, "alive" when nothing happens.

        `tenant`: whose certificate the watcher has, None for administrators. Raises ExhaustedError when there are too
        many watchers.
        """
        with self._place(tenant):
            stream = _Stream(self, Teller(self._names, wish, sees, tenant is None, self.policies), wish, sees)
            keeper = asyncio.create_task(stream.keep())
            try:
                yield {"type": "ready", **await stream.ready()}
                while True:
                    yield await stream.next(alive_s) or {"type": "alive"}
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)

    @contextmanager
    def _place(self, tenant: str | None) -> Iterator[None]:
        mine = self._watching.get(tenant, 0)
        of_tenants = self.watchers - self._watching.get(None, 0)
        full = mine >= MOST_WATCHERS if tenant is None else of_tenants >= MOST_WATCHERS
        if full or (tenant is not None and mine >= MOST_OF_TENANT):
            raise ExhaustedError("too many watch already: end another `mizar monitor` first")
        self._watching[tenant] = mine + 1
        try:
            yield
        finally:
            self._watching[tenant] -= 1
            if not self._watching[tenant]:
                del self._watching[tenant]

    def droplets(self, wish: Wish, sees: Callable[[Ref], bool], everywhere: bool) -> set[str]:
        """Names of the droplets on which something that is wanted can happen."""
        daemons = {
            item.resource.name
            for item in self._registry.of_kind("Droplet")
            if isinstance(item.resource, Droplet) and item.resource.spec.has_daemon
        }
        if wish.droplet is not None:
            daemons &= {wish.droplet}
        if everywhere:
            return daemons
        vpcs = [item for item in self._registry.of_kind("VPC") if sees(item.ref)]
        vpcs = [item for item in vpcs if wish.tenant in (None, item.resource.tenant) and wish.vpc in (None, item.ref)]
        return daemons & {name for vpc in vpcs for name in self._hosts(vpc)}

    def _hosts(self, vpc: Item) -> Iterator[str]:
        yield from vpc.placement
        for network in self._registry.children(vpc):
            yield from network.placement
            for item in self._registry.children(network):
                if isinstance(item.resource, Endpoint) and item.resource.status.host:
                    yield item.resource.status.host

    def link(self, droplet: str) -> Link | None:
        """The connection to a droplet's daemon."""
        return self._links(droplet)


class _Stream:
    """What one watcher gets, from as many droplets as matter to it."""

    def __init__(self, monitor: Monitor, teller: Teller, wish: Wish, sees: Callable[[Ref], bool]) -> None:
        self._monitor = monitor
        self._teller = teller
        self._wish = wish
        self._sees = sees
        self._everywhere = not wish.of_tenants and teller.operator
        self._queue: asyncio.Queue[Sighting] = asyncio.Queue(ROOM)
        self._begun = asyncio.Event()
        self._pending: set[str] = set()
        self._reached: set[str] = set()
        self._away: dict[str, str] = {}

    async def keep(self) -> None:
        """Has one task for each droplet that matters, until cancelled."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                wanted = self._monitor.droplets(self._wish, self._sees, self._everywhere)
                self._pending |= wanted - tasks.keys()
                for name in wanted - tasks.keys():
                    tasks[name] = asyncio.create_task(self._follow(name))
                for name in tasks.keys() - wanted:
                    tasks.pop(name).cancel()
                self._settle("")
                await asyncio.sleep(LOOK_S)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def ready(self) -> dict[str, list[str]]:
        """Which droplets are watched, as soon as each has answered, failed or taken long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                await self._begun.wait()
        return {"droplets": sorted(self._reached), "away": sorted({*self._away, *self._pending})}

    async def next(self, timeout_s: float) -> Sighting | None:
        """The next sighting; None when there is none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        except TimeoutError:
            return None

    def _settle(self, name: str) -> None:
        self._pending.discard(name)
        if not self._pending:
            self._begun.set()

    async def _follow(self, name: str) -> None:
        while True:
            try:
                await self._listen(name)
                why = "its daemon ended"
            except MizarError as error:
                why = str(error)
            except grpc.aio.AioRpcError as error:
                why = f"its daemon cannot be reached: {error.code().name}"
            except asyncio.CancelledError:
                # grpc.aio cancels whoever waits for a call when the channel is closed; that is not our caller's end.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                why = "its daemon ended"
            if self._begun.is_set() and name not in self._away:
                await self._queue.put({"type": "away", "droplet": name, "message": why})
            self._away[name] = why
            self._reached.discard(name)
            self._settle(name)
            await asyncio.sleep(LOOK_S)

    async def _listen(self, name: str) -> None:
        link = self._monitor.link(name)
        if link is None:
            raise NotFoundError(f"droplet {name} has no daemon")
        types = self._wish.types
        asked = pb.WatchEventsRequest(
            drops="drop" in types, traps="trap" in types, paths="path" in types, verdicts="verdict" in types
        )
        call = link.stub().WatchEvents(asked)
        try:
            await call.wait_for_connection()  # the daemon answers at once, and misses nothing from then on
            if self._away.pop(name, None) is not None and self._begun.is_set():
                await self._queue.put({"type": "back", "droplet": name})
            self._reached.add(name)
            self._settle(name)
            async for event in call:
                if (told := self._teller.tell(name, event)) is not None:
                    await self._queue.put(told)
        finally:
            call.cancel()


def _reason(text: str) -> int:
    known = drop_reasons.by_name().get(text.upper().replace("-", "_"))
    if known is None and text.isdecimal() and len(text) < 6:
        known = drop_reasons.by_number().get(int(text))
    if known is None:
        near = get_close_matches(text.upper().replace("-", "_"), drop_reasons.by_name(), 3, 0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ": contracts/drop_reasons.toml lists them"
        raise InvalidError(Problem(f"there is no drop reason {text}{hint}", field="reason"))
    return known.number


def _prefix(text: str | None) -> IPv4Network | IPv6Network | None:
    if text is None:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidError(Problem(f"{text!r} is neither an address nor a prefix", field="address")) from error
