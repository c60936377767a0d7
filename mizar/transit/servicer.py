# SPDX-License-Identifier: Apache-2.0
"""The service Transit of contracts/transit.proto: requests in, values through, replies out.

Called by gRPC. Each method parses (requests), asks the room that owns the matter, and translates the answer or the
error. What a caller may do is decided by `access` before a request is looked at. It must never let a request touch
anything before all of it was checked.
"""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from mizar._built import transit_pb2 as pb
from mizar._built import transit_pb2_grpc
from mizar.model.errors import InvalidError, MizarError, NotFoundError
from mizar.transit import counters, function_contents, replies, requests
from mizar.transit.access import check_peer
from mizar.transit.attachments import Attachments, Outcome
from mizar.transit.audit import Audit
from mizar.transit.ddos import Ddos
from mizar.transit.errors import is_permanent, status_of
from mizar.transit.events import Hub
from mizar.transit.functions import Functions
from mizar.transit.ledger import Ledger, of_change
from mizar.transit.logs import event
from mizar.transit.tracing import Tracer
from mizar.transit.values import Change, Wanted
from mizar.transit.vpn_values import split
from mizar.transit.vpns import Vpns

Context = Any  # grpc.aio.ServicerContext: the generated stubs and grpc's own types disagree on its parameters
R = TypeVar("R")
_LARGE = 1 << 16
"""Bytes of a request from which on it is read beside the daemon's other work."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change while the daemon runs."""

    address: bytes
    second_address: bytes
    interface: str
    version: str
    instance: str
    xdp_mode: str
    tc_mode: str
    limits_mode: Callable[[], str] = lambda: ""
    limits_reason: Callable[[], str] = lambda: ""
    vpn_ports: str = ""
    process_limits: str = ""
    uplink_offloads: str = ""


def _answering(
    method: Callable[["Servicer", Any, Context], Awaitable[R]],
) -> Callable[["Servicer", Any, Context], Awaitable[R]]:
    """Turns errors into status codes; lets in only who may call."""

    @functools.wraps(method)
    async def wrapped(self: "Servicer", request: Any, context: Context) -> R:
        begun, code = time.monotonic(), ""
        try:
            check_peer(context.auth_context())
            return await method(self, request, context)
        except MizarError as error:
            code = status_of(error).name
            await _refuse(context, method.__name__, error)
        finally:
            self.observe(method.__name__, time.monotonic() - begun, code)

    return wrapped


async def _refuse(context: Context, name: str, error: MizarError) -> NoReturn:
    code = status_of(error)
    event(_log, logging.WARNING, "request_refused", call=name, code=code.name, error=error)
    await context.abort(code, str(error))
    raise AssertionError("abort raises")


