# SPDX-License-Identifier: Apache-2.0
"""agent: what becomes of a frame that an endpoint sends (docs/way-of-a-packet.md 1).

Nothing that an endpoint sends is ever left to the host's own stack.
"""

from __future__ import annotations

from dataclasses import replace

from mizar.model.addresses import APPLIANCE_MAC, ROUTER_MAC, SERVICE_MAC
from mizar.oracle.appliance import check_foreign_source, find_appliance, is_from_itself
from mizar.oracle.bypass import hand_over_wrapped
from mizar.oracle.flow import Hop, flow_source_port, pick
from mizar.oracle.frames import ETHERNET, Inner, Kind, parse_inner
from mizar.oracle.functions import at_delivery, at_egress, at_scaled, of_sender
from mizar.oracle.icmp import answer_agent, refuse_too_big, room_to
from mizar.oracle.limits import limit_receiver, limit_sender, limit_uplink
from mizar.oracle.locate import Route, locate_endpoint, locate_network, locate_next_hop
from mizar.oracle.mss import clamp_mss
from mizar.oracle.network_acl import cross
from mizar.oracle.origin import untold
from mizar.oracle.outcome import Handover, Outcome, Packet, RefusedError, Step, Verdict
from mizar.oracle.policies import Direction
from mizar.oracle.policy import police
from mizar.oracle.proxy import is_proxy, proxy
from mizar.oracle.respond import parse_solicitation, respond_arp, respond_echo, respond_solicitation
from mizar.oracle.rewrite import decrement_ttl, from_router
from mizar.oracle.routes import SUBSTRATE, follow_routes
from mizar.oracle.service import (
    choose_member,
    is_outside,
    policed_port,
    restore_answer,
    translate_from_member,
    translate_to_member,
)
from mizar.oracle.stack import enter_stack
from mizar.oracle.tables import Agent, Droplet, Tunnel, in_prefix
from mizar.oracle.trap import ROUTER, asks_for_configuration, check_asker, is_link_local
from mizar.oracle.tunnel import write_outer


def agent(here: Droplet, ifindex: int, frame: bytes, segments: int = 1) -> Outcome:
    """A frame comes in at the host side of a veth; `segments`: of a superpacket, as they will be on the wire."""
    return send(here, Packet(frame, segments, proxy_flows=here.proxy_flows), ifindex)


def onward(here: Droplet, packet: Packet, ifindex: int) -> Outcome:
    """The same for what a side of a proxy sends."""
    packet.side, packet.step, packet.own, packet.service = ifindex, None, b"", 0
    return send(here, packet, ifindex)


def at_proxy(here: Droplet, ifindex: int, frame: bytes, segments: int = 1) -> Outcome:
    """A frame that `deliver` hands to a side of a proxy."""
    return proxy(here, Packet(frame, segments, proxy_flows=here.proxy_flows), ifindex, onward)


def send(here: Droplet, packet: Packet, ifindex: int) -> Outcome:
    """The frame of the endpoint behind an interface."""
    packet.vni, packet.vpc_known = 0, False
    sender = here.agents.get(ifindex)
    if sender is None:
        return packet.refused("AGENT_UNCONFIGURED", always_drop=True)
    packet.vni, packet.vpc_known = sender.vni, True
    try:
        if here.functions and not packet.side and (ended := at_egress(here, packet, sender)) is not None:
            return ended
        came = packet.frame
        return at_delivery(here, came, handle_frame(here, packet, sender), packet.segments)
    except RefusedError as refused:
        outcome = packet.refused(refused.reason, uid=of_sender(packet, sender.uid), always_drop=True)
        if packet.own and packet.inner:
            packet.inner = restore_answer(packet.inner, packet.own, packet.frame)
        message = answer_agent(here, packet, sender, refused)
        if message is None:
            return outcome
        answer = replace(packet, inner=b"", counted={})
        return packet.told(outcome, send_answer(here, answer, sender, message))


