# SPDX-License-Identifier: Apache-2.0
"""The proxy: what clients send to a proxied endpoint leaves in the target's VPC from an address there, and back."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel.layout import constant

from .chained import CONTINUE, TRANSMIT, chained, saying
from .frames import PAYLOAD, inner_of, ip, tunnel
from .plan import (
    BLUE,
    BOUNCER,
    FAMILIES,
    FRONT,
    HOST,
    ME,
    PROXY_SLOT,
    RED,
    ROUTER_MAC,
    SERVICE_MAC,
    A,
    B,
    EndpointPlan,
    P,
    Q,
    R,
    T,
    mapped,
)
from .testbed import TC_REDIRECT, TC_SHOT, Testbed

KINDS = ("tcp", "udp", "ping")
SPORT, DPORT = 40001, 443
every_kind_and_family = pytest.mark.parametrize(("kind", "family"), list(itertools.product(KINDS, FAMILIES)))


def l4(kind: str, family: int, sport: int, dport: int, *, answer: bool = False, flags: str = "A") -> Any:
    """A transport header; of an echo `sport` (its answer: `dport`) is the identifier."""
    if kind == "tcp":
        return TCP(sport=sport, dport=dport, flags=flags)
    if kind == "udp":
        return UDP(sport=sport, dport=dport)
    number = dport if answer else sport
    if family == 4:
        return ICMP(type=0 if answer else 8, id=number, seq=1)
    return ICMPv6EchoReply(id=number, seq=1) if answer else ICMPv6EchoRequest(id=number, seq=1)


def frame(
    family: int, src: str, dst: str, header: Any, *, ttl: int = 64, src_mac: str = ROUTER_MAC, dst_mac: str = P.mac
) -> Any:
    """As it comes to the proxy, unless told otherwise."""
    return Ether(src=src_mac, dst=dst_mac) / ip(family, src, dst, ttl) / header / Raw(PAYLOAD)


def to_proxy(kind: str, family: int, *, client: Any = R, sport: int = SPORT, ttl: int = 64, flags: str = "S") -> Any:
    """From a client of RED."""
    header = l4(kind, family, sport, DPORT, flags=flags)
    return frame(family, client.address(family), P.address(family), header, ttl=ttl)


def from_target(kind: str, family: int, *, dport: int = SPORT, ttl: int = 64, flags: str = "SA") -> Any:
    """The target's answer, to what stands for the client."""
    header = l4(kind, family, DPORT, dport, answer=True, flags=flags)
    return frame(family, T.address(family), Q.address(family), header, ttl=ttl, dst_mac=Q.mac)


def expect(sent: bytes, inner: Any, dst: Any, vni: int) -> None:
    """The whole tunnel packet, but for its source port, which is the flow's hash."""
    port = int.from_bytes(sent[34:36], "big")
    assert sent == tunnel("geneve", inner, src=ME, dst=dst, vni=vni, sport=port)


@pytest.fixture
def carrier(droplet: Testbed) -> Testbed:
    """ME carries P, and hosts a, b and c of RED. HOST bounces the networks of both."""
    droplet.as_host()
    droplet.proxy()
    return droplet


@every_kind_and_family
def test_there_and_back(carrier: Testbed, kind: str, family: int) -> None:
    """Addresses change, the port is kept, TTL is one less, checksums are right, the MAC says that a service sends."""
    there = carrier.at_proxy(to_proxy(kind, family))
    assert there.retval == TC_REDIRECT
    header = l4(kind, family, SPORT, DPORT, flags="S")
    expected = frame(
        family, Q.address(family), T.address(family), header, ttl=63, src_mac=SERVICE_MAC, dst_mac=ROUTER_MAC
    )
    expect(there.frame, expected, HOST, BLUE.vni)
    back = carrier.at_proxy(from_target(kind, family), Q.ifindex)
    assert back.retval == TC_REDIRECT
    header = l4(kind, family, DPORT, SPORT, answer=True, flags="SA")
    expected = frame(
        family, P.address(family), R.address(family), header, ttl=63, src_mac=SERVICE_MAC, dst_mac=ROUTER_MAC
    )
    expect(back.frame, expected, HOST, RED.vni)
    size = len(bytes(expected))
    sent = {"sent_packets": 1, "sent_bytes": size}
    assert carrier.counted() == {
        ("vpc", BLUE.slot): sent, ("endpoint", Q.slot): sent, ("vpc", RED.slot): sent, ("endpoint", P.slot): sent,
    }  # fmt: skip


