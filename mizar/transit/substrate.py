# SPDX-License-Identifier: Apache-2.0
"""The substrate as this droplet sees it: its own interface, and which MAC leads to each other droplet.

Runs beside the server. Keeps `next_hop_mac` in the table of droplets current, from the kernel's neighbour entries,
and tells the attachments which interfaces vanish. It must never keep traffic waiting for an answer that is known: a
MAC stays until the kernel has given the neighbour up for a while.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from mizar.kernel import interfaces
from mizar.kernel.interfaces import Interface
from mizar.kernel.neighbours import Neighbours, NextHop
from mizar.kernel.netlink import Netlink
from mizar.model.addresses import text_of
from mizar.model.errors import MizarError, TemporaryError
from mizar.transit.attachments import Attachments
from mizar.transit.events import Hub
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event

REFRESH_S = 30.0
"""How often routes are looked at again, and neighbours asked again where the kernel does not do it by itself."""
GIVE_UP_S = 1.0
"""How long a lost neighbour keeps its MAC."""
SETTLE_S = 0.2
"""How long to wait for more changes of routes, which come in bursts, before all next hops are looked at again."""

_NO_MAC = bytes(6)
_log = logging.getLogger(__name__)


class InterfaceGoneError(MizarError):
    """The droplet's own interface is not what the programs were loaded for: the daemon has to be started again."""


@dataclass(frozen=True, slots=True)
class _Resolved:
    address: bytes
    next_hop: NextHop
    mac: bytes | None


class Uplink:
    """The droplet's own interface, as last heard of."""

    def __init__(self, facts: Interface) -> None:
        self.facts = facts

    def mtu(self) -> int:
        """Bytes of the largest IP packet on the substrate."""
        return self.facts.mtu


