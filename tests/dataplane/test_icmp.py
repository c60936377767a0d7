# SPDX-License-Identifier: Apache-2.0
"""The virtual router's ICMP errors, and the MSS that it lets TCP agree on: whole frames, verdicts and counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from .frames import datagram, identity_option, ip, option, tunnel
from .plan import (
    BACK,
    BOUNCER,
    FAMILIES,
    FRONT,
    HOST,
    ME,
    RED,
    ROUTER_MAC,
    TUNNELS,
    A,
    C,
    R,
    S,
)
from .test_public import CLIENT_MAC, PUBLIC, attracted, request
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

SERVICE_MAC = "02:4d:5a:00:00:02"
MANY = 0xFFFFFFFF
OVERHEAD = 50
LONG = bytes(index & 0xFF for index in range(3000))
families = pytest.mark.parametrize("family", FAMILIES)
tunnels = pytest.mark.parametrize("kind", TUNNELS)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Testbed]:
    testbed = Testbed(icmp_errors=MANY)
    yield testbed
    testbed.close()


@pytest.fixture
def droplet(loaded: Testbed) -> Testbed:
    loaded.reset()
    return loaded


def time_exceeded(family: int, about: Any, router: str, to: Any, src_mac: str, dst_mac: str) -> Any:
    """What RFC 792 and RFC 4443 3.3 want, by scapy."""
    return error(family, about, router, to, src_mac, dst_mac, mtu=None)


def error(family: int, about: Any, router: str, to: Any, src_mac: str, dst_mac: str, *, mtu: int | None) -> Any:
    """An error about an IP packet, as much of it as may be carried."""
    ether = Ether(src=src_mac, dst=dst_mac)
    if family == 4:
        kind = ICMP(type=11, code=0) if mtu is None else ICMP(type=3, code=4, nexthopmtu=mtu)
        outer = IP(src=router, dst=to.address(4), tos=0xC0, id=0, flags="DF", ttl=64)
        return ether / outer / kind / Raw(bytes(about)[: 576 - 28])
    message = ICMPv6TimeExceeded(code=0) if mtu is None else ICMPv6PacketTooBig(mtu=mtu)
    return ether / IPv6(src=router, dst=to.address(6), hlim=64) / message / Raw(bytes(about)[: 1280 - 48])


def inner_of(frame: bytes) -> bytes:
    return frame[OVERHEAD:]


@families
def test_the_agent_tells_its_endpoint_that_the_ttl_ran_out(droplet: Testbed, family: int) -> None:
    """Into another network on the same droplet is a hop: the gateway of the endpoint's network answers."""
    droplet.as_host()
    sent = datagram(family, A, C.address(family), ttl=1)
    result = droplet.send(sent)
    assert result.retval == TC_REDIRECT
    assert result.frame == bytes(time_exceeded(family, sent.payload, FRONT.gateway(family), A, ROUTER_MAC, A.mac))
    assert droplet.counted() == {
        ("drop", "TTL_EXPIRED"): {"packets": 1, "bytes": len(sent)},
        ("vpc", RED.slot): {"dropped_packets": 1, "answered_packets": 1},
        ("endpoint", A.slot): {"dropped_packets": 1, "answered_packets": 1},
    }


@families
@pytest.mark.parametrize("length", [0, 1, 2, 3, 400, 600, 1300, 3000])
def test_as_much_of_the_packet_as_fits_is_told(droplet: Testbed, family: int, length: int) -> None:
    """576 and 1280 bytes at most (RFC 1812 4.3.2.3, RFC 4443 2.4 c), and all of a short packet."""
    droplet.as_host()
    sent = datagram(family, A, C.address(family), ttl=1, payload=LONG[:length])
    expected = time_exceeded(family, sent.payload, FRONT.gateway(family), A, ROUTER_MAC, A.mac)
    assert droplet.send(sent).frame == bytes(expected)


