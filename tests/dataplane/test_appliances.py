# SPDX-License-Identifier: Apache-2.0
"""The way by an appliance: to it by its MAC, through it from another's address, and never in a circle."""

from __future__ import annotations

import pytest

from mizar.kernel import layout

from .every import every_tunnel_and_family
from .frames import SOURCE_PORT, datagram, tunnel
from .plan import (
    APPLIANCE_MAC,
    BACK,
    BOUNCER,
    ENDPOINT_FORWARDING,
    FAMILIES,
    FRONT,
    HANDOVER_MAGIC,
    HOST,
    MARK,
    ME,
    NETWORK_ELSEWHERE,
    NETWORK_HAS_ROUTES,
    RED,
    ROUTE_ENDPOINT,
    ROUTE_VPC,
    ROUTER_MAC,
    UNTOLD_MAC,
    A,
    Address,
    B,
    C,
    EndpointPlan,
    R,
    S,
)
from .testbed import TC_REDIRECT, TC_SHOT, XDP_PASS, Testbed

ALL: dict[int, Address] = {4: "0.0.0.0", 6: "::"}
BEYOND: dict[int, Address] = {4: "198.51.100.7", 6: "2001:db8:9::7"}
"""Of no network of the VPC."""


def by_way_of(droplet: Testbed, appliance: EndpointPlan, flags: int = 0) -> None:
    """All that A sends goes to an appliance."""
    droplet.as_host()
    droplet.agent(A, network_flags=NETWORK_HAS_ROUTES, flags=flags)
    for family in FAMILIES:
        droplet.route(FRONT, ALL[family], 0, ROUTE_ENDPOINT, appliance.mac)


@every_tunnel_and_family
def test_to_an_appliance_on_another_droplet(droplet: Testbed, kind: str, family: int) -> None:
    """Straight to its host, in its tunnel, with its MAC and the mark that it is for that; addresses stay. Into another
    network, that is a hop."""
    by_way_of(droplet, S)
    for network, ttl in ((FRONT.slot, 64), (BACK.slot, 63), (NETWORK_ELSEWHERE, 63)):
        droplet.appliance(S, tunnel=kind, network=network)
        result = droplet.send(datagram(family, A, BEYOND[family]))
        inner = datagram(family, A, BEYOND[family], ttl=ttl, src_mac=APPLIANCE_MAC, dst_mac=S.mac)
        assert result.retval == TC_REDIRECT
        frame = result.frame[:34] + SOURCE_PORT.to_bytes(2, "big") + result.frame[36:]
        assert frame == tunnel(kind, inner, src=ME, dst=HOST)


@pytest.mark.parametrize("family", FAMILIES)
def test_to_an_appliance_on_the_same_droplet(droplet: Testbed, family: int) -> None:
    """Never encapsulated; from the router, as from any neighbour."""
    for appliance, ttl in ((B, 64), (C, 63)):
        by_way_of(droplet, appliance)
        droplet.appliance(appliance)
        result = droplet.send(datagram(family, A, BEYOND[family]))
        assert result.retval == TC_REDIRECT
        expected = datagram(family, A, BEYOND[family], ttl=ttl, src_mac=ROUTER_MAC, dst_mac=appliance.mac)
        assert result.frame == bytes(expected)
        assert droplet.counted()["endpoint", appliance.slot]["delivered_packets"] == 1
        droplet.reset()


@every_tunnel_and_family
def test_what_comes_for_an_appliance_is_delivered_by_its_mac(droplet: Testbed, kind: str, family: int) -> None:
    """Whatever its destination; one that another endpoint here has is no exception, and nor is the gateway's."""
    droplet.as_host()
    droplet.appliance(C)
    for to in (BEYOND[family], B.address(family), FRONT.gateway(family)):
        inner = datagram(family, R, to, src_mac=APPLIANCE_MAC, dst_mac=C.mac)
        result = droplet.transit(tunnel(kind, inner, src=HOST))
        assert result.retval == XDP_PASS
        assert result.frame == bytes(datagram(family, R, to, src_mac=ROUTER_MAC, dst_mac=C.mac))
        note = layout.struct("handover", magic=HANDOVER_MAGIC, mark=MARK, ifindex=C.ifindex, vni=RED.vni, slot=C.slot)
        assert result.metadata == note


@pytest.mark.parametrize("family", FAMILIES)
def test_a_droplet_on_the_way_does_not_pass_it_on(droplet: Testbed, family: int) -> None:
    """Who sends to an appliance has been told its host: the packet goes nowhere else, and never past it."""
    droplet.as_bouncer()
    droplet.appliance(S)
    inner = datagram(family, A, R.address(family), src_mac=APPLIANCE_MAC, dst_mac=S.mac)
    droplet.transit(tunnel("geneve", inner, src=BOUNCER))
    assert droplet.counted()["drop", "APPLIANCE_GONE"]["packets"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_what_an_appliance_forwards_does_not_come_back_to_it(droplet: Testbed, family: int) -> None:
    """Its own network's table leads to itself: for what it sends, that is no route. The source may be another's where
    its table of sources says so; then it goes the way of any packet."""
    by_way_of(droplet, A, flags=ENDPOINT_FORWARDING)
    foreign = datagram(family, S, R.address(family), src_mac=A.mac)
    assert droplet.send(foreign).retval == TC_SHOT
    assert droplet.counted()["drop", "FOREIGN_SOURCE"]["packets"] == 1
    droplet.source(A, ALL[family], 0, ROUTE_VPC)
    result = droplet.send(foreign)
    assert result.retval == TC_REDIRECT
    frame = result.frame[:34] + SOURCE_PORT.to_bytes(2, "big") + result.frame[36:]
    onward = datagram(family, S, R.address(family), src_mac=A.mac, dst_mac=UNTOLD_MAC)  # it set out elsewhere
    assert frame == tunnel("geneve", onward, src=ME, dst=BOUNCER)
    droplet.agent(A, network_flags=NETWORK_HAS_ROUTES)
    assert droplet.send(foreign).retval == TC_SHOT
    assert droplet.counted()["drop", "SPOOFED_ADDRESS"]["packets"] == 1
