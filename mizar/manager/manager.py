# SPDX-License-Identifier: Apache-2.0
"""The manager: the one place where desired state changes, and the surface that the API sees.

Owns the order in which a change takes effect: decided (intake, deletion), placed, kept by the store, taken into the
registry, handed to the fleet. All of that happens without a pause, so that no two changes mix; what follows on the
droplets is asynchronous and comes back through `progress`. Must be used from one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager import (
    address_pools,
    appliances,
    engines,
    function_maps,
    load_balancers,
    moves,
    nat_gateways,
    protections,
    public_nat,
    vpns,
)
from mizar.manager.audit import NO_AUDITS, Auditor, Audits, DropletAudit
from mizar.manager.balancers import wish_of
from mizar.manager.deletion import doomed
from mizar.manager.draft import Cursors, Draft
from mizar.manager.droplet_link import Timing, untold
from mizar.manager.durable import Durable
from mizar.manager.fleet import Credentials, Fleet
from mizar.manager.functions import Functions, unknown
from mizar.manager.groups import Groups
from mizar.manager.instances import OWNERS, Fleeting, instances_of, owner_of, settle
from mizar.manager.intake import Result, Submission, draft_apply
from mizar.manager.limit_status import limited
from mizar.manager.members import Members, Moved
from mizar.manager.metrics import ManagerMetrics
from mizar.manager.monitor import Monitor
from mizar.manager.network_acls import refuse_too_large
from mizar.manager.peering import agreement, other_half
from mizar.manager.policies import policed, warned
from mizar.manager.policy_names import PolicyNames
from mizar.manager.progress import Progress
from mizar.manager.proxied import out_of_service, without_target
from mizar.manager.recovery import recover
from mizar.manager.registry import Item, Registry
from mizar.manager.rehearsal import Snapshot, snapshot
from mizar.manager.revision import State, drafted, ending, revise, take
from mizar.manager.status import count_members, health_of, view
from mizar.manager.substrate import affected, refused
from mizar.manager.tracing import Tracing
from mizar.manager.traffic import Traffic
from mizar.manager.watch import Watchers
from mizar.model.address_pool import AddressPool
from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError, Problem, TemporaryError
from mizar.model.function import Function
from mizar.model.http_balancer import HttpLoadBalancer
from mizar.model.load_balancer import LoadBalancer
from mizar.model.nat_gateway import NatGateway
from mizar.model.network_acl import NetworkAcl
from mizar.model.peering import VPCPeering
from mizar.model.policy import Policy
from mizar.model.resources import KINDS, VPC, DdosProtection, Droplet, Endpoint, Network, Ref, VpnConnection
from mizar.planner.vni import ALL_VNIS
from mizar.store.protocol import Commit, Store

if TYPE_CHECKING:
    from mizar._built.transit_pb2_grpc import TransitAsyncStub

log = logging.getLogger(__name__)

Visible = Callable[[Ref], bool]
"""What the caller may be told of."""

_CALL_S = 10.0
_WARNED = ("Function", "DdosProtection", "HttpLoadBalancer")
"""Kinds whose author is told here of names that are nobody's, and of certificates that end."""


def everything(_ref: Ref) -> bool:
    """For callers that may see all."""
    return True


def no_credentials() -> grpc.ChannelCredentials:
    """For managers that reach daemons over unix sockets only."""
    raise InvalidError("a daemon that is reached over TCP needs certificates: start the server with --pki")


