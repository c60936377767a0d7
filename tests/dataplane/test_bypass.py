# SPDX-License-Identifier: Apache-2.0
"""Endpoints that take tunnel packets as they are: the whole frame that they get, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel import layout, test_run

from .every import every_tunnel_and_family
from .frames import PAYLOAD, SOURCE_PORT, datagram, option, tunnel
from .plan import (
    BOUNCER,
    FAMILIES,
    FRONT,
    HANDOVER_MAGIC,
    MARK,
    ME,
    NETWORK_HAS_ROUTES,
    RED,
    ROUTE_SUBSTRATE,
    ROUTER_MAC,
    SERVICE_MAC,
    A,
    B,
    C,
    R,
    mapped,
)
from .test_agent_paths import with_source_port
from .testbed import TC_REDIRECT, TC_SHOT, XDP_PASS, Testbed

BYPASS = 4
OPTIONS = option(0x0102, 0x01, b"abcd") + option(0xFF01, 0x02, bytes(4) + bytes(3) + b"\x07")
INNER_BYTES = {4: 14 + 20 + 8 + len(PAYLOAD), 6: 14 + 40 + 8 + len(PAYLOAD)}
SUBSTRATE_FAMILIES = (4, 6)


@pytest.fixture(scope="module", params=SUBSTRATE_FAMILIES)
def over(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """The droplet on a substrate of either family."""
    droplet = Testbed(substrates=(request.param,))
    yield droplet
    droplet.close()


@every_tunnel_and_family
def test_a_tunnel_packet_arrives_whole(over: Testbed, kind: str, family: int) -> None:
    """Outer IP, UDP, tunnel header and options as they came; both Ethernet headers addressed to the endpoint."""
    over.reset()
    over.as_host()
    over.endpoint(A, flags=BYPASS)
    options = OPTIONS if kind == "geneve" else b""
    inner = datagram(family, R, A.address(family))
    on = over.substrates[0]
    result = over.transit(tunnel(kind, inner, src=BOUNCER.on(on), dst=ME.on(on), options=options))
    assert result.retval == XDP_PASS
    assert result.frame == tunnel(
        kind,
        datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac),
        src=BOUNCER.on(on),
        dst=ME.on(on),
        src_mac=ME.mac,
        dst_mac=A.mac,
        options=options,
    )
    note = layout.parse("handover", result.metadata)
    fields = ("magic", "mark", "ifindex", "vni", "slot", "flags")
    assert tuple(note[name] for name in fields) == (HANDOVER_MAGIC, MARK, A.ifindex, RED.vni, A.slot, 0)
    moved = {"delivered_packets": 1, "delivered_bytes": INNER_BYTES[family]}
    assert over.counted() == {("vpc", RED.slot): moved, ("endpoint", A.slot): moved}


def test_no_two_packets_bear_the_same_note(droplet: Testbed) -> None:
    """The kernel merges frames whose notes are equal: these stay as they were on the wire."""
    droplet.as_host()
    droplet.endpoint(A, flags=BYPASS)
    frame = tunnel("geneve", datagram(4, R, A.address(4)), src=BOUNCER)
    assert len({droplet.transit(frame).metadata for _ in range(8)}) > 1


@every_tunnel_and_family
def test_a_neighbour_on_the_same_droplet_puts_the_tunnel_on(over: Testbed, kind: str, family: int) -> None:
    """In the endpoint's own tunnel, from this droplet to itself, with the sender's options: no difference to a sender
    elsewhere. Counted as what stays on the droplet."""
    over.reset()
    over.as_host()
    over.endpoint(B, flags=BYPASS, tunnel=kind)
    over.agent(A, option_bytes=len(OPTIONS))
    over.options(A, OPTIONS)
    result = over.send(datagram(family, A, B.address(family)))
    assert result.retval == TC_REDIRECT
    on = over.substrates[0]
    inner = datagram(family, A, B.address(family), src_mac=ROUTER_MAC, dst_mac=B.mac)
    options = OPTIONS if kind == "geneve" else b""
    at = 34 if on == 4 else 54
    port = int.from_bytes(result.frame[at : at + 2], "big")
    assert port >= 0xC000
    assert result.frame == tunnel(
        kind, inner, src=ME.on(on), dst=ME.on(on), src_mac=ME.mac, dst_mac=B.mac, options=options, sport=port
    )
    size = {"packets": 1, "bytes": INNER_BYTES[family]}
    assert over.counted() == {
        ("endpoint", A.slot): {f"sent_{name}": value for name, value in size.items()},
        ("endpoint", B.slot): {f"delivered_{name}": value for name, value in size.items()},
        ("vpc", RED.slot): {f"delivered_{name}": value for name, value in size.items()},
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_of_a_service_looks_the_same(droplet: Testbed, family: int) -> None:
    """Where it is handed over, the frame comes from the router, whoever sent it."""
    droplet.as_host()
    frame = datagram(family, R, A.address(family), src_mac=SERVICE_MAC, dst_mac=A.mac)
    droplet.endpoint(A, flags=BYPASS)
    result = droplet.transit(tunnel("geneve", frame, src=BOUNCER))
    wanted = datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac)
    assert result.frame == tunnel("geneve", wanted, src=BOUNCER, src_mac=ME.mac, dst_mac=A.mac)


@pytest.mark.parametrize("family", FAMILIES)
def test_from_another_network_of_the_droplet_it_is_a_hop(droplet: Testbed, family: int) -> None:
    """As over a divider."""
    droplet.as_host()
    droplet.endpoint(C, flags=BYPASS)
    result = droplet.send(datagram(family, A, C.address(family)))
    inner = datagram(family, A, C.address(family), src_mac=ROUTER_MAC, dst_mac=C.mac, ttl=63)
    assert with_source_port(result.frame, SOURCE_PORT) == tunnel(
        "geneve", inner, src=ME, dst=ME, src_mac=ME.mac, dst_mac=C.mac
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neighbour_is_told_what_does_not_fit(droplet: Testbed, family: int) -> None:
    """The tunnel needs room on this way too."""
    droplet.as_host()
    droplet.endpoint(B, flags=BYPASS)
    droplet.narrow(1280 + 50, ME)
    result = droplet.send(datagram(family, A, B.address(family), payload=bytes(1300)))
    assert result.retval == TC_SHOT
    assert droplet.counted()["drop", "PACKET_TOO_BIG"]["packets"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_hosts_stack_sends_is_in_no_tunnel(droplet: Testbed, family: int) -> None:
    """So it is refused, where a route would let it in."""
    droplet.as_host()
    droplet.agent(A, network_flags=NETWORK_HAS_ROUTES)
    droplet.endpoint(A, flags=BYPASS)
    outside, prefix, length = ("192.0.2.1", "192.0.2.0", 24) if family == 4 else ("2001:db8:5::1", "2001:db8:5::", 64)
    droplet.route(FRONT, prefix, length, ROUTE_SUBSTRATE)
    droplet.tables.substrate_endpoints.put({"addr": mapped(A.address(family))}, RED.vni)
    header = (IP if family == 4 else IPv6)(src=outside, dst=A.address(family))
    frame = bytes(Ether(src=ROUTER_MAC, dst=ROUTER_MAC) / header / UDP(sport=53, dport=4001) / Raw(b"mizar"))
    assert test_run.run_tc(droplet.programs.substrate.fd, frame).retval == TC_SHOT
    assert droplet.counted() == {
        ("drop", "BYPASS_SUBSTRATE"): {"packets": 1, "bytes": len(frame)},
        ("vpc", RED.slot): {"dropped_packets": 1},
    }
