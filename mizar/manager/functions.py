# SPDX-License-Identifier: Apache-2.0
"""Functions on droplets: where each has to be, and the way to there and back.

Made and told by mizar.manager.manager. A droplet is told all of its functions at once (SetFunctions), whenever these,
or its connection, are not those that it acknowledged. One that it refuses costs no other: then they are tried singly,
and what was there before stays. It must never decide what a function is for: that is the manifest's `attach`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

import grpc
import grpc.aio

from mizar._built import transit_pb2 as pb
from mizar.manager.droplet_link import Link
from mizar.manager.protection_messages import Protections, function_of
from mizar.manager.protection_trace import ProtectionTrace
from mizar.manager.protections import FUNCTION
from mizar.manager.registry import Item, Registry, Trouble
from mizar.model.ddos import DdosProtection
from mizar.model.errors import InvalidError, MizarError
from mizar.model.function import Attachment, Function
from mizar.model.function_object import STAGES
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref

log = logging.getLogger(__name__)

MOST_LISTS = 16 << 20
"""Bytes of protections' lists in one message, if it has those of more than one: a daemon takes 64 MiB."""
_CALL_S = 60.0
_AGAIN_S = 1.0
_GATHER_S = 0.01
"""Changes that come one after the other are told together."""
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT: True,
    grpc.StatusCode.FAILED_PRECONDITION: False,
    grpc.StatusCode.ALREADY_EXISTS: False,
    grpc.StatusCode.RESOURCE_EXHAUSTED: False,
}
"""As in mizar.manager.delivery: codes that judge the request, and whether repeating it is pointless."""


class Places(Protocol):
    """Which droplets have something of an object: mizar.planner.topology.Topology."""

    def vpc_holders(self, vni: int) -> set[str]:
        """Those that know a VPC."""
        ...

    def network_holders(self, vni: int, network_id: int) -> set[str]:
        """Those that know a network."""
        ...


@dataclass(slots=True)
class _Held:
    """What a droplet acknowledged last: within which connection, what in all, and which functions."""

    session: tuple[int, str]
    wanted: bytes
    names: frozenset[str]


@dataclass(slots=True)
class _Plan:
    """What a droplet shall have: messages without objects, and the objects by digest."""

    messages: dict[str, pb.Function] = field(default_factory=dict)
    objects: dict[bytes, bytes] = field(default_factory=dict)
    protections: dict[str, pb.DdosProtection] = field(default_factory=dict)

    @property
    def digest(self) -> bytes:
        parts = [*self.messages.values(), *self.protections.values()]
        return sha256(b"".join(one.SerializeToString(deterministic=True) for one in parts)).digest()

    @property
    def names(self) -> set[str]:
        """Of all that it brings: functions by their names, protections by TENANT/NAME."""
        return {*self.messages, *self.protections}


