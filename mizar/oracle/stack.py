# SPDX-License-Identifier: Apache-2.0
"""The way into the host's own stack, and back from it (docs/routing.md)."""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC
from mizar.oracle.frames import Inner, Kind, parse_inner
from mizar.oracle.limits import limit_receiver
from mizar.oracle.network_acl import cross
from mizar.oracle.outcome import Handover, Outcome, Packet, RefusedError, Step, Verdict
from mizar.oracle.policies import Direction
from mizar.oracle.policy import police
from mizar.oracle.rewrite import decrement_ttl, from_router
from mizar.oracle.routes import SUBSTRATE, action_for
from mizar.oracle.tables import Agent, Droplet

STACK_MAC = bytes.fromhex("024d5a000004")
UDP, TUNNEL_PORTS = 17, (6081, 4789)
HIDING = (0, 43, 44, 51, 60, 135, 139, 140)
"""IPv6 headers behind which the transport's may stand."""


def enter_stack(here: Droplet, packet: Packet, inner: Inner, sender: Agent) -> Outcome:
    """An endpoint's packet goes to the stack, unless it could be a tunnel's."""
    if not here.stack_link:
        raise RefusedError("SUBSTRATE_UNREADY")
    if may_be_tunnel(inner):
        raise RefusedError("SUBSTRATE_TUNNEL")
    frame = decrement_ttl(inner)
    packet.count("endpoint", sender.uid, "sent", len(frame))
    return packet.served(Verdict.STACK, STACK_MAC + ROUTER_MAC + frame[12:])


def may_be_tunnel(inner: Inner) -> bool:
    """Other droplets would believe it, did it come from an address of this one."""
    if inner.kind is Kind.IPV6 and inner.protocol in HIDING:
        return True
    if inner.protocol != UDP:
        return False
    if inner.kind is Kind.IPV4 and struct.unpack_from("!H", inner.frame, 20)[0] & 0x1FFF:
        return False  # without the first fragment it is nothing
    return len(inner.payload) < 8 or struct.unpack_from("!H", inner.payload, 2)[0] in TUNNEL_PORTS


def substrate(here: Droplet, frame: bytes, segments: int = 1) -> Outcome:
    """What the stack sends comes in at the data plane's end of the pair."""
    packet = Packet(frame, segments)
    try:
        return bring_in(here, packet)
    except RefusedError as refused:
        return packet.refused(refused.reason, always_drop=True)


def bring_in(here: Droplet, packet: Packet) -> Outcome:
    """For an endpoint that lives here, from where its network has a route to."""
    inner = parse_inner(packet.frame)
    vni = here.stack.get(inner.destination)
    if inner.kind not in (Kind.IPV4, Kind.IPV6) or vni is None:
        raise RefusedError("SUBSTRATE_DESTINATION")
    packet.vni = vni
    endpoint = here.endpoints.get((vni, inner.destination))
    if endpoint is None or not endpoint.ifindex:
        raise RefusedError("SUBSTRATE_DESTINATION")
    packet.vpc_known = True
    neighbours = (one for one in here.agents.values() if (one.vni, one.network) == (vni, endpoint.network))
    table = next((one.routes for one in neighbours), {})
    if action_for(table, inner.source) != SUBSTRATE or inner.source in here.stack:
        raise RefusedError("SUBSTRATE_SOURCE")
    if endpoint.bypass:
        raise RefusedError("BYPASS_SUBSTRATE")
    cross(here, packet, inner, packet.vni, Step.DELIVER)
    police(here, packet, inner, endpoint.uid, Direction.INGRESS)
    frame = decrement_ttl(inner)
    limit_receiver(here, packet, inner, endpoint.uid)
    packet.count("vpc", vni, "delivered", len(frame))
    packet.count("endpoint", endpoint.uid, "delivered", len(frame))
    handover = Handover(endpoint.ifindex, vni, endpoint.uid)
    return packet.served(Verdict.DELIVER, from_router(frame, endpoint.mac), handover=handover)
