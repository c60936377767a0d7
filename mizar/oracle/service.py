# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints: which member takes a packet, and the translation at the member's host (docs/scaled-endpoints.md).

Called by agent, transit and deliver. What changes from packet to packet are the flows of the droplet alone.
"""

from __future__ import annotations

import struct
from dataclasses import replace as changed

from mizar.oracle.checksum import updated
from mizar.oracle.flow import TCP, UDP, mix
from mizar.oracle.flow_table import Transport, flow_hash, parse_transport, place_of
from mizar.oracle.frames import ETHERNET, Inner, Kind, parse_inner
from mizar.oracle.locate import Route
from mizar.oracle.outcome import Packet, RefusedError, Step
from mizar.oracle.rewrite import IPV4_CHECKSUM, replace
from mizar.oracle.tables import Droplet, FlowKey, FlowKind, Member, Service

_MOST = (1 << 64) - 1
TRIES = 8


# ---- the choice


def choose_member(here: Droplet, packet: Packet, inner: Inner, route: Route, *, near: bool) -> Route:
    """The member that takes the packet; `near`: asked by an agent, for which members here may come first."""
    assert route.endpoint is not None
    service = route.endpoint.service
    assert service is not None
    transport = parse_transport(inner, to_service=True)
    if transport is None:
        raise RefusedError("SERVICE_PROTOCOL")
    key = FlowKey(FlowKind.CHOICE, packet.vni, transport.other, inner.destination, transport.ports, transport.protocol)
    stays = here.flows.get(key)
    if isinstance(stays, Member) and _keeps(here, stays, transport):
        return to_member(packet, route, stays)
    chosen = _by_hash(here, service, service.near if near and service.near else service.places, flow_hash(key))
    if chosen is None:
        raise RefusedError("SERVICE_WITHOUT_MEMBER")
    if key in here.flows:
        here.flows[key] = chosen
    elif not transport.error and not here.flows.insert(key, chosen):
        packet.count("vpc", packet.vni, "unsticky")
    return to_member(packet, route, chosen)


def to_member(packet: Packet, route: Route, member: Member) -> Route:
    """The route to a member, of a packet that stays addressed to the service."""
    packet.step = Step.DELIVER if member.endpoint.ifindex else Step.BOUNCE
    return changed(route, step=packet.step, droplet=member.endpoint.host, endpoint=member.endpoint, to_service=True)


def _keeps(here: Droplet, member: Member, transport: Transport) -> bool:
    """A connection outlives a failed check, and draining; what has no connection needs an answer."""
    if transport.syn:
        return _takes_new(here, member)
    if member.endpoint.host in here.down:
        return False
    return transport.protocol == TCP or not member.down


def _takes_new(here: Droplet, member: Member) -> bool:
    return not (member.draining or member.down or member.endpoint.host in here.down)


def _by_hash(here: Droplet, service: Service, places: tuple[int, ...], value: int) -> Member | None:
    for _ in range(TRIES):
        number = places[place_of(value)]
        if number >= 0 and _takes_new(here, service.members[number]):
            return service.members[number]
        value = mix((value + 1) & _MOST)
    return None


def find_member(packet: Packet, inner: Inner, route: Route) -> Route:
    """The member that another droplet chose, by the inner destination MAC: it lives here, or the packet ends."""
    assert route.endpoint is not None
    service = route.endpoint.service
    assert service is not None
    for member in service.members:
        if member.endpoint.mac == inner.ether_destination and member.endpoint.ifindex:
            return to_member(packet, route, member)
    raise RefusedError("MEMBER_UNKNOWN")


# ---- the translation


def translate_to_member(here: Droplet, vni: int, inner: Inner, own: bytes) -> Inner:
    """At the member's host: its address for the service's. A member that reaches itself sees the service."""
    transport = parse_transport(inner, to_service=True)
    if transport is None:
        raise RefusedError("SERVICE_PROTOCOL")
    service, itself = inner.destination, transport.other == own
    frame = inner.frame
    if transport.error:
        if itself:
            raise RefusedError("SERVICE_PROTOCOL")
        frame = _embedded(frame, inner, transport, source=True, after=own)
    else:
        client = service if itself else transport.other
        remember_service(
            here, FlowKey(FlowKind.SERVICE, vni, client, own, transport.ports, transport.protocol), service
        )
        if itself:
            frame = _outermost(frame, inner, transport, source=True, after=service)
    frame = _outermost(frame, inner, transport, source=False, after=own)
    return _reread(inner, frame, service if itself else inner.source, own)


def remember_service(here: Droplet, key: FlowKey, service: bytes) -> None:
    """Answers have to bear the service's address; those of UDP also when they are fragments, which show no ports."""
    keys = [key]
    if key.protocol == UDP and any(key.ports):
        keys.append(changed(key, ports=bytes(4)))
    for each in keys:
        if each in here.flows:
            if each is key:
                here.flows[each] = service
        elif not here.flows.insert(each, service):
            raise RefusedError("FLOW_TABLE_FULL")