def handle_frame(here: Droplet, packet: Packet, sender: Agent) -> Outcome:
    """Who it says it is, then what it wants."""
    try:
        inner = parse_inner(packet.frame)
    except RefusedError as refused:
        if refused.reason == "INNER_MULTICAST" and here.traps and asks_for_configuration(packet.frame, sender):
            return ask_daemon(packet, sender)
        raise
    if inner.ether_source != sender.mac:
        raise RefusedError("SPOOFED_MAC")
    if inner.kind is Kind.ARP:
        return send_answer(here, packet, sender, answer_arp(inner, sender))
    if inner.kind is Kind.ND:
        if here.traps and asks_for_configuration(packet.frame, sender):
            return ask_daemon(packet, sender)
        return send_answer(here, packet, sender, answer_solicitation(inner, sender))
    leg = sender.leg(4 if inner.kind is Kind.IPV4 else 6)
    if leg is None or inner.source != leg.address:
        if leg is None or not sender.forwarding:
            raise RefusedError("SPOOFED_ADDRESS")
        check_foreign_source(inner, sender)
    if not is_router(sender, inner.destination):
        police(here, packet, inner, sender.uid, Direction.EGRESS)
    return route_packet(here, packet, inner, sender)


def answer_arp(inner: Inner, sender: Agent) -> bytes:
    """Every address of its network but its own is answered with the router's MAC."""
    claimed_mac = inner.frame[ETHERNET + 8 : ETHERNET + 14]
    probe = not any(inner.source)
    own = sender.ipv4.address if sender.ipv4 else None
    if claimed_mac != sender.mac or not (probe or inner.source == own):
        raise RefusedError("SPOOFED_ARP")
    if inner.destination == own:
        raise RefusedError("DUPLICATE_ADDRESS_PROBE")
    if probe or sender.ipv4 is None:  # it probes for an address that it was not given
        raise RefusedError("SPOOFED_ARP")
    if not in_prefix(inner.destination, sender.ipv4.gateway, sender.ipv4.prefix):
        raise RefusedError("ARP_UNANSWERED")
    return respond_arp(inner)


def answer_solicitation(inner: Inner, sender: Agent) -> bytes:
    """The same for IPv6. A link-local source is legitimate here, and nowhere else."""
    target, macs = parse_solicitation(inner)
    probe = not any(inner.source)
    own = sender.ipv6.address if sender.ipv6 else None
    if any(mac != sender.mac for mac in macs):
        raise RefusedError("SPOOFED_ND")
    if not (probe or is_link_local(inner.source) or inner.source == own):
        raise RefusedError("SPOOFED_ND")
    if target == own or (probe and is_link_local(target)):
        raise RefusedError("DUPLICATE_ADDRESS_PROBE")
    if probe:
        raise RefusedError("SPOOFED_ND")
    router = target == ROUTER
    if sender.ipv6 is None or not (router or in_prefix(target, sender.ipv6.gateway, sender.ipv6.prefix)):
        raise RefusedError("ND_UNANSWERED")
    return respond_solicitation(inner, target, router=router or target == sender.ipv6.gateway)


def ask_daemon(packet: Packet, sender: Agent) -> Outcome:
    """Up to the daemon, which answers by itself."""
    check_asker(packet.frame, sender)
    packet.count("vpc", sender.vni, "answered")
    packet.count("endpoint", sender.uid, "answered")
    return packet.served(Verdict.TRAP, packet.frame)


def send_answer(here: Droplet, packet: Packet, sender: Agent, frame: bytes) -> Outcome:
    """Back out of the interface that the request came in by."""
    packet.count("vpc", packet.vni, "answered")
    packet.count("endpoint", sender.uid, "answered")
    if packet.side:  # to the proxy, which translates an error to who caused it
        return enter_proxy(here, packet, packet.side, frame)
    return packet.served(Verdict.ANSWER, frame)


