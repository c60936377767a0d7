# SPDX-License-Identifier: Apache-2.0
"""The virtual router's answers: ARP, neighbour discovery, echo; by the agent, and through the tunnel by a droplet."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils6 import in6_getnsma

from .every import every_tunnel_and_family
from .frames import arp_reply, arp_request, ping, tunnel
from .plan import (
    BACK,
    FAMILIES,
    FRONT,
    GHOST_HOST,
    HOST,
    ME,
    NETWORK_BOUNCED_HERE,
    NETWORK_ROUTED_HERE,
    RED,
    ROUTER_MAC,
    TUNNELS,
    A,
    B,
    R,
)
from .testbed import TC_REDIRECT, TC_SHOT, XDP_TX, Testbed

ANSWERED_HERE = {("endpoint", A.slot): {"answered_packets": 1}, ("vpc", RED.slot): {"answered_packets": 1}}
ANSWERED_THROUGH_TUNNEL = {("vpc", RED.slot): {"answered_packets": 1}}
NONCE = ICMPv6NDOptUnknown(type=14, len=1, data=b"nonce!")
LINK_LOCAL = "fe80::4d5a"


def multicast_of(address: str) -> str:
    import socket

    return socket.inet_ntop(socket.AF_INET6, in6_getnsma(socket.inet_pton(socket.AF_INET6, address)))


def solicitation(sender: Any, target: str, *options: Any, src: str | None = None, unicast: bool = False) -> Any:
    """Who has `target`? With the sender's MAC as an option, unless `options` says otherwise."""
    group = multicast_of(target)
    eth_dst = ROUTER_MAC if unicast else "33:33:" + ":".join(f"{byte:02x}" for byte in b"\xff" + _last(group))
    message = Ether(src=sender.mac, dst=eth_dst)
    message = message / IPv6(src=src or sender.address(6), dst=target if unicast else group, hlim=255)
    message = message / ICMPv6ND_NS(tgt=target)
    for option in options or (ICMPv6NDOptSrcLLAddr(lladdr=sender.mac),):
        message = message / option
    return message


def _last(address: str) -> bytes:
    import socket

    return socket.inet_pton(socket.AF_INET6, address)[13:]


def advertisement(receiver: Any, target: str, *, router: bool, dst: str | None = None, option: bool = True) -> Any:
    """`target` is at the router's MAC."""
    message = Ether(src=ROUTER_MAC, dst=receiver.mac) / IPv6(src=target, dst=dst or receiver.address(6), hlim=255)
    message = message / ICMPv6ND_NA(tgt=target, R=int(router), S=1, O=1)
    return message / ICMPv6NDOptDstLLAddr(lladdr=ROUTER_MAC) if option else message


# ---- by the agent


@pytest.mark.parametrize("host", [1, B.host, R.host, GHOST_HOST])
def test_agent_answers_arp_for_every_address_of_the_network(droplet: Testbed, host: int) -> None:
    """The router stands for all: a packet's own address decides later."""
    droplet.as_host()
    target = FRONT.address(4, host)
    result = droplet.send(arp_request(A, target))
    assert (result.retval, result.frame) == (TC_REDIRECT, bytes(arp_reply(A, target)))
    assert droplet.counted() == ANSWERED_HERE


@pytest.mark.parametrize("host", [1, B.host, R.host, GHOST_HOST])
@pytest.mark.parametrize("unicast", [False, True])
def test_agent_answers_neighbour_solicitations(droplet: Testbed, host: int, unicast: bool) -> None:
    """RFC 4861 4.4; the router flag for the gateway only."""
    droplet.as_host()
    target = FRONT.address(6, host)
    result = droplet.send(solicitation(A, target, unicast=unicast))
    assert (result.retval, result.frame) == (TC_REDIRECT, bytes(advertisement(A, target, router=host == 1)))
    assert droplet.counted() == ANSWERED_HERE


def test_agent_answers_a_solicitation_from_a_link_local_address(droplet: Testbed) -> None:
    droplet.as_host()
    target = FRONT.gateway(6)
    result = droplet.send(solicitation(A, target, src=LINK_LOCAL))
    assert result.frame == bytes(advertisement(A, target, router=True, dst=LINK_LOCAL))


def test_a_solicitation_without_options_gets_an_answer_without(droplet: Testbed) -> None:
    droplet.as_host()
    target = FRONT.gateway(6)
    result = droplet.send(solicitation(A, target, Raw(b""), unicast=True))
    assert result.frame == bytes(advertisement(A, target, router=True, option=False))


def test_further_options_stay_behind_as_padding(droplet: Testbed) -> None:
    """The answer is as long as an advertisement; what the request had beyond it lies behind its end."""
    droplet.as_host()
    target = FRONT.gateway(6)
    request = solicitation(A, target, NONCE, ICMPv6NDOptSrcLLAddr(lladdr=A.mac))
    result = droplet.send(request)
    assert result.frame == bytes(advertisement(A, target, router=True)) + bytes(request)[-8:]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ttl", [1, 64, 255])
