# SPDX-License-Identifier: Apache-2.0
"""Connections in the kernel do what the interpreter does, byte for byte: frame, state, reason and tenant.

Random conversations of several tenants with several peers, with everything that a `nat:` section can say, in one
address plan: tenants RED and BLUE both have 10.0.0.0/24 and 2001:db8:a::/64, the outside is WORLD.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scapy.all import ICMP, IP, TCP, UDP, Ether, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6TimeExceeded, IPv6, Raw

from mizar.pipeline.nat import (
    Filtering,
    Forward,
    Mapping,
    Masquerade,
    NatRules,
    Quota,
    Static,
    Timeouts,
)
from mizar.pipeline.ranges import Ranges
from tests.dataplane.gateway_nat import BEGIN_NS, SECOND, Gateway, Model, has_clang, loaded

pytestmark = pytest.mark.skipif(not has_clang(), reason="needs clang, as the build does")

RED, BLUE, WORLD = 0x01000005, 0x01000006, 0x02FF0064
INSIDE = {4: ["10.0.0.1", "10.0.0.2", "10.0.0.9"], 6: ["2001:db8:a::1", "2001:db8:a::2", "2001:db8:a::9"]}
PEERS = {4: ["198.51.100.7", "198.51.100.8"], 6: ["2001:db8:9::7", "2001:db8:9::8"]}
POOL = {4: ["203.0.113.1", "203.0.113.2"], 6: ["2001:db8:ff::1", "2001:db8:ff::2"]}
FIXED = {4: "203.0.113.9", 6: "2001:db8:ff::9"}
ROUTER = {4: "192.0.2.99", 6: "2001:db8:77::1"}
SERVED = {4: "203.0.113.8", 6: "2001:db8:ff::8"}
BOTH = Ranges.of(32, [RED, BLUE])


def nat(
    mapping: Mapping = Mapping.PER_DESTINATION,
    filtering: Filtering = Filtering.ADDRESS_AND_PORT,
    ports: tuple[int, int] = (40000, 40005),
    quota: int | None = None,
) -> NatRules:
    """Masquerade of both tenants, with a filter where there is a mapping.

    RED's last address is FIXED outside, and its first one is SERVED at three ports.
    """
    if mapping is Mapping.PER_DESTINATION:
        filtering = Filtering.ADDRESS_AND_PORT
    masquerade = tuple(
        Masquerade(
            inside=BOTH,
            outside=WORLD,
            addresses=tuple(map(ip_address, POOL[version])),
            ports=ports,
            mapping=mapping,
            filtering=filtering,
        )
        for version in (4, 6)
    )
    static = tuple(
        Static(
            inside=RED,
            inside_address=ip_address(INSIDE[version][2]),
            outside=WORLD,
            outside_address=ip_address(FIXED[version]),
        )
        for version in (4, 6)
    )
    forward = tuple(
        Forward(
            outside=WORLD,
            outside_address=ip_address(SERVED[version]),
            outside_ports=(8080, 8082),
            inside=RED,
            inside_address=ip_address(INSIDE[version][0]),
            inside_ports=(80, 82),
        )
        for version in (4, 6)
    )
    quotas = () if quota is None else (Quota(inside=Ranges.of(32, [BLUE]), connections=quota),)
    return NatRules(masquerade=masquerade, static=static, forward=forward, quotas=quotas, timeouts=Timeouts())


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with loaded({"connections4": 4096, "connections6": 4096}) as found:
        yield found


def ip(source: str, target: str, **fields: Any) -> Any:
    """Ethernet and IP of the addresses' family."""
    layer = IPv6(src=source, dst=target) if ":" in source else IP(src=source, dst=target, **fields)
    return Ether(src="02:00:00:00:00:00", dst="02:00:00:00:00:02") / layer


def udp(source: str, target: str, sport: int = 40000, dport: int = 53, **fields: Any) -> bytes:
    return bytes(ip(source, target, **fields) / UDP(sport=sport, dport=dport) / Raw(b"odd"))


def tcp(source: str, target: str, flags: str = "S", sport: int = 40000, dport: int = 80, **fields: Any) -> bytes:
    return bytes(ip(source, target) / TCP(sport=sport, dport=dport, flags=flags, **fields))


def echo(source: str, target: str, number: int = 7, reply: bool = False) -> bytes:
    if ":" in source:
        kind = ICMPv6EchoReply if reply else ICMPv6EchoRequest
        return bytes(ip(source, target) / kind(id=number, seq=1, data=b"ping!"))
    return bytes(ip(source, target) / ICMP(type=0 if reply else 8, id=number, seq=1) / Raw(b"ping!"))


def about(frame: bytes, router: str, shown: int = 200) -> bytes:
    """The ICMP error of a router that could not deliver a frame."""
    packet = Ether(frame).payload
    inside = bytes(packet)[:shown]
    if packet.version == 6:
        return bytes(ip(router, packet.src) / ICMPv6TimeExceeded() / Raw(inside))
    return bytes(ip(router, packet.src) / ICMP(type=11) / Raw(inside))


