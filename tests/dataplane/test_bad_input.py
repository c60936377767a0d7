# SPDX-License-Identifier: Apache-2.0
"""Frames that lie: every length, every option, and noise. Never a read past the end, never a leak to a tenant."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from mizar.kernel import layout
from mizar.model import drop_reasons

from .frames import arp_request, datagram, ping, tunnel
from .plan import BLUE, FAMILIES, FRONT, HOST, ME, RED, ROUTER_MAC, TUNNELS, A, R, S
from .test_answers import solicitation
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

INNER: dict[str, Any] = {
    "ipv4": datagram(4, A, R.address(4)),
    "ipv6": datagram(6, A, R.address(6)),
    "arp": arp_request(R, FRONT.gateway(4)),
    "nd": solicitation(R, FRONT.gateway(6)),
    "ping4": ping(4, R.address(4), FRONT.gateway(4), src_mac=R.mac, dst_mac=ROUTER_MAC),
    "ping6": ping(6, R.address(6), FRONT.gateway(6), src_mac=R.mac, dst_mac=ROUTER_MAC),
}
PAGE = 3520  # what a test run takes in one buffer, less headroom
SHORTEST_RUN = 14


def reason_of(droplet: Testbed) -> str:
    """The one reason for which something was refused."""
    (name,) = [key for kind, key in droplet.counted() if kind == "drop"]
    return str(name)


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("kind", TUNNELS)
def test_a_frame_cut_anywhere_is_no_longer_as_long_as_it_says(droplet: Testbed, kind: str, name: str) -> None:
    """Cut on the wire, with its headers unchanged: the outer lengths tell, so it is the host's to judge."""
    droplet.as_bouncer()
    frame = tunnel(kind, INNER[name], src=HOST)
    for length in range(SHORTEST_RUN, len(frame)):
        for table in (droplet.tables.drop_counters, droplet.tables.vpc_counters):
            table.zero([slot for slot, _ in table.items()])
        result = droplet.transit(frame[:length])
        assert (result.retval, result.frame) == (XDP_PASS, frame[:length])
        assert reason_of(droplet) == ("OUTER_TRUNCATED" if length < 34 else "OUTER_IP_HEADER")


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("padded", [False, True])
def test_an_inner_frame_cut_anywhere_is_refused(droplet: Testbed, kind: str, name: str, padded: bool) -> None:
    """Cut before it was encapsulated: the outer headers are right. With padding behind the end, a program that looked
    at the buffer instead of the lengths would find all its bytes there."""
    droplet.as_bouncer()
    inner = bytes(INNER[name])
    for length in range(len(inner)):
        frame = tunnel(kind, inner[:length], src=HOST)
        droplet.tables.drop_counters.zero([slot for slot, _ in droplet.tables.drop_counters.items()])
        result = droplet.transit(frame + inner[length:] if padded else frame)
        assert result.retval == XDP_DROP
        assert reason_of(droplet) in ("INNER_TRUNCATED", "INNER_IP_LENGTH")