def test_agent_answers_a_ping_of_its_gateway(droplet: Testbed, family: int, ttl: int) -> None:
    """With a TTL of its own; checksums as computed from scratch."""
    droplet.as_host()
    ours, gateway = A.address(family), FRONT.gateway(family)
    result = droplet.send(ping(family, ours, gateway, src_mac=A.mac, dst_mac=ROUTER_MAC, ttl=ttl))
    assert result.retval == TC_REDIRECT
    assert result.frame == bytes(ping(family, gateway, ours, src_mac=ROUTER_MAC, dst_mac=A.mac, reply=True))
    assert droplet.counted() == ANSWERED_HERE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", [NETWORK_BOUNCED_HERE, NETWORK_ROUTED_HERE])
def test_agent_answers_a_ping_of_another_networks_gateway_that_it_routes(
    droplet: Testbed, family: int, flag: int
) -> None:
    droplet.as_divider()
    droplet.agent(A, network_flags=flag)
    ours, gateway = A.address(family), BACK.gateway(family)
    result = droplet.send(ping(family, ours, gateway, src_mac=A.mac, dst_mac=ROUTER_MAC))
    assert result.frame == bytes(ping(family, gateway, ours, src_mac=ROUTER_MAC, dst_mac=A.mac, reply=True))


@pytest.mark.parametrize(("family", "length"), [(4, n) for n in range(33)] + [(6, n) for n in range(0, 129, 3)])
def test_agent_answers_inside_of_the_prefix_only(droplet: Testbed, family: int, length: int) -> None:
    """Every length: an address that differs behind the prefix is answered for, one that differs in its last bit not."""
    bits = 32 if family == 4 else 128
    droplet.as_host()
    prefix: dict[str, Any] = {f"prefix{family}": length}
    droplet.agent(A, **prefix)
    gateway = ip_address(FRONT.gateway(family))
    for bit, verdict in ((length, TC_REDIRECT), (length - 1, TC_SHOT)):
        if 0 <= bit < bits:
            target = str(type(gateway)(int(gateway) ^ 1 << (bits - 1 - bit)))
            if target.startswith("ff"):
                continue  # no unicast address
            request = arp_request(A, target) if family == 4 else solicitation(A, target)
            assert droplet.send(request).retval == verdict


# ---- through the tunnel


@every_tunnel_and_family
def test_transit_answers_a_ping_of_a_gateway(droplet: Testbed, kind: str, family: int) -> None:
    """Turned around to the sender: outer and inner headers swapped, source port kept."""
    for role in (droplet.as_bouncer, droplet.as_divider, droplet.as_host):
        droplet.reset()
        role()
        theirs, gateway = R.address(family), FRONT.gateway(family)
        request = ping(family, theirs, gateway, src_mac=R.mac, dst_mac=ROUTER_MAC)
        via = "02:00:00:00:02:fe"
        result = droplet.transit(tunnel(kind, request, src=HOST, src_mac=via))
        answer = ping(family, gateway, theirs, src_mac=ROUTER_MAC, dst_mac=R.mac, reply=True)
        assert result.retval == XDP_TX
        assert result.frame == tunnel(kind, answer, src=ME, dst=HOST, dst_mac=via)
        assert droplet.counted() == ANSWERED_THROUGH_TUNNEL


@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("host", [1, B.host, GHOST_HOST])
def test_a_bouncer_answers_arp_from_a_peer_without_agent(droplet: Testbed, kind: str, host: int) -> None:
    droplet.as_bouncer()
    target = FRONT.address(4, host)
    result = droplet.transit(tunnel(kind, arp_request(R, target), src=HOST))
    assert result.retval == XDP_TX
    assert result.frame == tunnel(kind, arp_reply(R, target), src=ME, dst=HOST)
    assert droplet.counted() == ANSWERED_THROUGH_TUNNEL


@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("host", [1, B.host, GHOST_HOST])
def test_a_bouncer_answers_solicitations_from_a_peer_without_agent(droplet: Testbed, kind: str, host: int) -> None:
    droplet.as_bouncer()
    target = FRONT.address(6, host)
    result = droplet.transit(tunnel(kind, solicitation(R, target), src=HOST))
    assert result.retval == XDP_TX
    assert result.frame == tunnel(kind, advertisement(R, target, router=host == 1), src=ME, dst=HOST)
    assert droplet.counted() == ANSWERED_THROUGH_TUNNEL


@pytest.mark.parametrize("kind", TUNNELS)
def test_a_bouncer_answers_for_networks_inside_of_the_one_that_it_bounces(droplet: Testbed, kind: str) -> None:
    """For a peer of its own network: that peer takes every address of it for a neighbour's."""
    droplet.as_bouncer()
    droplet.network(BACK)
    target = BACK.address(4, 11)
    result = droplet.transit(tunnel(kind, arp_request(R, target), src=HOST))
    assert (result.retval, result.frame) == (XDP_TX, tunnel(kind, arp_reply(R, target), src=ME, dst=HOST))
    result = droplet.transit(tunnel(kind, solicitation(R, BACK.address(6, 11)), src=HOST))
    answer = advertisement(R, BACK.address(6, 11), router=False)
    assert (result.retval, result.frame) == (XDP_TX, tunnel(kind, answer, src=ME, dst=HOST))
