# SPDX-License-Identifier: Apache-2.0
"""Traces: a question about a packet, answered from what droplets' maps hold at this moment.

Owned by the manager, which has the connections; what a way means is worked out in mizar.trace. Nobody is told of what
it may not see: a stranger's endpoint is no endpoint, and hops in a stranger's VPC have no names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.balance_trace import chosen_by
from mizar.manager.droplet_link import Link, untold
from mizar.manager.live_trace import Listeners
from mizar.manager.nat_trace import answered_by, carried_by, told_by
from mizar.manager.outside_trace import entrance
from mizar.manager.policy_names import PolicyNames
from mizar.manager.public_nat import is_nat
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.manager.trace_names import RegistryNames
from mizar.model.addresses import parse_mac, text_of
from mizar.model.errors import InvalidError, NotFoundError, Problem, TemporaryError
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref
from mizar.oracle.fleet import Hop
from mizar.oracle.frames import parse_inner
from mizar.oracle.outcome import Verdict
from mizar.trace.compare import compare
from mizar.trace.explain import Explainer
from mizar.trace.packet import build
from mizar.trace.predict import Live, Prediction
from mizar.trace.question import Question
from mizar.trace.report import Ending, HopReport, Trace, for_tenant, without_substrate
from mizar.trace.rows import Point, Rows
from mizar.trace.sight import look, packet_text

if TYPE_CHECKING:
    from mizar._built.transit_pb2_grpc import TransitAsyncStub

CALL_S = 10.0
ATTEMPTS = 3
SHORT_BYTES = 100
MOST_LISTENERS = 64
OPTION_BYTES = 8

Visible = Callable[[Ref], bool]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A frame, and who sends it: endpoint, droplet and interface."""

    uid: str
    droplet: bytes
    ifindex: int
    frame: bytes


_STAGES = {
    ("agent", Verdict.DELIVER): ("ENDPOINT_EGRESS", "ENDPOINT_INGRESS"),
    ("transit", Verdict.SEND): ("ON_XDP_TX",),
    ("transit", Verdict.ANSWER): ("ON_XDP_TX",),
    ("transit", Verdict.DELIVER): ("ENDPOINT_INGRESS",),
    ("transit", Verdict.PASS): ("ON_XDP_PASS",),
    ("transit", Verdict.DROP): ("ON_XDP_DROP",),
}
"""Which stages of functions a program passes by when it ends so; an agent's begins with one whatever follows."""