class Servicer(transit_pb2_grpc.TransitServicer):
    """Answers for one droplet."""

    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        attachments: Attachments,
        hub: Hub,
        interface_mtu: Callable[[], int],
        droplets_changed: Callable[[], None],
        audit: Audit,
        tracer: Tracer,
        member_health: Callable[[], Sequence[pb.MemberHealth]] = tuple,
        engines: Callable[[], Sequence[pb.EngineReport]] = tuple,
        vpns: Vpns | None = None,
        functions: Functions | None = None,
        ddos: Ddos | None = None,
        read_log: Callable[[str, str, int], tuple[list[str], str]] | None = None,
        foretell: Callable[[pb.TraceEngineRequest], Awaitable[pb.TraceEngineReply]] | None = None,
    ) -> None:
        self._ddos = ddos
        self._functions = functions
        self._read_log = read_log
        self._foretell = foretell
        self._engines = engines
        self._audit = audit
        self._identity = identity
        self._ledger = ledger
        self._attachments = attachments
        self._hub = hub
        self._interface_mtu = interface_mtu
        self._generation = 0
        self._droplets_changed = droplets_changed
        self._tracer = tracer
        self._member_health = member_health
        self._vpns = vpns
        self.observe: Callable[[str, float, str], None] = lambda *_: None
        """Is told of each call: its name, its seconds, and the status with which it was refused, if it was."""

    @_answering
    async def GetInfo(self, _request: pb.GetInfoRequest, _context: Context) -> pb.Info:  # noqa: N802
        """Who and what this droplet is."""
        return pb.Info(
            address=self._identity.address,
            second_address=self._identity.second_address,
            interface=self._identity.interface,
            interface_mtu=self._interface_mtu(),
            version=self._identity.version,
            instance=self._identity.instance,
            xdp_mode=self._identity.xdp_mode,
            tc_mode=self._identity.tc_mode,
            limits_mode=self._identity.limits_mode(),
            limits_reason=self._identity.limits_reason(),
            process_limits=self._identity.process_limits,
            uplink_offloads=self._identity.uplink_offloads,
            vpn_ports=self._identity.vpn_ports,
            generation=self._generation,
        )

    @_answering
    async def Apply(self, request: pb.ApplyRequest, _context: Context) -> pb.ApplyReply:  # noqa: N802
        """The whole batch or nothing."""
        request, tunnels = split(request)
        if tunnels and self._vpns is not None:
            self._vpns.check(tunnels)
        large = request.ByteSize() > _LARGE
        changes = await asyncio.to_thread(_changes, request) if large else _changes(request)
        changed = await self._ledger.apply(changes)
        if tunnels and self._vpns is not None:
            changed += await self._vpns.apply(tunnels)
        self._generation = request.generation
        if changed:
            self._droplets_changed()
            event(_log, logging.INFO, "batch_applied", generation=request.generation, changed=changed)
        return pb.ApplyReply(generation=request.generation, changed=changed)

    @_answering
    async def Attach(self, request: pb.AttachRequest, _context: Context) -> pb.AttachReply:  # noqa: N802
        """Make endpoints; each for itself."""
        _limit(len(request.endpoints), requests.MAX_ATTACH, "endpoints")
        _unique([one.uid for one in request.endpoints])
        parsed = [_wanted(message) for message in request.endpoints]
        made = iter(await self._attachments.attach([one for one in parsed if isinstance(one, Wanted)]))
        outcomes = [next(made) if isinstance(one, Wanted) else one for one in parsed]
        return pb.AttachReply(results=[_result(outcome) for outcome in outcomes])

    @_answering
    async def Detach(self, request: pb.DetachRequest, _context: Context) -> pb.DetachReply:  # noqa: N802
        """End endpoints; each for itself."""
        _limit(len(request.uids), requests.MAX_ATTACH, "uids")
        _unique(request.uids)
        outcomes = await self._attachments.detach([requests.uid(uid) for uid in request.uids])
        return pb.DetachReply(results=[_result(outcome) for outcome in outcomes])

    async def GetState(  # noqa: N802
        self, _request: pb.GetStateRequest, context: Context
    ) -> AsyncIterator[pb.State]:
        """All that the tables hold, read from the kernel."""
        try:
            check_peer(context.auth_context())
            held = await self._ledger.snapshot()
            problems = await asyncio.to_thread(self._attachments.problems, held)
        except MizarError as error:
            await _refuse(context, "GetState", error)
        for chunk in replies.state(held, problems):
            yield chunk
        if found := self._member_health():
            yield pb.State(member_health=found)
        if reports := self._engines():
            yield pb.State(engines=reports)
        if self._functions is not None and self._functions.held:
            yield pb.State(functions=self._functions.told())
        if self._vpns is not None:
            tunnels, told = self._vpns.rows()
            yield pb.State(vpns=tunnels, vpn_status=told)
        if self._ddos is not None and (statuses := self._ddos.rows()):
            yield pb.State(ddos_status=statuses)

    async def ReadTables(  # noqa: N802
        self, request: pb.ReadTablesRequest, context: Context
    ) -> AsyncIterator[pb.TableRows]:
        """Entries of the maps as they are."""
        try:
            check_peer(context.auth_context())
            found = await asyncio.to_thread(self._tracer.read, request)
        except MizarError as error:
            await _refuse(context, "ReadTables", error)
        for message in found:
            yield message

    async def ListenTrace(  # noqa: N802
        self, request: pb.ListenTraceRequest, context: Context
    ) -> AsyncIterator[pb.TraceReport]:
        """What becomes of marked packets."""
        try:
            check_peer(context.auth_context())
            with self._tracer.listening(request.mark) as reports:
                await context.send_initial_metadata(())  # tells the caller that nothing is missed from here on
                while True:
                    yield await reports.get()
        except MizarError as error:
            await _refuse(context, "ListenTrace", error)

    @_answering
    async def SendTraced(self, request: pb.SendTracedRequest, _context: Context) -> pb.TraceReport:  # noqa: N802
        """One frame, as an endpoint would send it."""
        return await asyncio.to_thread(self._tracer.send, request)

    @_answering
    async def GetCounters(self, _request: pb.GetCountersRequest, _context: Context) -> pb.Counters:  # noqa: N802
        """Counters, summed over CPUs."""
        async with self._ledger.rest:
            return await asyncio.to_thread(counters.read, self._ledger.maps, self._ledger.state)

    @_answering
    async def ReadLog(self, request: pb.ReadLogRequest, _context: Context) -> pb.LogLines:  # noqa: N802
        """What a function has logged for its clients."""
        if self._read_log is None:
            raise NotFoundError("this daemon runs no functions that log")
        lines, after = await asyncio.to_thread(self._read_log, request.uid, request.after, request.most)
        clean = [line.encode(errors="replace").decode() for line in lines]
        return pb.LogLines(lines=clean, next=after)

    @_answering
    async def TraceEngine(  # noqa: N802
        self, request: pb.TraceEngineRequest, _context: Context
    ) -> pb.TraceEngineReply:
        """What a function would make of a frame."""
        if self._foretell is None:
            raise NotFoundError("this daemon runs no functions")
        return await self._foretell(request)

    @_answering
    async def SetFunctions(  # noqa: N802
        self, request: pb.SetFunctionsRequest, _context: Context
    ) -> pb.SetFunctionsReply:
        """All functions of this droplet, or nothing."""
        if self._functions is None:
            raise InvalidError("this daemon runs no network functions")
        return await self._ledger.whole(self._set_functions(self._functions, request))

    async def _set_functions(self, functions: Functions, request: pb.SetFunctionsRequest) -> pb.SetFunctionsReply:
        async with functions.lock:
            protections: list[pb.DdosProtection] = []
            missing: list[bytes] = []
            if self._ddos is not None:
                missing = self._ddos.missing(request.protections)
                protections = self._ddos.whole(request.protections) if not missing else []
            if missing:  # objects that are missing are told of as well, in the same answer
                return pb.SetFunctionsReply(missing=[*missing, *functions.missing(request)])
            change = await functions.aside(lambda: functions.prepare(request))
            if isinstance(change, pb.SetFunctionsReply):
                return change
            async with self._ledger.lock:
                await functions.aside(lambda: functions.put(change, self._ledger.state))
            reply = await functions.aside(lambda: functions.finish(change))
            if self._ddos is not None:
                reply.changed += await asyncio.to_thread(self._ddos.set, protections)
            return reply

    @_answering
    async def GetFunctions(self, _request: pb.GetFunctionsRequest, _context: Context) -> pb.Functions:  # noqa: N802
        """What is loaded, and what it has done."""
        if self._functions is None:
            return pb.Functions()
        return await self._functions.read()

    @_answering
    async def GetFunctionMaps(  # noqa: N802
        self, request: pb.GetFunctionMapsRequest, _context: Context
    ) -> pb.FunctionMaps:
        """The own maps of a function, and what one of them holds."""
        if self._functions is None:
            raise NotFoundError("this daemon runs no network functions")
        return await function_contents.read(self._functions, request)

    async def Audit(  # noqa: N802
        self, request: pb.AuditRequest, context: Context
    ) -> AsyncIterator[pb.AuditReply]:
        """What maps, interfaces and programs hold, compared with what this daemon was told."""
        try:
            check_peer(context.auth_context())
            report = await self._audit.run(repair=request.repair) if request.kernel else None
            told = await self._audit.told() if request.state else None
        except MizarError as error:
            await _refuse(context, "Audit", error)
        for reply in replies.audit(report) if report else ():
            yield reply
        for chunk in replies.state(told, {}) if told else ():
            yield pb.AuditReply(state=chunk)
        if told and self._vpns is not None:
            yield pb.AuditReply(state=pb.State(vpns=self._vpns.rows()[0]))

    async def WatchEvents(  # noqa: N802
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.Event]:
        """Events from now on."""
        try:
            check_peer(context.auth_context())
        except MizarError as error:
            await _refuse(context, "WatchEvents", error)
        with self._hub.subscribed(request.drops, request.traps, request.paths, request.verdicts) as subscription:
            await context.send_initial_metadata(())  # tells the caller that nothing is missed from here on
            while True:
                yield await subscription.next()


def _changes(request: pb.ApplyRequest) -> list[Change]:
    _limit(len(request.changes), requests.MAX_CHANGES, "changes")
    parsed = []
    for index, message in enumerate(request.changes):
        try:
            parsed.append(requests.change(message))
        except InvalidError as error:
            raise of_change(error, index, message.WhichOneof("change") or "no change") from error
    return parsed


def _wanted(message: pb.LocalEndpoint) -> Wanted | Outcome:
    try:
        return requests.wanted(message)
    except InvalidError as error:
        return Outcome(message.uid, error)


def _limit(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise InvalidError(f"the request has {count} {what}; send at most {limit} at once")


def _unique(uids: Sequence[str]) -> None:
    if len(set(uids)) != len(uids):
        raise InvalidError("the request names the same uid twice; send each once")


def _result(outcome: Outcome) -> pb.AttachResult:
    return pb.AttachResult(
        uid=outcome.uid,
        error=str(outcome.error) if outcome.error else "",
        permanent=bool(outcome.error and is_permanent(outcome.error)),
        host_interface=outcome.host_interface,
        elapsed_us=min(outcome.elapsed_us, 0xFFFFFFFF),
    )