@pytest.mark.parametrize("claimed", range(0x10000 // 256))
def test_any_outer_length(droplet: Testbed, claimed: int) -> None:
    """One value of each of 256 per byte: forwarded only when the lengths agree with one another and the frame."""
    droplet.as_bouncer()
    frame = tunnel("geneve", INNER["ipv4"], src=HOST)
    right = len(frame) - 14
    for total in {claimed, claimed * 256, claimed * 256 + right % 256} - {right}:
        packet = Ether(frame)
        packet[IP].len = total
        del packet[IP].chksum
        result = droplet.transit(bytes(packet))
        assert result.retval in (XDP_PASS, XDP_DROP)
        assert result.retval == XDP_DROP or result.frame == bytes(packet)


@pytest.mark.parametrize("words", range(64))
def test_every_length_of_geneve_options(droplet: Testbed, words: int) -> None:
    """0 to 252 bytes of options, whole, are carried; one word too many or too few in the packet is noticed."""
    droplet.as_bouncer()
    options = b"\x01\x02\x01\x00" * words
    forwarded = datagram(4, A, R.address(4), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    room = HOST if words <= 61 else None  # for eight bytes that say where it set out
    result = droplet.transit(tunnel("geneve", INNER["ipv4"], src=HOST, options=options))
    assert result.retval == XDP_TX
    assert result.frame == tunnel("geneve", forwarded, src=ME, dst=HOST, options=options, told=room)
    droplet.endpoint(R, tunnel="vxlan")
    result = droplet.transit(tunnel("geneve", INNER["ipv4"], src=HOST, options=options))
    assert result.frame == tunnel("vxlan", forwarded, src=ME, dst=HOST)
    missing = tunnel("geneve", b"", src=HOST, options=options)
    missing = missing[:42] + bytes([(missing[42] + 1) & 0x3F]) + missing[43:]
    if words < 63:
        assert droplet.transit(missing).retval == XDP_DROP
        assert reason_of(droplet) == "GENEVE_OPTIONS_TRUNCATED"


@pytest.mark.parametrize("data_words", range(32))
def test_every_length_of_one_option(droplet: Testbed, data_words: int) -> None:
    """An option of 4 to 128 bytes in options of every length: refused exactly when it reaches beyond them. The three
    reserved bits in front of its length say nothing."""
    droplet.as_bouncer()
    for words in range(1, 40):
        options = (b"\x01\x02\x01" + bytes([0xE0 | data_words])).ljust(4 * words, b"\0")[: 4 * words]
        droplet.tables.drop_counters.zero([slot for slot, _ in droplet.tables.drop_counters.items()])
        result = droplet.transit(tunnel("geneve", INNER["ipv4"], src=HOST, options=options))
        if data_words + 1 <= words:
            assert result.retval == XDP_TX
        else:
            assert result.retval == XDP_DROP
            assert reason_of(droplet) == "GENEVE_OPTION_LENGTH"


@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_large_packet_is_forwarded_whole(droplet: Testbed, kind: str, family: int) -> None:
    """As large as one buffer holds; frames of several buffers follow below."""
    droplet.as_bouncer(tunnel=kind)
    size = 3000
    result = droplet.transit(tunnel(kind, datagram(family, A, R.address(family), payload=bytes(size)), src=HOST))
    inner = datagram(family, A, R.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac, payload=bytes(size))
    assert (result.retval, result.frame) == (XDP_TX, tunnel(kind, inner, src=ME, dst=HOST, told=HOST))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_jumbo_frame_of_several_buffers(droplet: Testbed, family: int) -> None:
    """xdp.frags: the lengths count all buffers, also those that the program cannot see."""
    droplet.as_bouncer()
    payload = bytes(8800)
    frame = tunnel("geneve", datagram(family, A, R.address(family), payload=payload), src=HOST)
    result = droplet.transit(frame)
    inner = datagram(family, A, R.address(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac, payload=payload)
    assert (result.retval, result.frame) == (XDP_TX, tunnel("geneve", inner, src=ME, dst=HOST, told=HOST))
    assert droplet.transit(frame[:-1]).retval == XDP_PASS
    assert reason_of(droplet) == "OUTER_IP_HEADER"


@pytest.mark.parametrize("name", INNER)
def test_agent_refuses_a_frame_cut_anywhere(droplet: Testbed, name: str) -> None:
    """Those that a test run can carry: the kernel's own checks come first for the shortest."""
    droplet.as_host()
    sender = {"ipv4": datagram(4, A, R.address(4)), "ipv6": datagram(6, A, R.address(6))}
    sender |= {"arp": arp_request(A, FRONT.gateway(4)), "nd": solicitation(A, FRONT.gateway(6))}
    for family in FAMILIES:
        request = ping(family, A.address(family), FRONT.gateway(family), src_mac=A.mac, dst_mac=ROUTER_MAC)
        sender[f"ping{family}"] = request
    frame = bytes(sender[name])
    assert droplet.send(frame).retval == TC_REDIRECT
    shortest = 54 if frame[12:14] == b"\x86\xdd" else 34 if frame[12:14] == b"\x08\x00" else 15
    for length in range(shortest, len(frame)):
        droplet.tables.drop_counters.zero([slot for slot, _ in droplet.tables.drop_counters.items()])
        assert droplet.send(frame[:length]).retval == TC_SHOT
        assert reason_of(droplet) in ("INNER_TRUNCATED", "INNER_IP_LENGTH")


def mutated(randomness: random.Random, frame: bytes) -> bytes:
    """The frame with some bytes changed, and sometimes shortened or lengthened; its outer checksum is not looked at."""
    data = bytearray(frame)
    for _ in range(randomness.choice((1, 1, 2, 4, 9))):
        data[randomness.randrange(12, len(data))] = randomness.choice(
            (0, 1, 0x7F, 0x80, 0xFF, randomness.randrange(256))
        )
    if randomness.random() < 0.2:
        return bytes(data[: randomness.randrange(SHORTEST_RUN, len(data) + 1)])
    return bytes(data) + bytes(randomness.randrange(3) * 20)


@pytest.mark.parametrize("seed", range(20))
def test_noise_reaches_nobody_that_it_does_not_name(droplet: Testbed, seed: int) -> None:
    """Whatever the frame: delivered only to the endpoint that its VNI and inner destination name, forwarded only as
    the tables say, counted exactly once."""
    randomness = random.Random(seed)
    droplet.as_host()
    droplet.network(FRONT, ME)
    droplet.endpoint(R)
    droplet.other_tenant()
    seeds = [
        tunnel(kind, inner, src=HOST, vni=vpc.vni, options=options)
        for inner in (*INNER.values(), datagram(4, S, A.address(4)), datagram(6, S, A.address(6)))
        for kind, options in (("geneve", b""), ("vxlan", b""), ("geneve", b"\x01\x02\x01\x01abcd"))
        for vpc in (RED, BLUE)
    ]
    by_vpc = {RED.vni: {A.ifindex: A, 72: None, 73: None}, BLUE.vni: {900: A, 901: None, 902: None}}
    for _ in range(400):
        frame = mutated(randomness, randomness.choice(seeds))
        result = droplet.transit(frame)
        assert result.retval in (XDP_DROP, XDP_PASS, XDP_TX)
        if result.metadata:
            note = layout.parse("handover", result.metadata)
            assert note["vni"] == int.from_bytes(frame[46:49], "big")
            assert note["ifindex"] in by_vpc[note["vni"]]
        elif result.retval == XDP_PASS:
            assert result.frame == frame
        elif result.retval == XDP_TX:
            assert result.frame[26:30] == bytes([192, 0, 2, 1])
            assert result.frame[46:49] == frame[46:49]


@pytest.mark.parametrize("seed", range(20))
def test_noise_from_an_endpoint_never_leaves_under_another_name(droplet: Testbed, seed: int) -> None:
    """Whatever an endpoint sends: what goes out bears its VPC, its MAC and its address."""
    randomness = random.Random(seed)
    droplet.as_host()
    seeds = [bytes(datagram(family, A, dst.address(family))) for family in FAMILIES for dst in (R, S)]
    for _ in range(400):
        data = bytearray(randomness.choice(seeds))
        for _ in range(randomness.choice((1, 2, 5))):
            data[randomness.randrange(len(data))] = randomness.randrange(256)
        result = droplet.send(bytes(data))
        assert result.retval in (TC_SHOT, TC_REDIRECT)
        if result.retval == TC_REDIRECT and len(result.frame) > len(data):
            assert result.frame[46:49] == RED.vni.to_bytes(3, "big")
            inner = Ether(result.frame[50:])
            assert inner.src == A.mac
            assert inner.payload.src in (A.address(4), A.address(6))


def test_the_list_of_reasons_has_room(droplet: Testbed) -> None:
    assert max(drop_reasons.by_number()) < droplet.tables.drop_counters.max_entries
