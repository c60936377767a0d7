# SPDX-License-Identifier: Apache-2.0
"""The endpoints of this droplet: made, adjusted, ended, and noticed when they vanish.

Called by the servicer (Attach, Detach), by the watch of links, and at the daemon's start. What it makes comes in the
order link, agent program, entries, so that nothing leads to what is not there yet; it goes in the reverse order, and
the agent's entry is the commitment by which the next daemon knows a whole endpoint from a half-made one. It must
never leave anything of an endpoint that it reported as failed.
"""

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import TypeVar

from mizar.kernel import attach, interfaces
from mizar.kernel.bpffs import Pins
from mizar.kernel.endpoint_link import EndpointLink
from mizar.kernel.interfaces import Interface
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.model.addresses import text_of
from mizar.model.errors import InvalidError, MizarError, NotFoundError
from mizar.transit.errors import is_permanent
from mizar.transit.events import Hub
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.options import Options
from mizar.transit.readback import Found
from mizar.transit.state import State
from mizar.transit.values import Local, NamespaceBy, Network, Wanted, Workload

T = TypeVar("T")

WORKERS = 4
"""Threads that talk to netlink: the kernel does one change at a time, the rest of the work overlaps."""

_PIN = "agent_"
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


def host_name(uid: str) -> str:
    """The name of the host side of an endpoint's link: the same for the same uid, 14 bytes."""
    return "mz" + hashlib.sha256(uid.encode()).hexdigest()[:12]