def is_router(sender: Agent, address: bytes) -> bool:
    """Whether it is the virtual router's, as the sender knows it."""
    return any(leg and leg.gateway == address for leg in (sender.ipv4, sender.ipv6))


def locate(here: Droplet, packet: Packet, inner: Inner, source_port: int, sender: Agent) -> Route:
    """The virtual router, an endpoint known here, or, as this droplet's roles allow, the next droplet."""
    to = inner.destination
    if is_router(sender, to):
        packet.step = Step.ROUTER
        return Route(Step.ROUTER)
    via = follow_routes(sender, to)
    if via == SUBSTRATE:
        if sender.forwarding and not is_from_itself(inner, sender):
            raise RefusedError("FOREIGN_SUBSTRATE")
        packet.step = Step.SUBSTRATE
        return Route(Step.SUBSTRATE)
    if isinstance(via, bytes):
        return find_appliance(here, packet, via, local=False)
    known = locate_endpoint(here, packet, to, learned=True)
    if known:
        return known
    if sender.bounced_here or sender.routed_here:
        return locate_network(here, packet, inner, source_port, final=False)
    packet.step = Step.TO_BOUNCER
    bouncer = pick(sender.bouncers, source_port, Hop.TO_BOUNCER, here.down)
    if bouncer is None:
        raise RefusedError("NO_BOUNCER")
    return Route(Step.TO_BOUNCER, bouncer)


def route_packet(here: Droplet, packet: Packet, inner: Inner, sender: Agent) -> Outcome:
    """To where `locate` says. Into another network without a divider, the hop is here."""
    answer = translate_from_member(here, packet.vni, inner) if sender.member else None
    if answer is not None:
        outside = is_outside(here, packet.vni, inner)
        packet.own, inner = inner.source, answer
        if outside:
            return answer_client(here, packet, inner, sender)
    source_port = flow_source_port(inner)
    vni, route = packet.vni, locate(here, packet, inner, source_port, sender)
    if route.step is Step.ROUTER:
        if here.traps and inner.kind is Kind.IPV4 and asks_for_configuration(packet.frame, sender):
            return ask_daemon(packet, sender)
        return send_answer(here, packet, sender, respond_echo(inner))
    packet.inner = inner.frame
    if route.endpoint and route.endpoint.service:
        if here.functions and not packet.side and not packet.own:
            at_scaled(here, packet, sender.uid)
        route = choose_member(here, packet, inner, route, near=True)
    cross(here, packet, inner, vni, route.step)
    if route.step is Step.DELIVER and route.endpoint and route.endpoint.uid != sender.uid:
        group_set = 0 if route.peered else sender.group_set
        port = policed_port(here, packet.vni, inner, route)
        police(here, packet, inner, route.endpoint.uid, Direction.INGRESS, group_set, port)
    inner = limit_sender(here, packet, inner, sender.uid)
    packet.inner = inner.frame
    if route.step is Step.DELIVER and route.endpoint:
        limit_receiver(here, packet, inner, route.endpoint.uid)
    if route.step is Step.SUBSTRATE:
        return enter_stack(here, packet, inner, sender)
    if route.peered or route.network not in (0, sender.network):
        inner = replace(inner, frame=decrement_ttl(inner))
    if route.step is Step.DELIVER and not (route.endpoint and route.endpoint.bypass):
        if route.to_service:
            inner = hand_to_member(here, packet, inner, route)
        return deliver_here(here, packet, inner, sender, route)
    return send_tunnel(here, packet, inner, source_port, sender, route, from_service=answer is not None)


def answer_client(here: Droplet, packet: Packet, inner: Inner, sender: Agent) -> Outcome:
    """To who is on the substrate, without a tunnel, by the routes of the droplet's host."""
    inner = limit_sender(here, packet, inner, sender.uid)
    limit_uplink(here, packet, inner, sender.uid)
    packet.inner = inner.frame
    frame = decrement_ttl(inner)
    packet.count("endpoint", sender.uid, "sent", len(frame))
    return packet.served(Verdict.STACK, frame)


