# SPDX-License-Identifier: Apache-2.0
"""The procedure: where a packet goes next. Endpoints first, then networks, then the VPC; the first that knows the
destination decides (docs/way-of-a-packet.md 2). Only reads tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mizar.oracle.flow import Hop, pick
from mizar.oracle.frames import Inner
from mizar.oracle.outcome import Packet, RefusedError, Step
from mizar.oracle.peering import cross_peering
from mizar.oracle.substrate import address_to
from mizar.oracle.tables import Droplet, Endpoint, Network, Vpc


@dataclass(frozen=True, slots=True)
class Route:
    """Where to. `network` is the destination's, 0 while only a divider knows it."""

    step: Step
    droplet: bytes | None = None
    network: int = 0
    endpoint: Endpoint | None = None
    peered: int = 0
    """It has crossed into another VPC here: the VNI of that one on the wire, else 0."""
    to_service: bool = False
    """`endpoint` is a member, and the packet is addressed to its service."""
    listened: bool = False
    """And that is a load balancer."""


def locate_endpoint(here: Droplet, packet: Packet, to: bytes, *, learned: bool) -> Route | None:
    """Is it an endpoint that this droplet knows? `learned`: agents use what was learned, as long as it may be right."""
    endpoint = here.endpoints.get((packet.vni, to))
    if endpoint and endpoint.learned and (not learned or endpoint.gone or endpoint.host in here.down):
        return None
    if endpoint is None:
        return None
    packet.vpc_known = True
    packet.step = Step.DELIVER if endpoint.ifindex else Step.BOUNCE
    return Route(packet.step, endpoint.host, endpoint.network, endpoint)


def locate_network(here: Droplet, packet: Packet, inner: Inner, source_port: int, *, final: bool) -> Route:
    """Is it in a network that this droplet bounces or routes? If not: a divider knows.

    `final`: the sender took this droplet for the host of the endpoint. It is not (any more), and a packet that went on
    might circle between the two (contracts/wire.md, "No circles").
    """
    to = inner.destination
    network = here.find_network(packet.vni, to)
    if network is not None:
        packet.vpc_known = True
        if network.peer:
            if final:
                raise RefusedError("ENDPOINT_UNKNOWN")
            return locate_peer(here, packet, inner, source_port, network)
        if network.gateway == to:
            packet.step = Step.ROUTER
            return Route(Step.ROUTER)
        if network.bounced_here or final:
            raise RefusedError("ENDPOINT_UNKNOWN")
        if network.routed_here:
            return locate_bouncer(here, packet, network, source_port)
    vpc = here.vpcs.get(packet.vni)
    if vpc is None:
        raise RefusedError("UNKNOWN_VNI")
    packet.vpc_known = True
    return locate_divider(here, packet, vpc, source_port, final=final)


def locate_bouncer(here: Droplet, packet: Packet, network: Network, source_port: int) -> Route:
    """To a bouncer of the destination's network, which this droplet routes."""
    packet.step = Step.DIVIDE
    bouncer = pick(network.bouncers, source_port, Hop.DIVIDE, here.down)
    if bouncer is None:
        raise RefusedError("NO_BOUNCER")
    return Route(Step.DIVIDE, bouncer, network.id)


def locate_divider(here: Droplet, packet: Packet, vpc: Vpc, source_port: int, *, final: bool) -> Route:
    """To a divider of the VPC, unless this droplet is one: a divider knows all networks."""
    if vpc.divided_here:
        raise RefusedError("NETWORK_UNKNOWN")
    if final:
        raise RefusedError("ENDPOINT_UNKNOWN")
    packet.step = Step.TO_DIVIDER
    divider = pick(vpc.dividers, source_port, Hop.TO_DIVIDER, here.down)
    if divider is None:
        raise RefusedError("NO_DIVIDER")
    return Route(Step.TO_DIVIDER, divider)


def locate_peer(here: Droplet, packet: Packet, inner: Inner, source_port: int, entry: Network) -> Route:
    """All questions once more, in the VPC of a peer. Its virtual routers serve its own endpoints only."""
    to = inner.destination
    peer = cross_peering(here, packet, entry, inner.source, len(inner.frame))
    known = locate_endpoint(here, packet, to, learned=False)
    if known is not None:
        return replace(known, peered=entry.peer)
    network = here.find_network(packet.vni, to)
    if network is not None:
        if network.peer:
            raise RefusedError("PEERING_NOT_TRANSITIVE")
        if network.bounced_here or network.gateway == to:
            raise RefusedError("ENDPOINT_UNKNOWN")
        if network.routed_here:
            return replace(locate_bouncer(here, packet, network, source_port), peered=entry.peer)
    return replace(locate_divider(here, packet, peer, source_port, final=False), peered=entry.peer)


def locate_next_hop(here: Droplet, route: Route) -> tuple[bytes, bytes]:
    """Name and MAC of the droplet that a route leads to, when it can be reached. This one itself is by nobody but an
    endpoint that takes its packets as they are in a tunnel."""
    if route.droplet == here.address and route.droplet in here.droplets:
        if route.step is Step.DELIVER:
            return route.droplet, here.droplets[route.droplet] or bytes(6)
        raise RefusedError("FORWARD_TO_SELF")
    mac = here.droplets.get(route.droplet) if route.droplet else None
    if route.droplet is None or mac is None:
        cut_off = route.droplet in here.droplets and route.droplet and address_to(here, route.droplet) is None
        raise RefusedError("NO_COMMON_FAMILY" if cut_off else "NEXT_HOP_UNRESOLVED")
    return route.droplet, mac