class Attachments:
    """Makes and ends local endpoints. `mtu` tells what a packet of the interface has room for, after the overhead."""

    def __init__(
        self, ledger: Ledger, agent_fd: int, pins: Pins, options: Options, hub: Hub, mtu: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._agent_fd = agent_fd
        self._pins = pins
        self._options = options
        self._hub = hub
        self._mtu = mtu
        self._lock = asyncio.Lock()
        self._links = threading.local()
        self._pool = ThreadPoolExecutor(WORKERS, "attach")

    # ---- requests

    async def attach(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """Make endpoints, side by side; one outcome each, in order."""
        return await self._ledger.whole(self._attach_all(wanted))

    async def detach(self, uids: Sequence[str]) -> list[Outcome]:
        """End endpoints; one that is not there has ended already."""
        return await self._ledger.whole(self._detach_all(uids))

    async def _attach_all(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        async with self._lock:
            return list(await asyncio.gather(*(self._outcome(one.uid, self._attach(one)) for one in wanted)))

    async def _detach_all(self, uids: Sequence[str]) -> list[Outcome]:
        async with self._lock:
            return list(await asyncio.gather(*(self._outcome(uid, self._detach(uid)) for uid in uids)))

    async def _outcome(self, uid: str, work: Coroutine[None, None, str]) -> Outcome:
        started = time.perf_counter_ns()
        try:
            name = await work
            return Outcome(uid, None, name, (time.perf_counter_ns() - started) // 1000)
        except MizarError as error:
            event(_log, logging.WARNING, "endpoint_failed", uid=uid, error=error)
            return Outcome(uid, error, "", (time.perf_counter_ns() - started) // 1000)

    async def _attach(self, wanted: Wanted) -> str:
        limit = self._mtu()
        if wanted.mtu > limit:
            raise InvalidError(f"the MTU {wanted.mtu} is more than the {limit} that the droplet's wire has room for")
        if wanted.mtu == limit:
            wanted = replace(wanted, mtu=0)
        async with self._ledger.lock:
            self._ledger.check(wanted)
            network = self._ledger.state.networks[wanted.endpoint.vni, wanted.endpoint.network_id]
            old = self._ledger.state.locals.get(wanted.uid)
        interface, change = await self._in_pool(lambda: self._make(wanted, network))
        try:
            async with self._ledger.lock:
                changed = self._ledger.put_local(wanted, interface.name, interface.index)
        except MizarError:
            await self._in_pool(lambda: self._restore(interface, old, network, change == "created"))
            raise
        if changed or change != "unchanged":
            event(_log, logging.INFO, "endpoint_attached", uid=wanted.uid, interface=interface.name)
            self._hub.endpoint_changed(wanted.uid, "attached", str(wanted.workload))
        return interface.name

    async def _detach(self, uid: str) -> str:
        name = host_name(uid)
        async with self._ledger.lock:
            local = self._ledger.delete_local(uid)
        removed = await self._in_pool(lambda: self._remove(name))
        if local or removed:
            event(_log, logging.INFO, "endpoint_detached", uid=uid)
            self._hub.endpoint_changed(uid, "detached")
        return ""

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
                await self._in_pool(lambda: self._unpin(found.host_interface, found.ifindex))
                self._report_lost(found)

    async def found_lost(self, local: Local) -> None:
        """An endpoint was found to be gone when the tables were read, before its interface's end was heard of."""
        async with self._lock:
            await self._in_pool(lambda: self._unpin_dead(local.host_interface))
        self._report_lost(local)

    def _report_lost(self, local: Local) -> None:
        detail = f"its interface {local.host_interface} vanished, with namespace {local.wanted.workload} or without"
        event(_log, logging.WARNING, "endpoint_lost", uid=local.wanted.uid, interface=local.host_interface)
        self._hub.endpoint_changed(local.wanted.uid, "lost", detail)

    # ---- the daemon's start and end

    def interfaces(self) -> list[Found]:
        """The interfaces that this daemon, or the one before it, made for endpoints."""
        return [
            Found(
                name=link.interface.name,
                ifindex=link.interface.index,
                mtu=link.interface.mtu if link.interface.mtu != self._mtu() else 0,
                uid=link.uid,
                workload=_workload_of(link.namespace_spec, link.inner_name),
            )
            for link in self._own_links().owned()
            if link.instance == self._options.instance
        ]

    def take_over(self) -> None:
        """Give every endpoint the new agent program; remove links and pins that belong to no endpoint.

        Called once, after the tables were read and before requests are taken.
        """
        kept = {local.host_interface: local for local in self._ledger.state.locals.values()}
        for link in self._own_links().owned():
            half_made = not link.uid
            if link.interface.name not in kept and (half_made or link.instance == self._options.instance):
                event(_log, logging.WARNING, "link_removed", interface=link.interface.name, uid=link.uid)
                self._own_links().delete(link.interface.name)
        for pin in self._pins.links.iterdir():
            name = pin.name.removeprefix(_PIN)
            if pin.name.startswith(_PIN) and name not in kept:
                pin.unlink()
        for name, local in kept.items():
            attach.attach_tc(self._agent_fd, local.ifindex, self._pins.links / f"{_PIN}{name}", force=self._options.tc)

    def problems(self, state: State) -> dict[str, str]:
        """What is wrong with the local endpoints of a state, by uid."""
        found: dict[str, str] = {}
        for uid, local in state.locals.items():
            try:
                Namespace.open_spec(str(local.wanted.workload)).close()
            except MizarError as error:
                found[uid] = f"its namespace {local.wanted.workload} has vanished: {error}"
        return found

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- on the threads of the pool

    async def _in_pool(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _own_links(self) -> Links:
        """A conversation with netlink for each thread."""
        if not hasattr(self._links, "links"):
            self._links.links = Links()
        links: Links = self._links.links
        return links

    def _make(self, wanted: Wanted, network: Network) -> tuple[Interface, str]:
        links, link = self._own_links(), self._link_of(wanted, network)
        with Namespace.open_spec(str(wanted.workload)) as namespace:
            try:
                return links.ensure_endpoint(link, namespace, self._guard)
            except MizarError:
                if interfaces.find(links.netlink, link.host_name) is None:
                    self._unpin(link.host_name, 0)
                raise

    def _guard(self, interface: Interface) -> None:
        pin = self._pins.links / f"{_PIN}{interface.name}"
        attach.attach_tc(self._agent_fd, interface.index, pin, force=self._options.tc)

    def _link_of(self, wanted: Wanted, network: Network) -> EndpointLink:
        addresses: list[IPv4Interface | IPv6Interface] = []
        gateways = []
        for address in wanted.endpoint.addresses:
            prefix = network.prefix_of(address)
            if prefix is None:
                raise NotFoundError(f"{network} has no prefix that holds {text_of(address)}; put the network first")
            addresses.append(ip_interface(f"{text_of(address)}/{prefix.length}"))
            gateways.append(ip_address(prefix.gateway))
        return EndpointLink(
            instance=self._options.instance,
            uid=wanted.uid,
            host_name=host_name(wanted.uid),
            inner_name=wanted.workload.interface,
            mac=wanted.endpoint.mac,
            mtu=wanted.mtu or self._mtu(),
            addresses=tuple(addresses),
            gateways=tuple(gateways),
        )

    def _restore(self, interface: Interface, old: Local | None, network: Network, created: bool) -> None:
        """Undo `_make`: an endpoint that was there before gets back what it had."""
        if old is None or created:
            self._remove(interface.name)
            return
        with Namespace.open_spec(str(old.wanted.workload)) as namespace:
            self._own_links().ensure_endpoint(self._link_of(old.wanted, network), namespace)

    def _remove(self, name: str) -> bool:
        removed = self._own_links().delete(name)
        self._unpin(name, 0)
        return removed

    def _unpin_dead(self, name: str) -> None:
        """The same uid may have been attached again meanwhile: its pin is another's, and holds its agent in place."""
        pin = self._pins.links / f"{_PIN}{name}"
        link = attach.attached(pin)
        if link is not None and not link.ifindex:
            pin.unlink()

    def _unpin(self, name: str, ifindex: int) -> None:
        attach.detach_tc(ifindex, self._pins.links / f"{_PIN}{name}")


def _workload_of(spec: str, interface: str) -> Workload:
    kind, _, namespace = spec.partition(":")
    return Workload(NamespaceBy[kind.upper()], namespace, interface)