def hand_to_member(here: Droplet, packet: Packet, inner: Inner, route: Route) -> Inner:
    """To a service, and its member is on this droplet."""
    assert route.endpoint is not None
    member = here.agents.get(route.endpoint.ifindex)
    leg = member.leg(4 if inner.kind is Kind.IPV4 else 6) if member else None
    if leg is None:
        raise RefusedError("DELIVERY_FAILED")
    return translate_to_member(here, packet.vni, inner, leg.address, listened=route.listened)


def deliver_here(here: Droplet, packet: Packet, inner: Inner, sender: Agent, route: Route) -> Outcome:
    """On this droplet: straight into the other endpoint's namespace."""
    assert route.endpoint is not None
    endpoint, size = route.endpoint, len(inner.frame)
    packet.count("endpoint", sender.uid, "sent", size)
    packet.count("vpc", packet.vni, "delivered", size)
    packet.count("endpoint", endpoint.uid, "delivered", size)
    if is_proxy(endpoint.ifindex):
        return enter_proxy(here, packet, endpoint.ifindex, from_router(inner.frame, endpoint.mac))
    handover = Handover(endpoint.ifindex, packet.vni, endpoint.uid)
    return packet.served(Verdict.DELIVER, from_router(inner.frame, endpoint.mac), handover=handover)


def enter_proxy(here: Droplet, packet: Packet, ifindex: int, frame: bytes) -> Outcome:
    """To a side of a proxy that this droplet carries."""
    packet.frame = frame
    return proxy(here, packet, ifindex, onward)


def send_tunnel(
    here: Droplet, packet: Packet, inner: Inner, source_port: int, sender: Agent, route: Route, *, from_service: bool
) -> Outcome:
    """To another droplet: in the endpoint's tunnel and with its MAC when this is the last hop, else in the sender's."""
    droplet, mac = locate_next_hop(here, route)
    tunnel, mac_to = (route.endpoint.tunnel, route.endpoint.mac) if route.endpoint else (sender.tunnel, None)
    if tunnel is Tunnel.VXLAN and sender.needs_identity and not route.peered:
        raise RefusedError("IDENTITY_LOST")
    if route.step is not Step.DELIVER:
        limit_uplink(here, packet, inner, sender.uid)
    options = sender.options if tunnel is Tunnel.GENEVE and not route.peered else b""
    room, packet.inner = room_to(here, droplet, len(options)), inner.frame
    refuse_too_big(inner.frame, room)
    frame = clamp_mss(inner, room)
    frame = from_router(frame, mac_to) if mac_to else ROUTER_MAC + frame[6:]
    if route.step is Step.DELIVER:  # as the last droplet hands it over
        pass
    elif packet.by_mac:
        frame = frame[:6] + APPLIANCE_MAC + frame[12:]
    elif from_service:
        frame = frame[:6] + SERVICE_MAC + frame[12:]
    if mac_to is None and (sender.through_divider or sender.forwarding or route.peered):
        frame = untold(frame)
    packet.count("endpoint", sender.uid, "sent", len(frame))
    if route.step is not Step.DELIVER:
        packet.count("vpc", sender.vni, "sent", len(frame))
    if route.endpoint and route.endpoint.learned:
        packet.count("vpc", sender.vni, "direct", len(frame))
    outer = write_outer(
        here, droplet, mac, tunnel, route.peered or sender.wire_vni or sender.vni, source_port, options + frame,
        service=packet.service, words=len(options) // 4, group_set=0 if route.peered else sender.group_set,
        critical=sender.needs_identity and bool(options),
    )  # fmt: skip
    if route.endpoint and route.step is Step.DELIVER:
        return hand_over_wrapped(packet, outer, route.endpoint)
    return packet.served(Verdict.SEND, outer, next_hop=droplet)
