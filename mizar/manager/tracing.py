# SPDX-License-Identifier: Apache-2.0
"""Traces: a question about a packet, answered from what droplets' maps hold at this moment.

Owned by the manager, which has the connections; what a way means is worked out in mizar.trace. Nobody is told of what
it may not see: a stranger's endpoint is no endpoint, and hops in a stranger's VPC have no names.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.droplet_link import Link
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.manager.trace_names import RegistryNames
from mizar.model.addresses import parse_mac, text_of
from mizar.model.errors import InvalidError, NotFoundError, Problem, TemporaryError
from mizar.model.resources import VPC, Endpoint, Network, Ref
from mizar.trace.explain import Explainer
from mizar.trace.packet import build
from mizar.trace.predict import Live, Prediction
from mizar.trace.question import Question
from mizar.trace.report import Ending, HopReport, Trace, for_tenant
from mizar.trace.rows import Point, Rows
from mizar.trace.sight import look, packet_text

CALL_S = 10.0

Visible = Callable[[Ref], bool]


class Tracing:
    """Answers questions. `link`: the connection to a droplet."""

    def __init__(self, registry: Registry, link: Callable[[str], Link | None]) -> None:
        self._registry = registry
        self._link = link
        self._names = RegistryNames(registry, link)

    async def trace(self, question: Question, visible: Visible) -> Trace:
        """The packet's way. Raises NotFoundError, InvalidError or TemporaryError with one sentence."""
        source, endpoint = self._endpoint(question.source, visible)
        vpc = self._vpc(endpoint)
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
        prediction = await live.predict(droplet, ifindex, frame)
        found = self._explained(prediction, ifindex)
        sight = look(frame, prediction.droplets[droplet])
        trace = Trace(_name(source.ref), _told(question.destination, to), packet_text(sight.inner), *found)
        trace = _meant(trace, wanted)
        return for_tenant(trace, self._foreign(trace, visible))

    def _explained(self, prediction: Prediction, ifindex: int) -> tuple[tuple[HopReport, ...], Ending]:
        explainer = Explainer(prediction, self._names, ifindex)
        return tuple(explainer.hops()), explainer.ending()

    # ---- who is meant

    def _endpoint(self, ref: Ref, visible: Visible) -> tuple[Item, Endpoint]:
        item = self._registry.find(ref) if visible(ref) else None
        if item is None or not isinstance(item.resource, Endpoint) or item.resource.spec.type == "source":
            raise NotFoundError(Problem("there is no such object", resource=str(ref)))
        return item, item.resource

    def _vpc(self, endpoint: Endpoint) -> VPC:
        network = self._registry.find(Ref("Network", endpoint.tenant, endpoint.spec.network))
        found = (
            self._registry.find(vpc_of(network.resource)) if network and isinstance(network.resource, Network) else None
        )
        if found is None or not isinstance(found.resource, VPC):
            raise NotFoundError(Problem("its VPC is gone", resource=str(endpoint.ref)))
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
            raise TemporaryError(f"droplet {name} does not answer: {error.details()}") from error
        return rows


def _name(ref: Ref) -> str:
    return f"{ref.tenant}/{ref.name}"


def _told(destination: Ref | bytes | None, to: tuple[bytes, ...]) -> str:
    if isinstance(destination, Ref):
        return f"{_name(destination)}"
    return text_of(to[0]) if to else "as the frame says"


def _meant(trace: Trace, wanted: str) -> Trace:
    """The same; where the packet arrives at somebody else than who was named, that is no arrival."""
    ending = trace.ending
    if not wanted or not ending.arrives or ending.endpoint in ("", wanted):
        return trace
    sentence = f"{ending.sentence}, which is not {wanted}: no way leads there from {trace.source}"
    changed = Ending(False, sentence, ending.number, ending.endpoint)
    return Trace(trace.source, trace.destination, trace.packet, trace.hops, changed)
