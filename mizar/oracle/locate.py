# SPDX-License-Identifier: Apache-2.0
"""The procedure: where a packet goes next. Endpoints first, then networks, then the VPC; the first that knows the
destination decides (docs/way-of-a-packet.md 2). Only reads tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from mizar.oracle.flow import Hop, pick
from mizar.oracle.outcome import Packet, RefusedError, Step
from mizar.oracle.substrate import address_to
from mizar.oracle.tables import Droplet, Endpoint


@dataclass(frozen=True, slots=True)
class Route:
    """Where to. `network` is the destination's, 0 while only a divider knows it."""

    step: Step
    droplet: bytes | None = None
    network: int = 0
    endpoint: Endpoint | None = None


def locate_endpoint(here: Droplet, packet: Packet, to: bytes) -> Route | None:
    """Is it an endpoint that this droplet knows?"""
    endpoint = here.endpoints.get((packet.vni, to))
    if endpoint is None:
        return None
    packet.vpc_known = True
    packet.step = Step.DELIVER if endpoint.ifindex else Step.BOUNCE
    return Route(packet.step, endpoint.host, endpoint.network, endpoint)


def locate_network(here: Droplet, packet: Packet, to: bytes, source_port: int, *, final: bool) -> Route:
    """Is it in a network that this droplet bounces or routes? If not: a divider knows.

    `final`: the sender took this droplet for the host of the endpoint. It is not (any more), and a packet that went on
    might circle between the two (contracts/wire.md, "No circles").
    """
    network = here.find_network(packet.vni, to)
    if network is not None:
        packet.vpc_known = True
        if network.gateway == to:
            packet.step = Step.ROUTER
            return Route(Step.ROUTER)
        if network.bounced_here or final:
            raise RefusedError("ENDPOINT_UNKNOWN")
        if network.routed_here:
            packet.step = Step.DIVIDE
            bouncer = pick(network.bouncers, source_port, Hop.DIVIDE, here.down)
            if bouncer is None:
                raise RefusedError("NO_BOUNCER")
            return Route(Step.DIVIDE, bouncer, network.id)
    return locate_divider(here, packet, source_port, final=final)


def locate_divider(here: Droplet, packet: Packet, source_port: int, *, final: bool) -> Route:
    """To a divider of the VPC, unless this droplet is one: a divider knows all networks."""
    vpc = here.vpcs.get(packet.vni)
    if vpc is None:
        raise RefusedError("UNKNOWN_VNI")
    packet.vpc_known = True
    if vpc.divided_here:
        raise RefusedError("NETWORK_UNKNOWN")
    if final:
        raise RefusedError("ENDPOINT_UNKNOWN")
    packet.step = Step.TO_DIVIDER
    divider = pick(vpc.dividers, source_port, Hop.TO_DIVIDER, here.down)
    if divider is None:
        raise RefusedError("NO_DIVIDER")
    return Route(Step.TO_DIVIDER, divider)


def locate_next_hop(here: Droplet, route: Route) -> tuple[bytes, bytes]:
    """Name and MAC of the droplet that a route leads to, when it can be reached."""
    if route.droplet == here.address and route.droplet in here.droplets:
        raise RefusedError("FORWARD_TO_SELF")
    mac = here.droplets.get(route.droplet) if route.droplet else None
    if route.droplet is None or mac is None:
        cut_off = route.droplet in here.droplets and route.droplet and address_to(here, route.droplet) is None
        raise RefusedError("NO_COMMON_FAMILY" if cut_off else "NEXT_HOP_UNRESOLVED")
    return route.droplet, mac