class Tracing:
    """Answers questions. `link`: the connection to a droplet."""

    def __init__(
        self,
        registry: Registry,
        link: Callable[[str], Link | None],
        policies: PolicyNames,
        functions: Callable[[str, str, VPC, frozenset[Ref]], Sequence[str]] = lambda *_: (),
        judged: Callable[[str, VPC, bytes, str], Sequence[str]] = lambda *_: (),
        tunnel: Callable[[Ref], str] = lambda _: "",
    ) -> None:
        """`functions`: those that at a droplet and a stage see packets of a VPC from or to these endpoints.
        `judged`: what the protection of an endpoint makes of an inner frame on a droplet, and of which
        member, where the frame is addressed to a service. `tunnel`: how a VPN connection is."""
        self._functions, self._judged = functions, judged
        self._registry = registry
        self._link = link
        self._names = RegistryNames(registry, link, policies, tunnel)

    async def trace(self, question: Question, visible: Visible) -> Trace:
        """The packet's way. Raises NotFoundError, InvalidError or TemporaryError with one sentence."""
        operator = visible(Ref("Droplet", "", ""))
        if isinstance(question.source, bytes):
            return await self._from_outside(question, question.source, visible)
        source, endpoint = self._endpoint(question.source, visible)
        vpc = self._vpc(endpoint.tenant, endpoint.spec.network)
        if endpoint.spec.type != "simple" or not endpoint.status.host:
            raise InvalidError(
                Problem("it sends nothing by itself: trace from a simple endpoint", resource=str(source.ref))
            )
        to, wanted = self._destination(question, endpoint, visible)
        frame = question.frame or self._frame(question, endpoint, to)
        droplet = self._names.address_of(endpoint.status.host)
        number = vpc.number or 0
        daemons = _Daemons(self._names, self._link, source.uid)
        live = Live(daemons, frozenset({number}))
        await live.read(droplet)
        if droplet in live.silent:
            problem = "; ".join(one.message for one in live.silent[droplet].problems)
            raise TemporaryError(Problem(f"its droplet cannot be asked: {problem}", resource=str(source.ref)))
        ifindex = int(live.rows[droplet].itself["ifindex"])
        if not ifindex:
            name = endpoint.status.host
            raise TemporaryError(Problem(f"{name} has no interface of it (any more)", resource=str(source.ref)))
        asked = _Asked(source.uid, droplet, ifindex, frame)
        prediction = await live.predict(droplet, ifindex, frame)
        shown = packet_text(look(frame, prediction.droplets[droplet]).inner)
        found = Trace(_name(source.ref), _told(question.destination, to), shown, *self._explained(prediction, ifindex))
        if question.live:
            shorter = self._shorter(question, endpoint, to)
            found = await self._live(live, prediction, asked, found, shorter, operator=operator)
        found = _meant(found, wanted)
        ends = frozenset({source.ref, *(one.ref for one in self._registry_at(number, to))})
        return await self._beyond(self._finished(found, prediction, vpc, ends, visible), prediction, vpc, visible)

    async def _beyond(self, found: Trace, prediction: Prediction, vpc: VPC, visible: Visible) -> Trace:
        """With what a NAT gateway does with it, where it comes to one; and where that leads it back, the way there."""
        gateway = carried_by(self._registry, prediction, visible)
        if gateway is None:
            return found
        told = await told_by(self._link, gateway, prediction.way.hops[-1].outcome.frame, outside=False)
        found = replace(found, hops=(*found.hops, told.hop), ending=told.ending or found.ending)
        if not told.back:
            return found
        onward, ifindex, *_ = await self._inward(gateway.droplet, gateway.uid, vpc, told.back)
        more = Trace(found.source, found.destination, found.packet, *self._explained(onward, ifindex))
        more = self._finished(more, onward, vpc, frozenset({gateway.owner.ref}), visible)
        return replace(found, hops=(*found.hops, *more.hops), ending=more.ending)

    async def _inward(
        self, name: str, uid: str, vpc: VPC, frame: bytes | Callable[[bytes], bytes]
    ) -> tuple[Prediction, int, Live, bytes]:
        """The way of a frame that comes into a VPC by the endpoint with a uid, or, without one, from the substrate to a
        droplet with a MAC; the endpoint's interface; what was read for it, and the frame."""
        droplet = self._names.address_of(name)
        live = Live(_Daemons(self._names, self._link, uid), frozenset({vpc.number or 0}))
        await live.read(droplet)
        if droplet in live.silent:
            problem = "; ".join(one.message for one in live.silent[droplet].problems)
            raise TemporaryError(Problem(f"droplet {name} cannot be asked: {problem}"))
        itself = live.rows[droplet].itself
        ifindex = int(itself["ifindex"])
        if uid and not ifindex:
            raise TemporaryError(Problem(f"{name} has no interface of it (any more)", resource=uid))
        sent = frame if isinstance(frame, bytes) else frame(bytes.fromhex(itself["mac"]))
        return await live.predict(droplet, ifindex, sent), ifindex, live, sent

    async def _from_outside(self, question: Question, client: bytes, visible: Visible) -> Trace:
        """The way of what somebody on the substrate sends to a public address."""
        way_in = entrance(self._registry, self._link, question, visible)
        vpc = self._vpc(way_in.owner.resource.tenant, way_in.network)
        assert isinstance(question.destination, bytes)
        name, to = text_of(client), text_of(question.destination)
        shown = packet_text(parse_inner(way_in.frame(bytes(6))))
        vpc_name = self._names.vpc(vpc.number or 0)
        before, ending = way_in.before(vpc_name), Ending(way_in.arrives, way_in.ending) if way_in.ending else None
        inside: bytes | Callable[[bytes], bytes] = way_in.inside
        if is_nat(way_in.owner.resource):
            said = await chosen_by(self._link, way_in, vpc_name)
        else:
            said = await answered_by(self._link, way_in, vpc_name, vpc.number or 0)
        if said is not None and (said.ending or said.back):
            before, ending, inside = (said.hop,), said.ending, said.back
        elif said is not None:  # nobody could say: what is configured is told with that
            before = tuple(replace(one, notes=said.hop.notes) for one in before)
        if ending is not None:
            return Trace(name, to, shown, before, ending)
        prediction, ifindex, live, sent = await self._inward(way_in.droplet, way_in.uid, vpc, inside)
        found = Trace(name, to, shown, *self._explained(prediction, ifindex))
        if question.live:
            if prediction.way.hops[0].outcome.verdict is Verdict.DELIVER:
                message = f"{way_in.droplet} has the member itself, and sends nothing: ask another droplet of the pool"
                raise InvalidError(Problem(message, field="live"))
            asked = _Asked("", self._names.address_of(way_in.droplet), ifindex, sent)
            found = await self._live(live, prediction, asked, found, None, operator=True)
        ends = frozenset({way_in.owner.ref})
        found = self._finished(found, prediction, vpc, ends, visible)
        return replace(found, hops=(*before, *found.hops))

    def _finished(
        self, found: Trace, prediction: Prediction, vpc: VPC, ends: frozenset[Ref], visible: Visible
    ) -> Trace:
        """With what functions and protection do, as far as the caller may hear it."""
        hops = map(partial(self._with_protection, vpc), found.hops, prediction.way.hops)
        found = replace(found, hops=tuple(hops))
        if visible(Ref("Droplet", "", "")):
            found = replace(
                found, hops=tuple(map(partial(self._with_functions, vpc, ends), found.hops, prediction.way.hops))
            )
        else:
            found = without_substrate(found)
        return for_tenant(found, self._foreign(found, visible))

    def _explained(self, prediction: Prediction, ifindex: int) -> tuple[tuple[HopReport, ...], Ending]:
        explainer = Explainer(prediction, self._names, ifindex)
        return tuple(explainer.hops()), explainer.ending()

    def _registry_at(self, number: int, addresses: Iterable[bytes]) -> Iterator[Item]:
        """The endpoints of a VPC that have these addresses."""
        vpc = self._names.vpc_item(number)
        for address in addresses:
            held = self._registry.holder(f"address/{vpc.uid}", text_of(address)) if vpc else None
            if held is not None:
                yield held

    def _with_functions(self, vpc: VPC, ends: frozenset[Ref], report: HopReport, hop: Hop) -> HopReport:
        """With the functions that see the packet there: what these do with it is known only live."""
        stages = _STAGES.get((hop.program, hop.outcome.verdict), ("ENDPOINT_EGRESS",) if hop.program == "agent" else ())
        found = [f"{name} at {stage}" for stage in stages for name in self._functions(report.droplet, stage, vpc, ends)]
        return replace(report, functions=tuple(found))

    def _with_protection(self, vpc: VPC, report: HopReport, hop: Hop) -> HopReport:
        """With what the protection of its endpoint makes of the packet, where it is delivered."""
        if hop.outcome.verdict is not Verdict.DELIVER:
            return report
        handover = hop.outcome.handover
        uid = handover.uid if handover is not None and handover.service else ""
        return replace(report, notes=(*report.notes, *self._judged(report.droplet, vpc, hop.outcome.frame, uid)))

    # ---- a packet is sent

    async def _live(
        self,
        live: Live,
        prediction: Prediction,
        asked: _Asked,
        trace: Trace,
        shorter: Callable[[int], bytes] | None,
        *,
        operator: bool,
    ) -> Trace:
        """The same with what was seen; of droplets that are not on the way operators alone hear.

        A difference counts when it is still there after the tables were read again: the packet itself may change them
        (a flow begins, a direct path is found).
        """
        stubs, named = self._listeners(prediction)
        async with Listeners(stubs, named) as listeners:
            for _ in range(ATTEMPTS):
                reports = await listeners.send(
                    asked.droplet, asked.uid, asked.frame, prediction.way, option=_room_for_option(trace)
                )
                if not operator:  # functions are not for a tenant's eyes
                    reports = [replace(one, function="", function_reason="") for one in reports]
                result = compare(prediction.way, reports, self._name_of)
                if not result.divergence:
                    break
                live.rows.clear()
                live.silent.clear()
                await live.read(asked.droplet)
                if asked.droplet in live.silent:
                    break
                prediction = await live.predict(asked.droplet, asked.ifindex, asked.frame)
                hops, ending = self._explained(prediction, asked.ifindex)
                trace = replace(trace, hops=hops, ending=ending)
            blind = bool(prediction.silent)
            findings = list(result.others) if result.divergence or blind else []
            if result.lost and shorter:
                findings += await self._narrow(live, listeners, asked, result.lost, shorter)
            on_way = {hop.droplet for hop in prediction.way.hops}
            for one, why in listeners.deaf.items():
                if operator or one in on_way:
                    findings.append(f"{self._name_of(one)} reports nothing" + (f": {why}" if operator else ""))
        hops = tuple(replace(hop, seen=seen) for hop, seen in zip(trace.hops, result.seen, strict=False))
        return replace(trace, hops=hops, live=True, divergence=result.divergence, findings=tuple(findings))

    async def _narrow(
        self, live: Live, listeners: Listeners, asked: _Asked, lost: int, shorter: Callable[[int], bytes]
    ) -> list[str]:
        """A packet vanished on the wire: does a shorter one arrive, and up to which length?"""

        async def arrives(size: int) -> bool:
            frame = shorter(size)
            way = (await live.predict(asked.droplet, asked.ifindex, frame)).way
            for _ in range(2):
                reports = await listeners.send(asked.droplet, asked.uid, frame, way, option=False)
                if compare(way, reports, self._name_of).lost != lost:
                    return True
            return False

        most = len(asked.frame) - 14
        if most <= SHORT_BYTES or not await arrives(SHORT_BYTES):
            return []
        least = SHORT_BYTES
        while most - least > 1:
            middle = (least + most) // 2
            if await arrives(middle):
                least = middle
            else:
                most = middle
        way = (await live.predict(asked.droplet, asked.ifindex, asked.frame)).way
        one, other = (self._name_of(hop.droplet) for hop in way.hops[lost - 1 : lost + 1])
        return [
            f"a packet of {least} bytes arrives and one of {most} does not: something between {one} and {other} has a "
            "smaller MTU than both interfaces"
        ]

    def _listeners(self, prediction: Prediction) -> tuple[dict[bytes, TransitAsyncStub], dict[bytes, bytes]]:
        """Who may report: all droplets while they are few, else those that the packet may come to."""
        found: dict[bytes, TransitAsyncStub] = {}
        named: dict[bytes, bytes] = {}
        wanted = {hop.droplet for hop in prediction.way.hops}
        items = [item.resource for item in self._registry.of_kind("Droplet")]
        for droplet in (one for one in items if isinstance(one, Droplet)):
            address = self._names.address_of(droplet.name)
            for text in droplet.spec.addresses:
                named[ip_address(text).packed] = address
            link = self._link(droplet.name)
            if link is not None and link.connected and (len(items) <= MOST_LISTENERS or address in wanted):
                found[address] = link.stub()
        return found, named

    def _name_of(self, address: bytes) -> str:
        return self._names.droplet(address) or (text_of(address) if len(address) in (4, 16) else "nobody")

    def _shorter(self, question: Question, source: Endpoint, to: tuple[bytes, ...]) -> Callable[[int], bytes] | None:
        if question.frame:
            return None
        return lambda size: self._frame(replace(question, asked=replace(question.asked, size=size)), source, to)

    # ---- who is meant

    def _endpoint(self, ref: Ref, visible: Visible) -> tuple[Item, Endpoint]:
        item = self._registry.find(ref) if visible(ref) else None
        if item is None or not isinstance(item.resource, Endpoint) or item.resource.spec.type == "source":
            raise NotFoundError(Problem("there is no such object", resource=str(ref)))
        return item, item.resource

    def _vpc(self, tenant: str, name: str) -> VPC:
        network = self._registry.find(Ref("Network", tenant, name))
        found = (
            self._registry.find(vpc_of(network.resource)) if network and isinstance(network.resource, Network) else None
        )
        if found is None or not isinstance(found.resource, VPC):
            raise NotFoundError(Problem("its VPC is gone", resource=str(Ref("Network", tenant, name))))
        return found.resource

    def _destination(self, question: Question, source: Endpoint, visible: Visible) -> tuple[tuple[bytes, ...], str]:
        """Addresses that are meant, and the name of the endpoint where one was named."""
        asked = question.destination
        if asked is None:
            return (), ""
        if isinstance(asked, bytes):
            return (asked,), ""
        item, endpoint = self._endpoint(asked, visible)
        addresses = tuple(ip_address(text).packed for text in endpoint.status.addresses)
        shared = tuple(
            one for one in addresses if len(one) in {len(ip_address(x).packed) for x in source.status.addresses}
        )
        if not shared:
            raise InvalidError(Problem(f"it shares no address family with {source.ref}", resource=str(item.ref)))
        return shared, _name(item.ref) if endpoint.spec.type == "simple" else ""

    def _frame(self, question: Question, source: Endpoint, to: tuple[bytes, ...]) -> bytes:
        own = {len(one): one for one in (ip_address(text).packed for text in source.status.addresses)}
        address = next((one for one in to if len(one) in own), None)
        if address is None:
            family = "IPv4" if to and len(to[0]) == 4 else "IPv6"
            raise InvalidError(Problem(f"it has no {family} address to send from", resource=str(source.ref)))
        return build(question.asked, parse_mac(source.status.mac), own[len(address)], address)

    def _foreign(self, trace: Trace, visible: Visible) -> frozenset[int]:
        """VPCs on the way that the caller may not see."""
        met = {number for hop in trace.hops for number in (hop.number, hop.leads)} | {trace.ending.number}
        found = set()
        for number in met - {0}:
            item = self._names.vpc_item(number)
            if item is None or not visible(item.ref):
                found.add(number)
        return frozenset(found)


