# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints: which member takes a packet, and the translation at the member's host (docs/scaled-endpoints.md).

Called by agent, transit and deliver. What changes from packet to packet are the flows of the droplet alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace as changed

from mizar.oracle.appliance import is_martian
from mizar.oracle.checksum import updated
from mizar.oracle.flow import TCP, UDP, mix
from mizar.oracle.flow_table import Transport, flow_hash, parse_transport, place_of
from mizar.oracle.frames import ETHERNET, Inner, Kind, parse_inner
from mizar.oracle.locate import Route
from mizar.oracle.outcome import Packet, RefusedError, Step
from mizar.oracle.rewrite import IPV4_CHECKSUM, replace
from mizar.oracle.stack import TUNNEL_PORTS
from mizar.oracle.tables import AnsweredAs, Droplet, FlowKey, FlowKind, Member, Service, in_prefix

Prefixes = Sequence[tuple[bytes, int]]
_MOST = (1 << 64) - 1
TRIES = 8


# ---- the choice


def choose_member(
    here: Droplet, packet: Packet, inner: Inner, route: Route, *, near: bool, inside: Prefixes | None = None
) -> Route:
    """The member that takes the packet; `near`: asked by an agent, for which members here come first. `inside`, of
    what comes from outside: where no client may be, and no router that begins a flow with an error."""
    assert route.endpoint is not None
    service = route.endpoint.service
    assert service is not None
    transport = parse_transport(inner, to_service=True)
    if transport is None:
        raise RefusedError("SERVICE_PROTOCOL")
    key = FlowKey(FlowKind.CHOICE, packet.vni, transport.other, inner.destination, transport.shared, transport.protocol)
    other = transport.other
    if inside is not None and (
        is_martian(other) or any(in_prefix(other, *one) for one in inside) or _is_no_client(here, other)
    ):
        raise RefusedError("PUBLIC_SOURCE")
    stays = here.flows.get(key)
    if isinstance(stays, Member) and _keeps(here, stays, transport):
        if transport.first and stays.listened and target_of(here, packet.vni, inner.destination, transport) is None:
            raise RefusedError("NO_LISTENER")
        return to_member(packet, route, stays)
    if any(in_prefix(inner.source, prefix, length) for prefix, length in inside or ()):
        raise RefusedError("PUBLIC_SOURCE")
    if service.listened and target_of(here, packet.vni, inner.destination, transport) is None:
        raise RefusedError("NO_LISTENER")
    value = flow_hash(key, by_client=service.by_client)
    places = service.near if near and service.near else service.places
    chosen = _by_hash(here, service, places, value, outside=inside is not None)
    if chosen is None:
        raise RefusedError("SERVICE_WITHOUT_MEMBER")
    if key in here.flows:
        here.flows[key] = chosen
    elif not transport.error and not here.flows.insert(key, chosen):
        packet.count("vpc", packet.vni, "unsticky")
    return to_member(packet, route, chosen)


def _is_no_client(here: Droplet, address: bytes) -> bool:
    """Whether an answer would go to who never asks: a droplet, or a load balancer, whose members would answer it."""
    return address in here.droplets or address in here.addresses6.values() or address in here.public


def to_member(packet: Packet, route: Route, member: Member) -> Route:
    """The route to a member, of a packet that stays addressed to the service."""
    packet.step = Step.DELIVER if member.endpoint.ifindex else Step.BOUNCE
    return changed(
        route,
        step=packet.step,
        droplet=member.endpoint.host,
        endpoint=member.endpoint,
        to_service=True,
        listened=member.listened,
    )


def _keeps(here: Droplet, member: Member, transport: Transport) -> bool:
    """A connection outlives a failed check, and draining; what has no connection needs an answer."""
    if transport.syn:
        return _takes_new(here, member)
    if member.endpoint.host in here.down:
        return False
    return transport.protocol == TCP or not member.down


def _takes_new(here: Droplet, member: Member) -> bool:
    return not (member.draining or member.down or member.endpoint.host in here.down)


