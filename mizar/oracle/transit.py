# SPDX-License-Identifier: Apache-2.0
"""transit: what becomes of a frame that the substrate brings (docs/way-of-a-packet.md 2 and 3)."""

from __future__ import annotations

from dataclasses import replace

from mizar.oracle.appliance import find_appliance, is_by_mac
from mizar.oracle.bypass import hand_over_whole
from mizar.oracle.control import obey
from mizar.oracle.frames import Inner, Kind, parse_inner
from mizar.oracle.functions import at_scaled, at_transit
from mizar.oracle.icmp import answer_tunnel, refuse_too_big, room_to
from mizar.oracle.limits import limit_receiver
from mizar.oracle.locate import Route, locate_endpoint, locate_network, locate_next_hop
from mizar.oracle.network_acl import cross
from mizar.oracle.options import Options, walk_options
from mizar.oracle.origin import tell_origin, untold
from mizar.oracle.outcome import Handover, Outcome, Packet, RefusedError, Step, Verdict
from mizar.oracle.policies import Direction
from mizar.oracle.policy import police
from mizar.oracle.public import take_public
from mizar.oracle.respond import parse_solicitation, respond_arp, respond_echo, respond_solicitation
from mizar.oracle.returned import give_back, take_back
from mizar.oracle.rewrite import PUBLIC_MAC, decrement_ttl, from_router, is_final, to_host
from mizar.oracle.service import choose_member, find_member, policed_port
from mizar.oracle.substrate import sender_of
from mizar.oracle.tables import Droplet, Network, Tunnel
from mizar.oracle.tunnel import (
    Outer,
    Overlay,
    parse_outer,
    parse_tunnel,
    turn_around,
    write_outer,
)
from mizar.oracle.vip_option import restore

_COUNTERS = {Step.BOUNCE: "bounced", Step.DIVIDE: "divided", Step.TO_DIVIDER: "to_divider"}


def transit(here: Droplet, frame: bytes) -> Outcome:
    """A frame comes in at the droplet's interface."""
    return at_transit(here, frame, look_at(here, frame))


def look_at(here: Droplet, frame: bytes) -> Outcome:
    """What the pipeline makes of a frame, or of an error that it has made."""
    packet = Packet(frame)
    try:
        outer = parse_outer(frame, here)
        if outer is None:
            if (taken := take_public(here, packet)) is not None:
                return taken
            return packet.served(Verdict.PASS, frame)
        if sender_of(here, outer.source) is None:
            raise RefusedError("UNKNOWN_SENDER")
        overlay = parse_tunnel(outer)
    except RefusedError as refused:
        return packet.refused(refused.reason)
    packet.vni = overlay.vni
    try:
        return handle_overlay(here, packet, outer, overlay)
    except RefusedError as refused:
        outcome = packet.refused(judge_vpc(here, packet, refused.reason))
        message = answer_tunnel(here, packet, outer, refused)
        if message is None:
            return outcome
        packet.count("vpc", packet.vni, "answered")
        return packet.told(outcome, look_at(here, message))


def judge_vpc(here: Droplet, packet: Packet, reason: str) -> str:
    """A fault inside of a tunnel packet is ours to judge only if the VPC is: the VNI may be another system's."""
    if reason == "UNKNOWN_IDENTITY":  # of which VPC nobody here knows: the VNI's own it is not
        return reason
    if not packet.vpc_known and packet.vni not in here.vpcs:
        return "UNKNOWN_VNI"
    packet.vpc_known = True
    return reason


def handle_overlay(here: Droplet, packet: Packet, outer: Outer, overlay: Overlay) -> Outcome:
    """What is inside of a tunnel packet whose VNI has been read."""
    options = walk_options(overlay)
    if options.identity is not None:
        packet.vni, packet.identity = locate_identity(here, overlay, options), options.identity
    if options.control is not None:
        return obey(here, packet, outer, overlay, options)
    inner = parse_inner(overlay.rest[overlay.option_bytes :])
    if overlay.control and inner.kind in (Kind.ARP, Kind.ND):
        raise RefusedError("GENEVE_CONTROL")
    if inner.kind is Kind.ARP:
        return send_answer(here, packet, outer, answer_arp(here, packet, inner))
    if inner.kind is Kind.ND:
        return send_answer(here, packet, outer, answer_solicitation(here, packet, inner))
    if overlay.control:
        inner = parse_inner(take_back(here, packet, outer, inner))
    if options.vip is not None:
        believed = not overlay.control and sender_of(here, outer.source) not in here.foreign
        inner = restore(here, packet, inner, options, believed=believed)
    return route_packet(here, packet, outer, overlay, options, inner)


def locate_identity(here: Droplet, overlay: Overlay, options: Options) -> int:
    """The number of the VPC, of those that share the VNI."""
    tenant, vpc = options.identity or (0, 0)
    number = here.identities.get((overlay.vni, tenant, vpc))
    if number is None:
        raise RefusedError("UNKNOWN_IDENTITY")
    return number


def answer_arp(here: Droplet, packet: Packet, inner: Inner) -> bytes:
    """From a tunnel end without an agent: a bouncer of the network answers for any address in it."""
    network = here.find_network(packet.vni, inner.destination)
    packet.vpc_known = network is not None
    if not any(inner.source) or inner.source == inner.destination:
        raise RefusedError("DUPLICATE_ADDRESS_PROBE")
    if network is None or not answers_for(here, packet, network, inner.source):
        raise RefusedError("ARP_UNANSWERED")
    return respond_arp(inner)


