# SPDX-License-Identifier: Apache-2.0
"""The crossing into a peered VPC: which frame leaves, in whose VNI, and who counts it."""

from __future__ import annotations

import pytest

from .every import every_tunnel_and_family
from .frames import datagram, option, ping, tunnel
from .plan import (
    BLUE,
    BOUNCER,
    DIVIDER,
    FAMILIES,
    HOST,
    ME,
    NETWORK_ROUTED_HERE,
    RED,
    ROUTER_MAC,
    THEIRS,
    UNTOLD_MAC,
    A,
    EndpointPlan,
    V,
)
from .test_transit_paths import INNER_BYTES
from .testbed import TC_REDIRECT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

LABELS = option(0xFF01, 0x02, b"\0\0\0\7\0\0\0\1") + option(0x0102, 0x01, b"abcd")


def crossed(family: int, did: str) -> dict[tuple[str, object], dict[str, int]]:
    """RED counts the crossing, BLUE what came of it."""
    size = INNER_BYTES[family]
    return {
        ("vpc", RED.slot): {"peered_packets": 1, "peered_bytes": size},
        ("vpc", BLUE.slot): {f"{did}_packets": 1, f"{did}_bytes": size},
    }


@every_tunnel_and_family
def test_a_divider_sends_to_a_divider_of_the_peer_in_the_peers_vni(droplet: Testbed, kind: str, family: int) -> None:
    droplet.as_crossing(DIVIDER)
    result = droplet.transit(tunnel(kind, datagram(family, A, V.address(family)), src=HOST))
    sent = datagram(family, A, V.address(family), ttl=63, dst_mac=UNTOLD_MAC)
    assert (result.retval, result.frame) == (XDP_TX, tunnel(kind, sent, src=ME, dst=DIVIDER, vni=BLUE.vni))
    assert droplet.counted() == crossed(family, "to_divider")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_option_crosses(droplet: Testbed, family: int) -> None:
    """Labels, origin and a tenant's own options mean something in its own VPC only."""
    droplet.as_crossing(DIVIDER)
    result = droplet.transit(tunnel("geneve", datagram(family, A, V.address(family)), src=HOST, options=LABELS))
    sent = datagram(family, A, V.address(family), ttl=63, dst_mac=UNTOLD_MAC)
    assert (result.retval, result.frame) == (XDP_TX, tunnel("geneve", sent, src=ME, dst=DIVIDER, vni=BLUE.vni))


@every_tunnel_and_family
def test_a_divider_of_both_divides_at_once(droplet: Testbed, kind: str, family: int) -> None:
    droplet.as_crossing(ME)
    droplet.network(THEIRS, BOUNCER, vpc=BLUE, routed_here=True)
    result = droplet.transit(tunnel(kind, datagram(family, A, V.address(family)), src=HOST))
    sent = datagram(family, A, V.address(family), ttl=63, dst_mac=UNTOLD_MAC)
    assert (result.retval, result.frame) == (XDP_TX, tunnel(kind, sent, src=ME, dst=BOUNCER, vni=BLUE.vni))
    assert droplet.counted() == crossed(family, "divided")


@every_tunnel_and_family
def test_a_divider_that_bounces_the_peers_network_bounces_at_once(droplet: Testbed, kind: str, family: int) -> None:
    droplet.as_crossing(DIVIDER)
    droplet.network(THEIRS, ME, vpc=BLUE)
    droplet.endpoint(V, vpc=BLUE, tunnel="vxlan")
    result = droplet.transit(tunnel(kind, datagram(family, A, V.address(family)), src=HOST))
    sent = datagram(family, A, V.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=V.mac)
    assert (result.retval, result.frame) == (XDP_TX, tunnel("vxlan", sent, src=ME, dst=HOST, vni=BLUE.vni))
    assert droplet.counted() == crossed(family, "bounced")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_agent_on_a_divider_crosses_itself(droplet: Testbed, family: int) -> None:
    """It is the hop: the TTL falls. RED counts what it sent."""
    droplet.as_crossing(DIVIDER)
    droplet.agent(A, network_flags=NETWORK_ROUTED_HERE)
    result = droplet.send(datagram(family, A, V.address(family)))
    assert result.retval == TC_REDIRECT
    sent = bytes(datagram(family, A, V.address(family), ttl=63, dst_mac=UNTOLD_MAC))
    assert result.frame[46:49] == BLUE.vni.to_bytes(3, "big")
    assert result.frame[50:] == sent
    size = INNER_BYTES[family]
    assert droplet.counted() == {
        ("endpoint", A.slot): {"sent_packets": 1, "sent_bytes": size},
        ("vpc", RED.slot): {"sent_packets": 1, "sent_bytes": size, "peered_packets": 1, "peered_bytes": size},
    }


def test_the_peers_gateway_answers_its_own_endpoints_only(droplet: Testbed) -> None:
    droplet.as_crossing(ME)
    droplet.network(THEIRS, BOUNCER, vpc=BLUE, routed_here=True)
    asked = ping(4, A.address(4), THEIRS.gateway(4), src_mac=A.mac, dst_mac=ROUTER_MAC)
    assert droplet.transit(tunnel("geneve", asked, src=HOST)).retval == XDP_DROP
    assert droplet.counted()["drop", "ENDPOINT_UNKNOWN"]["packets"] == 1


def test_without_a_peering_nothing_crosses(droplet: Testbed) -> None:
    """BLUE is known here, and even divided here: an entry in RED's own table alone leads to it."""
    droplet.as_crossing(ME)
    droplet.network(THEIRS, ME, vpc=BLUE, routed_here=True)
    droplet.endpoint(EndpointPlan(THEIRS, 31, ME, slot=4, ifindex=74), vpc=BLUE)
    frame = tunnel("geneve", datagram(4, A, V.address(4)), src=HOST)
    assert droplet.transit(frame).retval == XDP_PASS
    for key, _ in list(droplet.tables.networks.items()):
        if droplet.tables.networks.get(key)["peer"]:  # type: ignore[index]
            droplet.tables.networks.delete(key)
    assert droplet.transit(frame).retval == XDP_DROP
    assert droplet.counted()["drop", "NETWORK_UNKNOWN"]["packets"] == 1
