# SPDX-License-Identifier: Apache-2.0
"""A daemon without a kernel: the tables of contracts/transit.proto in memory, behind real gRPC on a unix socket, or on
loopback with mutual TLS.

It is as strict as the contract about order and references, so that a manager that programs it in the wrong order fails.
Its tables outlive `stop`, as pinned maps outlive a daemon.
"""

# ruff: noqa: N802 - the calls have the names of contracts/transit.proto
from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from mizar._built import transit_pb2 as pb
from mizar._built.transit_pb2_grpc import TransitServicer, add_TransitServicer_to_server
from mizar.model.policy_rows import digest


class Tables:
    """What one droplet holds, by key."""

    def __init__(self) -> None:
        self.droplets: dict[bytes, pb.Droplet] = {}
        self.vpcs: dict[int, pb.Vpc] = {}
        self.networks: dict[tuple[int, int], pb.Network] = {}
        self.peerings: dict[tuple[int, int], pb.Peering] = {}
        self.endpoints: dict[tuple[int, tuple[bytes, ...]], pb.Endpoint] = {}
        self.locals: dict[str, pb.LocalEndpoint] = {}
        self.group_sets: dict[tuple[int, int], pb.GroupSet] = {}
        self.policy_sets: dict[tuple[int, int], pb.PolicySet] = {}
        self.network_acls: dict[tuple[int, int], pb.NetworkAcl] = {}
        self.proxies: dict[tuple[int, tuple[bytes, ...]], pb.Proxy] = {}
        self.services: dict[tuple[int, tuple[bytes, ...]], pb.Service] = {}
        self.vpns: dict[str, pb.Vpn] = {}

    def copy(self) -> Tables:
        other = Tables()
        for name, table in vars(self).items():
            setattr(other, name, dict(table))
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tables) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def empty(self) -> bool:
        return not any(vars(self).values())

    def apply(self, change: pb.Change) -> None:
        """Raises LookupError for what the contract refuses."""
        match change.WhichOneof("change"):
            case "put_droplet":
                self.droplets[change.put_droplet.address] = change.put_droplet
            case "delete_droplet":
                self._refuse(self._uses(change.delete_droplet), "a table refers to the droplet")
                self.droplets.pop(change.delete_droplet, None)
            case "put_vpc":
                self._known(change.put_vpc.dividers)
                self.vpcs[change.put_vpc.vni] = change.put_vpc
            case "delete_vpc":
                self._refuse(any(vni == change.delete_vpc for vni, _ in self.networks), "the VPC has networks")
                used = any(vni == change.delete_vpc for vni, _ in self.group_sets)
                self._refuse(used, "the VPC has sets of groups")
                ruled = any(vni == change.delete_vpc for vni, _ in self.policy_sets)
                self._refuse(ruled, "the VPC has sets of rules")
                self._refuse(any(change.delete_vpc in key for key in self.peerings), "the VPC has peerings")
                self.vpcs.pop(change.delete_vpc, None)
            case "put_group_set":
                found = change.put_group_set
                self._refuse(found.vni not in self.vpcs, "unknown VPC")
                self.group_sets[found.vni, found.number] = found
            case "delete_group_set":
                self.group_sets.pop((change.delete_group_set.vni, change.delete_group_set.number), None)
            case "put_policy_set":
                rules = change.put_policy_set
                self._refuse(rules.vni not in self.vpcs, "unknown VPC")
                self.policy_sets[rules.vni, rules.id] = rules
            case "delete_policy_set":
                key = (change.delete_policy_set.vni, change.delete_policy_set.id)
                used = any(key in _bound(local) for local in self.locals.values())
                self._refuse(used, "an endpoint is bound to the set of rules")
                ruled = any(vni == key[0] and key[1] in _acl_sets(a) for (vni, _), a in self.network_acls.items())
                self._refuse(ruled, "a network is bound to the set of rules")
                self.policy_sets.pop(key, None)
            case "put_network_acl":
                acl = change.put_network_acl
                known = all((acl.vni, one) in self.policy_sets for one in _acl_sets(acl))
                self._refuse(acl.vni not in self.vpcs or not known, "unknown VPC or set of rules")
                self.network_acls[acl.vni, acl.network_id] = acl
            case "delete_network_acl":
                self.network_acls.pop((change.delete_network_acl.vni, change.delete_network_acl.id), None)
            case "put_network":
                network = change.put_network
                self._known(network.bouncers)
                self._refuse(network.vni not in self.vpcs, "unknown VPC")
                self.networks[network.vni, network.id] = network
            case "delete_network":
                key = (change.delete_network.vni, change.delete_network.id)
                used = any((e.vni, e.network_id) == key for e in self._all_endpoints())
                self._refuse(used, "the network has endpoints")
                self.networks.pop(key, None)
            case "put_endpoint":
                self._endpoint(change.put_endpoint)
                self._end_proxies(change.put_endpoint)
                self.endpoints[_key(change.put_endpoint)] = change.put_endpoint
                for uid, local in list(self.locals.items()):
                    if _key(local.endpoint) == _key(change.put_endpoint) and not local.standby:
                        self._refuse(local.endpoint.mac != change.put_endpoint.mac, "a local endpoint has the address")
                        self.locals[uid] = pb.LocalEndpoint()
                        self.locals[uid].CopyFrom(local)
                        self.locals[uid].standby = True
            case "delete_endpoint":
                gone = change.delete_endpoint
                name = (gone.vni, tuple(sorted(gone.addresses)))
                held = any(_key(local.endpoint) == name and not local.standby for local in self.locals.values())
                self._refuse(held, "the endpoint is local")
                self.endpoints.pop(name, None)
            case "put_proxy":
                proxy = change.put_proxy
                for side in (proxy.client, proxy.source):
                    self._endpoint(side)
                    self._end_proxies(side)
                    self.endpoints.pop(_key(side), None)
                self.proxies[_key(proxy.client)] = proxy
            case "delete_proxy":
                ended = change.delete_proxy
                self.proxies.pop((ended.vni, tuple(sorted(ended.addresses))), None)
            case "put_service":
                self._put_service(change.put_service)
            case "put_vpn":
                self.vpns[change.put_vpn.uid] = change.put_vpn
            case "delete_vpn":
                self.vpns.pop(change.delete_vpn, None)
            case "delete_service":
                over = change.delete_service
                self.services.pop((over.vni, tuple(sorted(over.addresses))), None)
            case "put_peering":
                peering = change.put_peering
                self._refuse(not {peering.vni, peering.peer} <= set(self.vpcs), "unknown VPC")
                self.peerings[peering.vni, peering.peer] = peering
            case "delete_peering":
                self.peerings.pop((change.delete_peering.vni, change.delete_peering.peer), None)
            case _:
                raise LookupError("an empty change")

    def _put_service(self, asked: pb.Service) -> None:
        """Of a member whose state is not told, what is held stays."""
        service = pb.Service()
        service.CopyFrom(asked)
        self._refuse(service.vni not in self.vpcs, "unknown VPC")
        self._known(member.host for member in service.members)
        key = (service.vni, tuple(sorted(service.addresses)))
        held = {one.mac: one.state for one in self.services[key].members} if key in self.services else {}
        for member in service.members:
            member.state = member.state or held.get(member.mac, pb.Member.UNKNOWN)
        self.services[key] = service

    def _end_proxies(self, endpoint: pb.Endpoint) -> None:
        mine = {(endpoint.vni, address) for address in endpoint.addresses}
        for key, proxy in list(self.proxies.items()):
            if any((side.vni, one) in mine for side in (proxy.client, proxy.source) for one in side.addresses):
                del self.proxies[key]

    def attach(self, local: pb.LocalEndpoint) -> None:
        self._endpoint(local.endpoint)
        self._refuse(any(key not in self.policy_sets for key in _bound(local)), "unknown set of rules")
        self.locals[local.uid] = local
        if not local.standby:
            self.endpoints.pop(_key(local.endpoint), None)

    def _endpoint(self, endpoint: pb.Endpoint) -> None:
        self._known([endpoint.host])
        self._refuse((endpoint.vni, endpoint.network_id) not in self.networks, "unknown network")

    def _known(self, addresses: Any) -> None:
        self._refuse(any(address not in self.droplets for address in addresses), "unknown droplet")

    def _all_endpoints(self) -> list[pb.Endpoint]:
        sides = (side for proxy in self.proxies.values() for side in (proxy.client, proxy.source))
        return [*self.endpoints.values(), *(local.endpoint for local in self.locals.values()), *sides]

    def _uses(self, address: bytes) -> bool:
        members = [*(v.dividers for v in self.vpcs.values()), *(n.bouncers for n in self.networks.values())]
        hosts = {one.host for service in self.services.values() for one in service.members}
        return (
            address in hosts
            or any(address in group for group in members)
            or any(e.host == address for e in self._all_endpoints())
        )

    def _refuse(self, wrong: bool, why: str) -> None:
        if wrong:
            raise LookupError(why)


