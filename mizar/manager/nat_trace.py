# SPDX-License-Identifier: Apache-2.0
"""What a NAT gateway does with a traced packet that has come to its instance, as that tells it: its connections are
there, and nobody else has them.

Called by mizar.manager.tracing. It only asks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address

import grpc

from mizar._built import transit_pb2 as pb
from mizar.manager.droplet_link import Link, untold
from mizar.manager.nat_gateways import carriers_of, gateways_of
from mizar.manager.outside_trace import Entrance
from mizar.manager.registry import Item, Registry
from mizar.model.addresses import ROUTER_MAC, mac_text, parse_mac, text_of
from mizar.model.errors import TemporaryError
from mizar.model.nat_gateway import NatGateway
from mizar.model.resources import Endpoint, Ref
from mizar.oracle.fleet import End
from mizar.oracle.frames import Inner, parse_inner
from mizar.oracle.outcome import RefusedError
from mizar.trace.predict import Prediction
from mizar.trace.report import Ending, HopReport

CALL_S = 15.0
PROGRAM = "NAT gateway"
_TCP, _UDP, _ECHOES = 6, 17, {1: (0, 8), 58: (128, 129)}


@dataclass(frozen=True, slots=True)
class Carrier:
    """The instance of a NAT gateway that a packet has come to, on a droplet; `mac` of its endpoint."""

    owner: Item
    uid: str
    droplet: str
    mac: bytes
    vpc: str
    number: int

    @property
    def name(self) -> str:
        """`tenant/name` of the gateway."""
        return f"{self.owner.resource.tenant}/{self.owner.resource.name}"


@dataclass(frozen=True, slots=True)
class Translation:
    """`ending`: None where nobody could say. `back`: as it comes back into the VPC from the instance's endpoint."""

    hop: HopReport
    ending: Ending | None = None
    back: bytes = b""
    known: bool = False


def carried_by(registry: Registry, prediction: Prediction, visible: Callable[[Ref], bool]) -> Carrier | None:
    """The gateway to whose instance a packet was delivered; None: it was not, or to a stranger's."""
    way = prediction.way
    last = way.hops[-1] if way.hops else None
    if last is None or way.end is not End.DELIVERED or last.outcome.handover is None or last.outcome.reason:
        return None
    number = last.outcome.handover.vni
    vpc = registry.holder("vni", str(number))
    at = registry.holder(f"mac/{vpc.uid}", mac_text(last.outcome.frame[:6])) if vpc else None
    if vpc is None or at is None or not isinstance(at.resource, Endpoint):
        return None
    for owner in gateways_of(registry, vpc.ref):
        if at in carriers_of(registry, owner) and visible(owner.ref):
            name = f"{vpc.resource.tenant}/{vpc.resource.name}"
            status = at.resource.status
            return Carrier(owner, at.uid, status.host or "", parse_mac(status.mac), name, number)
    return None


async def told_by(link: Callable[[str], Link | None], gateway: Carrier, frame: bytes, *, outside: bool) -> Translation:
    """What its instance makes of a frame; one that cannot be asked is told as that."""
    try:
        found = await ask(link, gateway.droplet, gateway.uid, frame, outside=outside)
    except TemporaryError as error:
        why = "; ".join(one.message for one in error.problems)
        return Translation(replace(_hop(gateway, "not known"), notes=(f"its instance cannot be asked: {why}",)))
    on = f"on {gateway.droplet} by {PROGRAM} {gateway.name}"
    why = ": ".join(filter(None, (found.reason, found.sentence)))
    if found.fate == pb.TraceEngineReply.PROHIBITED:
        said = f"refused {on}: {why}; its sender is told so (administratively prohibited)"
        hop = replace(_hop(gateway, "answered"), table="nftables: refused", sentence=found.sentence)
        return Translation(hop, Ending(False, said))
    before, after = parsed(frame), parsed(found.frame)
    if found.fate != pb.TraceEngineReply.TRANSLATED or before is None or after is None:
        hop = replace(_hop(gateway, "dropped"), reason=found.reason, sentence=found.sentence)
        return Translation(hop, Ending(False, f"dropped {on}, {why}"))
    how = "the connection is known" if found.known else "a new connection, if nobody takes its port before"
    table = f"connections: {how}"
    hop = replace(_hop(gateway, "translated"), table=table, rewrite=changes(before, after))
    if found.inside:
        return Translation(hop, None, ROUTER_MAC + gateway.mac + found.frame[12:], found.known)
    if after.destination in _public(gateway.owner):
        why = f"{text_of(after.destination)} is the gateway's own, and no forward of it takes the packet"
        return Translation(hop, Ending(False, f"dropped {on}: {why}"))
    return Translation(hop, Ending(True, f"leaves {gateway.droplet} into the world as {_end(after)}, {how}"))