def back(frame: bytes) -> tuple[str, str, Any]:
    """Whence and whither a reply goes, and the frame as layers."""
    packet = Ether(frame)
    return packet.payload.dst, packet.payload.src, packet


def answer_to(frame: bytes, flags: str = "SA", **fields: Any) -> bytes:
    """What the peer of a translated frame sends."""
    source, target, packet = back(frame)
    if TCP in packet:
        return tcp(source, target, flags, packet[TCP].dport, packet[TCP].sport, **fields)
    if UDP in packet:
        return udp(source, target, packet[UDP].dport, packet[UDP].sport)
    return echo(source, target, packet.payload.payload.id, reply=True)


class Both:
    """The kernel and the interpreter, side by side; every frame has to end the same in both."""

    def __init__(self, gateway: Gateway, rules: NatRules) -> None:
        gateway.write(rules)
        gateway.now_ns = BEGIN_NS
        self.gateway, self.model = gateway, Model(rules)

    def run(self, frame: bytes, meta: int) -> Any:
        wanted = self.model.run(frame, meta, self.gateway.now_ns)
        found = self.gateway.run(frame, meta)
        assert found.state == wanted.state, (found, wanted)
        assert found.frame == wanted.frame, (found.frame.hex(), wanted.frame.hex())
        assert found.meta == wanted.meta
        if wanted.reason:
            assert found.reason == wanted.reason
        return found

    def later(self, seconds: float) -> None:
        self.gateway.now_ns += round(seconds * SECOND)


# ---- whatever comes

PORTS = st.sampled_from([40000, 40001, 40003, 80, 53, 8080, 8082, 5000])
FLAGS = st.sampled_from(["S", "SA", "A", "FA", "R", "RA", "PA"])


@st.composite
def packet(draw: st.DrawFn) -> tuple[bytes, int]:
    """A packet of a tenant or of the outside, to anybody."""
    version = draw(st.sampled_from([4, 6]))
    meta = draw(st.sampled_from([RED, BLUE, WORLD, 7]))
    everywhere = [*PEERS[version], *POOL[version], FIXED[version], SERVED[version]]
    source = draw(st.sampled_from(PEERS[version] if meta == WORLD else INSIDE[version]))
    target = draw(st.sampled_from(everywhere))
    kind = draw(st.sampled_from(["udp", "tcp", "echo", "reply", "error"]))
    sport, dport = draw(PORTS), draw(PORTS)
    if kind == "udp":
        frame = udp(source, target, sport, dport)
    elif kind == "tcp":
        fields = {"seq": draw(st.sampled_from([1, 1000, 70000])), "ack": draw(st.sampled_from([1, 2, 1001]))}
        options = draw(st.sampled_from([[], [("WScale", 2)], [("NOP", None), ("MSS", 1400), ("WScale", 14)]]))
        frame = tcp(source, target, draw(FLAGS), sport, dport, options=options, **fields)
    elif kind == "error":
        inner = tcp(target, source, "A", dport, sport) if draw(st.booleans()) else udp(target, source, dport, sport)
        frame = about(inner, draw(st.sampled_from([source, ROUTER[version]])))
    else:
        frame = echo(source, target, draw(PORTS), reply=kind == "reply")
    return frame, meta


Step = tuple[str, Any]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("packet"), packet()),
        st.tuples(st.just("answer"), st.tuples(st.integers(0, 5), FLAGS)),
        st.tuples(st.just("error"), st.tuples(st.integers(0, 5), st.integers(28, 90))),
        st.tuples(st.just("wait"), st.sampled_from([1, 10, 50, 200, 290, 1000])),
    ),
    max_size=30,
)
RULES = st.builds(
    nat,
    mapping=st.sampled_from(list(Mapping)),
    filtering=st.sampled_from(list(Filtering)),
    ports=st.sampled_from([(40000, 40000), (40000, 40002), (1024, 65535), (50000, 50200)]),
    quota=st.sampled_from([None, 0, 2]),
)


@given(RULES, STEPS)
@settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_every_conversation_is_the_interpreters(gateway: Gateway, rules: NatRules, steps: list[Step]) -> None:
    """New, established, related, invalid; translated or refused, and why: the same on both sides at every step."""
    if rules.quotas or rules.masquerade[0].mapping is Mapping.ENDPOINT_INDEPENDENT:
        # What has run out counts, and keeps its mapping, until somebody sweeps.
        steps = [step for step in steps if step[0] != "wait"]
    both = Both(gateway, rules)
    went: list[tuple[bytes, int]] = []
    for kind, what in steps:
        if kind == "wait":
            both.later(what)
        elif kind == "packet":
            found = both.run(*what)
            if found.meta is not None:
                went.append((found.frame, found.meta))
        elif went:
            frame, meta = went[-1 - what[0] % len(went)]
            version = Ether(frame).payload.version
            shown = what[1] + 20 * (version == 6) if kind == "error" else 0
            reply = answer_to(frame, what[1]) if kind == "answer" else about(frame, ROUTER[version], shown)
            both.run(reply, meta)
