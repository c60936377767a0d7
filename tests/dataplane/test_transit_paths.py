# SPDX-License-Identifier: Apache-2.0
"""Transit XDP: what comes in a tunnel is delivered, bounced, divided, or sent to a divider."""

from __future__ import annotations

import pytest

from mizar.kernel import layout

from .every import every_tunnel_and_family
from .frames import PAYLOAD, datagram, option, ping, tunnel
from .plan import (
    BACK,
    BLUE,
    BOUNCER,
    DIVIDER,
    FAMILIES,
    FRONT,
    HANDOVER_MAGIC,
    HANDOVER_SEND,
    HOST,
    MARK,
    ME,
    MEMBERS,
    RED,
    ROUTER_MAC,
    TUNNELS,
    UPLINK_IFINDEX,
    A,
    DropletPlan,
    EndpointPlan,
    R,
    S,
)
from .testbed import XDP_PASS, XDP_TX, Testbed

INNER_BYTES = {4: 14 + 20 + 8 + len(PAYLOAD), 6: 14 + 40 + 8 + len(PAYLOAD)}
NOT_CRITICAL = option(0x0102, 0x01, b"abcd") + option(0xFF01, 0x7F)


def handover(endpoint: EndpointPlan) -> bytes:
    return layout.struct(
        "handover",
        magic=HANDOVER_MAGIC,
        mark=MARK,
        ifindex=endpoint.ifindex,
        vni=RED.vni,
        slot=endpoint.slot,
    )


@every_tunnel_and_family
def test_delivery_leaves_the_inner_frame_and_a_note_for_the_endpoint(droplet: Testbed, kind: str, family: int) -> None:
    """The outer headers are gone, the MACs are the endpoint's and the router's, the TTL is as it came."""
    droplet.as_host()
    inner = datagram(family, R, A.address(family), dst_mac=A.mac)
    result = droplet.transit(tunnel(kind, inner, src=BOUNCER))
    assert result.retval == XDP_PASS
    assert result.metadata == handover(A)
    assert result.frame == bytes(datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac))
    moved = {"delivered_packets": 1, "delivered_bytes": INNER_BYTES[family]}
    assert droplet.counted() == {("vpc", RED.slot): moved, ("endpoint", A.slot): moved}


@pytest.mark.parametrize("family", FAMILIES)
def test_delivery_takes_geneve_options_off(droplet: Testbed, family: int) -> None:
    """Options that nobody here knows, and that are not critical, do no harm."""
    droplet.as_host()
    inner = datagram(family, R, A.address(family), dst_mac=A.mac)
    result = droplet.transit(tunnel("geneve", inner, src=BOUNCER, options=NOT_CRITICAL))
    assert (result.retval, result.metadata) == (XDP_PASS, handover(A))
    assert result.frame == bytes(datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac))


@every_tunnel_and_family
def test_equal_addresses_of_two_tenants_stay_apart(droplet: Testbed, kind: str, family: int) -> None:
    """The VNI alone tells which of two endpoints with one address is meant."""
    droplet.as_host()
    droplet.other_tenant()
    for vpc, ifindex, slot in ((RED, A.ifindex, A.slot), (BLUE, 900, 9)):
        result = droplet.transit(tunnel(kind, datagram(family, R, A.address(family)), src=BOUNCER, vni=vpc.vni))
        note = layout.parse("handover", result.metadata)
        assert (note["vni"], note["ifindex"], note["slot"]) == (vpc.vni, ifindex, slot)