async def answered_by(
    link: Callable[[str], Link | None], way_in: Entrance, vpc: str, number: int
) -> Translation | None:
    """What a NAT gateway's instance knows better than its manifest of a packet from outside: a connection, be it begun
    inside, or why a forward takes nothing. None: nothing; without `ending` and `back`: it cannot be asked."""
    if not way_in.uid:
        return None
    gateway = Carrier(way_in.owner, way_in.uid, way_in.droplet, way_in.mac, vpc, number)
    said = await told_by(link, gateway, way_in.frame(bytes(6)), outside=True)
    if said.back:
        return said if said.known else None
    return None if said.ending and way_in.ending else said


async def ask(
    link: Callable[[str], Link | None], droplet: str, uid: str, frame: bytes, *, outside: bool
) -> pb.TraceEngineReply:
    """What the function behind an endpoint says. Raises TemporaryError where it does not."""
    held = link(droplet)
    if held is None:
        raise TemporaryError(f"nobody can ask droplet {droplet}: it has no daemon")
    request = pb.TraceEngineRequest(uid=uid, frame=frame, outside=outside)
    try:
        return await held.stub().TraceEngine(request, timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        raise TemporaryError(f"droplet {droplet} does not say: {untold(error)}") from error


def _hop(gateway: Carrier, verdict: str) -> HopReport:
    return HopReport(gateway.droplet, PROGRAM, verdict, gateway.vpc, gateway.number, gateway.number)


def _public(owner: Item) -> set[bytes]:
    gateway = owner.resource
    assert isinstance(gateway, NatGateway)
    return {ip_address(text).packed for text in gateway.status.addresses}


def parsed(frame: bytes) -> Inner | None:
    """None: it is no packet."""
    try:
        return parse_inner(frame)
    except RefusedError:
        return None


def changes(before: Inner, after: Inner) -> tuple[str, ...]:
    """Both ends, where they are others."""
    ends = (
        (what, _at(one, before, place), _at(other, after, place))
        for what, one, other, place in (
            ("source", before.source, after.source, 0),
            ("destination", before.destination, after.destination, 2),
        )
    )
    return tuple(f"{what} {old} → {new}" for what, old, new in ends if old != new)


def port_of(packet: Inner, place: int) -> int:
    """A port of TCP or UDP; `place`: 0 the source's, 2 the destination's."""
    return int(struct.unpack_from("!H", packet.payload, place)[0])


def _end(packet: Inner) -> str:
    return _at(packet.source, packet, 0)


def _at(address: bytes, packet: Inner, place: int) -> str:
    """An address with the port at a place of the transport header; of an ICMP query its id, as the source's."""
    text = text_of(address)
    if packet.protocol in (_TCP, _UDP) and len(packet.payload) >= place + 2:
        (port,) = struct.unpack_from("!H", packet.payload, place)
        return f"{text}:{port}" if len(address) == 4 else f"[{text}]:{port}"
    kinds = _ECHOES.get(packet.protocol, ())
    if place == 0 and len(packet.payload) >= 6 and packet.payload[0] in kinds:
        return f"{text} id {struct.unpack_from('!H', packet.payload, 4)[0]}"
    return text
