# SPDX-License-Identifier: Apache-2.0
"""The agent: what an endpoint sends goes to a neighbour on the same droplet or into the tunnel, by the right hop."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from .every import every_tunnel_and_family
from .frames import PAYLOAD, SOURCE_PORT, datagram, ip, tunnel
from .plan import (
    BACK,
    BOUNCER,
    DIVIDER,
    FAMILIES,
    FRONT,
    HOST,
    ME,
    MEMBERS,
    NETWORK_BOUNCED_HERE,
    NETWORK_ROUTED_HERE,
    RED,
    ROUTER_MAC,
    TUNNELS,
    A,
    B,
    C,
    R,
    S,
)
from .testbed import TC_REDIRECT, Testbed

INNER_BYTES = {4: 14 + 20 + 8 + len(PAYLOAD), 6: 14 + 40 + 8 + len(PAYLOAD)}


def source_port(frame: bytes) -> int:
    return int.from_bytes(frame[34:36], "big")


def with_source_port(frame: bytes, port: int) -> bytes:
    """The frame with another outer source port. The outer checksum covers neither."""
    return frame[:34] + port.to_bytes(2, "big") + frame[36:]


def sent(family: int, encapsulated: bool = True) -> dict[tuple[str, Any], dict[str, int]]:
    moved = {"sent_packets": 1, "sent_bytes": INNER_BYTES[family]}
    return {("endpoint", A.slot): moved} | ({("vpc", RED.slot): moved} if encapsulated else {})


@every_tunnel_and_family
def test_to_a_bouncer_of_its_network(droplet: Testbed, kind: str, family: int) -> None:
    """An unknown destination: 50 bytes in front in the endpoint's protocol, the inner frame as it was."""
    droplet.as_host()
    droplet.agent(A, tunnel=kind)
    inner = datagram(family, A, R.address(family))
    result = droplet.send(inner)
    assert result.retval == TC_REDIRECT
    assert source_port(result.frame) >= 0xC000
    assert with_source_port(result.frame, SOURCE_PORT) == tunnel(kind, inner, src=ME, dst=BOUNCER)
    assert droplet.counted() == sent(family)