@families
@tunnels
def test_a_bouncer_tells_the_sender(droplet: Testbed, family: int, kind: str) -> None:
    """R's packet to another network would leave for a divider: R's gateway tells, by the way to R's host."""
    droplet.as_bouncer(tunnel=kind)
    sent = datagram(family, R, S.address(family), ttl=1)
    result = droplet.transit(
        tunnel(kind, sent, src=BOUNCER, options=b"" if kind == "vxlan" else option(0x0102, 1, b"text"))
    )
    told = time_exceeded(family, sent.payload, FRONT.gateway(family), R, SERVICE_MAC, R.mac)
    told.payload.ttl = told.payload.hlim = 63
    expected = tunnel(kind, bytes(Ether(bytes(told))), src=ME, dst=HOST)
    assert (result.retval, result.frame) == (XDP_TX, expected)
    moved = droplet.counted()
    assert moved["vpc", RED.slot] == {
        "dropped_packets": 1,
        "answered_packets": 1,
        "bounced_packets": 1,
        "bounced_bytes": len(inner_of(result.frame)),
    }


@families
def test_what_is_told_bears_the_identity(droplet: Testbed, family: int) -> None:
    """Of the options, that one alone; and the header says that it is critical."""
    droplet.as_bouncer()
    droplet.identity(RED.vni, 7, 9, RED.vni)
    sent, identity = datagram(family, R, S.address(family), ttl=1), identity_option(7, 9)
    result = droplet.transit(tunnel("geneve", sent, src=BOUNCER, options=option(0x0102, 1, b"text") + identity))
    told = time_exceeded(family, sent.payload, FRONT.gateway(family), R, SERVICE_MAC, R.mac)
    told.payload.ttl = told.payload.hlim = 63
    assert result.frame == tunnel("geneve", bytes(Ether(bytes(told))), src=ME, dst=HOST, options=identity)


@families
def test_a_divider_tells_by_a_bouncer_of_the_senders_network(droplet: Testbed, family: int) -> None:
    """The way that any packet to the sender takes; the router is that of the network which the packet was going to."""
    droplet.as_divider()
    sent = datagram(family, A, S.address(family), ttl=1)
    result = droplet.transit(tunnel("geneve", sent, src=HOST))
    told = time_exceeded(family, sent.payload, BACK.gateway(family), A, SERVICE_MAC, ROUTER_MAC)
    told.payload.ttl = told.payload.hlim = 63
    assert (result.retval, result.frame) == (XDP_TX, tunnel("geneve", told, src=ME, dst=BOUNCER))


@families
def test_an_error_for_an_endpoint_of_this_droplet_is_delivered(droplet: Testbed, family: int) -> None:
    """A's packet went out to a bouncer and comes by as if this droplet were its divider."""
    droplet.as_host()
    droplet.vpc(RED, ME)
    droplet.network(BACK, BOUNCER, routed_here=True)
    sent = datagram(family, A, S.address(family), ttl=1)
    result = droplet.transit(tunnel("geneve", sent, src=BOUNCER))
    told = time_exceeded(family, sent.payload, BACK.gateway(family), A, ROUTER_MAC, A.mac)
    assert (result.retval, result.frame) == (XDP_PASS, bytes(told))
    assert result.metadata


@families
def test_the_agent_tells_its_endpoint_what_fits(droplet: Testbed, family: int) -> None:
    """Fragmentation needed (RFC 1191), packet too big (RFC 4443 3.2): what the way has room for, less the overhead."""
    droplet.as_host()
    droplet.narrow(1500, BOUNCER)
    exactly = 1450 - (28 if family == 4 else 48)
    fits, sent = (datagram(family, A, R.address(family), payload=LONG[:size]) for size in (exactly, exactly + 1))
    assert len(droplet.send(fits).frame) == len(fits) + OVERHEAD
    result = droplet.send(sent)
    told = error(family, sent.payload, FRONT.gateway(family), A, ROUTER_MAC, A.mac, mtu=1450)
    assert (result.retval, result.frame) == (TC_REDIRECT, bytes(told))
    assert droplet.counted()["drop", "PACKET_TOO_BIG"] == {"packets": 1, "bytes": len(sent)}