def answer_solicitation(here: Droplet, packet: Packet, inner: Inner) -> bytes:
    """The same for IPv6."""
    target, _ = parse_solicitation(inner)
    network = here.find_network(packet.vni, target)
    packet.vpc_known = network is not None
    if not any(inner.source) or inner.source == target:
        raise RefusedError("DUPLICATE_ADDRESS_PROBE")
    if network is None or not answers_for(here, packet, network, inner.source):
        raise RefusedError("ND_UNANSWERED")
    return respond_solicitation(inner, target, router=target == network.gateway)


def answers_for(here: Droplet, packet: Packet, network: Network, source: bytes) -> bool:
    """Whether this droplet bounces the network that is asked about, or that of who asks, which may be around it."""
    if network.bounced_here:
        return True
    asking = here.find_network(packet.vni, source)
    return asking is not None and asking.bounced_here


def send_answer(here: Droplet, packet: Packet, outer: Outer, frame: bytes) -> Outcome:
    """Through the tunnel, back to the droplet that it came from."""
    packet.count("vpc", packet.vni, "answered")
    return packet.served(
        Verdict.SEND, turn_around(here, packet.frame, outer, frame), next_hop=sender_of(here, outer.source)
    )


def route_packet(
    here: Droplet, packet: Packet, outer: Outer, overlay: Overlay, options: Options, inner: Inner
) -> Outcome:
    """The first table that knows the destination decides."""
    packet.inner, vni = inner.frame, packet.vni
    if is_by_mac(inner.frame):
        route: Route | None = find_appliance(here, packet, inner.frame[:6], local=True)
    else:
        route = locate_endpoint(here, packet, inner.destination, learned=False)
    final = is_final(inner.frame)
    if route is None:
        try:
            route = locate_network(here, packet, inner, outer.source_port, final=final)
        except RefusedError:
            if not final or overlay.control:
                raise
            return give_back(here, packet, outer, overlay)
    if route.endpoint and route.endpoint.service:
        if here.functions and not final:
            at_scaled(here, packet)
        route = find_member(packet, inner, route) if final else choose_member(here, packet, inner, route, near=False)
    if route.step is Step.ROUTER and overlay.control:
        raise RefusedError("ENDPOINT_UNKNOWN")
    judged = final and sender_of(here, outer.source) not in here.foreign
    cross(here, packet, inner, vni, route.step, final=judged)
    if route.step is Step.DELIVER and route.endpoint:
        group_set = 0 if route.peered else options.group_set or overlay.group_set
        port = policed_port(here, packet.vni, inner, route)
        police(here, packet, inner, route.endpoint.uid, Direction.INGRESS, group_set, port)
        limit_receiver(here, packet, inner, route.endpoint.uid)
        return deliver_here(here, packet, outer, inner, route)
    if route.step is Step.ROUTER:
        return send_answer(here, packet, outer, respond_echo(inner))
    return forward(here, packet, outer, overlay, options, inner, route)


def deliver_here(here: Droplet, packet: Packet, outer: Outer, inner: Inner, route: Route) -> Outcome:
    """The frame without its outer headers, and a note to `deliver` for whom it is. Or with them, where it bypasses."""
    assert route.endpoint is not None
    endpoint = route.endpoint
    packet.count("vpc", packet.vni, "delivered", len(inner.frame))
    packet.count("endpoint", endpoint.uid, "delivered", len(inner.frame))
    if endpoint.bypass:
        headers = packet.frame[: len(packet.frame) - len(outer.trailer) - len(inner.frame)]
        return hand_over_whole(here, packet, headers, inner.frame, outer.trailer, endpoint)
    is_public = inner.ether_source == PUBLIC_MAC and sender_of(here, outer.source) not in here.foreign
    handover = Handover(
        endpoint.ifindex, packet.vni, endpoint.uid, route.to_service, route.listened, route.to_service and is_public
    )
    frame = from_router(inner.frame, endpoint.mac) + outer.trailer
    return packet.served(Verdict.DELIVER, frame, handover=handover)


def forward(
    here: Droplet, packet: Packet, outer: Outer, overlay: Overlay, options: Options, inner: Inner, route: Route
) -> Outcome:
    """To another droplet: one virtual hop, and outer headers written anew. VXLAN has room for the groups alone; nothing
    that was attached crosses into another VPC."""
    trace = overlay.trace if options.trace is None else int.from_bytes(options.trace[3:4], "big")
    if route.peered:
        options, overlay = (
            Options(),
            replace(overlay, vni=route.peered, rest=overlay.rest[overlay.option_bytes :], option_bytes=0, group_set=0),
        )
    droplet, mac = locate_next_hop(here, route)
    packet.inner = inner.frame
    inner = replace(inner, frame=decrement_ttl(inner))
    tunnel, frame, origin = outer.tunnel, untold(inner.frame) if route.peered else inner.frame, b""
    if route.endpoint:
        tunnel = route.endpoint.tunnel
        if tunnel is Tunnel.VXLAN and options.identity is not None:
            raise RefusedError("IDENTITY_LOST")
    raw = overlay.rest[: overlay.option_bytes] if tunnel is Tunnel.GENEVE else b""
    packet.inner, room = frame, room_to(here, droplet, len(raw))
    refuse_too_big(frame, room)
    if tunnel is Tunnel.GENEVE and not route.peered:
        origin, frame = tell_origin(here, outer, overlay, options, frame, room)
        raw = origin + raw
    if route.endpoint:
        frame = to_host(frame, route.endpoint.mac)
    packet.count("vpc", packet.vni, _COUNTERS[route.step], len(frame))
    sent = write_outer(
        here, droplet, mac, tunnel, overlay.vni, outer.source_port, raw + frame,
        service=outer.service, words=len(raw) // 4, group_set=options.group_set or overlay.group_set, trace=trace,
        critical=options.identity is not None,
    )  # fmt: skip
    return packet.served(Verdict.SEND, sent + outer.trailer, next_hop=droplet)