class Functions:
    """All functions, and what droplets have of them."""

    def __init__(
        self,
        registry: Registry,
        places: Places,
        links: Callable[[], Iterable[str]],
        link: Callable[[str], Link | None],
        note: Callable[[Item], None],
        protections: Protections,
        kept: Callable[[], Awaitable[None]],
    ) -> None:
        self._protections, self._kept = protections, kept
        self._trace = ProtectionTrace(registry, protections.said)
        self._registry, self._places = registry, places
        self._links, self._link, self._note = links, link, note
        self._held: dict[str, _Held] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._used = False

    def start(self) -> None:
        """Begins to work."""
        found = list(self._mine())
        self._used = bool(found)
        self.follow(found)
        self._worker = asyncio.create_task(self._run(), name="functions")

    async def stop(self) -> None:
        """Ends all work; droplets keep what they have."""
        tasks = [task for task in (self._worker, *self._busy.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- what happens elsewhere

    def follow(self, items: Iterable[Item]) -> None:
        """These objects changed. Functions among them wait for their droplets from now on."""
        found = [item for item in items if isinstance(item.resource, Function | DdosProtection)]
        if found:
            self._used = True
            plans = self._plans()
            for item in found:
                self._expect(item, plans)
        self.look()

    def look(self) -> None:
        """Something changed on which it may depend where functions have to be."""
        if self._used:
            self._wake.set()

    def _mine(self) -> Iterator[Item]:
        """What droplets are told by it."""
        yield from self._registry.of_kind("Function")
        yield from self._registry.of_kind("DdosProtection")

    def retry(self, item: Item) -> None:
        """Tries once more what droplets have refused."""
        for name in item.troubles:
            self._held.pop(name, None)
        self.look()

    def told(self, item: Item) -> dict[str, Any]:
        """What a function's status says of droplets."""
        function = item.resource
        assert isinstance(function, Function)
        code = function.spec.object
        return {
            "digest": code.digest if code else "",
            "stages": list(function.spec.stages or (function.spec.made_for if code and code.data else ())),
            "droplets": self._droplets(item),
            "refused": _refused(item),
        }

    def protection_told(self, item: Item) -> dict[str, Any]:
        """What a protection's status says."""
        return self._protections.view(self._registry, item, self._droplets(item), _refused(item))

    def _droplets(self, item: Item) -> list[str]:
        """Where a function or a protection is."""
        name = _key(item)
        return sorted(at for at, held in self._held.items() if name in held.names and at not in item.troubles)

    def seeing(self, droplet: str, stage: str, vpc: VPC, ends: frozenset[Ref]) -> list[str]:
        """Names of the functions that at a droplet and a stage see packets of a VPC from or to these endpoints, in
        their order."""
        held, found = self._held.get(droplet), []
        for item in self._registry.of_kind("Function") if held else ():
            function = item.resource
            assert isinstance(function, Function)
            assert held is not None
            there = function.name in held.names and stage in (function.spec.stages or function.spec.made_for)
            if there and any(self._means(one, droplet, vpc, ends) for one in function.spec.attach):
                found.append((function.spec.order, function.name))
        return [name for _, name in sorted(found)]

    def judged(self, droplet: str, vpc: VPC, frame: bytes, uid: str = "") -> list[str]:
        """What the protection of the endpoint that an inner frame is for makes of it, before delivery on a droplet.
        `uid`: of the member, where the frame is addressed to a service."""
        held = self._held.get(droplet)
        return self._trace.told(droplet, vpc, frame, uid) if held is not None and FUNCTION in held.names else []

    def _means(self, attached: Attachment, droplet: str, vpc: VPC, ends: frozenset[Ref]) -> bool:
        if attached.droplet is not None:
            return attached.droplet in ("all", droplet)
        if attached.vpc is not None or attached.endpoint is not None:
            return attached.ref in {vpc.ref, *ends}
        items = [item.resource for ref in ends if (item := self._registry.find(ref)) is not None]
        endpoints = [one for one in items if isinstance(one, Endpoint)]
        if attached.network is not None:
            return any(Ref("Network", one.tenant, one.spec.network) == attached.ref for one in endpoints)
        return any(one.tenant == attached.ref.tenant and attached.ref.name in one.status.groups for one in endpoints)

    # ---- where each has to be

    def droplets_of(self, function: Function) -> set[str]:
        """Names of the droplets where its scopes have something."""
        return {name for one in function.spec.attach for name in self._of(one)}

    def _of(self, attached: Attachment) -> set[str]:
        if attached.droplet == "all":
            return set(self._links())
        item = self._registry.find(attached.ref)
        match item.resource if item is not None and not item.deleting else None:
            case Droplet() as droplet:
                return {droplet.name} & set(self._links())
            case VPC() as vpc:
                return self._places.vpc_holders(vpc.number or 0)
            case Network() as network:
                above = self._vpc(network)
                if above is None or bool(attached.group) != network.is_group:
                    return set()
                if network.is_group:  # whose packets any droplet of the VPC may see
                    return self._places.vpc_holders(above.number or 0)
                return self._places.network_holders(above.number or 0, network.status.id or 0)
            case Endpoint() as endpoint:
                move = endpoint.status.move
                hosts = {endpoint.spec.droplet, endpoint.status.host}
                hosts |= {move.source, move.target} if move is not None and move.under_way else set()
                return {name for name in hosts if name} & set(self._links())
        return set()

    def _vpc(self, network: Network) -> VPC | None:
        item = self._registry.find(Ref("VPC", network.tenant, network.spec.vpc))
        return item.resource if item is not None and isinstance(item.resource, VPC) else None

    def _scope(self, attached: Attachment) -> pb.FunctionScope | None:
        found = self._whom(attached)
        if found is not None and attached.value is not None:
            found.value = attached.value
        return found

    def _whom(self, attached: Attachment) -> pb.FunctionScope | None:
        if attached.droplet is not None:
            return pb.FunctionScope(droplet=True)
        item = self._registry.find(attached.ref)
        match item.resource if item is not None and not item.deleting else None:
            case VPC() as vpc:
                return pb.FunctionScope(vni=vpc.number or 0)
            case Network() as network if bool(attached.group) == network.is_group:
                above = self._vpc(network)
                key = pb.NetworkKey(vni=above.number or 0 if above else 0, id=network.status.id or 0)
                return pb.FunctionScope(group=key) if network.is_group else pb.FunctionScope(network=key)
            case Endpoint() as endpoint:
                return pb.FunctionScope(uid=endpoint.metadata.uid or "")
        return None

    def _plans(self) -> dict[str, _Plan]:
        plans: dict[str, _Plan] = {}
        for item in sorted(self._registry.of_kind("Function"), key=lambda one: one.ref):
            function = item.resource
            if item.deleting or not isinstance(function, Function):
                continue
            scopes = {name: self._scopes_at(function, name) for name in self.droplets_of(function)}
            message, code = _message(function) if scopes else (None, b"")
            for name, found in scopes.items():
                assert message is not None
                plan = plans.setdefault(name, _Plan())
                own = plan.messages[function.name] = pb.Function()
                own.CopyFrom(message)
                own.scopes.extend(found)
                plan.objects[message.digest] = code
        for droplet, protections, found in self._protections.wanted(self._registry, self._of, self._scope):
            plan = plans.setdefault(droplet, _Plan())
            plan.protections = protections
            message, code = function_of(protections.values(), found)
            plan.messages[message.name], plan.objects[message.digest] = message, code
        return plans

    def _scopes_at(self, function: Function, droplet: str) -> list[pb.FunctionScope]:
        found = []
        for one in function.spec.attach:
            scope = self._scope(one) if one.droplet in (None, "all", droplet) else None
            if scope is not None and scope not in found:
                found.append(scope)
        return sorted(found, key=lambda scope: scope.SerializeToString(deterministic=True))

    # ---- the way to droplets

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            self._wake.clear()
            plans, linked = self._plans(), set(self._links())
            self._held = {name: held for name, held in self._held.items() if name in linked}
            for item in self._mine():
                self._expect(item, plans)
            for name in sorted(linked):
                link, plan = self._link(name), plans.get(name, _Plan())
                if link is None or not link.settled or name in self._busy or self._has(name, link, plan):
                    continue
                task = asyncio.create_task(self._bring(name, link, plan), name=f"functions of {name}")
                self._busy[name] = task
                task.add_done_callback(partial(self._free, name))

    def _free(self, name: str, _: asyncio.Task[None]) -> None:
        self._busy.pop(name, None)

    def _has(self, name: str, link: Link, plan: _Plan) -> bool:
        held = self._held.get(name)
        return held is not None and held.session == _session(link) and held.wanted == plan.digest

    def _expect(self, item: Item, plans: Mapping[str, _Plan]) -> None:
        """It waits for those that shall have it in this shape, or shall have it no more."""
        name, waiting = _key(item), set()
        for droplet in self._links():
            held, plan = self._held.get(droplet), plans.get(droplet, _Plan())
            wanted = name in plan.names
            stale = held is None or held.wanted != plan.digest
            older = item.deleting and droplet in item.troubles  # what it has refused may have replaced what runs
            lingers = item.deleting if held is None else name in held.names or older
            if stale if wanted else lingers:
                waiting.add(droplet)
        if waiting != item.waiting:
            item.waiting.clear()
            item.waiting |= waiting
            self._note(item)

    async def _bring(self, name: str, link: Link, plan: _Plan) -> None:
        session = _session(link)
        try:
            await self._kept()  # no droplet learns of what a power cut could take back
            troubles = await self._set(link, plan)
        except (grpc.aio.AioRpcError, MizarError) as error:
            text = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            log.warning("functions_not_told droplet=%s reason=%s", name, text)
            asyncio.get_running_loop().call_later(_AGAIN_S, self.look)
            return
        before = self._held.get(name)
        if FUNCTION in troubles:
            troubles |= dict.fromkeys(plan.protections, troubles.pop(FUNCTION))
        loaded = frozenset(plan.names) - troubles.keys()
        self._held[name] = _Held(session, plan.digest, loaded)
        touched = {*plan.names, *(before.names if before else ())}
        for item in list(self._mine()):
            trouble, had = troubles.get(_key(item)), name in item.troubles
            if trouble is not None:
                item.troubles[name] = trouble
                self._registry.troubled[item.uid] = item
            elif item.troubles.pop(name, None) and not item.troubles:
                self._registry.troubled.pop(item.uid, None)
            if _key(item) in touched or name in item.waiting or trouble is not None or had:
                item.waiting.discard(name)
                self._note(item)
        if any(not trouble.permanent for trouble in troubles.values()):
            asyncio.get_running_loop().call_later(_AGAIN_S, self._again, name)
        self.look()

    def _again(self, name: str) -> None:
        self._held.pop(name, None)
        self.look()

    async def _set(self, link: Link, plan: _Plan) -> dict[str, Trouble]:
        """Tells a droplet its functions; which of them it does not take, and why."""
        try:
            return _lost(await self._tell(link, plan.messages.values(), plan))
        except grpc.aio.AioRpcError as error:
            if error.code() not in _REFUSALS or not plan.messages:
                raise
        there = await link.stub().GetFunctions(pb.GetFunctionsRequest(), timeout=_CALL_S)
        good = {one.function.name: one.function for one in there.functions if one.function.name in plan.messages}
        troubles: dict[str, Trouble] = {}
        for name, message in plan.messages.items():
            tried = {**good, name: message}
            try:
                lost = _lost(await self._tell(link, tried.values(), plan))
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REFUSALS:
                    raise
                troubles[name] = Trouble(_REFUSALS[error.code()], error.details() or error.code().name)
                log.warning("function_refused droplet=%s function=%s", link.name, name)
            else:
                good = tried
                troubles |= lost
        return troubles

    async def _tell(self, link: Link, functions: Iterable[pb.Function], plan: _Plan) -> pb.SetFunctionsReply:
        """Objects and lists are sent to a droplet that lacks them, and to no other."""
        request = pb.SetFunctionsRequest(functions=list(functions))
        if any(one.name == FUNCTION for one in request.functions):
            request.protections.extend(plan.protections.values())
        reply = await link.stub().SetFunctions(request, timeout=_CALL_S)
        if not reply.missing:
            return reply
        for function in request.functions:
            if function.digest in reply.missing and function.digest in plan.objects:
                function.object = plan.objects[function.digest]
        lacking, whole = set(reply.missing), list(request.protections)
        while True:
            given = self._protections.give_lists(whole, lacking, MOST_LISTS)
            # What does not fit waits for the next message; the droplet has what it was given before.
            del request.protections[:]
            request.protections.extend(one for one in whole if not lacking & {one.block_digest, one.allow_digest})
            request.protections.extend(given)
            reply = await link.stub().SetFunctions(request, timeout=_CALL_S)
            if reply.missing:
                raise MizarError(f"droplet {link.name} asks for objects that it was given")
            lacking -= {digest for one in given for digest in (one.block_digest, one.allow_digest)}
            if len(request.protections) == len(whole):
                return reply


def _lost(reply: pb.SetFunctionsReply) -> dict[str, Trouble]:
    """What was loaded there once, and cannot be any more."""
    return {name: Trouble(True, why) for name, why in reply.lost.items()}


def _message(function: Function) -> tuple[pb.Function, bytes]:
    """What droplets are told, and the object. One of another version of the platform goes as it is: they say so."""
    try:
        code, maps = function.spec.code, function.spec.entries
    except InvalidError:
        assert function.spec.object is not None
        code, maps = function.spec.object.data or b"", {}
    message = pb.Function(
        name=function.name,
        digest=sha256(code).digest(),
        order=function.spec.order,
        stages=[STAGES.index(stage) for stage in function.spec.stages],
        fail_open=function.spec.on_failure == "open",
    )
    for name, entries in sorted(maps.items()):
        rows = [pb.FunctionEntry(key=key, value=value) for key, value in entries]
        message.maps.append(pb.FunctionMap(name=name, entries=rows))
    return message, code


def _key(item: Item) -> str:
    """How plans and droplets' memories call it: no function has a slash in its name."""
    resource = item.resource
    return f"{resource.tenant}/{resource.name}" if resource.tenant else resource.name


def _refused(item: Item) -> list[dict[str, str]]:
    return [{"droplet": at, "reason": why.message} for at, why in sorted(item.troubles.items())]


def _session(link: Link) -> tuple[int, str]:
    return link.epoch, link.info.instance if link.info else ""


def unknown(registry: Registry, function: Function) -> Sequence[str]:
    """What its author should know: scopes that mean nothing, yet."""
    said = []
    for one in function.spec.attach:
        item = registry.find(one.ref) if one.droplet != "all" else None
        if item is None and one.droplet != "all":
            said.append(f"there is no {one.ref} (yet); the function is for nobody there")
        elif item is not None and isinstance(item.resource, Network) and item.resource.is_group != bool(one.group):
            other = "group" if item.resource.is_group else "network"
            said.append(f"{one.ref} is a {other}: attach to it as `{other}`; the function is for nobody there")
    return said