@families
@pytest.mark.parametrize("options", [b"", option(0x0102, 1, b"more")], ids=["plain", "options"])
def test_a_bouncer_tells_what_fits(droplet: Testbed, family: int, options: bytes) -> None:
    """The way to S's host is narrower than the one that its packet came by; options take room too."""
    droplet.as_bouncer()
    droplet.endpoint(S)
    droplet.narrow(1400, HOST)
    sent = datagram(family, R, S.address(family), payload=LONG[:1380])
    result = droplet.transit(tunnel("geneve", sent, src=BOUNCER, options=options))
    about = sent.payload.copy()
    if family == 4:
        about.ttl = 63
    else:
        about.hlim = 63
    told = error(family, about, FRONT.gateway(family), R, SERVICE_MAC, R.mac, mtu=1400 - OVERHEAD - len(options))
    told.payload.ttl = told.payload.hlim = 63
    assert (result.retval, result.frame) == (XDP_TX, tunnel("geneve", told, src=ME, dst=HOST))


@families
def test_a_superpacket_is_judged_by_its_segments(droplet: Testbed, family: int) -> None:
    """As many segments as it likes, as long as each fits."""
    droplet.as_host()
    droplet.narrow(1500, BOUNCER)
    sent = datagram(family, A, R.address(family), payload=LONG, tcp=True)
    headers = len(sent) - 14 - len(LONG)
    assert droplet.send(sent, gso_size=1450 - headers, gso_segs=3).retval == TC_SHOT  # a test run's has no GSO type
    assert set(reasons(droplet)) == {"REWRITE_FAILED"}
    assert droplet.send(sent, gso_size=1451 - headers, gso_segs=3).retval == TC_REDIRECT
    assert set(reasons(droplet)) == {"REWRITE_FAILED", "PACKET_TOO_BIG"}


def reasons(droplet: Testbed) -> list[str]:
    return [name for kind, name in droplet.counted() if kind == "drop"]


def fragment(family: int, offset: int) -> Any:
    if family == 4:
        return (
            Ether(src=A.mac, dst=ROUTER_MAC)
            / IP(src=A.address(4), dst=C.address(4), ttl=1, frag=offset)
            / Raw(LONG[:40])
        )
    header = IPv6(src=A.address(6), dst=C.address(6), hlim=1) / IPv6ExtHdrFragment(offset=offset, nh=17, m=1)
    return Ether(src=A.mac, dst=ROUTER_MAC) / header / Raw(LONG[:40])


def icmp(family: int, kind: int) -> Any:
    message: Any = ICMP(type=kind) if family == 4 else ICMPv6EchoRequest(type=kind)
    return (
        Ether(src=A.mac, dst=ROUTER_MAC)
        / ip(family, A.address(family), C.address(family), 1)
        / message
        / Raw(b"12345678")
    )


SILENT = {
    "later-fragment": fragment(4, 7),
    "unreachable": icmp(4, 3),
    "quench": icmp(4, 4),
    "redirect": icmp(4, 5),
    "time-exceeded": icmp(4, 11),
    "unknown-icmp": icmp(4, 42),
    "icmpv6-error": icmp(6, 1),
    "icmpv6-unknown-error": icmp(6, 127),
    "hidden": Ether(src=A.mac, dst=ROUTER_MAC)
    / IPv6(src=A.address(6), dst=C.address(6), hlim=1)
    / IPv6ExtHdrDestOpt()
    / UDP()
    / Raw(b"12345678"),
}