@pytest.mark.parametrize("to", TUNNELS)
@every_tunnel_and_family
def test_bounce_sends_to_the_host_in_its_endpoints_protocol(droplet: Testbed, kind: str, family: int, to: str) -> None:
    """All of both tunnels, each way: addresses, MACs, TTL and checksums of outer and inner headers."""
    droplet.as_bouncer(tunnel=to)
    arrived = tunnel(kind, datagram(family, A, R.address(family)), src=DIVIDER)
    result = droplet.transit(arrived)
    inner = datagram(family, A, R.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert result.frame == tunnel(to, inner, src=ME, dst=HOST, told=DIVIDER if kind == "geneve" else None)
    assert result.retval == XDP_TX
    moved = {"bounced_packets": 1, "bounced_bytes": INNER_BYTES[family]}
    assert droplet.counted() == {("vpc", RED.slot): moved}


@pytest.mark.parametrize("family", FAMILIES)
def test_bounce_keeps_geneve_options_in_geneve_and_leaves_them_behind_in_vxlan(droplet: Testbed, family: int) -> None:
    inner = datagram(family, A, R.address(family))
    forwarded = datagram(family, A, R.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    for to, options in (("geneve", NOT_CRITICAL), ("vxlan", b"")):
        droplet.reset()
        droplet.as_bouncer(tunnel=to)
        result = droplet.transit(tunnel("geneve", inner, src=DIVIDER, options=NOT_CRITICAL))
        assert result.retval == XDP_TX
        assert result.frame == tunnel(to, forwarded, src=ME, dst=HOST, options=options, told=DIVIDER)


@every_tunnel_and_family
def test_on_a_veth_a_note_asks_deliver_to_send(kind: str, family: int) -> None:
    """The same frame as XDP would send itself, passed with a note; answers go the same way."""
    droplet = Testbed(send_by_tc=1)
    try:
        droplet.as_bouncer(tunnel=kind)
        result = droplet.transit(tunnel("geneve", datagram(family, A, R.address(family)), src=DIVIDER))
        inner = datagram(family, A, R.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
        note = layout.struct("handover", magic=HANDOVER_SEND, mark=MARK, ifindex=UPLINK_IFINDEX)
        assert (result.retval, result.frame) == (XDP_PASS, tunnel(kind, inner, src=ME, dst=HOST, told=DIVIDER))
        assert result.metadata == note
        asked = tunnel(
            kind, ping(family, A.address(family), FRONT.gateway(family), src_mac=A.mac, dst_mac=ROUTER_MAC), src=HOST
        )
        result = droplet.transit(asked)
        assert (result.retval, result.metadata) == (XDP_PASS, note)
        foreign = bytes(datagram(family, A, R.address(family)))
        result = droplet.transit(foreign)
        assert (result.retval, result.frame) == (XDP_PASS, foreign)
        assert result.metadata == bytes(len(note)), "a note that another droplet left in the skb is overwritten"
    finally:
        droplet.close()


@every_tunnel_and_family
def test_divide_sends_to_a_bouncer_of_the_destinations_network(droplet: Testbed, kind: str, family: int) -> None:
    droplet.as_divider()
    result = droplet.transit(tunnel(kind, datagram(family, A, S.address(family)), src=HOST))
    assert result.frame == tunnel(kind, datagram(family, A, S.address(family), ttl=63), src=ME, dst=BOUNCER, told=HOST)
    assert result.retval == XDP_TX
    moved = {"divided_packets": 1, "divided_bytes": INNER_BYTES[family]}
    assert droplet.counted() == {("vpc", RED.slot): moved}


@every_tunnel_and_family
def test_a_bouncer_sends_what_it_does_not_know_to_a_divider(droplet: Testbed, kind: str, family: int) -> None:
    droplet.as_bouncer()
    result = droplet.transit(tunnel(kind, datagram(family, A, S.address(family)), src=HOST))
    assert result.frame == tunnel(kind, datagram(family, A, S.address(family), ttl=63), src=ME, dst=DIVIDER, told=HOST)
    assert result.retval == XDP_TX
    moved = {"to_divider_packets": 1, "to_divider_bytes": INNER_BYTES[family]}
    assert droplet.counted() == {("vpc", RED.slot): moved}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bouncer_that_hosts_the_other_network_still_asks_a_divider(droplet: Testbed, family: int) -> None:
    """Hosting some endpoints of a network does not mean knowing them all."""
    droplet.as_bouncer()
    droplet.network(BACK, BOUNCER)
    result = droplet.transit(tunnel("geneve", datagram(family, A, S.address(family)), src=HOST))
    assert result.retval == XDP_TX
    assert result.frame == tunnel(
        "geneve", datagram(family, A, S.address(family), ttl=63), src=ME, dst=DIVIDER, told=HOST
    )


@pytest.mark.parametrize("place", range(16))
@pytest.mark.parametrize(("role", "shift"), [("divider", 8), ("bouncer", 4)])
def test_the_source_port_picks_the_member(droplet: Testbed, role: str, shift: int, place: int) -> None:
    """Bits 4-7 from a bouncer to a divider, bits 8-11 from a divider to a bouncer; the port goes along unchanged."""
    if role == "divider":
        droplet.as_divider()
        droplet.network(BACK, *MEMBERS, routed_here=True)
    else:
        droplet.as_bouncer()
        droplet.vpc(RED, *MEMBERS)
    port = 0xC000 | (0x2A5A & ~(0xF << shift)) | place << shift
    result = droplet.transit(tunnel("geneve", datagram(4, A, S.address(4)), src=HOST, sport=port))
    inner = datagram(4, A, S.address(4), ttl=63)
    assert result.frame == tunnel("geneve", inner, src=ME, dst=MEMBERS[place], sport=port, told=HOST)


@every_tunnel_and_family
def test_the_outer_service_byte_goes_along(droplet: Testbed, kind: str, family: int) -> None:
    """At a bouncer and at a divider; the inner one is not touched by either."""
    droplet.as_bouncer(tunnel=kind)
    result = droplet.transit(tunnel(kind, datagram(family, A, R.address(family)), src=HOST, tos=0xB9, id=77, ttl=9))
    inner = datagram(family, A, R.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert result.frame == tunnel(kind, inner, src=ME, dst=HOST, tos=0xB9, told=HOST)
    droplet.as_divider()
    result = droplet.transit(tunnel(kind, datagram(family, A, S.address(family)), src=HOST, tos=0xB9))
    assert result.frame[15] == 0xB9


@pytest.mark.parametrize("ttl", [2, 3, 128, 255])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_hop_takes_one_from_the_ttl(droplet: Testbed, family: int, ttl: int) -> None:
    """And the IPv4 checksum is what a computation from scratch gives."""
    droplet.as_bouncer()
    result = droplet.transit(tunnel("vxlan", datagram(family, A, R.address(family), ttl=ttl), src=HOST))
    inner = datagram(family, A, R.address(family), ttl=ttl - 1, src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert result.frame == tunnel("geneve", inner, src=ME, dst=HOST)


def test_the_ttls_checksum_is_right_for_every_header(droplet: Testbed) -> None:
    """RFC 1624's corner (a sum that becomes 0xffff) included: all 64k idents give all checksums."""
    droplet.as_bouncer()
    for ident in range(0, 0x10000, 0x55):
        arrived, left = (
            datagram(4, A, R.address(4)),
            datagram(4, A, R.address(4), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac),
        )
        arrived["IP"].id = left["IP"].id = ident
        result = droplet.transit(tunnel("geneve", arrived, src=HOST))
        assert result.frame == tunnel("geneve", left, src=ME, dst=HOST, told=HOST)


def test_bytes_behind_the_ip_packet_go_along(droplet: Testbed) -> None:
    """Ethernet pads short frames, inner ones and outer ones."""
    droplet.as_bouncer()
    padding = bytes(9)
    arrived = tunnel("geneve", bytes(datagram(4, A, R.address(4))) + padding, src=HOST) + b"outer"
    result = droplet.transit(arrived)
    inner = bytes(datagram(4, A, R.address(4), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)) + padding
    assert result.frame == tunnel("geneve", inner, src=ME, dst=HOST, told=HOST) + b"outer"


@pytest.mark.parametrize("kind", TUNNELS)
def test_reserved_bits_are_ignored(droplet: Testbed, kind: str) -> None:
    """RFC 8926 3.4 and RFC 7348 5: ignored on receipt, zero when sent; but the last byte, a trace mark, goes along."""
    droplet.as_bouncer(tunnel=kind)
    arrived = bytearray(tunnel(kind, datagram(4, A, R.address(4)), src=HOST))
    if kind == "geneve":
        arrived[43] |= 0x7F  # C and the reserved bits
    else:
        arrived[42] |= 0x77  # all but G and I
        arrived[43:46] = b"\xff\xff\xff"
    arrived[49] = 0xFF
    result = droplet.transit(bytes(arrived))
    inner = datagram(4, A, R.address(4), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    marked = bytearray(tunnel(kind, inner, src=ME, dst=HOST, told=HOST))
    marked[49] = 0xFF
    assert result.frame == bytes(marked)


OTHERS = DropletPlan(0, "192.0.2.77", "02:00:00:00:02:77")


@pytest.mark.parametrize("kind", TUNNELS)
def test_a_tunnel_packet_to_another_address_is_the_hosts(droplet: Testbed, kind: str) -> None:
    """The host may route for others; nothing is counted."""
    droplet.as_bouncer()
    frame = tunnel(kind, datagram(4, A, R.address(4)), src=HOST, dst=OTHERS)
    result = droplet.transit(frame)
    assert (result.retval, result.frame, result.metadata) == (XDP_PASS, frame, b"")
    assert droplet.counted() == {}


def test_what_is_no_tunnel_packet_is_the_hosts(droplet: Testbed) -> None:
    """ARP, IPv6, TCP, other UDP ports, later fragments: passed as they are, uncounted."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.l2 import ARP, Dot1Q, Ether

    droplet.as_bouncer()
    ether = Ether(src=HOST.mac, dst=ME.mac)
    addresses = {"src": HOST.address, "dst": ME.address}
    for packet in (
        ether / ARP(),
        ether / IP(**addresses) / ICMP(),
        ether / IP(**addresses) / TCP(dport=6081),
        ether / IP(**addresses) / UDP(dport=53),
        ether / IP(**addresses, frag=100) / UDP(dport=6081),
        ether / Dot1Q(vlan=5) / IP(**addresses) / UDP(dport=6081),
        ether / datagram(6, A, R.address(6))["IPv6"],
        ether / b"",
    ):
        frame = bytes(packet)
        result = droplet.transit(frame)
        assert (result.retval, result.frame) == (XDP_PASS, frame), packet
    assert droplet.counted() == {}
