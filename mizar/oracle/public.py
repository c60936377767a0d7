# SPDX-License-Identifier: Apache-2.0
"""Public addresses of load balancers (docs/load-balancer.md): what the substrate sends there, where it comes first.

Called by transit for frames that are in no tunnel. What members answer is agent's.
"""

from __future__ import annotations

from dataclasses import replace as changed

from mizar.oracle.flow import flow_source_port
from mizar.oracle.frames import ETHERNET, Inner, Kind, parse_inner
from mizar.oracle.icmp import TOLD, error_about, refuse_too_big, room_to
from mizar.oracle.limits import limit_receiver
from mizar.oracle.locate import Route, locate_next_hop
from mizar.oracle.outcome import Handover, Outcome, Packet, RefusedError, Step, Verdict
from mizar.oracle.policies import Direction
from mizar.oracle.policy import police
from mizar.oracle.respond import parse_solicitation, respond_arp, respond_solicitation
from mizar.oracle.rewrite import PUBLIC_MAC, decrement_ttl, from_router, replace
from mizar.oracle.service import choose_member, policed_port
from mizar.oracle.tables import Droplet, Endpoint, PublicAddress, Tunnel
from mizar.oracle.tunnel import write_outer
from mizar.oracle.vip_option import BYTES, address_to_member

REFUSALS = {
    "NO_LISTENER": "no_listener",
    "PUBLIC_SOURCE": "inside",
    "SERVICE_WITHOUT_MEMBER": "no_member",
    "PACKET_TOO_BIG": "too_big",
}
"""Drop reason → how it is counted for the address."""


def take_public(here: Droplet, packet: Packet) -> Outcome | None:
    """What becomes of a frame that is for a public address; None: it is the host's own."""
    if not here.public:
        return None
    try:
        inner = parse_inner(packet.frame)
        asked = parse_solicitation(inner)[0] if inner.kind is Kind.ND else inner.destination
    except RefusedError:
        return None
    found = here.public.get(asked)
    if found is None:
        return None
    if inner.kind in (Kind.ARP, Kind.ND):
        return packet.served(Verdict.SEND, _answer(here, inner, asked))
    if inner.frame[:6] != here.mac:  # another station's, which has the address as well
        return None
    packet.count("public", asked.hex(), "came", len(inner.frame))
    packet.vni, packet.vpc_known, packet.inner = found.vni, True, inner.frame
    try:
        return _hand_on(here, packet, inner, found)
    except RefusedError as refused:
        return _tell_client(here, packet, inner, refused)


def _tell_client(here: Droplet, packet: Packet, inner: Inner, refused: RefusedError) -> Outcome:
    """The sender is told from the public address, where it is told at all."""
    packet.count("public", inner.destination.hex(), REFUSALS.get(refused.reason, "other"))
    outcome = packet.refused(refused.reason)
    if refused.reason not in TOLD or not here.icmp_errors:
        return outcome
    message = error_about(packet.inner, inner.destination, refused.reason, refused.mtu)
    if not message:
        return outcome
    packet.count("vpc", packet.vni, "answered")
    frame = inner.frame[6:12] + here.mac + inner.frame[12:14] + message
    return packet.told(outcome, Outcome(Verdict.SEND, frame))


def _answer(here: Droplet, inner: Inner, asked: bytes) -> bytes:
    """The droplet has the address, as far as the link is concerned."""
    if inner.kind is Kind.ARP:
        frame = replace(respond_arp(inner), ETHERNET + 8, here.mac)
    else:
        frame = respond_solicitation(inner, asked, router=False, mac=here.mac)
    return replace(frame, 6, here.mac)


def _hand_on(here: Droplet, packet: Packet, inner: Inner, found: PublicAddress) -> Outcome:
    service = Endpoint(0, bytes(6), b"", service=found.service)
    route = choose_member(here, packet, inner, Route(Step.BOUNCE, endpoint=service), near=False, inside=found.inside)
    assert route.endpoint is not None
    inner = changed(inner, frame=decrement_ttl(inner))
    packet.inner = inner.frame
    member = route.endpoint
    if route.step is not Step.DELIVER:
        droplet, mac = locate_next_hop(here, route)
        bytes_of_option = BYTES[inner.kind] if found.vip_option else 0
        refuse_too_big(inner.frame, room_to(here, droplet, bytes_of_option))
        frame, option = inner.frame, b""
        if found.vip_option:
            chosen = next(one for one in found.service.members if one.endpoint is member)
            frame, option = address_to_member(here, packet.vni, inner, chosen)
        frame = member.mac + PUBLIC_MAC + frame[12:]
        packet.count("vpc", packet.vni, "bounced", len(frame))
        wire_vni = found.wire_vni or found.vni
        sent = write_outer(
            here, droplet, mac, Tunnel.GENEVE, wire_vni, flow_source_port(inner), option + frame,
            words=len(option) // 4, critical=found.vip_option,
        )  # fmt: skip
        return packet.served(Verdict.SEND, sent, next_hop=droplet)
    port = policed_port(here, packet.vni, inner, route)
    police(here, packet, inner, member.uid, Direction.INGRESS, 0, port)
    limit_receiver(here, packet, inner, member.uid)
    packet.count("vpc", packet.vni, "delivered", len(inner.frame))
    packet.count("endpoint", member.uid, "delivered", len(inner.frame))
    note = Handover(member.ifindex, packet.vni, member.uid, True, route.listened, public=True)
    return packet.served(Verdict.DELIVER, from_router(inner.frame, member.mac), handover=note)