@pytest.mark.parametrize("frame", SILENT.values(), ids=SILENT.keys())
def test_no_error_about_errors_and_fragments(droplet: Testbed, frame: Any) -> None:
    """RFC 1812 4.3.2.7, RFC 4443 2.4 (e)."""
    droplet.as_host()
    assert droplet.send(frame).retval == TC_SHOT
    assert droplet.counted()["endpoint", A.slot] == {"dropped_packets": 1}


@pytest.mark.parametrize("frame", [fragment(4, 0), fragment(6, 0), fragment(6, 9), icmp(4, 8), icmp(6, 128)])
def test_errors_about_first_fragments_and_queries(droplet: Testbed, frame: Any) -> None:
    droplet.as_host()
    assert droplet.send(frame).retval == TC_REDIRECT


@pytest.mark.parametrize("src", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_no_error_to_what_is_no_host(droplet: Testbed, src: str) -> None:
    """A tunnel end without an agent may send anything."""
    droplet.as_bouncer()
    sent = Ether(src=R.mac, dst=ROUTER_MAC) / IP(src=src, dst=R.address(4), ttl=1) / UDP() / Raw(b"12345678")
    assert droplet.transit(tunnel("geneve", sent, src=HOST)).retval == XDP_DROP
    assert droplet.counted()["vpc", RED.slot] == {"dropped_packets": 1}


def test_an_unknown_sender_is_told_nothing_that_circles(droplet: Testbed) -> None:
    """The error's own destination is nobody: it is refused as any such packet is, and no error follows."""
    droplet.as_bouncer()
    sent = Ether(src=R.mac, dst=ROUTER_MAC) / IP(src=FRONT.address(4, 98), dst=R.address(4), ttl=1) / UDP() / Raw(b"1")
    assert droplet.transit(tunnel("geneve", sent, src=HOST)).retval == XDP_DROP
    assert sorted(reasons(droplet)) == ["ENDPOINT_UNKNOWN", "TTL_EXPIRED"]


def test_errors_are_limited_for_each_vpc() -> None:
    """Beyond the limit refused packets are counted as ever, and nobody is told."""
    droplet = Testbed(icmp_errors=2)
    try:
        droplet.as_host()
        sent = datagram(4, A, C.address(4), ttl=1)
        answered = [droplet.send(sent).retval for _ in range(200)].count(TC_REDIRECT)
        assert 2 <= answered < 200
        assert droplet.counted()["drop", "TTL_EXPIRED"]["packets"] == 200
    finally:
        droplet.close()


def test_no_errors_at_all_where_none_are_wanted() -> None:
    droplet = Testbed(icmp_errors=0)
    try:
        droplet.as_host()
        assert droplet.send(datagram(4, A, C.address(4), ttl=1)).retval == TC_SHOT
    finally:
        droplet.close()


# ---- TCP's MSS

MSS_BEFORE = 8910
PADDED = [("NOP", None), ("MSS", MSS_BEFORE), ("NOP", None), ("NOP", None), ("NOP", None)]


def syn(family: int, flags: str, options: Any) -> Any:
    segment = TCP(sport=4001, dport=4002, flags=flags, options=options)
    return Ether(src=A.mac, dst=ROUTER_MAC) / ip(family, A.address(family), R.address(family)) / segment


@families
@pytest.mark.parametrize("flags", ["S", "SA"])
@pytest.mark.parametrize("options", [[("MSS", MSS_BEFORE), ("SAckOK", b"")], PADDED], ids=["first", "odd-place"])
def test_the_mss_of_a_syn_is_what_the_way_has_room_for(droplet: Testbed, family: int, flags: str, options: Any) -> None:
    """1500 - 50 - 40, or 60 for IPv6; the checksum is right afterwards (scapy computes it anew)."""
    droplet.as_host()
    droplet.narrow(1500, BOUNCER)
    most = 1410 if family == 4 else 1390
    expected = syn(family, flags, [(name, most if name == "MSS" else value) for name, value in options])
    assert inner_of(droplet.send(syn(family, flags, options)).frame)[12:] == bytes(expected)[12:]


@families
@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("S", [("MSS", 1200)]),
        ("A", [("MSS", MSS_BEFORE)]),
        ("S", [("EOL", None), ("MSS", MSS_BEFORE)]),
        ("S", []),
        ("S", [("NOP", None)] * 10 + [("MSS", MSS_BEFORE)]),
    ],
    ids=["lower", "no-syn", "behind-the-end", "none", "beyond-what-is-read"],
)
def test_other_segments_are_left_alone(droplet: Testbed, family: int, flags: str, options: Any) -> None:
    droplet.as_host()
    droplet.narrow(1500, BOUNCER)
    sent = syn(family, flags, options)
    assert inner_of(droplet.send(sent).frame)[12:] == bytes(sent)[12:]