def _by_hash(here: Droplet, service: Service, places: tuple[int, ...], value: int, *, outside: bool) -> Member | None:
    for _ in range(TRIES):
        number = places[place_of(value)]
        member = service.members[number] if number >= 0 else None
        if member and (outside or not member.by_option) and _takes_new(here, member):
            return member
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


def target_of(here: Droplet, vni: int, service: bytes, transport: Transport) -> bytes | None:
    """At which port members of a load balancer take what it is sent; None where no listener takes it."""
    return here.listeners.get((vni, service, transport.protocol, transport.ports[2:]))


def policed_port(here: Droplet, vni: int, inner: Inner, route: Route) -> bytes:
    """What the policy of the member that a packet is delivered to takes for its port; empty: what the packet bears."""
    if route.endpoint is None or not route.listened or route.endpoint.uid not in here.policies:
        return b""
    transport = parse_transport(inner, to_service=True)
    if transport and transport.later:
        return b""
    target = target_of(here, vni, inner.destination, transport) if transport else None
    if target is None:
        raise RefusedError("NO_LISTENER")
    return target


def translate_to_member(
    here: Droplet, vni: int, inner: Inner, own: bytes, *, listened: bool, outside: bool = False
) -> Inner:
    """At the member's host: its address for the service's. A member that reaches itself sees the service."""
    transport = parse_transport(inner, to_service=True)
    if transport is None:
        raise RefusedError("SERVICE_PROTOCOL")
    service, itself = inner.destination, transport.other == own
    frame = inner.frame
    port = transport.ports[2:]
    target = target_of(here, vni, service, transport) if listened and not transport.later else port
    if target is None:
        raise RefusedError("NO_LISTENER")
    if transport.error:
        if itself:
            raise RefusedError("SERVICE_PROTOCOL")
        frame = _embedded(frame, inner, transport, source=True, after=own)
    else:
        client = service if itself else transport.other
        key = FlowKey(FlowKind.SERVICE, vni, client, own, transport.ports[:2] + target, transport.protocol)
        answers = AnsweredAs(service, port if port != target else b"", outside)
        _remember_service(here, key, answers, transport, listened=listened)
        if itself:
            frame = _outermost(frame, inner, transport, source=True, after=service)
    if target != port:
        frame = _with_port(frame, inner, transport, source=transport.error, after=target)
    frame = _outermost(frame, inner, transport, source=False, after=own)
    return _reread(inner, frame, service if itself else inner.source, own)


def _remember_service(
    here: Droplet, key: FlowKey, service: AnsweredAs, transport: Transport, *, listened: bool
) -> None:
    """Answers have to bear the service's address; those of UDP also when they are fragments, which show no ports. Later
    fragments change nothing, and of a load balancer are nothing without a first one."""
    keys = [key]
    if (key.protocol == UDP or transport.first) and any(key.ports):
        keys.append(changed(key, ports=bytes(4)))
    for each in keys:
        if each in here.flows:
            if transport.first or (each is key and not transport.later):
                here.flows[each] = service
        elif transport.later and listened:
            raise RefusedError("NO_LISTENER")
        elif not here.flows.insert(each, service):
            raise RefusedError("FLOW_TABLE_FULL")


def translate_from_member(here: Droplet, vni: int, inner: Inner) -> Inner | None:
    """What a member answers to what was sent to its service bears that's address; None: it is no answer."""
    transport = parse_transport(inner, to_service=False)
    if transport is None:
        return None
    own = inner.source
    key = FlowKey(FlowKind.SERVICE, vni, transport.other, own, transport.ports, transport.protocol)
    answers = here.flows.get(key)
    if not isinstance(answers, AnsweredAs):
        return None
    if answers.outside and _is_for_tunnel(inner, transport):
        raise RefusedError("SUBSTRATE_TUNNEL")
    service = answers.address
    itself = inner.destination == service
    frame = inner.frame
    if transport.error:
        if itself:
            raise RefusedError("SERVICE_PROTOCOL")
        frame = _embedded(frame, inner, transport, source=False, after=service)
    frame = _outermost(frame, inner, transport, source=True, after=service)
    if itself:
        frame = _outermost(frame, inner, transport, source=False, after=own)
    if answers.port:
        frame = _with_port(frame, inner, transport, source=not transport.error, after=answers.port)
    return _reread(inner, frame, service, own if itself else inner.destination)