@every_tunnel_and_family
def test_the_router_mac_is_written_whatever_the_endpoint_addressed(droplet: Testbed, kind: str, family: int) -> None:
    droplet.as_host()
    droplet.agent(A, tunnel=kind)
    result = droplet.send(datagram(family, A, R.address(family), dst_mac=R.mac))
    expected = tunnel(kind, datagram(family, A, R.address(family), dst_mac=ROUTER_MAC), src=ME, dst=BOUNCER)
    assert with_source_port(result.frame, SOURCE_PORT) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_to_a_neighbour_on_the_same_droplet(droplet: Testbed, family: int) -> None:
    """Never encapsulated; MACs as the router would write them; same network, same TTL."""
    droplet.as_host()
    result = droplet.send(datagram(family, A, B.address(family)))
    assert result.retval == TC_REDIRECT
    assert result.frame == bytes(datagram(family, A, B.address(family), src_mac=ROUTER_MAC, dst_mac=B.mac))
    delivered = {"delivered_packets": 1, "delivered_bytes": INNER_BYTES[family]}
    assert droplet.counted() == sent(family, encapsulated=False) | {
        ("vpc", RED.slot): delivered,
        ("endpoint", B.slot): delivered,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_to_another_network_on_the_same_droplet_is_a_hop(droplet: Testbed, family: int) -> None:
    droplet.as_host()
    result = droplet.send(datagram(family, A, C.address(family)))
    assert result.retval == TC_REDIRECT
    assert result.frame == bytes(datagram(family, A, C.address(family), src_mac=ROUTER_MAC, dst_mac=C.mac, ttl=63))


@every_tunnel_and_family
def test_an_agent_on_a_bouncer_sends_straight_to_the_host(droplet: Testbed, kind: str, family: int) -> None:
    """In the protocol of the receiving endpoint, whatever the sender's own is."""
    droplet.as_bouncer(tunnel=kind)
    droplet.agent(A, network_flags=NETWORK_BOUNCED_HERE, tunnel=TUNNELS[kind == "geneve"])
    result = droplet.send(datagram(family, A, R.address(family)))
    inner = datagram(family, A, R.address(family), src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert with_source_port(result.frame, SOURCE_PORT) == tunnel(kind, inner, src=ME, dst=HOST)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_agent_that_knows_a_host_in_another_network_is_the_hop(droplet: Testbed, family: int) -> None:
    droplet.as_bouncer()
    droplet.network(BACK, ME)
    droplet.endpoint(S)
    droplet.agent(A, network_flags=NETWORK_BOUNCED_HERE)
    result = droplet.send(datagram(family, A, S.address(family)))
    inner = datagram(family, A, S.address(family), src_mac=ROUTER_MAC, dst_mac=S.mac, ttl=63)
    assert with_source_port(result.frame, SOURCE_PORT) == tunnel("geneve", inner, src=ME, dst=HOST)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hosted", [False, True])
def test_an_agent_on_a_bouncer_asks_a_divider_for_other_networks(droplet: Testbed, family: int, hosted: bool) -> None:
    """Also for a network of which only some endpoints live here."""
    droplet.as_bouncer()
    if hosted:
        droplet.network(BACK, BOUNCER)
    droplet.agent(A, network_flags=NETWORK_BOUNCED_HERE)
    inner = datagram(family, A, S.address(family))
    result = droplet.send(inner)
    assert with_source_port(result.frame, SOURCE_PORT) == tunnel("geneve", inner, src=ME, dst=DIVIDER)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("target", "ttl"), [(R, 64), (S, 63)], ids=["own-network", "other-network"])
def test_an_agent_on_a_divider_sends_to_the_bouncer(droplet: Testbed, family: int, target: Any, ttl: int) -> None:
    """Into another network it does what a divider does, and takes the hop."""
    droplet.as_divider()
    droplet.agent(A, network_flags=NETWORK_ROUTED_HERE)
    result = droplet.send(datagram(family, A, target.address(family)))
    inner = datagram(family, A, target.address(family), ttl=ttl)
    assert with_source_port(result.frame, SOURCE_PORT) == tunnel("geneve", inner, src=ME, dst=BOUNCER)


@pytest.mark.parametrize(("role", "shift"), [("host", 0), ("bouncer", 4), ("divider", 8)])
def test_the_hash_picks_the_member_and_spreads(droplet: Testbed, role: str, shift: int) -> None:
    """By the bits of the source port that belong to the kind of hop; 400 flows use all 16 members."""
    flags = {"host": 0, "bouncer": NETWORK_BOUNCED_HERE, "divider": NETWORK_ROUTED_HERE}[role]
    if role == "host":
        droplet.as_host()
        droplet.network(FRONT, *MEMBERS)
    elif role == "bouncer":
        droplet.as_bouncer()
        droplet.vpc(RED, *MEMBERS)
    else:
        droplet.as_divider()
        droplet.network(BACK, *MEMBERS, routed_here=True)
    droplet.agent(A, network_flags=flags)
    seen = set()
    for flow in range(400):
        result = droplet.send(datagram(4 if flow % 2 else 6, A, S.address(4 if flow % 2 else 6), sport=1000 + flow))
        member = MEMBERS[source_port(result.frame) >> shift & 15]
        assert result.frame[30:34] == bytes(int(part) for part in member.address.split("."))
        seen.add(member.slot)
    assert len(seen) == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_the_source_port_is_the_flows(droplet: Testbed, family: int) -> None:
    """Equal for each packet of a flow, different between flows: addresses, protocol and both ports matter."""
    droplet.as_host()

    def port(inner: Any) -> int:
        return source_port(droplet.send(inner).frame)

    flow: dict[str, Any] = {"sport": 4001, "dport": 4002}
    first = port(datagram(family, A, R.address(family), **flow))
    assert port(datagram(family, A, R.address(family), **flow, payload=b"other", ttl=9)) == first
    others = [
        datagram(family, A, R.address(family), sport=4003, dport=4002),
        datagram(family, A, R.address(family), sport=4001, dport=4003),
        datagram(family, A, R.address(family), sport=4002, dport=4001),
        datagram(family, A, R.address(family), tcp=True, **flow),
        datagram(family, A, S.address(family), **flow),
    ]
    assert first not in [port(other) for other in others]
    spread = {port(datagram(family, A, R.address(family), sport=sport)) for sport in range(1000)}
    assert len(spread) > 900


def test_all_fragments_of_a_datagram_take_one_way(droplet: Testbed) -> None:
    """Only the first has ports, so none is used."""
    droplet.as_host()
    ports = set()
    for offset, more in ((0, 1), (185, 1), (370, 0)):
        inner = datagram(4, A, R.address(4), sport=offset + 1)
        inner[IP].frag, inner[IP].flags = offset, more
        ports.add(source_port(droplet.send(inner).frame))
    assert len(ports) == 1


def test_a_fragment_header_of_ipv6_too(droplet: Testbed) -> None:
    from scapy.layers.inet6 import IPv6ExtHdrFragment

    droplet.as_host()
    ports = set()
    for offset, more in ((0, 1), (185, 0)):
        whole = datagram(6, A, R.address(6))
        inner = whole.copy()
        inner["IPv6"].remove_payload()
        inner = inner / IPv6ExtHdrFragment(offset=offset, m=more, id=9, nh=17) / UDP(sport=offset) / Raw(PAYLOAD)
        result = droplet.send(inner)
        assert result.retval == TC_REDIRECT
        ports.add(source_port(result.frame))
    assert len(ports) == 1


@pytest.mark.parametrize("protocol", [1, 17, 6, 132, 4])
@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x01\x02\x03\x04"])
def test_any_ip_protocol_and_the_shortest_packets_are_carried(droplet: Testbed, protocol: int, payload: bytes) -> None:
    droplet.as_host()
    for family in FAMILIES:
        number = {"proto": protocol} if family == 4 else {"nh": protocol}
        header = ip(family, A.address(family), R.address(family), **number)
        inner = datagram(family, A, R.address(family))
        inner.remove_payload()
        inner = inner / header / Raw(payload)
        result = droplet.send(inner)
        assert result.retval == TC_REDIRECT
        assert with_source_port(result.frame, SOURCE_PORT) == tunnel("geneve", inner, src=ME, dst=BOUNCER)


def test_ipv4_options_are_carried(droplet: Testbed) -> None:
    from scapy.layers.inet import IPOption_RR, IPOption_Timestamp

    droplet.as_host()
    for options in ([IPOption_RR(routers=["0.0.0.0"] * 9)], [IPOption_Timestamp()]):
        inner = datagram(4, A, R.address(4))
        inner[IP].options = options
        result = droplet.send(inner)
        assert with_source_port(result.frame, SOURCE_PORT) == tunnel("geneve", inner, src=ME, dst=BOUNCER)


@every_tunnel_and_family
def test_a_superpacket_is_sent_whole(droplet: Testbed, kind: str, family: int) -> None:
    """More than any MTU in one frame; counted as the packets that it becomes on the wire.

    A test run makes no true GSO packet (it sets no gso_type); the lab's TCP transfers send those.
    """
    droplet.as_host()
    droplet.agent(A, tunnel=kind)
    inner = datagram(family, A, R.address(family), payload=bytes(3000), tcp=True)
    result = droplet.send(inner, gso_segs=3)
    assert result.retval == TC_REDIRECT
    assert with_source_port(result.frame, SOURCE_PORT) == tunnel(kind, inner, src=ME, dst=BOUNCER)
    assert droplet.counted()["endpoint", A.slot] == {"sent_packets": 3, "sent_bytes": len(bytes(inner))}