class Substrate:
    """Watches interfaces and neighbours until it is cancelled."""

    def __init__(
        self, uplink: Uplink, neighbours: Neighbours, ledger: Ledger, attachments: Attachments, hub: Hub
    ) -> None:
        self._uplink = uplink
        self._neighbours = neighbours
        self._ledger = ledger
        self._attachments = attachments
        self._hub = hub
        self._hops: dict[bytes, NextHop] = {}
        self._changed = asyncio.Event()
        self._giving_up: dict[NextHop, asyncio.TimerHandle] = {}
        self._address_here = True
        self._settling: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def droplets_changed(self) -> None:
        """Droplets came or went: resolve what is new."""
        self._changed.set()

    async def run(self) -> None:
        """Watch. Raises InterfaceGoneError when the droplet's own interface vanishes or becomes another."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again(self._watch_links))
            group.create_task(self._again(self._watch_neighbours))
            group.create_task(self._again(self._watch_ways))
            group.create_task(self._refresh_forever())

    async def _again(self, watch: Callable[[], Coroutine[None, None, None]]) -> None:
        """Watch, and begin anew with a look at everything when the kernel had to leave something out."""
        while True:
            try:
                await watch()
            except TemporaryError as error:
                event(_log, logging.WARNING, "notifications_lost", error=error)
                await self._ledger.snapshot()
                self._hops.clear()
                self._changed.set()

    # ---- interfaces

    async def _watch_links(self) -> None:
        async for change in interfaces.watch():
            if change.interface.index == self._uplink.facts.index:
                self._own_changed(change.interface, change.gone)
            elif change.gone:
                await self._attachments.lost(change.interface.index)

    def _own_changed(self, facts: Interface, gone: bool) -> None:
        before, self._uplink.facts = self._uplink.facts, facts
        if gone:
            self._hub.link_changed(facts.name, up=False, mtu=facts.mtu)
            raise InterfaceGoneError(f"the interface {facts.name} vanished; start the daemon again when it is back")
        if facts.mac != before.mac:
            raise InterfaceGoneError(f"the MAC of {facts.name} changed; start the daemon again, it loads the new one")
        if (before.up, before.mtu) != (facts.up, facts.mtu):
            event(_log, logging.INFO, "link_changed", interface=facts.name, up=facts.up, mtu=facts.mtu)
            self._hub.link_changed(facts.name, up=facts.up, mtu=facts.mtu)
            if facts.mtu != before.mtu:
                self._run(self._ledger.set_own_mtu(facts.mtu))
            self._changed.set()

    # ---- addresses and routes

    async def _watch_ways(self) -> None:
        self._check_address()
        async for _ in interfaces.watch_ways():
            if self._settling is None:
                self._settling = asyncio.get_running_loop().call_later(SETTLE_S, self._ways_changed)

    def _ways_changed(self) -> None:
        self._settling = None
        self._check_address()
        self._hops.clear()
        self._changed.set()

    def _check_address(self) -> None:
        """Say so when other droplets can no longer reach this one at its addresses, and when they can again."""
        own = [ip_address(address) for address in (self._ledger.state.own, self._ledger.state.own6) if address]
        with Netlink() as netlink:
            present = [one.ip for one in interfaces.addresses(netlink, self._uplink.facts.index)]
        here = all(address in present for address in own)
        if here != self._address_here:
            level, name = (logging.INFO, "address_back") if here else (logging.WARNING, "address_lost")
            event(_log, level, name, address=",".join(map(str, own)), interface=self._uplink.facts.name)
        self._address_here = here

    # ---- neighbours

    async def _watch_neighbours(self) -> None:
        async for neighbour in self._neighbours.watch():
            addresses = [address for address, hop in self._hops.items() if hop == neighbour.next_hop]
            if not addresses:
                continue
            if neighbour.mac is not None:
                await self._learn(neighbour.next_hop, addresses, neighbour.mac)
            elif neighbour.next_hop not in self._giving_up:
                self._lose(neighbour.next_hop, addresses)
                self._ask_again(addresses)

    async def _learn(self, hop: NextHop, addresses: Iterable[bytes], mac: bytes) -> None:
        timer = self._giving_up.pop(hop, None)
        if timer:
            timer.cancel()
        await self._ledger.set_macs(dict.fromkeys(addresses, mac))

    def _lose(self, hop: NextHop, addresses: list[bytes]) -> None:
        def give_up() -> None:
            self._run(self._give_up(hop, addresses))

        self._giving_up[hop] = asyncio.get_running_loop().call_later(GIVE_UP_S, give_up)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give_up(self, hop: NextHop, lost: list[bytes]) -> None:
        self._giving_up.pop(hop, None)
        # Meanwhile an address may have got another next hop; others may have come to this one.
        addresses = [address for address in lost if self._hops.get(address, hop) == hop]
        addresses += [address for address, other in self._hops.items() if other == hop and address not in lost]
        found = await asyncio.to_thread(self._neighbours.read, hop)
        if found.mac is None and addresses:
            names = ",".join(map(text_of, addresses))
            event(_log, logging.WARNING, "next_hop_lost", next_hop=hop.address, droplets=names)
        await self._ledger.set_macs(dict.fromkeys(addresses, found.mac or _NO_MAC))

    def _ask_again(self, addresses: Iterable[bytes]) -> None:
        for address in addresses:
            self._hops.pop(address, None)
        self._changed.set()

    async def _refresh_forever(self) -> None:
        while True:
            await self._refresh()
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._changed.wait()
            except TimeoutError:
                self._hops.clear()
            self._changed.clear()

    async def _refresh(self) -> None:
        async with self._ledger.rest:
            state = self._ledger.state
            wanted = {
                one.address: one.reached for one in state.droplets.values() if one.reached and one.address != state.own
            }
        for address in self._hops.keys() - wanted.keys():
            self._hops.pop(address)
        new = {address: reached for address, reached in wanted.items() if address not in self._hops}
        found = await asyncio.to_thread(self._resolve, new)
        lost = set(new) - {resolved.address for resolved in found}
        await self._ledger.set_macs(dict.fromkeys(lost, _NO_MAC))
        for resolved in found:
            self._hops[resolved.address] = resolved.next_hop
            if resolved.mac is not None:
                await self._learn(resolved.next_hop, [resolved.address], resolved.mac)
            elif resolved.next_hop not in self._giving_up:
                self._lose(resolved.next_hop, [resolved.address])

    def _resolve(self, droplets: Mapping[bytes, bytes]) -> list[_Resolved]:
        """`droplets`: the address that names each, and the one that it is reached at."""
        found = []
        for address, reached in droplets.items():
            try:
                hop = self._neighbours.next_hop(ip_address(reached), self._uplink.facts.index)
                self._neighbours.install(hop)
                found.append(_Resolved(address, hop, self._neighbours.read(hop).mac))
            except MizarError as error:
                event(_log, logging.WARNING, "next_hop_unknown", droplet=text_of(address), error=error)
        return found