def _is_for_tunnel(inner: Inner, transport: Transport) -> bool:
    """Whether an answer is for a port at which hosts take tunnel packets."""
    if transport.protocol != UDP or transport.error or not transport.checksum_at:
        return False
    at = transport.checksum_at - 4
    return int.from_bytes(inner.frame[at : at + 2], "big") in TUNNEL_PORTS


def is_outside(here: Droplet, vni: int, inner: Inner) -> bool:
    """Whether it is the answer of a member to who is on the substrate."""
    transport = parse_transport(inner, to_service=False)
    if transport is None:
        return False
    key = FlowKey(FlowKind.SERVICE, vni, transport.other, inner.source, transport.ports, transport.protocol)
    answers = here.flows.get(key)
    return isinstance(answers, AnsweredAs) and answers.outside


def restore_answer(frame: bytes, own: bytes, sent: bytes) -> bytes:
    """What a member `sent`, before it became its service's: it is told what became of that."""
    inner = parse_inner(frame)
    transport = parse_transport(inner, to_service=False)
    assert transport is not None
    if (at := _port_at(inner, transport, source=not transport.error)) is not None:
        before = sent[at : at + 2]
        if before != frame[at : at + 2]:
            frame = _with_port(frame, inner, transport, source=not transport.error, after=before)
    return _outermost(frame, inner, transport, source=True, after=own)


def _port_at(inner: Inner, transport: Transport, *, source: bool) -> int | None:
    """Where a port of the packet is, or of the one that an error is about; None where it shows none."""
    if transport.protocol not in (TCP, UDP):
        return None
    if transport.error:
        at = transport.embedded_at + (20 if inner.kind is Kind.IPV4 else 40)
    elif transport.checksum_at:
        at = transport.checksum_at - (16 if transport.protocol == TCP else 6)
    else:
        return None
    return at if source else at + 2


def _with_port(frame: bytes, inner: Inner, transport: Transport, *, source: bool, after: bytes) -> bytes:
    """The frame with another port, and with the checksum that covers it."""
    at = _port_at(inner, transport, source=source)
    if at is None:  # a later fragment
        return frame
    before = frame[at : at + 2]
    udp = transport.protocol == UDP and not transport.error
    frame = replace(frame, at, after)
    check = transport.embedded_at - 6 if transport.error else transport.checksum_at
    return follow(frame, check, before, after, may_be_missing=udp)


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
        frame = follow(frame, IPV4_CHECKSUM, before, after)
    if transport.checksum_at:
        udp = transport.protocol == UDP and not transport.error
        frame = follow(frame, transport.checksum_at, before, after, may_be_missing=udp)
    return frame


def _embedded(frame: bytes, inner: Inner, transport: Transport, *, source: bool, after: bytes) -> bytes:
    """One address of the packet that an error is about. IPv4's header keeps its own sum, and ICMP's with it."""
    v4 = inner.kind is Kind.IPV4
    at = transport.embedded_at + ((12 if source else 16) if v4 else (8 if source else 24))
    before = frame[at : at + len(after)]
    frame = replace(frame, at, after)
    return follow(frame, transport.embedded_at + 10 if v4 else transport.checksum_at, before, after)


def follow(frame: bytes, at: int, before: bytes, after: bytes, *, may_be_missing: bool = False) -> bytes:
    """The checksum at a place, after a change of words that it covers. UDP writes none as 0, and 0 as 0xFFFF."""
    (sum_,) = struct.unpack_from("!H", frame, at)
    if may_be_missing and not sum_:
        return frame
    for old, new in zip(struct.iter_unpack("!H", before), struct.iter_unpack("!H", after), strict=True):
        sum_ = updated(sum_, old[0], new[0])
    if may_be_missing and not sum_:
        sum_ = 0xFFFF
    return replace(frame, at, struct.pack("!H", sum_))