def _acl_sets(acl: pb.NetworkAcl) -> set[int]:
    return {acl.ingress, acl.ingress_later, acl.egress, acl.egress_later} - {0}


def _bound(local: pb.LocalEndpoint) -> set[tuple[int, int]]:
    """The sets of rules that a local endpoint is judged by."""
    bound = local.policy
    numbers = (bound.ingress, bound.egress, bound.beside_ingress, bound.beside_egress)
    return {(local.endpoint.vni, number) for number in numbers if number}


class FakeDaemon(TransitServicer):
    """One daemon. `refuse_attach` gives, per local endpoint, (error, permanent) or None; `calls` is what was called."""

    def __init__(self, socket: Path, address: str, credentials: grpc.ServerCredentials | None = None) -> None:
        self.socket = socket
        self.port = 0
        self._credentials = credentials
        self.address = address
        self.mtu = 1500
        self.tables = Tables()
        self.refuse_attach: Callable[[pb.LocalEndpoint], tuple[str, bool] | None] = lambda _: None
        self.refuse_change: Callable[[pb.Change], str | None] = lambda _: None
        self.problems: dict[str, str] = {}
        self.down: set[bytes] = set()
        self.checked: dict[tuple[bytes, bytes], pb.MemberHealth] = {}
        self.faults: list[pb.Finding] = []
        self.calls: list[str] = []
        self.rows: list[pb.TableRows] = []
        """What ReadTables tells."""
        self.paused = asyncio.Event()  # set: changes go through
        self.paused.set()
        self.generation = 0
        self.asked: list[pb.WatchEventsRequest] = []
        self.functions: dict[str, pb.Function] = {}
        self.objects: dict[bytes, bytes] = {}
        self.lost: dict[str, str] = {}  # functions that it cannot load any more, and why
        """Of functions, by their digests."""
        self.unwanted: Callable[[pb.Function], bool] = lambda _: False
        """Which functions it refuses, as if its kernel did."""
        self._instance = ""
        self._server: grpc.aio.Server | None = None
        self._events: set[asyncio.Queue[pb.Event]] = set()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}" if self._credentials else f"unix://{self.socket}"

    async def start(self) -> None:
        self._instance = str(uuid.uuid4())
        self._server = grpc.aio.server()
        add_TransitServicer_to_server(self, self._server)
        if self._credentials is None:
            self._server.add_insecure_port(self.target)
        else:
            self.port = self._server.add_secure_port(self.target, self._credentials)
        await self._server.start()

    async def stop(self) -> None:
        """As if it were killed: no farewell, and the tables stay."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None
            self.socket.unlink(missing_ok=True)

    def say(self, event: pb.Event) -> None:
        """To everybody who watches."""
        for queue in self._events:
            queue.put_nowait(event)

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._events)

    def say_moved(self, uid: str, blackout_us: int) -> None:
        """The former interface of an endpoint is gone."""
        change = pb.EndpointChanged(uid=uid, state="moved", blackout_us=blackout_us)
        for queue in self._events:
            queue.put_nowait(pb.Event(endpoint_changed=change))

    def lose(self, uid: str, detail: str) -> None:
        """The endpoint's namespace vanishes."""
        del self.tables.locals[uid]
        change = pb.EndpointChanged(uid=uid, state="lost", detail=detail)
        for queue in self._events:
            queue.put_nowait(pb.Event(endpoint_changed=change))

    def call_down(self, address: str, *, down: bool = True) -> None:
        """Another droplet answers its probes no more, or again."""
        packed = ip_address(address).packed
        (self.down.add if down else self.down.discard)(packed)
        for queue in self._events:
            queue.put_nowait(pb.Event(droplet_changed=pb.DropletChanged(address=packed, down=down)))

    def say_checked(self, found: pb.MemberHealth) -> None:
        """The check of a member came to something."""
        self.checked[found.service, found.mac] = found
        for queue in self._events:
            queue.put_nowait(pb.Event(member_health=found))

    async def GetInfo(self, request: pb.GetInfoRequest, context: Any) -> pb.Info:
        return pb.Info(
            address=ip_address(self.address).packed,
            interface="eth0",
            interface_mtu=self.mtu,
            version="fake",
            instance=self._instance,
            xdp_mode="driver",
            tc_mode="tcx",
            generation=self.generation,
        )

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> pb.ApplyReply:
        self.calls.append("Apply")
        await self.paused.wait()
        after = self.tables.copy()
        for number, change in enumerate(request.changes):
            if (why := self.refuse_change(change)) is not None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"change {number}: {why}")
            try:
                after.apply(change)
            except LookupError as error:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"change {number}: {error}")
        self.tables = after
        self.generation = request.generation
        return pb.ApplyReply(generation=request.generation, changed=len(request.changes))

    async def Attach(self, request: pb.AttachRequest, context: Any) -> pb.AttachReply:
        self.calls.append("Attach")
        await self.paused.wait()
        reply = pb.AttachReply()
        for local in request.endpoints:
            result = reply.results.add(uid=local.uid)
            refusal = self.refuse_attach(local)
            if refusal is not None:
                result.error, result.permanent = refusal
                continue
            try:
                self.tables.attach(local)
            except LookupError as error:
                result.error = str(error)
            result.host_interface = f"mz{local.uid[:8]}"
        return reply

    async def Detach(self, request: pb.DetachRequest, context: Any) -> pb.DetachReply:
        self.calls.append("Detach")
        await self.paused.wait()
        for uid in request.uids:
            self.tables.locals.pop(uid, None)
        return pb.DetachReply(results=[pb.AttachResult(uid=uid) for uid in request.uids])

    async def GetState(self, request: pb.GetStateRequest, context: Any) -> AsyncIterator[pb.State]:
        self.calls.append("GetState")
        tables = self.tables
        known = [pb.Droplet() for _ in tables.droplets]
        for told, droplet in zip(known, tables.droplets.values(), strict=True):
            told.CopyFrom(droplet)
            told.down = droplet.address in self.down
        yield pb.State(droplets=known, vpcs=tables.vpcs.values(), networks=tables.networks.values())
        yield pb.State(peerings=tables.peerings.values())
        yield pb.State(
            group_sets=tables.group_sets.values(),
            policy_sets=[
                pb.PolicySet(vni=one.vni, id=one.id, digest=digest(one.peers, one.groups, one.verdicts))
                for one in tables.policy_sets.values()
            ],
            network_acls=tables.network_acls.values(),
            endpoints=tables.endpoints.values(),
            proxies=tables.proxies.values(),
            services=tables.services.values(),
            vpns=[pb.Vpn(uid=one.uid, revision=one.revision, endpoint=one.endpoint) for one in tables.vpns.values()],
            functions=self.functions.values(),
            member_health=self.checked.values(),
            local_endpoints=[
                pb.LocalEndpointState(local=local, host_interface=f"mz{uid[:8]}", problem=self.problems.get(uid, ""))
                for uid, local in tables.locals.items()
            ],
        )

    async def Audit(self, request: pb.AuditRequest, context: Any) -> AsyncIterator[pb.AuditReply]:
        """The kernel of a fake has no faults but those that a test puts into `faults`."""
        found = list(self.faults) if request.kernel else []
        if request.repair:
            self.faults.clear()
            for one in found:
                one.repair = "written again"
        yield pb.AuditReply(findings=found, looked_at=1)
        if request.state:
            async for chunk in self.GetState(pb.GetStateRequest(), context):
                yield pb.AuditReply(state=chunk)

    async def ListenTrace(self, request: pb.ListenTraceRequest, context: Any) -> AsyncIterator[pb.TraceReport]:
        """A fake sees no packets."""
        await asyncio.Event().wait()
        yield pb.TraceReport()

    async def SendTraced(self, request: pb.SendTracedRequest, context: Any) -> pb.TraceReport:
        """Nobody hears of it again."""
        return pb.TraceReport(program="agent", did=pb.TraceReport.TRAPPED)

    async def ReadTables(self, request: pb.ReadTablesRequest, context: Any) -> AsyncIterator[pb.TableRows]:
        for message in self.rows:
            yield message

    async def GetCounters(self, request: pb.GetCountersRequest, context: Any) -> pb.Counters:
        return pb.Counters(
            vpcs=[pb.VpcCounters(vni=vni, sent_packets=1) for vni in self.tables.vpcs],
            endpoints=[pb.EndpointCounters(uid=uid, sent_packets=1) for uid in self.tables.locals],
            drops=[pb.DropCounter(reason=62, name="SPOOFED_ADDRESS", packets=2, bytes=120)],
        )

    async def ReadLog(self, request: pb.ReadLogRequest, context: Any) -> pb.LogLines:
        return pb.LogLines(lines=[f"{request.uid} {request.after} {request.most}"], next="1-2:3")

    async def TraceEngine(self, request: pb.TraceEngineRequest, context: Any) -> pb.TraceEngineReply:
        """A fake runs none."""
        await context.abort(grpc.StatusCode.NOT_FOUND, f"no function of endpoint {request.uid}")
        raise AssertionError("abort raises")

    async def SetFunctions(self, request: pb.SetFunctionsRequest, context: Any) -> pb.SetFunctionsReply:
        """A fake loads nothing: it keeps what it is told."""
        self.calls.append("SetFunctions")
        await self.paused.wait()
        for one in filter(self.unwanted, request.functions):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"function {one.name}: it may never end")
        held = {one.digest for one in self.functions.values()} | {one.digest for one in request.functions if one.object}
        missing = [one.digest for one in request.functions if one.digest not in held]
        if missing:
            return pb.SetFunctionsReply(missing=missing)
        before, self.functions = self.functions, {}
        for one in request.functions:
            self.objects[one.digest] = one.object or self.objects[one.digest]
            told = self.functions[one.name] = pb.Function()
            told.CopyFrom(one)
            told.ClearField("object")
        names = before.keys() | self.functions.keys()
        changed = sum(before.get(name) != self.functions.get(name) for name in names)
        return pb.SetFunctionsReply(changed=changed, lost=self.lost)

    async def GetFunctions(self, request: pb.GetFunctionsRequest, context: Any) -> pb.Functions:
        held = sorted(self.functions.values(), key=lambda one: (one.order, one.name))
        told = [pb.FunctionState(function=one, number=number) for number, one in enumerate(held)]
        return pb.Functions(functions=told, room=64 - len(held))

    async def GetFunctionMaps(self, request: pb.GetFunctionMapsRequest, context: Any) -> pb.FunctionMaps:
        """Each function has one map, of one entry."""
        if request.function not in self.functions or request.map not in ("", "seen"):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"there is no {request.function} {request.map}")
        one = pb.FunctionMapState(name="seen", type="HASH", entries=16, key_size=4, value_size=8)
        if request.map:
            one.rows.add(key='{"port": 53}', value=str(request.most))
            one.more = True
        return pb.FunctionMaps(maps=[one])

    async def WatchEvents(self, request: pb.WatchEventsRequest, context: Any) -> AsyncIterator[pb.Event]:
        queue: asyncio.Queue[pb.Event] = asyncio.Queue()
        self._events.add(queue)
        self.asked.append(request)
        await context.send_initial_metadata(())
        try:
            while True:
                yield await queue.get()
        finally:
            self._events.discard(queue)


def _key(endpoint: pb.Endpoint) -> tuple[int, tuple[bytes, ...]]:
    return endpoint.vni, tuple(sorted(endpoint.addresses))
