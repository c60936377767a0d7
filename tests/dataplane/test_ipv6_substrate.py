# SPDX-License-Identifier: Apache-2.0
"""Tunnels over IPv6, and between the families: every way of a packet, frame by frame, as scapy builds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, in6_chksum
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel import layout

from .every import every_tunnel_and_family
from .frames import PAYLOAD, SOURCE_PORT, arp_reply, arp_request, datagram, option, ping, tunnel
from .plan import (
    BOUNCER,
    DIVIDER,
    FRONT,
    HANDOVER_MAGIC,
    HANDOVER_SEND,
    HOST,
    MARK,
    ME,
    RED,
    ROUTER_MAC,
    STRANGER,
    TUNNELS,
    UPLINK_IFINDEX,
    A,
    R,
    S,
)
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

OPTIONS = option(0x0102, 0x01, b"abcd") + option(0xFF01, 0x7F)
CAME_AND_GOES = [(4, 4), (4, 6), (6, 4), (6, 6)]
every_translation = pytest.mark.parametrize(("came", "goes"), CAME_AND_GOES)


@pytest.fixture(scope="module")
def loaded() -> Iterator[dict[tuple[int, ...], Testbed]]:
    each: tuple[tuple[int, ...], ...] = ((6,), (4, 6))
    found = {families: Testbed(substrates=families) for families in each}
    yield found
    for testbed in found.values():
        testbed.close()


@pytest.fixture
def six(loaded: dict[tuple[int, ...], Testbed]) -> Testbed:
    """A droplet with an IPv6 address only."""
    loaded[6,].reset()
    return loaded[6,]


@pytest.fixture
def both(loaded: dict[tuple[int, ...], Testbed]) -> Testbed:
    """A droplet with an address of each family; it writes to others over IPv4 unless told otherwise."""
    loaded[4, 6].reset()
    return loaded[4, 6]


def bounced(family: int) -> Any:
    return datagram(family, A, R.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)


def send(droplet: Testbed, frame: Any) -> tuple[int, bytes, bytes]:
    """What the agent makes of a frame: verdict, frame, and the source port that it chose."""
    result = droplet.send(frame)
    return result.retval, result.frame, result.frame[54:56]


# ---- delivery and forwarding


@every_tunnel_and_family
@pytest.mark.parametrize("came", [4, 6])
def test_delivery(both: Testbed, kind: str, family: int, came: int) -> None:
    """50 or 70 bytes are taken off, whichever came."""
    both.as_host()
    inner = datagram(family, R, A.address(family), dst_mac=A.mac)
    options = OPTIONS if kind == "geneve" else b""
    result = both.transit(tunnel(kind, inner, src=BOUNCER.on(came), dst=ME.on(came), options=options))
    assert result.retval == XDP_PASS
    assert result.frame == bytes(datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac))
    note = layout.struct("handover", magic=HANDOVER_MAGIC, mark=MARK, ifindex=A.ifindex, vni=RED.vni, slot=A.slot)
    assert result.metadata == note


@every_translation
@pytest.mark.parametrize("to", TUNNELS)
@every_tunnel_and_family
def test_bounce(both: Testbed, kind: str, family: int, to: str, came: int, goes: int) -> None:
    """From each family and tunnel into each: the head grows or shrinks by 20, options go along in Geneve."""
    both.as_bouncer(tunnel=to)
    both.next_hop(HOST.on(goes))
    options = OPTIONS if kind == "geneve" else b""
    inner = datagram(family, A, R.address(family))
    result = both.transit(tunnel(kind, inner, src=DIVIDER.on(came), dst=ME.on(came), options=options))
    kept = options if to == "geneve" else b""
    told = DIVIDER if kind == "geneve" else None  # by its name, IPv4, whatever it wrote
    expected = tunnel(to, bounced(family), src=ME.on(goes), dst=HOST.on(goes), options=kept, told=told)
    assert result.frame == expected
    assert result.retval == XDP_TX


@every_tunnel_and_family
def test_the_ways_of_a_droplet_with_ipv6_alone(six: Testbed, kind: str, family: int) -> None:
    """Deliver, bounce, divide, ask a divider."""
    me = ME.in_ipv6
    six.as_bouncer(tunnel=kind)
    result = six.transit(tunnel(kind, datagram(family, A, R.address(family)), src=HOST.in_ipv6, dst=me))
    assert (result.retval, result.frame) == (
        XDP_TX,
        tunnel(kind, bounced(family), src=me, dst=HOST.in_ipv6, told=HOST.in_ipv6),
    )
    onward = datagram(family, A, S.address(family), ttl=63)
    result = six.transit(tunnel(kind, datagram(family, A, S.address(family)), src=HOST.in_ipv6, dst=me))
    assert (result.retval, result.frame) == (
        XDP_TX,
        tunnel(kind, onward, src=me, dst=DIVIDER.in_ipv6, told=HOST.in_ipv6),
    )
    six.reset()
    six.as_divider()
    result = six.transit(tunnel(kind, datagram(family, A, S.address(family)), src=HOST.in_ipv6, dst=me))
    assert (result.retval, result.frame) == (
        XDP_TX,
        tunnel(kind, onward, src=me, dst=BOUNCER.in_ipv6, told=HOST.in_ipv6),
    )
    six.reset()
    six.as_host()
    inner = datagram(family, R, A.address(family), dst_mac=A.mac)
    result = six.transit(tunnel(kind, inner, src=BOUNCER.in_ipv6, dst=me))
    delivered = bytes(datagram(family, R, A.address(family), src_mac=ROUTER_MAC, dst_mac=A.mac))
    assert (result.retval, result.frame) == (XDP_PASS, delivered)


@every_translation
def test_the_service_byte_goes_along(both: Testbed, came: int, goes: int) -> None:
    """TOS becomes traffic class and back; hop limit and flow label are of this hop."""
    both.as_bouncer()
    both.next_hop(HOST.on(goes))
    old: dict[str, Any] = {"tos": 0xB9, "id": 77, "ttl": 9} if came == 4 else {"tc": 0xB9, "fl": 0x12345, "hlim": 9}
    new: dict[str, Any] = {"tos": 0xB9} if goes == 4 else {"tc": 0xB9}
    result = both.transit(tunnel("geneve", datagram(4, A, R.address(4)), src=HOST.on(came), dst=ME.on(came), **old))
    told = HOST.on(goes)  # the next hop is known by that address alone
    assert result.frame == tunnel("geneve", bounced(4), src=ME.on(goes), dst=HOST.on(goes), told=told, **new)


@every_translation
def test_a_checksum_left_to_hardware_stays_left_to_it(came: int, goes: int) -> None:
    """On a veth: what stands in the UDP header is the sum of the new pseudo header, and its place does not move."""
    droplet = Testbed(substrates=(4, 6), send_by_tc=1)
    try:
        droplet.as_bouncer()
        droplet.next_hop(HOST.on(goes))
        frame = tunnel("vxlan", datagram(4, A, R.address(4)), src=HOST.on(came), dst=ME.on(came))
        result = droplet.transit(with_pseudo_sum(frame, came))
        sent = tunnel("geneve", bounced(4), src=ME.on(goes), dst=HOST.on(goes))
        assert (result.retval, result.frame) == (XDP_PASS, with_pseudo_sum(sent, goes))
        assert result.metadata == layout.struct("handover", magic=HANDOVER_SEND, mark=MARK, ifindex=UPLINK_IFINDEX)
    finally:
        droplet.close()


def with_pseudo_sum(frame: bytes, family: int) -> bytes:
    """As an skb with CHECKSUM_PARTIAL holds it."""
    at = 14 + (20 if family == 4 else 40)
    packet = Ether(frame)[IP if family == 4 else IPv6]
    bare = packet.copy()
    bare.remove_payload()
    length = len(frame) - at
    if family == 4:
        from scapy.layers.inet import in4_chksum

        summed = in4_chksum(17, IP(src=bare.src, dst=bare.dst, len=20 + length, ihl=5), bytes(length))
    else:
        summed = in6_chksum(17, IPv6(src=bare.src, dst=bare.dst) / UDP(), bytes(length))
    value = int(~summed & 0xFFFF)
    return frame[: at + 6] + value.to_bytes(2, "big") + frame[at + 8 :]


# ---- answers


@every_tunnel_and_family
@pytest.mark.parametrize("came", [4, 6])
def test_an_answer_goes_back_in_the_family_that_asked(both: Testbed, kind: str, family: int, came: int) -> None:
    """Whatever this droplet would write to that one itself; service byte, identification and flow label are kept."""
    both.as_bouncer()
    gateway, source = FRONT.gateway(family), A.address(family)
    asked = ping(family, source, gateway, src_mac=A.mac, dst_mac=ROUTER_MAC)
    said = ping(family, gateway, source, src_mac=ROUTER_MAC, dst_mac=A.mac, reply=True)
    fields: dict[str, Any] = {"tos": 0xB8, "id": 7} if came == 4 else {"tc": 0xB8, "fl": 0xABCDE}
    options = OPTIONS if kind == "geneve" else b""
    frame = tunnel(kind, asked, src=HOST.on(came), dst=ME.on(came), options=options, **fields)
    result = both.transit(frame)
    assert result.frame == tunnel(kind, said, src=ME.on(came), dst=HOST.on(came), options=options, **fields)
    assert result.retval == XDP_TX


def test_arp_is_answered_over_ipv6(six: Testbed) -> None:
    """From a tunnel end without an agent."""
    six.as_bouncer()
    asked = arp_request(A, R.address(4))
    result = six.transit(tunnel("vxlan", asked, src=HOST.in_ipv6, dst=ME.in_ipv6))
    assert result.frame == tunnel("vxlan", arp_reply(A, R.address(4)), src=ME.in_ipv6, dst=HOST.in_ipv6)


# ---- the agent


@every_tunnel_and_family
def test_the_agent_puts_seventy_bytes_in_front(six: Testbed, kind: str, family: int) -> None:
    """To a bouncer; the flow label is the source port, which is the same as over IPv4."""
    six.as_host()
    six.agent(A, tunnel=kind)
    inner = datagram(family, A, R.address(family))
    verdict, frame, port = send(six, inner)
    sport = int.from_bytes(port, "big")
    assert sport >= 0xC000
    assert frame == tunnel(kind, inner, src=ME.in_ipv6, dst=BOUNCER.in_ipv6, sport=sport)
    assert verdict == TC_REDIRECT


@pytest.mark.parametrize("goes", [4, 6])
def test_the_agent_writes_in_the_family_of_the_next_droplet(both: Testbed, goes: int) -> None:
    """Of a droplet that has both."""
    both.as_host()
    both.next_hop(BOUNCER.on(goes))
    inner = datagram(4, A, R.address(4))
    frame = both.send(inner).frame
    at = 34 if goes == 4 else 54
    sport = int.from_bytes(frame[at : at + 2], "big")
    assert frame == tunnel("geneve", inner, src=ME.on(goes), dst=BOUNCER.on(goes), sport=sport)


# ---- what is refused, and what is the host's


def passed(droplet: Testbed, frame: bytes, reason: str) -> None:
    result = droplet.transit(frame)
    assert (result.retval, result.frame) == (XDP_PASS, frame)
    expected = {("drop", reason): {"packets": 1, "bytes": len(frame)}} if reason else {}
    assert droplet.counted() == expected


def outer(**fields: Any) -> Any:
    me = ME.in_ipv6
    addresses = {"src": HOST.in_ipv6.address, "dst": me.address} | fields
    return Ether(src=HOST.mac, dst=me.mac) / IPv6(**addresses)


GENEVE = UDP(sport=SOURCE_PORT, dport=6081, chksum=0) / Raw(b"\0\0\x65\x58" + bytes(4) + PAYLOAD)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (outer(dst="2001:db8::77") / GENEVE, ""),
        (outer() / TCP(dport=6081), ""),
        (outer() / UDP(dport=53), ""),
        (outer() / IPv6ExtHdrFragment(offset=100) / GENEVE, ""),
        (outer() / IPv6ExtHdrDestOpt() / TCP(dport=6081), ""),
        (outer() / IPv6ExtHdrDestOpt() / GENEVE, "OUTER_EXTENSION"),
        (outer() / IPv6ExtHdrHopByHop() / GENEVE, "OUTER_EXTENSION"),
        (outer() / IPv6ExtHdrFragment(offset=0, m=0) / GENEVE, "OUTER_EXTENSION"),
        (outer(version=4) / GENEVE, "OUTER_IP_HEADER"),
        (outer(plen=0x500) / GENEVE, "OUTER_IP_HEADER"),
        (outer(src="::ffff:192.0.2.4") / GENEVE, "OUTER_IP_HEADER"),
        (outer(src=STRANGER.in_ipv6.address) / GENEVE, "UNKNOWN_SENDER"),
        (outer(nh=17) / Raw(b"1234567"), "OUTER_TRUNCATED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_left_to_the_host(both: Testbed, frame: Any, reason: str) -> None:
    """As over IPv4: counted where it is a tunnel packet's fault. A mapped source is no IPv4 droplet's."""
    both.as_bouncer()
    passed(both, bytes(frame), reason)


def test_a_family_that_is_not_spoken_is_the_hosts(droplet: Testbed, six: Testbed) -> None:
    """Whatever the other family brings."""
    for testbed, family in ((droplet, 6), (six, 4)):
        testbed.as_bouncer()
        passed(testbed, tunnel("geneve", datagram(4, A, R.address(4)), src=HOST.on(family), dst=ME.on(family)), "")


def test_a_fragmented_tunnel_packet_is_refused(six: Testbed) -> None:
    """Its first fragment is read as far as it takes to know whose it is."""
    six.as_bouncer()
    frame = bytes(outer() / IPv6ExtHdrFragment(offset=0, m=1) / GENEVE)
    assert six.transit(frame).retval == XDP_DROP
    assert six.counted() == {("drop", "OUTER_FRAGMENT"): {"packets": 1, "bytes": len(frame)}}


@pytest.mark.parametrize("came", [4, 6])
def test_every_address_of_a_droplet_is_a_known_senders(both: Testbed, came: int) -> None:
    """Whichever this droplet writes to."""
    both.as_bouncer()
    both.next_hop(DIVIDER.in_ipv6)
    frame = tunnel("geneve", datagram(4, A, R.address(4)), src=DIVIDER.on(came), dst=ME.on(came))
    assert both.transit(frame).retval == XDP_TX


def test_no_common_family(droplet: Testbed, six: Testbed) -> None:
    """A droplet that shares no family cannot be written to: said so, instead of an address nobody resolves."""
    for testbed, own, other in ((droplet, 4, 6), (six, 6, 4)):
        testbed.as_bouncer()
        unreachable = HOST.on(other)
        testbed.next_hop(type(HOST)(HOST.slot, unreachable.address, "00:00:00:00:00:00"))
        frame = tunnel("geneve", datagram(4, A, R.address(4)), src=DIVIDER.on(own), dst=ME.on(own))
        assert testbed.transit(frame).retval == XDP_DROP
        assert testbed.counted()["drop", "NO_COMMON_FAMILY"] == {"packets": 1, "bytes": len(frame)}


def test_the_agent_says_so_too(six: Testbed) -> None:
    """And to itself it never sends, over IPv6 neither."""
    six.as_host()
    six.next_hop(type(BOUNCER)(BOUNCER.slot, BOUNCER.address, "00:00:00:00:00:00"))
    assert six.send(datagram(4, A, R.address(4))).retval == TC_SHOT
    six.next_hop(type(BOUNCER)(BOUNCER.slot, ME.in_ipv6.address, BOUNCER.mac))
    assert six.send(datagram(4, A, R.address(4))).retval == TC_SHOT
    assert {"NO_COMMON_FAMILY", "FORWARD_TO_SELF"} == {str(key) for kind, key in six.counted() if kind == "drop"}
