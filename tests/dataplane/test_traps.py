# SPDX-License-Identifier: Apache-2.0
"""What an endpoint asks the daemon goes up whole, from nobody but the endpoint, and not without limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Solicit
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel.events import EventReader

from .plan import FRONT, RED, ROUTER_MAC, A, B
from .testbed import TC_REDIRECT, TC_SHOT, Testbed

LINK_LOCAL, ROUTER = "fe80::5", "fe80::1"
MANY = 0xFFFFFFFF


def discover(src: str = "0.0.0.0", dst: str = "255.255.255.255", mac: str = A.mac, more: bytes = b"") -> Any:
    to = "ff:ff:ff:ff:ff:ff" if dst == "255.255.255.255" else ROUTER_MAC
    request = BOOTP(chaddr=bytes.fromhex(A.mac.replace(":", ""))) / DHCP(options=[("message-type", "discover"), "end"])
    return Ether(src=mac, dst=to) / IP(src=src, dst=dst) / UDP(sport=68, dport=67) / request / Raw(more)


def solicit6(src: str = LINK_LOCAL, mac: str = A.mac) -> Any:
    ether = Ether(src=mac, dst="33:33:00:01:00:02")
    return ether / IPv6(src=src, dst="ff02::1:2", hlim=1) / UDP(sport=546, dport=547) / DHCP6_Solicit(trid=5)


def router_solicitation(src: str = LINK_LOCAL, mac: str = A.mac) -> Any:
    return Ether(src=mac, dst="33:33:00:00:00:02") / IPv6(src=src, dst="ff02::2", hlim=255) / ICMPv6ND_RS()


@pytest.fixture(scope="module")
def loaded() -> Iterator[Testbed]:
    testbed = Testbed(traps=MANY)
    yield testbed
    testbed.close()


@pytest.fixture
def droplet(loaded: Testbed) -> Testbed:
    loaded.reset()
    loaded.as_host()
    return loaded


def asked(droplet: Testbed) -> list[bytes]:
    reader = EventReader(droplet.programs.maps["traps"], "trap")
    try:
        return [one["frame"][: one["length"]] for one in reader.read() if one["ifindex"] == A.ifindex]
    finally:
        reader.close()


@pytest.mark.parametrize(
    "frame",
    [
        discover(),
        discover(src=A.address(4)),
        discover(src=A.address(4), dst=FRONT.gateway(4)),
        solicit6(),
        solicit6(src=A.address(6)),
        router_solicitation(),
        router_solicitation(src="::"),
        router_solicitation(src=A.address(6)),
    ],
    ids=["discover", "rebind", "renew", "solicit", "solicit-by-address", "rs", "rs-unspecified", "rs-by-address"],
)
def test_a_request_goes_up_whole(droplet: Testbed, frame: Any) -> None:
    """Nothing comes back at once, nothing is counted as dropped, and the daemon gets the very frame."""
    assert droplet.send(frame).retval == TC_SHOT
    assert asked(droplet) == [bytes(frame)]
    assert droplet.counted() == {
        ("vpc", RED.slot): {"answered_packets": 1},
        ("endpoint", A.slot): {"answered_packets": 1},
    }


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (discover(mac=B.mac), "SPOOFED_MAC"),
        (discover(src=B.address(4)), "SPOOFED_ADDRESS"),
        (solicit6(src=B.address(6)), "SPOOFED_ADDRESS"),
        (solicit6(mac=B.mac), "SPOOFED_MAC"),
        (router_solicitation(src=B.address(6)), "SPOOFED_ND"),
        (discover(more=bytes(1024)), "REQUEST_LIMITED"),
        (
            Ether(src=A.mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(),
            "INNER_MULTICAST",
        ),
        (discover(src=A.address(4), dst=B.address(4)), ""),
    ],
    ids=["mac", "ipv4", "ipv6", "mac-6", "rs", "too-long", "another-port", "another-host"],
)
def test_what_is_no_request_of_its_own_does_not_go_up(droplet: Testbed, frame: Any, reason: str) -> None:
    droplet.send(frame)
    assert asked(droplet) == []
    assert [name for kind, name in droplet.counted() if kind == "drop"] == ([reason] if reason else [])


def test_an_endpoint_is_heard_so_often_and_others_still_are() -> None:
    """Beyond the limit its requests are refused."""
    droplet = Testbed(traps=5)
    try:
        droplet.as_host()
        for _ in range(60):
            droplet.send(discover())
        assert 5 <= len(asked(droplet)) < 60
        assert droplet.counted()["drop", "REQUEST_LIMITED"]["packets"] >= 40
    finally:
        droplet.close()


def test_nothing_goes_up_where_nothing_is_answered() -> None:
    droplet = Testbed()
    try:
        droplet.as_host()
        droplet.send(discover())
        assert asked(droplet) == []
        assert set(droplet.counted()) >= {("drop", "INNER_MULTICAST")}
    finally:
        droplet.close()


def test_the_router_has_a_neighbour_address_on_every_link(droplet: Testbed) -> None:
    """fe80::1, from which advertisements come, is answered with the router's MAC, by a router."""
    from .test_answers import solicitation

    result = droplet.send(solicitation(A, ROUTER, src=LINK_LOCAL))
    assert result.retval == TC_REDIRECT
    answer = Ether(result.frame)
    assert (answer[IPv6].src, answer[IPv6].dst) == (ROUTER, LINK_LOCAL)
    assert answer["ICMPv6ND_NA"].R == 1