class Manager:
    """Desired state and the way to it. `start` before use, `stop` after."""

    def __init__(
        self,
        store: Store,
        credentials: Credentials = no_credentials,
        timing: Timing | None = None,
        vnis: range = ALL_VNIS,
        audits: Audits = NO_AUDITS,
    ) -> None:
        """`vnis`: those that are given to VPCs that ask for none; `audits`: those that nobody asks for."""
        self.watchers = Watchers()
        self._store = store
        self._durable = Durable(store.sync)
        self._credentials = credentials
        self._registry = Registry()
        self._cursors = Cursors(vnis=vnis)
        self._progress = Progress(self._registry, store, self.watchers, self._forget, self._go_on)
        self._fleet = Fleet(
            self._registry,
            self._progress.note,
            self._reached,
            self._measured,
            self._died,
            self._durable.kept,
            credentials,
            timing or Timing(),
        )
        self._progress.links = self._fleet.link
        self._members = Members(())
        self._timing = timing or Timing()
        self._gone: set[str] = set()  # droplets that are dead, until they answer
        self._away: dict[str, asyncio.TimerHandle] = {}  # droplets that do not answer, until they are given up
        self._groups = Groups(self._registry)
        self._functions = Functions(
            self._registry,
            self._fleet.topology,
            self._fleet.linked,
            self._fleet.link,
            self._progress.note,
            self._fleet.protections,
            self._durable.kept,
        )
        self._auditor = Auditor(self._registry, self._fleet, self._audited)
        self._audits = audits
        self._auditing: asyncio.Task[None] | None = None
        names = PolicyNames(self._registry, self._fleet.policies)
        self.monitor = Monitor(self._registry, self._fleet.link, names)
        tunnel = partial(self._fleet.vpns.standing, self._registry)
        judging = self._functions.seeing, self._functions.judged, tunnel
        self.tracing = Tracing(self._registry, self._fleet.link, names, *judging)
        health = lambda name: health_of(self._fleet.link(name), self._fleet.down_by(name))  # noqa: E731
        self.traffic = Traffic(self._registry, self._fleet.link, health)
        self.metrics = ManagerMetrics(self._registry, self._fleet.missing, lambda: self.monitor.watchers, health)
        self._fleet.observe_round = self.metrics.observe_round

    async def start(self) -> None:
        """Reads the store and begins to bring every droplet to what it says."""
        self._registry.load(self._store.load())
        self._members = recover(self._registry, self._cursors, self._fleet)
        self._groups.load(self._registry.of_kind("Endpoint"))
        self._keep((), (), self._members.settle())
        for item in self._registry.of_kind("Droplet"):
            if isinstance(item.resource, Droplet) and not item.forced:
                self._fleet.open_link(item.resource)
        self._fleet.start()
        self._functions.start()
        if self._audits.interval_s:
            work = self._auditor.run(self._audits.interval_s, repair=self._audits.repair)
            self._auditing = asyncio.create_task(work, name="audits")

    async def kept(self) -> None:
        """Returns when all changes until now outlive a power cut: nobody may be told before that they are made."""
        await self._durable.kept()

    async def broken(self) -> None:
        """Lasts as long as the manager works; raises the defect that ended its work, or what the disk refused with."""
        lasting = [asyncio.create_task(one) for one in (self._fleet.broken(), self._durable.broken())]
        try:
            done, _ = await asyncio.wait(lasting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in lasting:
                task.cancel()
            await asyncio.gather(*lasting, return_exceptions=True)

    async def stop(self) -> None:
        """Ends all work; daemons keep what they hold, and the next start goes on from there."""
        for waiting in self._away.values():
            waiting.cancel()
        if self._auditing is not None:
            self._auditing.cancel()
            await asyncio.gather(self._auditing, return_exceptions=True)
        await self._functions.stop()
        await self._fleet.stop()
        self._progress.stop()
        await self._durable.end()

    # ---- questions

    def get(self, ref: Ref) -> dict[str, Any]:
        """One object as it is shown. Raises NotFoundError."""
        return self.show(self._item(ref))

    def all(self, kind: str, tenant: str | None, visible: Visible = everything) -> Iterator[dict[str, Any]]:
        """All objects of a kind that the caller may see, by tenant and name."""
        found = (item for item in self._registry.of_kind(kind) if tenant in (None, item.resource.tenant))
        for item in sorted((item for item in found if visible(item.ref)), key=lambda item: item.ref):
            yield self.show(item)

    def show(self, item: Item) -> dict[str, Any]:
        """An object as JSON values, with its status as of now."""
        children = lambda: sum(1 for _ in self._registry.children(item))  # noqa: E731 - counted only when asked
        found = view(item, self._fleet.link, self._fleet.down_by, children, self._members.families.cut_off)
        if isinstance(item.resource, VPCPeering):
            found["status"] |= agreement(self._registry, item.resource, found["status"])
        if isinstance(item.resource, Endpoint) and item.resource.spec.type == "scaled":
            found["status"] |= self._fleet.services.told(item, self._fleet.down_by)
        if isinstance(item.resource, Droplet) and (audit := self._auditor.last(item.resource.name)) is not None:
            found["status"]["audit"] = audit.summary
        if isinstance(item.resource, HttpLoadBalancer):
            members = lambda service: self._fleet.services.told(service, self._fleet.down_by)  # noqa: E731
            fleet = self._fleet
            found["status"] |= engines.told(self._registry, fleet.engines, fleet.balancers, item, members)
        if isinstance(item.resource, LoadBalancer):
            rows = lambda service: self._fleet.services.told(service, self._fleet.down_by)  # noqa: E731
            found["status"] |= load_balancers.told(self._registry, item, rows)
            found["status"] |= public_nat.told(self._registry, self._fleet.engines, item)
        if isinstance(item.resource, NatGateway):
            found["status"] |= nat_gateways.told(self._registry, self._fleet.engines, item)
        if isinstance(item.resource, Function):
            found["status"] |= self._functions.told(item)
        if isinstance(item.resource, DdosProtection):
            found["status"] |= self._functions.protection_told(item)
        if isinstance(item.resource, VpnConnection):
            found["status"] |= self._fleet.vpns.view(self._registry, item)
        if isinstance(item.resource, AddressPool):
            found["status"] |= address_pools.told(self._registry, item.resource)
        if isinstance(item.resource, Policy):
            found["status"] |= policed(self._fleet.policies, item)
        if isinstance(item.resource, NetworkAcl):
            found["status"]["warnings"] = self._fleet.acls.warnings(item.resource)
        if isinstance(item.resource, VPC | Network):
            found["status"] |= limited(self._registry, item)
        if isinstance(item.resource, Network) and item.resource.is_group:
            count_members(found["status"], self._groups.members(item))
        if isinstance(item.resource, Network):
            found["status"] |= refused(self._registry, item.resource, found["status"])
            found["status"] |= appliances.refused(self._registry, item.resource, found["status"])
        return found

    async def counters(self, droplet: str) -> pb.Counters:
        """What a droplet has counted. Raises NotFoundError or TemporaryError."""
        stub = self._stub(droplet)
        try:
            return await stub.GetCounters(pb.GetCountersRequest(), timeout=_CALL_S)
        except grpc.aio.AioRpcError as error:
            raise TemporaryError(f"droplet {droplet} did not tell its counters: {error.details()}") from error

    async def logs(self, ref: Ref, after: Mapping[str, str], most: int) -> list[dict[str, Any]]:
        """What the instances of a function have logged, each behind a place that it gave before. Raises NotFoundError.

        An instance that cannot be asked says why.
        """
        found = instances_of(self._registry, self._item(ref))
        return list(await asyncio.gather(*(self._log(item, after.get(item.resource.name, ""), most) for item in found)))

    async def _log(self, item: Item, after: str, most: int) -> dict[str, Any]:
        lines, reason = pb.LogLines(next=after), ""
        try:
            stub = self._stub(item.resource.spec.droplet or "")
            lines = await stub.ReadLog(pb.ReadLogRequest(uid=item.uid, after=after, most=most), timeout=_CALL_S)
        except MizarError as error:
            reason = str(error)
        except grpc.aio.AioRpcError as error:
            reason = f"droplet {item.resource.spec.droplet} did not tell: {untold(error)}"
        return {"instance": item.resource.name, "lines": list(lines.lines), "next": lines.next, "reason": reason}

    async def functions(self, droplet: str) -> pb.Functions:
        """What functions a droplet has, and what they have done. Raises NotFoundError or TemporaryError."""
        stub = self._stub(droplet)
        try:
            return await stub.GetFunctions(pb.GetFunctionsRequest(), timeout=_CALL_S)
        except grpc.aio.AioRpcError as error:
            raise TemporaryError(f"droplet {droplet} did not tell its functions: {error.details()}") from error

    async def function_maps(self, droplet: str, function: str, name: str = "", most: int = 0) -> list[dict[str, Any]]:
        """A function's own maps on a droplet; of one that is named, what it holds. Raises NotFoundError, InvalidError
        or TemporaryError."""
        self._item(Ref("Function", "", function))
        request = pb.GetFunctionMapsRequest(function=function, map=name, most=most)
        return await function_maps.told(self._stub(droplet), droplet, request, _CALL_S)

    async def audit(self, droplet: str, *, repair: bool) -> DropletAudit:
        """Compares what a droplet holds with what is wanted of it, and mends it if asked to. Raises NotFoundError."""
        self._item(Ref("Droplet", "", droplet))
        return await self._auditor.audit(droplet, repair=repair)

    def _audited(self, droplet: str) -> None:
        """Its last audit found something else than the one before."""
        item = self._registry.find_droplet(droplet)
        if item is not None:
            self.watchers.tell(item)

    async def state(self, droplet: str) -> pb.State:
        """What a droplet's tables hold. Raises NotFoundError or TemporaryError."""
        stub, whole = self._stub(droplet), pb.State()
        try:
            async for chunk in stub.GetState(pb.GetStateRequest(), timeout=_CALL_S):
                whole.MergeFrom(chunk)
        except grpc.aio.AioRpcError as error:
            raise TemporaryError(f"droplet {droplet} did not tell its state: {error.details()}") from error
        return whole

    def snapshot(self) -> Snapshot:
        """All that a rehearsal needs, as of now."""
        names = [item.resource.name for item in self._registry.of_kind("Droplet")]
        infos = {name: link.info for name in names if (link := self._fleet.link(name)) is not None}
        mtus = {name: info.interface_mtu for name, info in infos.items() if info is not None}
        verdicts = self._fleet.services.verdicts()
        return snapshot(self._registry, self._cursors, self._fleet.unreachable(), verdicts, mtus)

    # ---- changes

    def apply(
        self,
        submissions: Sequence[Submission],
        *,
        refused: Iterable[Problem] = (),
        dry_run: bool = False,
        visible: Visible = everything,
    ) -> list[Result]:
        """Makes all manifests desired state, or none; see mizar.manager.intake.draft_apply for what it raises."""
        draft, results = draft_apply(self._registry, self._cursors, submissions, refused, visible, self._fleeting())
        for endpoint in list(self._groups.regrouped(draft)):
            draft.amend(endpoint)
        if dry_run:
            return results
        self._check_reachable(draft)
        planned = [one.resource for one in draft.planned.values()]
        self._fleet.policies.refuse_too_large(one for one in planned if isinstance(one, Policy))
        refuse_too_large(one for one in planned if isinstance(one, NetworkAcl))
        created, changed, moved = drafted(self._registry, self._members, draft)
        self._keep(created, changed, moved)
        self._cursors.merge(draft.cursors)
        for result in results:
            if result.change == "unchanged" and (item := self._registry.find(result.ref)) is not None:
                self._fleet.retry(item)
                self._functions.retry(item)
        told = warned(self._registry, self._fleet.policies, self._fleet.acls, results)
        return [
            replace(one, warnings=(*one.warnings, *self._warnings(one.ref))) if one.ref.kind in _WARNED else one
            for one in told
        ]

    def _warnings(self, ref: Ref) -> tuple[str, ...]:
        item = self._registry.find(ref)
        resource = item.resource if item else None
        if isinstance(resource, DdosProtection):
            return tuple(protections.unknown(self._registry.find, resource))
        if isinstance(resource, HttpLoadBalancer):
            told = map(engines.certificate_told, resource.spec.certificates)
            return tuple(f"certificate {one['name']}: {one['warning']}" for one in told if "warning" in one)
        return tuple(unknown(self._registry, resource)) if isinstance(resource, Function) else ()

    def delete(
        self, ref: Ref, *, cascade: bool = False, force: bool = False, visible: Visible = everything
    ) -> dict[str, Any]:
        """Begins a deletion and returns the object as it now is. Raises NotFoundError or ConflictError."""
        item = self._item(ref)
        if force and ref.kind != "Droplet":
            raise InvalidError(Problem("force is for droplets that will never answer again", resource=str(ref)))
        if isinstance(item.resource, Endpoint) and item.resource.spec.type == "source":
            message = "it stands for the clients of a proxied endpoint; revoke the grant of its target instead"
            raise ConflictError(Problem(message, resource=str(ref)))
        if isinstance(item.resource, Endpoint) and (owner := owner_of(item.resource)) is not None:
            raise ConflictError(Problem(f"it is an endpoint of {owner}: delete that instead", resource=str(ref)))
        cascade |= ref.kind in OWNERS
        dooms = doomed(self._registry, item, cascade=cascade, visible=visible)
        sources, left = out_of_service(self._registry, dooms)
        dooms += sources
        moved: Moved = {}
        for doom in dooms:
            self._members.remove(doom)
        for doom in dooms:
            if isinstance(doom.resource, Droplet):
                moved |= self._members.remove_droplet(doom.resource.name)
        draft, gone = Draft(self._registry, self._cursors), {doom.ref for doom in dooms}
        for one in left:
            draft.amend(without_target(one.resource))
        for endpoint in list(self._groups.regrouped(draft, gone)):
            draft.amend(endpoint)
        last = ending(dooms)
        last += [(self._item(ref), planned.resource) for ref, planned in draft.planned.items()]
        self._keep((), last, moved, forced=item if force else None)
        return self.show(item)

    def move(self, ref: Ref, target: str) -> dict[str, Any]:
        """Begins to move an endpoint to another droplet; returns the object as it now is.

        What follows is told in `status.move`. Raises NotFoundError, InvalidError or ConflictError.
        """
        item = self._item(ref)
        resource = moves.begin(item, self._registry.find_droplet(target), target, self._fleet.link(target))
        vpns.refuse_move(self._registry, resource, target)
        self._keep((), [(item, resource)], {})
        return self.show(item)

    # ---- how a change takes effect

    def _go_on(self, item: Item) -> None:
        """Something happened to an object: a move may have come to its next stage."""
        resource = moves.next_stage(item, self._fleet.link)
        if resource is not None:
            try:
                self._keep((), [(item, resource)], {})
            except MizarError as error:  # the store is unwell: the next thing that happens tries again
                log.error("move_not_kept object=%s reason=%s", item.ref, error)

    def _measured(self, uid: str, blackout_us: int) -> None:
        """The next host of an endpoint tells how long its workload was without answers."""
        item = self._registry.by_uid(uid)
        resource = moves.with_blackout(item, blackout_us) if item is not None else None
        if item is not None and resource is not None:
            item.resource = resource
            self._progress.note(item)

    def _reached(self, droplet: str, connected: bool) -> None:
        """A droplet's daemon answers, or no more: places are given only to those that can be told of them."""
        self._functions.look()
        if not connected:
            self._members.leave(droplet)
            if droplet not in self._away:  # told again by each attempt to reach it
                loop = asyncio.get_running_loop()
                self._away[droplet] = loop.call_later(self._timing.away_s, self._stays_away, droplet)
            return
        if (waiting := self._away.pop(droplet, None)) is not None:
            waiting.cancel()
        self._gone.discard(droplet)
        try:
            self._keep((), (), self._members.come_back(droplet))
            self._settle_instances()
        except MizarError as error:  # the members were made anew: the next connection tries again
            log.error("places_not_kept droplet=%s reason=%s", droplet, error)

    def _stays_away(self, droplet: str) -> None:
        """A droplet has not answered for so long that others carry what it carried."""
        self._away.pop(droplet, None)
        try:  # instances of functions stay: they serve as long as their droplet forwards
            self._keep((), (), self._members.stay_away(droplet))
        except MizarError as error:  # the members were made anew
            log.error("places_not_moved droplet=%s reason=%s", droplet, error)

    def _died(self, droplet: str) -> None:
        """A droplet is dead, as its peers and the manager see it: others take its places, where there are others."""
        self._gone.add(droplet)
        try:
            self._keep((), (), self._members.evacuate(droplet))
            self._settle_instances()
        except MizarError as error:  # the members were made anew: the next report tries again
            log.error("places_not_kept droplet=%s reason=%s", droplet, error)

    def _fleeting(self) -> Fleeting:
        """Droplets where no instance of a function had better be, and those that may have none."""
        return Fleeting(self._fleet.unreachable(), frozenset(self._gone))

    def _settle_instances(self) -> None:
        """Droplets came or went: instances of functions are where they can be."""
        draft = Draft(self._registry, self._cursors)
        for item in list(self._registry.of_kind("HttpLoadBalancer")):
            if isinstance(item.resource, HttpLoadBalancer) and not item.deleting:
                settle(draft, self._registry, item.resource, wish_of(item.resource), self._fleeting())
        for item in list(self._registry.of_kind("VpnConnection")):
            if isinstance(one := item.resource, VpnConnection) and one.spec.network and not item.deleting:
                settle(draft, self._registry, one, vpns.wish_of(one, draft), self._fleeting())
        for item in list(self._registry.of_kind("NatGateway")):
            if isinstance(item.resource, NatGateway) and not item.deleting:
                pool = draft.find(Ref("AddressPool", "", item.resource.spec.pool))
                wish = nat_gateways.wish_of(item.resource, pool if isinstance(pool, AddressPool) else None)
                settle(draft, self._registry, item.resource, wish, self._fleeting())
        for item in list(self._registry.of_kind("LoadBalancer")):
            if isinstance(one := item.resource, LoadBalancer) and public_nat.is_nat(one) and not item.deleting:
                wish = public_nat.wish_of(one, public_nat.pool_of(draft, one))
                settle(draft, self._registry, one, wish, self._fleeting())
        if not draft.planned and not draft.dooms:
            return
        for endpoint in list(self._groups.regrouped(draft, {doom.ref for doom in draft.dooms})):
            draft.amend(endpoint)
        self._keep(*drafted(self._registry, self._members, draft))
        self._cursors.merge(draft.cursors)

    def _keep(
        self, created: Sequence[Item], changed: Sequence[State], moved: Moved, forced: Item | None = None
    ) -> None:
        """One change: kept whole by the store or not at all; after that the registry and the fleet follow.

        `moved` are groups that got other members because droplets came or went; `forced` is a droplet that nobody
        shall wait for any more.
        """
        revision = revise(self._registry, created, changed, moved, forced)
        self._commit(Commit(put=revision.records()))
        told, dooms = take(self._registry, self._fleet, revision)
        self._functions.follow([*told, *dooms])
        self._tell_other_halves([*told, *dooms])
        for item in (*told, *dooms):
            for network in affected(self._registry, revision.states(item)):
                self._progress.note(network)
        if forced is not None:
            self._fleet.give_up(forced.resource.name)
        counted = {uid for item in (*told, *dooms) for uid in self._groups.follow(item)}
        for group in (self._registry.by_uid(uid) for uid in counted):
            if group is not None:
                self.watchers.tell(group)

    def _tell_other_halves(self, items: Iterable[Item]) -> None:
        """Who waited for an object of these, or has lost it, is another one now."""
        for item in items:
            half = other_half(self._registry, item.resource) if isinstance(item.resource, VPCPeering) else None
            if half is not None:
                self._progress.note(half)

    def _commit(self, commit: Commit) -> None:
        try:
            if commit:
                self._store.commit(commit)
                self._durable.committed()
        except BaseException:
            items = [item for kind in KINDS for item in self._registry.of_kind(kind)]
            self._members = Members(items, self._fleet.unreachable())
            raise

    def _check_reachable(self, draft: Draft) -> None:
        for planned in draft.planned.values():
            spec = planned.resource.spec
            if isinstance(planned.resource, Droplet) and spec.has_daemon and not spec.daemon.startswith("unix:"):
                self._credentials()

    def _forget(self, item: Item) -> None:
        """An object is gone everywhere."""
        self._fleet.engines.forget(item.uid)
        self._fleet.vpns.forget(item.uid)
        self._fleet.protections.forget(item.uid)
        if isinstance(item.resource, Droplet):
            self._fleet.give_up(item.resource.name)
            self._gone.discard(item.resource.name)
            self._auditor.forget(item.resource.name)

    def _item(self, ref: Ref) -> Item:
        item = self._registry.find(ref)
        if item is None:
            raise NotFoundError(Problem("there is no such object", resource=str(ref)))
        return item

    def _stub(self, droplet: str) -> TransitAsyncStub:
        item = self._item(Ref("Droplet", "", droplet))
        link = self._fleet.link(droplet)
        if link is None:
            raise NotFoundError(Problem("it has no daemon that could be asked", resource=str(item.ref)))
        return link.stub()