@every_kind_and_family
def test_two_clients_with_one_port(carrier: Testbed, kind: str, family: int) -> None:
    """The second gets another port on the target's side, and both get their own answers."""
    carrier.at_proxy(to_proxy(kind, family, client=R))
    second = carrier.at_proxy(to_proxy(kind, family, client=A))
    inner = Ether(inner_of(second.frame))
    chosen = inner.id if kind == "ping" and family == 6 else inner[3 - 1].id if kind == "ping" else inner[2].sport
    assert chosen != SPORT
    assert chosen >= 1024
    answer = carrier.at_proxy(from_target(kind, family, dport=chosen), Q.ifindex)
    header = l4(kind, family, DPORT, SPORT, answer=True, flags="SA")
    expected = frame(family, P.address(family), A.address(family), header, ttl=63, src_mac=ROUTER_MAC, dst_mac=A.mac)
    assert answer.frame == bytes(expected)  # a is on this droplet: never encapsulated
    first = carrier.at_proxy(from_target(kind, family), Q.ifindex)
    assert Ether(inner_of(first.frame))[1].dst == R.address(family)


@every_kind_and_family
def test_the_targets_side_begins_nothing(carrier: Testbed, kind: str, family: int) -> None:
    """No flow, no way into the clients' VPC; also from another port or host of the target's VPC than the flow's."""
    stranger = carrier.at_proxy(from_target(kind, family), Q.ifindex)
    request = frame(family, T.address(family), Q.address(family), l4(kind, family, SPORT, DPORT, flags="S"))
    carrier.at_proxy(to_proxy(kind, family))
    begins = carrier.at_proxy(request, Q.ifindex)
    other = frame(family, B.address(family), Q.address(family), l4(kind, family, DPORT, SPORT, answer=True))
    elsewhere = carrier.at_proxy(other, Q.ifindex)
    assert [run.retval for run in (stranger, begins, elsewhere)] == [TC_SHOT] * 3
    assert carrier.counted()["drop", "PROXY_NO_FLOW"]["packets"] == 3
    assert carrier.counted()["vpc", BLUE.slot]["dropped_packets"] == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_from_the_same_droplet(carrier: Testbed, family: int) -> None:
    """a's own agent meets the proxied entry; nothing is encapsulated on the way to the proxy."""
    header = UDP(sport=SPORT, dport=DPORT)
    asked = frame(family, A.address(family), P.address(family), header, src_mac=A.mac, dst_mac=ROUTER_MAC)
    sent = carrier.send(asked)
    assert sent.retval == TC_REDIRECT
    expected = frame(
        family, Q.address(family), T.address(family), header, ttl=63, src_mac=SERVICE_MAC, dst_mac=ROUTER_MAC
    )
    expect(sent.frame, expected, HOST, BLUE.vni)
    counted = carrier.counted()
    assert counted["endpoint", P.slot]["delivered_packets"] == 1
    assert counted["endpoint", A.slot]["sent_packets"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_into_the_tunnel_program_that_delivers(carrier: Testbed, family: int) -> None:
    """Transit hands a frame for the proxy to `deliver` like one for an endpoint of this droplet."""
    asked = frame(family, R.address(family), P.address(family), UDP(sport=SPORT, dport=DPORT))
    result = carrier.transit(tunnel("geneve", asked, src=BOUNCER))
    assert result.retval == 2
    assert result.frame == bytes(asked)
    assert int.from_bytes(result.metadata[8:12], "little") == P.ifindex


ERRORS4: dict[str, dict[str, Any]] = {
    "unreachable": {"type": 3, "code": 3},
    "too-big": {"type": 3, "code": 4, "nexthopmtu": 1400},
    "exceeded": {"type": 11},
}


def quoted4(kind: str, src: str, dst: str, sport: int, dport: int) -> Any:
    return IP(src=src, dst=dst, ttl=60) / l4(kind, 4, sport, dport, flags="S") / Raw(PAYLOAD)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", ERRORS4)
@pytest.mark.parametrize("cut", [0, 10])
def test_icmp_errors_go_back_translated(carrier: Testbed, kind: str, error: str, cut: int) -> None:
    """The quoted packet is what the client sent, with its checksums; no address of the target's VPC is told."""
    carrier.at_proxy(to_proxy(kind, 4, client=A))

    def message(src: str, dst: str, inside: Any, ttl: int, dst_mac: str) -> bytes:
        body = bytes(inside)
        body = body[: len(body) - len(PAYLOAD) - cut] if cut and kind == "tcp" else body
        made = IP(src=src, dst=dst, ttl=ttl) / ICMP(**ERRORS4[error]) / Raw(body)
        return bytes(Ether(src=ROUTER_MAC, dst=dst_mac) / made)

    inside = quoted4(kind, Q.address(4), T.address(4), SPORT, DPORT)
    back = carrier.at_proxy(message("10.0.1.1", Q.address(4), inside, 64, Q.mac), Q.ifindex)
    inside = quoted4(kind, A.address(4), P.address(4), SPORT, DPORT)
    assert back.frame.hex() == message(P.address(4), A.address(4), inside, 63, A.mac).hex()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", ["unreachable", "too-big"])
def test_icmpv6_errors_go_back_translated(carrier: Testbed, kind: str, error: str) -> None:
    """The same for IPv6, whose ICMP checksum covers the addresses too."""
    carrier.at_proxy(to_proxy(kind, 6, client=A))
    head = ICMPv6DestUnreach(code=4) if error == "unreachable" else ICMPv6PacketTooBig(mtu=1400)

    def message(src: str, dst: str, inside: tuple[str, str], ttl: int, dst_mac: str) -> bytes:
        quoted = IPv6(src=inside[0], dst=inside[1], hlim=60) / l4(kind, 6, SPORT, DPORT, flags="S") / Raw(PAYLOAD)
        made = IPv6(src=src, dst=dst, hlim=ttl) / head / Raw(bytes(quoted))
        return bytes(Ether(src=ROUTER_MAC, dst=dst_mac) / made)

    there = message("fd00:10:0:1::1", Q.address(6), (Q.address(6), T.address(6)), 64, Q.mac)
    back = carrier.at_proxy(there, Q.ifindex)
    expected = message(P.address(6), A.address(6), (A.address(6), P.address(6)), 63, A.mac)
    assert back.frame.hex() == expected.hex()


def test_an_error_of_a_client_reaches_the_target(carrier: Testbed) -> None:
    """A client's port is closed: the target learns it about the packet that it sent."""
    carrier.at_proxy(to_proxy("udp", 4, client=A))
    quoted = IP(src=P.address(4), dst=A.address(4), ttl=60) / UDP(sport=DPORT, dport=SPORT) / Raw(PAYLOAD)
    closed = ICMP(type=3, code=3)
    error = Ether(src=A.mac, dst=ROUTER_MAC) / IP(src=A.address(4), dst=P.address(4)) / closed / Raw(bytes(quoted))
    sent = carrier.send(error)
    quoted = IP(src=T.address(4), dst=Q.address(4), ttl=60) / UDP(sport=DPORT, dport=SPORT) / Raw(PAYLOAD)
    outer = Ether(src=SERVICE_MAC, dst=ROUTER_MAC) / IP(src=Q.address(4), dst=T.address(4), ttl=63)
    expected = outer / closed / Raw(bytes(quoted))
    expect(sent.frame, expected, HOST, BLUE.vni)


def test_a_zero_udp_checksum_stays_zero(carrier: Testbed) -> None:
    """Its sender computed none (RFC 768)."""
    made = carrier.at_proxy(frame(4, R.address(4), P.address(4), UDP(sport=SPORT, dport=DPORT, chksum=0)))
    assert Ether(inner_of(made.frame))[UDP].chksum == 0


def test_a_wrong_checksum_stays_wrong(carrier: Testbed) -> None:
    """The target's stack finds out, not the proxy."""
    made = carrier.at_proxy(frame(4, R.address(4), P.address(4), UDP(sport=SPORT, dport=DPORT, chksum=0x1234)))
    inner = Ether(inner_of(made.frame))
    found = inner[UDP].chksum
    del inner[UDP].chksum
    assert found != Ether(bytes(inner))[UDP].chksum


def test_a_full_proxy_lets_unanswered_flows_go_first(carrier: Testbed) -> None:
    """Eight flows, one answered: the ninth takes the place of one that nobody answered; when all are, it is refused."""
    for port in range(8):
        carrier.at_proxy(to_proxy("udp", 4, sport=SPORT + port))
    carrier.at_proxy(from_target("udp", 4), Q.ifindex)
    assert carrier.at_proxy(to_proxy("udp", 4, sport=SPORT + 8)).retval == TC_REDIRECT
    assert carrier.at_proxy(from_target("udp", 4), Q.ifindex).retval == TC_REDIRECT
    assert len(list(carrier.tables.proxy_flows.items())) == 16
    for port in range(1, 10):
        carrier.at_proxy(from_target("udp", 4, dport=SPORT + port), Q.ifindex)
    usage = carrier.tables.proxy_usage.get(PROXY_SLOT)
    assert usage is not None
    assert (usage["begun"], usage["evicted"], usage["refused"]) == (9, 1, 0)
    assert carrier.at_proxy(to_proxy("udp", 4, sport=SPORT + 9)).retval == TC_SHOT
    assert carrier.counted()["drop", "PROXY_FULL"]["packets"] == 1
    carrier.tables.proxy_ended.put(PROXY_SLOT, 1)  # the daemon has deleted one
    assert carrier.at_proxy(to_proxy("udp", 4, sport=SPORT + 9)).retval == TC_REDIRECT


def test_flows_of_an_earlier_instance_are_void(carrier: Testbed) -> None:
    """The target was changed: its old answers come in no more, and a client's next packet goes to the new one."""
    carrier.at_proxy(to_proxy("udp", 4))
    carrier.proxy(instance=8, target4=b"\0" * 10 + b"\xff\xff\x0a\0\1\x63")
    assert carrier.at_proxy(from_target("udp", 4), Q.ifindex).retval == TC_SHOT
    sent = carrier.at_proxy(to_proxy("udp", 4))
    assert Ether(inner_of(sent.frame))[IP].dst == "10.0.1.99"


def test_flags_of_tcp_are_noted(carrier: Testbed) -> None:
    """The daemon reads from them that a connection has ended; one that begins anew wipes both out."""
    carrier.at_proxy(to_proxy("tcp", 4))
    carrier.at_proxy(to_proxy("tcp", 4, flags="FA"))
    carrier.at_proxy(from_target("tcp", 4, flags="RA"), Q.ifindex)
    assert sorted(flow["state"] for _, flow in carrier.tables.proxy_flows.items()) == [1, 2]
    carrier.at_proxy(to_proxy("tcp", 4))
    assert [flow["state"] for _, flow in carrier.tables.proxy_flows.items()] == [0, 0]


def test_a_target_that_talks_to_itself(carrier: Testbed) -> None:
    """a is the target of p in its own VPC: it meets itself from the address that stands for clients."""
    carrier.proxy(source_vni=RED.vni, source_vpc_slot=RED.slot, target4=b"\0" * 10 + b"\xff\xff\x0a\0\1\x0b")
    carrier.endpoint(Q)
    carrier.agent(Q, mac=bytes.fromhex(SERVICE_MAC.replace(":", "")))
    asked = frame(4, A.address(4), P.address(4), UDP(sport=SPORT, dport=DPORT), src_mac=A.mac, dst_mac=ROUTER_MAC)
    sent = carrier.send(asked)
    expected = frame(4, Q.address(4), A.address(4), UDP(sport=SPORT, dport=DPORT), ttl=63, dst_mac=A.mac)
    assert sent.frame.hex() == bytes(expected).hex()


def test_a_proxy_of_a_proxy_on_one_droplet(carrier: Testbed) -> None:
    """P's target is a proxied endpoint of BLUE, carried here too, whose target is r of RED: two translations."""

    def at(host: int) -> bytes:
        return mapped(f"10.0.1.{host}")

    numbers = {"source_vni": RED.vni, "client_vpc_slot": BLUE.slot, "source_vpc_slot": RED.slot}
    second = numbers | {"instance": 9, "budget": 8, "client_vni": BLUE.vni}
    carrier.tables.proxies.put(2, second | {"client4": at(21), "source4": at(33), "target4": at(21)})
    carrier.endpoint(replace(T, droplet=ME, slot=6, ifindex=0x80000004), vpc=BLUE)
    carrier.agent(replace(P, host=33, slot=7, ifindex=0x80000005), mac=bytes.fromhex("024d5a000002"))
    sent = carrier.at_proxy(to_proxy("udp", 4, client=A))
    inner = Ether(inner_of(sent.frame))
    assert (inner[IP].src, inner[IP].dst, inner[IP].ttl) == ("10.0.1.33", "10.0.1.21", 62)
    assert int.from_bytes(sent.frame[46:49], "big") == RED.vni


@pytest.mark.parametrize(("proxies", "asked"), [(8, 1111111111111111), (10, 0), (16, 0)])
def test_a_row_of_proxies_never_ends_a_chain_of_functions_early(carrier: Testbed, proxies: int, asked: int) -> None:
    """The kernel lets one packet enter 33 programs. Behind eight proxies there is room for a whole chain; no packet
    comes further, or the functions behind the kernel's limit would not see it."""
    vpcs = (BLUE, RED)
    for slot in range(1, proxies + 1):
        here, there = vpcs[slot % 2], vpcs[(slot + 1) % 2]
        client = EndpointPlan(FRONT, 100 + slot, ME, slot=4, ifindex=0x80000000 | slot << 1)
        source = EndpointPlan(FRONT, 150 + slot, ME, slot=5, ifindex=client.ifindex | 1)
        target = A.address(4) if slot == proxies else f"10.0.1.{100 + slot + 1}"
        value = {"instance": 7, "budget": 8, "client_vni": here.vni, "source_vni": there.vni}
        slots = {"client_vpc_slot": here.slot, "source_vpc_slot": there.slot}
        ends = {"client4": client.address(4), "source4": source.address(4), "target4": target}
        carrier.tables.proxies.put(slot, value | slots | {name: mapped(str(each)) for name, each in ends.items()})
        carrier.endpoint(client, vpc=here)
        carrier.agent(source, vpc=there, mac=bytes.fromhex("024d5a000002"))
    with chained(carrier) as functions:
        functions.put({"ENDPOINT_INGRESS": [saying(CONTINUE, number) for number in range(constant("FUNCTION_CHAIN"))]})
        asked_for = frame(4, R.address(4), "10.0.1.101", l4("udp", 4, SPORT, DPORT))
        sent = carrier.at_proxy(asked_for)
        assert sent.retval == (TC_REDIRECT if asked else TC_SHOT)
        assert functions.trail("ENDPOINT_INGRESS") == asked
        if asked:  # and no function transmits what is somebody else's packet by now
            functions.put({"ENDPOINT_INGRESS": [saying(TRANSMIT)]})
            assert carrier.at_proxy(asked_for).retval == TC_SHOT
            assert ("drop", "FUNCTION_REFUSED") in carrier.counted()
    assert ("drop", "PROXY_GONE") not in carrier.counted() if asked else ("drop", "PROXY_GONE") in carrier.counted()


@pytest.mark.parametrize("family", FAMILIES)
def test_fragments_are_refused(carrier: Testbed, family: int) -> None:
    """Only the first has ports. RFC 4787 would have them kept; the page of proxied endpoints says why not."""
    ether = Ether(src=ROUTER_MAC, dst=P.mac)
    if family == 4:
        made = ether / IP(src=R.address(4), dst=P.address(4), flags="MF") / UDP(sport=1, dport=2) / Raw(PAYLOAD)
        later = ether / IP(src=R.address(4), dst=P.address(4), frag=5) / Raw(PAYLOAD)
    else:
        made = ether / IPv6(src=R.address(6), dst=P.address(6)) / IPv6ExtHdrFragment(m=1) / UDP() / Raw(PAYLOAD)
        later = ether / IPv6(src=R.address(6), dst=P.address(6)) / IPv6ExtHdrFragment(offset=5) / Raw(PAYLOAD)
    assert [carrier.at_proxy(each).retval for each in (made, later)] == [TC_SHOT] * 2
    assert carrier.counted()["drop", "PROXY_FRAGMENT"]["packets"] == 2


def test_what_has_no_ports_is_refused(carrier: Testbed) -> None:
    """Other protocols, and ICMP beyond echoes and errors."""
    gre = frame(4, R.address(4), P.address(4), Raw(bytes(8)))
    gre[IP].proto = 47
    stamp = frame(4, R.address(4), P.address(4), ICMP(type=13))
    options = frame(6, R.address(6), P.address(6), IPv6ExtHdrDestOpt() / UDP(sport=SPORT, dport=DPORT))
    assert [carrier.at_proxy(each).retval for each in (gre, stamp, options)] == [TC_SHOT] * 3
    assert carrier.counted()["drop", "PROXY_PROTOCOL"]["packets"] == 3


def test_a_proxy_that_is_gone(carrier: Testbed) -> None:
    """Its slot was cleared while the frame was on its way; or it never had this family."""
    carrier.proxy(source6=bytes(16))
    assert carrier.at_proxy(to_proxy("udp", 6)).retval == TC_SHOT
    carrier.tables.proxies.put(PROXY_SLOT, {})
    assert carrier.at_proxy(to_proxy("udp", 4)).retval == TC_SHOT
    assert carrier.counted()["drop", "PROXY_GONE"]["packets"] == 2


def test_the_last_hop_is_refused(carrier: Testbed) -> None:
    """A proxy is one virtual hop, and begins no flow for what dies there."""
    assert carrier.at_proxy(to_proxy("udp", 4, ttl=1)).retval == TC_SHOT
    assert carrier.counted()["drop", "TTL_EXPIRED"]["packets"] == 1
    assert not list(carrier.tables.proxy_flows.items())
