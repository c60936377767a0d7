# SPDX-License-Identifier: Apache-2.0
"""All droplets together: from what is desired to what each has acknowledged.

Made and fed by mizar.manager.manager; owns what each droplet should hold, the plan (steps that wait) and
the links (one per daemon). It must never touch the store: what it finds out it notes on the items and tells `changed`.

Every change has a serial number. A round takes all steps that wait and carries out their waves, each on all droplets
before the next; a droplet that cannot be reached does not hold up the others, because its next connection begins with a
comparison. Once a droplet has done a round it has acknowledged all changes up to the round's serial number.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.balancers import Balancers
from mizar.manager.desired import Desired
from mizar.manager.droplet_link import Link, Timing
from mizar.manager.engines import EngineReports
from mizar.manager.health import Reports
from mizar.manager.instances import OWNERS, owner_of
from mizar.manager.network_acls import NetworkAcls
from mizar.manager.policies import Policies
from mizar.manager.protection_messages import Protections
from mizar.manager.registry import Item, Registry, Trouble, half_of
from mizar.manager.scaled import Services
from mizar.manager.vpns import VpnStates
from mizar.model.errors import NotFoundError
from mizar.model.resources import Droplet, Endpoint
from mizar.planner.entries import (
    DropletEntry,
    Entry,
    GroupSetEntry,
    LocalEntry,
    NetworkAclEntry,
    NetworkEntry,
    PeeringEntry,
    PolicySetEntry,
    ServiceEntry,
    VpcEntry,
    VpnEntry,
)
from mizar.planner.plan import Action, Change, Plan, Step, Wave
from mizar.planner.topology import Topology

log = logging.getLogger(__name__)

_LOOK_S = 0.02

Credentials = Callable[[], grpc.ChannelCredentials]
"""Makes the credentials for daemons that are reached over TCP; raises when there are none."""


class Fleet:
    """Every droplet, and the work that is under way."""

    def __init__(
        self,
        registry: Registry,
        changed: Callable[[Item], None],
        reached: Callable[[str, bool], None],
        measured: Callable[[str, int], None],
        died: Callable[[str], None],
        kept: Callable[[], Awaitable[None]],
        credentials: Credentials,
        timing: Timing,
    ) -> None:
        self._registry = registry
        self._changed = changed
        self._reached = reached
        self._measured = measured
        self._died = died
        self._kept = kept
        self._reports = Reports()
        self.engines = EngineReports(registry)
        self._credentials = credentials
        self._timing = timing
        self._desired = Desired(registry, self._mtu_of, changed)
        self._plan = Plan()
        self._serial = 0
        self.vpns = VpnStates()
        """What droplets say of tunnels."""
        self.protections = Protections()
        """What droplets are told of protections, and say of them."""
        self._links: dict[str, Link] = {}
        self._waiting: dict[str, dict[str, int]] = {}  # droplet → uid → serial, ascending
        self._closing: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._busy = False
        self._worker: asyncio.Task[None] | None = None
        self.observe_round: Callable[[float], None] = lambda _: None
        """Is told how many seconds each round took."""

    # ---- life

    def start(self) -> None:
        """Begins to work; links may be opened before and after."""
        self._worker = asyncio.create_task(self._work(), name="fleet")

    async def broken(self) -> None:
        """Returns when the work has ended, as it does by `stop` alone; raises the defect that ended it otherwise."""
        assert self._worker is not None
        await asyncio.wait([self._worker])
        if not self._worker.cancelled():
            self._worker.result()

    async def stop(self) -> None:
        """Ends all work; nothing is lost, because the next start compares."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await asyncio.gather(*(link.stop() for link in self._links.values()), *self._closing)

    def unreachable(self) -> set[str]:
        """Names of the droplets whose daemon does not answer now."""
        return {name for name, link in self._links.items() if not link.connected}

    def missing(self) -> int:
        """How many acknowledgements are waited for: one for each object and droplet."""
        return sum(map(len, self._waiting.values()))

    def link(self, name: str) -> Link | None:
        """The connection to one droplet's daemon."""
        return self._links.get(name)

    def linked(self) -> list[str]:
        """Names of the droplets that have a daemon."""
        return sorted(self._links)

    def open_link(self, droplet: Droplet) -> None:
        """Begins to connect to a droplet's daemon; to the new place when it has moved."""
        target = droplet.spec.daemon
        old = self._links.get(droplet.name)
        if old is not None and old.target == target:
            return
        self.close_link(droplet.name)
        if droplet.spec.has_daemon:
            credentials = None if target.startswith("unix:") else self._credentials()
            link = Link(droplet.name, droplet.spec.addresses, target, credentials, self, self._timing)
            self._links[droplet.name] = link
            link.start().add_done_callback(_report)

    def close_link(self, name: str) -> None:
        """Ends the connection; whoever waited for the droplet waits no more."""
        link = self._links.pop(name, None)
        if link is not None:
            closing = asyncio.get_running_loop().create_task(link.stop())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def retry(self, item: Item) -> None:
        """Tries once more what droplets could not do for the object."""
        for name in item.troubles:
            if (link := self._links.get(name)) is not None:
                link.retry_now()

    def give_up(self, name: str) -> None:
        """Counts everything that the droplet should do as done: it will never answer again."""
        self.close_link(name)
        for uid in self._waiting.pop(name, {}):
            self._done(uid, name)
        for item in self._troubled_by(name):
            self._clear(item, name)

    # ---- changes

    @property
    def services(self) -> Services:
        """The scaled endpoints and their members."""
        return self._desired.services

    @property
    def balancers(self) -> Balancers:
        """The HTTP load balancers and their servers."""
        return self._desired.balancers

    @property
    def topology(self) -> Topology:
        """Which droplet holds what; not to be changed."""
        return self._desired.topology

    @property
    def acls(self) -> NetworkAcls:
        """The ACLs of networks."""
        return self._desired.acls

    def holders(self, vni: int) -> set[str]:
        """The droplets that know a VPC."""
        return self._desired.topology.holders(vni)

    @property
    def policies(self) -> Policies:
        """The policies and whom they select."""
        return self._desired.policies

    def put(self, item: Item, inside: Iterable[Item] = ()) -> None:
        """Takes an object, or its next state; it then waits for the droplets that have to be told.

        `inside` are objects whose tables follow from it (endpoints take their network's tunnel protocol).
        """
        self.expect(item, self._desired.put(item, inside))

    def remove(self, item: Item, inside: Iterable[Item] = ()) -> None:
        """Takes an object out of what is desired; it then waits for the droplets that have to forget it, or to take the
        next state of objects whose tables follow from it (`inside`)."""
        self.expect(item, self._desired.remove(item, inside))

    def load(self, items: Iterable[Item]) -> None:
        """Takes all objects of a store, parents first, without steps: the links will compare."""
        for item in items:
            self._desired.put(item)
        for _ in self._desired.settle():
            pass

    def settle(self) -> None:
        """All of a change was put and removed: what follows from it as a whole is planned, and those objects wait for
        it that are its cause."""
        for changes, causes in self._desired.settle():
            self._plan.add(changes)
            for item in causes:
                self.expect(item, (), {change.droplet for change in changes})
            if changes:
                self._wake.set()

    def expect(self, item: Item, changes: Sequence[Change], also: Iterable[str] = ()) -> None:
        """Plans what a change of the object asks of droplets, and makes it wait for them; with an endpoint that another
        object is made of, that one waits, but for no droplet that is dead: others carry what it carried."""
        self._serial += 1
        self._plan.add(changes)
        names = {*(change.droplet for change in changes), *also}
        for one in (item, *self._made_of(item)):
            for name in names:
                if one is not item and self._is_dead(name):
                    continue
                one.waiting.add(name)
                waiting = self._waiting.setdefault(name, {})
                waiting.pop(one.uid, None)  # to the end: serial numbers ascend
                waiting[one.uid] = self._serial
            self._changed(one)
        if changes:
            self._wake.set()

    def _made_of(self, item: Item) -> Iterator[Item]:
        """The object that an endpoint is a part of, which is not everywhere before that is."""
        ref = owner_of(item.resource) if isinstance(item.resource, Endpoint) else None
        owner = self._registry.find(ref) if ref else None
        if owner is not None:
            yield owner

    def _rush(self, changes: Iterable[Change]) -> None:
        """A round that is under way may wait for a droplet that hangs; who chooses members does not wait with it.

        The next round says the same once more, should this one have undone it.
        """
        for change in changes if self._busy else ():
            link = self._links.get(change.droplet)
            if link is not None and isinstance(change.before, ServiceEntry) and isinstance(change.after, ServiceEntry):
                step = Step(change.droplet, Wave.POINT, change.after, Action.CHANGE)
                rushed = asyncio.get_running_loop().create_task(self._submit(link, step))
                self._closing.add(rushed)
                rushed.add_done_callback(self._closing.discard)

    @staticmethod
    async def _submit(link: Link, step: Step) -> None:
        await link.submit([step], 0, link.epoch)

    def _mtu_of(self, droplet: str) -> int:
        link = self._links.get(droplet)
        return link.info.interface_mtu if link is not None and link.info is not None else 0

    # ---- rounds

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            plan, self._plan = self._plan, Plan()
            serial = self._serial
            self._busy, begun = True, time.monotonic()
            # Before anything is waited for: a droplet that compares meanwhile is told more than this round knows.
            able = {name: (link, link.epoch) for name, link in self._links.items()}
            await self._kept()  # no droplet learns of what a power cut could take back
            for _, per_droplet in plan.waves():
                names = [name for name in per_droplet if name in able]
                links = [able[name] for name in names]
                done = await asyncio.gather(
                    *(
                        link.submit(per_droplet[name], serial, epoch)
                        for name, (link, epoch) in zip(names, links, strict=True)
                    )
                )
                for name in [name for name, well in zip(names, done, strict=True) if not well]:
                    del able[name]
            for name, (link, epoch) in able.items():
                if link.settled:
                    self._round_done(name, link, epoch, serial)
                else:  # its comparison is still being delivered, and the round had nothing for it that waited for that
                    later = asyncio.get_running_loop().create_task(self._done_later(name, link, epoch, serial))
                    self._closing.add(later)
                    later.add_done_callback(self._closing.discard)
            self._busy = False
            self.observe_round(time.monotonic() - begun)

    async def _done_later(self, name: str, link: Link, epoch: int, serial: int) -> None:
        if await link.submit((), serial, epoch):
            self._round_done(name, link, epoch, serial)

    def _round_done(self, name: str, link: Link, epoch: int, serial: int) -> None:
        if self._links.get(name) is link and link.epoch == epoch and link.connected:
            self.acknowledged(name, serial)

    # ---- what links tell

    def desired(self, droplet: str) -> tuple[list[Entry], int]:
        """What the droplet must hold now, and the number of the last change in it; its old troubles are void."""
        for item in self._troubled_by(droplet):
            self._clear(item, droplet)
        try:
            return list(self._desired.topology.desired_for(droplet)), self._serial
        except NotFoundError:  # it is being deleted
            return [], self._serial

    async def kept(self) -> None:
        """Returns when what is desired now outlives a power cut."""
        await self._kept()

    def wanted(self, droplet: str) -> list[Entry]:
        """What the droplet must hold now."""
        try:
            return list(self._desired.topology.desired_for(droplet))
        except NotFoundError:
            return []

    async def quiet(self, limit_s: float) -> bool:
        """Waits until no change is on its way to any droplet; False when that takes too long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while self._busy or self._plan:
            if loop.time() > deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    def local(self, droplet: str, uid: str) -> LocalEntry | None:
        """One endpoint that the droplet must hold now."""
        return self._desired.topology.local(droplet, uid)

    def moved(self, uid: str, blackout_us: int) -> None:
        """An endpoint lives at its next host, and its former interface is gone."""
        self._measured(uid, blackout_us)

    def acknowledged(self, droplet: str, serial: int) -> None:
        """The droplet holds all changes up to this one, but for what `outcome` told of."""
        waiting = self._waiting.get(droplet)
        if not waiting:
            return
        done = []
        for uid, needed in waiting.items():
            if needed > serial:
                break
            done.append(uid)
        for uid in done:
            del waiting[uid]
            self._done(uid, droplet)

    def outcome(self, step: Step, trouble: Trouble | None, host_interface: str) -> None:
        """What became of one step."""
        if trouble is None and not host_interface and not self._registry.troubled:
            return
        item = self.owner(step.entry)
        if item is None:
            return
        if trouble is not None:
            log.warning("step_failed droplet=%s object=%s reason=%s", step.droplet, item.ref, trouble.message)
            item.troubles[step.droplet] = trouble
            self._registry.troubled[item.uid] = item
            self._changed(item)
        elif step.droplet in item.troubles:
            self._clear(item, step.droplet)
        if isinstance(step.entry, LocalEntry) and step.entry.standby:
            return  # it lives elsewhere still
        if host_interface and item.host_interface != host_interface:
            item.host_interface = host_interface
            self._changed(item)

    def link_changed(self, droplet: str) -> None:
        """It connected or disconnected."""
        item, link = self._registry.find_droplet(droplet), self._links.get(droplet)
        if item is not None and link is not None:
            self._changed(item)
            self._reached(droplet, link.connected)
            if link.info is not None and not item.deleting:
                self._plan.add(self._desired.put(item))  # with the MTU that it has told
                self._wake.set()
            for uid in () if link.connected else list(self._waiting.get(droplet, ())):
                if (waits := self._registry.by_uid(uid)) is not None:
                    self._changed(waits)
            if not link.connected:
                self.peers_down(droplet, ())  # what it said of others is no news any more
                self._judge(droplet)

    def peers_down(self, droplet: str, down: Sequence[bytes]) -> None:
        """Which of the others a droplet calls down."""
        named = [name for address in down if (name := self._named(address))]
        for name in self._reports.replace(droplet, named):
            self._judge(name)

    def peer_changed(self, droplet: str, address: bytes, down: bool) -> None:
        """A droplet calls another down, or no more."""
        if name := self._named(address):
            self._reports.report(droplet, name, down=down)
            self._judge(name)

    def members_checked(self, droplet: str, found: Sequence[pb.MemberHealth]) -> None:
        """What a droplet found out about members of scaled endpoints: all droplets of their VPCs are told at once."""
        for one in found:
            service = self.services.checked(droplet, one)
            if service is None or service.deleting:
                continue
            changes = self._desired.refresh(service)
            if changes:
                self._serial += 1
                self._plan.add(changes)
                self._rush(changes)
                self._wake.set()
            self._changed(service)

    def engines_told(self, droplet: str, found: Sequence[pb.EngineReport]) -> None:
        """How functions that a droplet runs fare."""
        for report in found:
            owner = self.engines.take(droplet, report)
            if owner is not None:
                self._changed(owner)

    def vpns_told(self, droplet: str, found: Sequence[pb.VpnStatus]) -> None:
        """How tunnels are; whoever watches a connection is told when it comes up or goes down."""
        for one in found:
            item = self._registry.by_uid(one.uid)
            if item is not None and self.vpns.take(droplet, one):
                self._changed(item)

    def protections_told(self, droplet: str, found: Sequence[pb.DdosStatus]) -> None:
        """What protections do; whoever watches one is told when a measure is engaged or withdrawn."""
        for one in found:
            item = self._registry.by_uid(one.uid)
            if item is not None and self.protections.take(droplet, one):
                self._changed(item)

    def down_by(self, droplet: str) -> list[str]:
        """Names of the droplets that call one down."""
        return self._reports.witnesses(droplet)

    def _judge(self, droplet: str) -> None:
        """Two witnesses: its peers and the manager itself."""
        item = self._registry.find_droplet(droplet)
        if item is None:
            return
        self._changed(item)
        if self._is_dead(droplet):
            log.warning("droplet_dead droplet=%s called_down_by=%s", droplet, ",".join(self.down_by(droplet)))
            self._pass_over(droplet)
            self._died(droplet)

    def _is_dead(self, droplet: str) -> bool:
        link = self._links.get(droplet)
        return link is not None and not link.connected and bool(self._reports.witnesses(droplet))

    def _pass_over(self, droplet: str) -> None:
        """What is made of endpoints waits no more for a dead droplet; those endpoints themselves do."""
        waiting = self._waiting.get(droplet, {})
        for item in [one for uid in waiting if (one := self._registry.by_uid(uid)) is not None]:
            if item.ref.kind in OWNERS and not item.deleting and self._registry.has_children(item):
                del waiting[item.uid]
                self._done(item.uid, droplet)

    def _named(self, address: bytes) -> str:
        item = self._registry.holder("droplet", _text(address))
        return item.resource.name if item else ""

    def _done(self, uid: str, droplet: str) -> None:
        item = self._registry.by_uid(uid)
        if item is not None:
            item.waiting.discard(droplet)
            self._changed(item)

    def _clear(self, item: Item, droplet: str) -> None:
        del item.troubles[droplet]
        if not item.troubles:
            self._registry.troubled.pop(item.uid, None)
        self._changed(item)

    def _troubled_by(self, droplet: str) -> list[Item]:
        return [item for item in self._registry.troubled.values() if droplet in item.troubles]

    def owner(self, entry: Entry) -> Item | None:
        """The object that an entry tells of; None when there is none any more."""
        match entry:
            case LocalEntry(uid=uid) | VpnEntry(uid=uid):
                return self._registry.by_uid(uid)
            case DropletEntry(address=address):
                return self._registry.holder("droplet", _text(address))
        vpc = self._registry.holder("vni", str(entry.vni))
        if vpc is None or isinstance(entry, VpcEntry):
            return vpc
        if isinstance(entry, GroupSetEntry | PolicySetEntry):
            return vpc
        if isinstance(entry, NetworkEntry):
            return self._registry.holder(f"network/{vpc.uid}", str(entry.id))
        if isinstance(entry, NetworkAclEntry):
            return self._registry.holder(f"network/{vpc.uid}", str(entry.network_id))
        if isinstance(entry, PeeringEntry):
            peer = self._registry.holder("vni", str(entry.peer))
            return self._registry.holder(*half_of(vpc.uid, peer.ref)) if peer else None
        return self._registry.holder(f"address/{vpc.uid}", _text(entry.addresses[0])) if entry.addresses else None


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_died task=%s", task.get_name(), exc_info=error)


def _text(address: bytes) -> str:
    return str(ip_address(address)) if len(address) in (4, 16) else ""