def test_options_that_lie_end_the_walk(droplet: Testbed) -> None:
    """Of no length, or longer than the header."""
    droplet.as_host()
    droplet.narrow(1500, BOUNCER)
    for raw in (b"\x02\x00\x22\xce", b"\x05\x00\x02\x04", b"\x03\xff\x02\x04\x22\xce\x00\x00", b"\x01\x01\x01\x02"):
        plain = bytes(syn(4, "S", []))
        sent = bytearray(plain[:54] + raw)
        sent[16:18] = (40 + len(raw)).to_bytes(2, "big")
        sent[46] = (5 + len(raw) // 4) << 4
        assert inner_of(droplet.send(bytes(sent)).frame)[24:] == bytes(sent)[24:]


@families
@pytest.mark.parametrize("size", [0, 3000])
def test_a_client_outside_is_told_that_no_member_is_left(droplet: Testbed, family: int, size: int) -> None:
    """From the public address, back to the station that the packet came from; longer than that one or shorter."""
    attracted(droplet)
    frame = request(family)
    frame = frame if not size else frame / Raw(bytes(size))
    result = droplet.transit(bytes(frame))
    about = bytes(frame)[14:]
    ether = Ether(src=ME.mac, dst=CLIENT_MAC)
    if family == 4:
        outer = IP(src=PUBLIC[4], dst=frame[IP].src, tos=0xC0, id=0, flags="DF", ttl=64)
        wanted = ether / outer / ICMP(type=3, code=1) / Raw(about[: 576 - 28])
    else:
        outer = IPv6(src=PUBLIC[6], dst=frame[IPv6].src, hlim=64)
        wanted = ether / outer / ICMPv6DestUnreach(code=3) / Raw(about[: 1280 - 48])
    assert (result.retval, result.frame) == (XDP_TX, bytes(wanted))
    counted = droplet.counted()
    assert counted["drop", "SERVICE_WITHOUT_MEMBER"]["packets"] == 1
    assert counted["vpc", RED.slot]["answered_packets"] == 1


@families
def test_a_client_outside_is_told_how_long_packets_may_be(droplet: Testbed, family: int) -> None:
    """The packet in the message has made a hop already."""
    attracted(droplet, R)
    droplet.tables.droplets.put(HOST.slot, (droplet.tables.droplets.get(HOST.slot) or {}) | {"mtu": 1000})
    long = Raw(LONG[:1200])
    result = droplet.transit(bytes(request(family) / long))
    about = bytes(request(family, ttl=63) / long)[14:]
    sent = request(family)
    mac, to = CLIENT_MAC, sent[IP].src if family == 4 else sent[IPv6].src

    class Client:
        @staticmethod
        def address(_: int) -> str:
            return str(to)

    wanted = error(family, about, PUBLIC[family], Client, ME.mac, mac, mtu=1000 - OVERHEAD)
    assert (result.retval, result.frame) == (XDP_TX, bytes(wanted))
    assert droplet.counted()["drop", "PACKET_TOO_BIG"]["packets"] == 1
