# SPDX-License-Identifier: Apache-2.0
"""Into the host's own stack and back: the whole frame that comes out, and what is counted."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel import test_run

from .frames import datagram
from .plan import FAMILIES, FRONT, NETWORK_HAS_ROUTES, RED, ROUTE_SUBSTRATE, ROUTE_VPC, ROUTER_MAC, A, B, R, mapped
from .testbed import TC_REDIRECT, TC_SHOT, Testbed

STACK_MAC = "02:4d:5a:00:00:04"
OUTSIDE = {4: "192.0.2.1", 6: "2001:db8:5::1"}
PREFIX = {4: ("192.0.2.0", 24), 6: ("2001:db8:5::", 64)}
LINK = 7


def ready(droplet: Testbed) -> None:
    """a and its neighbour b live here; their network has a route into the substrate."""
    droplet.as_host()
    droplet.agent(A, network_flags=NETWORK_HAS_ROUTES)
    droplet.tables.substrate_link.put(0, LINK)
    for family in FAMILIES:
        droplet.route(FRONT, *PREFIX[family], ROUTE_SUBSTRATE)
        droplet.route(FRONT, *FRONT.prefix(family), ROUTE_VPC)
        for endpoint in (A, R):
            droplet.tables.substrate_endpoints.put({"addr": mapped(endpoint.address(family))}, RED.vni)


def from_stack(family: int, source: str, to: str, **fields: Any) -> Any:
    """As the host's stack sends it to an interface without ARP."""
    header = IP(src=source, dst=to, **fields) if family == 4 else IPv6(src=source, dst=to, **fields)
    return Ether(src=STACK_MAC, dst=STACK_MAC) / header / UDP(sport=53, dport=4001) / Raw(b"mizar")


def come_in(droplet: Testbed, frame: Any) -> test_run.TestRun:
    """Runs the program at the data plane's end of the pair."""
    return test_run.run_tc(droplet.programs.substrate.fd, bytes(frame))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_endpoints_packet_goes_to_the_stack_as_it_is(droplet: Testbed, family: int) -> None:
    """Without a tunnel, one hop further, from the router to the stack's end."""
    ready(droplet)
    frame = datagram(family, A, OUTSIDE[family])
    result = droplet.send(frame)
    assert result.retval == TC_REDIRECT
    wanted = Ether(bytes(frame))
    wanted.src, wanted.dst = ROUTER_MAC, STACK_MAC
    if family == 4:
        wanted[IP].ttl -= 1
        del wanted[IP].chksum
    else:
        wanted[IPv6].hlim -= 1
    assert result.frame == bytes(wanted)
    assert droplet.counted() == {("endpoint", A.slot): {"sent_packets": 1, "sent_bytes": len(result.frame)}}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_stack_sends_reaches_the_endpoint(droplet: Testbed, family: int) -> None:
    """From the router, to the endpoint's MAC, one hop further."""
    ready(droplet)
    frame = from_stack(family, OUTSIDE[family], A.address(family))
    result = come_in(droplet, frame)
    assert result.retval == TC_REDIRECT
    wanted = Ether(bytes(frame))
    wanted.src, wanted.dst = ROUTER_MAC, A.mac
    if family == 4:
        wanted[IP].ttl -= 1
        del wanted[IP].chksum
    else:
        wanted[IPv6].hlim -= 1
    assert result.frame == bytes(wanted)
    size = len(result.frame)
    assert droplet.counted() == {
        ("vpc", RED.slot): {"delivered_packets": 1, "delivered_bytes": size},
        ("endpoint", A.slot): {"delivered_packets": 1, "delivered_bytes": size},
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_what_has_no_route_back_is_refused(droplet: Testbed, family: int) -> None:
    """A source elsewhere in the substrate; one of the VPC's own; another endpoint's, though a route would hold it."""
    ready(droplet)
    elsewhere = "198.51.100.1" if family == 4 else "2001:db8:6::1"
    droplet.route(FRONT, R.address(family), 32 if family == 4 else 128, ROUTE_SUBSTRATE)
    for source in (elsewhere, B.address(family), R.address(family)):
        assert come_in(droplet, from_stack(family, source, A.address(family))).retval == TC_SHOT
    assert droplet.counted()["drop", "SUBSTRATE_SOURCE"]["packets"] == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_for_no_endpoint_here_is_refused(droplet: Testbed, family: int) -> None:
    """An address without an entry; one whose endpoint lives elsewhere; one that has left."""
    ready(droplet)
    assert come_in(droplet, from_stack(family, OUTSIDE[family], B.address(family))).retval == TC_SHOT
    droplet.endpoint(A, ifindex=0)
    assert come_in(droplet, from_stack(family, OUTSIDE[family], A.address(family))).retval == TC_SHOT
    droplet.tables.endpoints.delete({"vni": RED.vni, "addr": mapped(A.address(family))})
    assert come_in(droplet, from_stack(family, OUTSIDE[family], A.address(family))).retval == TC_SHOT
    assert droplet.counted()["drop", "SUBSTRATE_DESTINATION"]["packets"] == 3


def test_a_first_fragment_shows_its_port_and_a_later_one_needs_none(droplet: Testbed) -> None:
    """A tunnel's packet in fragments is nothing without its first one."""
    ready(droplet)
    frame = datagram(4, A, OUTSIDE[4])
    frame[UDP].dport = 6081
    frame[IP].flags = "MF"
    assert droplet.send(frame).retval == TC_SHOT
    frame[IP].frag = 100
    assert droplet.send(frame).retval == TC_REDIRECT
    assert droplet.counted()["drop", "SUBSTRATE_TUNNEL"]["packets"] == 1


def test_a_hop_too_many(droplet: Testbed) -> None:
    """In either direction; the endpoint is told, as by any router."""
    ready(droplet)
    assert come_in(droplet, from_stack(4, OUTSIDE[4], A.address(4), ttl=1)).retval == TC_SHOT
    droplet.send(datagram(4, A, OUTSIDE[4], ttl=1))
    assert droplet.counted()["drop", "TTL_EXPIRED"]["packets"] == 2