class _Daemons:
    """The daemons of droplets by their addresses (mizar.trace.predict.Source)."""

    def __init__(self, names: RegistryNames, link: Callable[[str], Link | None], uid: str) -> None:
        self._names, self._link, self._uid = names, link, uid

    def has_daemon(self, droplet: bytes) -> bool:
        """Whether anybody can be asked."""
        found = self._names.droplet_item(droplet)
        return found is not None and found.spec.has_daemon

    async def read(self, droplet: bytes, vnis: frozenset[int], points: frozenset[Point]) -> Rows:
        """What the droplet's maps hold."""
        name = self._names.droplet(droplet)
        link = self._link(name) if name else None
        if link is None:
            raise TemporaryError(f"nobody can ask droplet {name or text_of(droplet)}: it has no daemon")
        rows = Rows()
        keys = [pb.TableKey(table=point.table, key=point.key) for point in sorted(points, key=str)]
        request = pb.ReadTablesRequest(vnis=sorted(vnis), keys=keys, uid=self._uid)
        try:
            async for message in link.stub().ReadTables(request, timeout=CALL_S):
                rows.take(message.table, message.rows)
        except grpc.aio.AioRpcError as error:
            raise TemporaryError(f"droplet {name} does not answer: {untold(error)}") from error
        return rows


def _name(ref: Ref) -> str:
    return f"{ref.tenant}/{ref.name}"


def _told(destination: Ref | bytes | None, to: tuple[bytes, ...]) -> str:
    if isinstance(destination, Ref):
        return f"{_name(destination)}"
    return text_of(to[0]) if to else "as the frame says"


def _room_for_option(trace: Trace) -> bool:
    """Whether the mark may make the packet longer without making it another: no hop is near its limit."""
    rooms = [hop.room for hop in trace.hops if hop.next]
    return bool(rooms) and all(room is not None and room >= OPTION_BYTES for room in rooms)


def _meant(trace: Trace, wanted: str) -> Trace:
    """The same; where the packet arrives at somebody else than who was named, that is no arrival."""
    ending = trace.ending
    if not wanted or not ending.arrives or ending.endpoint in ("", wanted):
        return trace
    sentence = f"{ending.sentence}, which is not {wanted}: no way leads there from {trace.source}"
    return replace(trace, ending=Ending(False, sentence, ending.number, ending.endpoint))