def translate_from_member(here: Droplet, vni: int, inner: Inner) -> Inner | None:
    """What a member answers to what was sent to its service bears that's address; None: it is no answer."""
    transport = parse_transport(inner, to_service=False)
    if transport is None:
        return None
    own = inner.source
    key = FlowKey(FlowKind.SERVICE, vni, transport.other, own, transport.ports, transport.protocol)
    service = here.flows.get(key)
    if not isinstance(service, bytes):
        return None
    itself = inner.destination == service
    frame = inner.frame
    if transport.error:
        if itself:
            raise RefusedError("SERVICE_PROTOCOL")
        frame = _embedded(frame, inner, transport, source=False, after=service)
    frame = _outermost(frame, inner, transport, source=True, after=service)
    if itself:
        frame = _outermost(frame, inner, transport, source=False, after=own)
    return _reread(inner, frame, service, own if itself else inner.destination)


def restore_answer(frame: bytes, own: bytes) -> bytes:
    """What a member sent, before it became its service's: it is told what became of that."""
    inner = parse_inner(frame)
    transport = parse_transport(inner, to_service=False)
    assert transport is not None
    return _outermost(frame, inner, transport, source=True, after=own)


def _reread(inner: Inner, frame: bytes, source: bytes, destination: bytes) -> Inner:
    payload = frame[inner.header : inner.header + len(inner.payload)]
    return changed(inner, frame=frame, source=source, destination=destination, payload=payload)


def _outermost(frame: bytes, inner: Inner, transport: Transport, *, source: bool, after: bytes) -> bytes:
    """One address of the packet, with the checksums that cover it."""
    v4 = inner.kind is Kind.IPV4
    at = ETHERNET + ((12 if source else 16) if v4 else (8 if source else 24))
    before = frame[at : at + len(after)]
    frame = replace(frame, at, after)
    if v4:
        frame = _follow(frame, IPV4_CHECKSUM, before, after)
    if transport.checksum_at:
        udp = transport.protocol == UDP and not transport.error
        frame = _follow(frame, transport.checksum_at, before, after, may_be_missing=udp)
    return frame


def _embedded(frame: bytes, inner: Inner, transport: Transport, *, source: bool, after: bytes) -> bytes:
    """One address of the packet that an error is about. IPv4's header keeps its own sum, and ICMP's with it."""
    v4 = inner.kind is Kind.IPV4
    at = transport.embedded_at + ((12 if source else 16) if v4 else (8 if source else 24))
    before = frame[at : at + len(after)]
    frame = replace(frame, at, after)
    return _follow(frame, transport.embedded_at + 10 if v4 else transport.checksum_at, before, after)


def _follow(frame: bytes, at: int, before: bytes, after: bytes, *, may_be_missing: bool = False) -> bytes:
    """The checksum at a place, after a change of words that it covers. UDP writes none as 0, and 0 as 0xFFFF."""
    (sum_,) = struct.unpack_from("!H", frame, at)
    if may_be_missing and not sum_:
        return frame
    for old, new in zip(struct.iter_unpack("!H", before), struct.iter_unpack("!H", after), strict=True):
        sum_ = updated(sum_, old[0], new[0])
    if may_be_missing and not sum_:
        sum_ = 0xFFFF
    return replace(frame, at, struct.pack("!H", sum_))
