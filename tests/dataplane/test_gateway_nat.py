# SPDX-License-Identifier: Apache-2.0
"""Connections in the kernel do what the interpreter does, byte for byte: frame, state, reason and tenant.

Random conversations of several tenants with several peers, with everything that a `nat:` section can say, in one
address plan: tenants RED and BLUE both have 10.0.0.0/24 and 2001:db8:a::/64, the outside is WORLD.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scapy.all import (
    ICMP,
    IP,
    TCP,
    UDP,
    Ether,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
)

from mizar.gateway import rules
from mizar.kernel.test_run import run_xdp
from mizar.pipeline.description import State
from mizar.pipeline.nat import Filtering, Forward, Mapping, Masquerade, NatRules, Quota, Static, Timeouts
from mizar.pipeline.ranges import Ranges
from tests.dataplane.gateway_nat import SECOND, STATES, Gateway, Model, has_clang, loaded, reasons, with_meta

pytestmark = pytest.mark.skipif(not has_clang(), reason="needs clang, as the build does")

RED, BLUE, WORLD = 0x01000005, 0x01000006, 0x02FF0064
INSIDE = {4: ["10.0.0.1", "10.0.0.2", "10.0.0.9"], 6: ["2001:db8:a::1", "2001:db8:a::2", "2001:db8:a::9"]}
PEERS = {4: ["198.51.100.7", "198.51.100.8"], 6: ["2001:db8:9::7", "2001:db8:9::8"]}
POOL = {4: ["203.0.113.1", "203.0.113.2"], 6: ["2001:db8:ff::1", "2001:db8:ff::2"]}
FIXED = {4: "203.0.113.9", 6: "2001:db8:ff::9"}
ROUTER = {4: "192.0.2.99", 6: "2001:db8:77::1"}
SERVED = {4: "203.0.113.8", 6: "2001:db8:ff::8"}
ERA = 100_000 * SECOND
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
    """With so few lines that groups are full, and entries stand in both places."""
    with loaded({"connections4": 4096, "connections6": 4096, "lines4": 16, "lines6": 16}) as found:
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
        gateway.now_ns += ERA  # no note of a fragment is met again
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
@settings(max_examples=30, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
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


# ---- hostile packets


@cache
def seeds() -> list[tuple[bytes, int]]:
    """One packet of each kind, of connections that the rules make."""
    plain = [udp("10.0.0.1", "198.51.100.7"), tcp("10.0.0.1", "198.51.100.7"), echo("10.0.0.1", "198.51.100.7")]
    plain += [udp(INSIDE[6][0], PEERS[6][0]), tcp(INSIDE[6][0], PEERS[6][0]), echo(INSIDE[6][0], PEERS[6][0])]
    pieces = ip(INSIDE[6][0], PEERS[6][0]) / IPv6ExtHdrFragment(id=7, m=1, nh=17)
    plain.append(bytes(pieces / UDP(sport=40000, dport=53, len=100) / Raw(b"12345678")))
    errors = [about(frame, ROUTER[6 if frame[12] == 0x86 else 4]) for frame in plain]
    return [(frame, RED) for frame in plain] + [(frame, RED) for frame in errors]


BROKEN = st.tuples(
    st.sampled_from(range(14)),
    st.lists(
        st.tuples(st.integers(12, 110), st.sampled_from([0, 1, 3, 8, 44, 58, 64, 0x45, 0x46, 0x60, 255])), max_size=3
    ),
    st.one_of(st.none(), st.integers(14, 120)),
)


@given(st.lists(BROKEN, min_size=1, max_size=12))
@settings(max_examples=25, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_broken_packets_end_as_in_the_interpreter(gateway: Gateway, broken: list[Any]) -> None:
    """Bytes of every header are changed and frames are cut off; what both make of it is the same, and never more."""
    both = Both(gateway, nat())
    for number, changes, length in broken:
        frame, meta = seeds()[number]
        data = bytearray(frame)
        for place, value in changes:
            if place < len(data):
                data[place] = value
        both.run(bytes(data[:length]), meta)


@pytest.mark.parametrize("number", range(14))
def test_every_length_of_every_packet(gateway: Gateway, number: int) -> None:
    """A frame that ends anywhere, with the lengths in its headers as they were."""
    both = Both(gateway, nat())
    frame, meta = seeds()[number]
    both.run(frame, meta)
    for length in range(14, len(frame)):
        both.run(frame[:length], meta)


# ---- why


FRAGMENT = bytes(ip("10.0.0.1", "198.51.100.7", id=9, frag=2) / Raw(b"12345678"))
REASONS = {
    "NO_CONNECTION_PARSED": (bytes(ip("10.0.0.1", "198.51.100.7", proto=47) / Raw(b"12345678")), RED),
    "TCP_WITHOUT_CONNECTION": (tcp("10.0.0.1", "198.51.100.7", "A"), RED),
    "REPLY_WITHOUT_QUERY": (echo("10.0.0.1", "198.51.100.7", reply=True), RED),
    "ERROR_UNREADABLE": (about(udp("10.0.0.1", "198.51.100.7"), "192.0.2.99", shown=27), WORLD),
    "ERROR_WITHOUT_CONNECTION": (about(udp("10.0.0.1", "198.51.100.7"), "192.0.2.99"), WORLD),
    "FRAGMENT_BEFORE_FIRST": (FRAGMENT[:23] + b"\x11" + FRAGMENT[24:], RED),
    "NO_RULE": (udp("10.0.0.1", "198.51.100.7"), 7),
    "QUOTA_EXCEEDED": (udp("10.0.0.1", "198.51.100.7"), BLUE),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_refusal_has_its_reason_and_its_counter(gateway: Gateway, reason: str) -> None:
    """The frame is as it was, the reason is told, and its counter moves by one."""
    both = Both(gateway, nat(quota=0))
    number = next(number for number, name in reasons().items() if name == reason)
    before = gateway.counted(number)
    frame, meta = REASONS[reason]
    found = both.run(frame, meta)
    assert found.frame == with_meta(frame, meta)
    assert gateway.run(frame, meta).reason == reason
    assert gateway.counted(number) == before + 2


def test_a_tenant_without_a_quota_may_have_its_share(gateway: Gateway) -> None:
    """It has the same quota from its first connection on, and so has one that was there before; another still
    begins."""
    for there in (False, True):
        gateway.write(nat())
        if there:
            assert gateway.run(udp("10.0.0.1", "198.51.100.7", 40007), RED).reason == ""
        rules.write(gateway.tables, nat(), quota=1 + there)
        assert gateway.run(udp("10.0.0.1", "198.51.100.7", 40008), RED).reason == ""
        assert gateway.run(udp("10.0.0.1", "198.51.100.7", 40009), RED).reason == "QUOTA_EXCEEDED"
        assert gateway.run(udp("10.0.0.1", "198.51.100.7", 40008), BLUE).reason == ""


# ---- CPUs that race


def test_cpus_that_race_for_a_port_get_different_ones(gateway: Gateway) -> None:
    """Two CPUs begin connections of other senders with the same port to one destination, over and over: no two share
    an outer end, none is lost, and each entry has its twin."""
    gateway.write(nat(ports=(40000, 40999)))
    cpus = sorted(os.sched_getaffinity(0))[:2]
    gate = threading.Barrier(len(cpus))
    found: list[tuple[str, bytes]] = []

    def begin(cpu: int, number: int) -> None:
        os.sched_setaffinity(0, {cpu})
        gate.wait()
        for host in range(100):
            frame = udp(f"10.0.{number}.{2 * host + 1}", PEERS[4][0], 40000)
            out = run_xdp(gateway.loaded.programs["nat"].fd, with_meta(frame, BLUE))
            found.append((STATES[out.retval & 0xFF], out.frame[26:38]))

    gateway.run(udp("10.0.9.1", PEERS[4][1]), BLUE)  # sets the clock
    racers = [threading.Thread(target=begin, args=(cpu, number)) for number, cpu in enumerate(cpus)]
    for one in racers:
        one.start()
    for one in racers:
        one.join()
    assert len(found) == 100 * len(cpus)
    assert {state for state, _ in found} == {State.NEW}
    assert len({ends for _, ends in found}) == len(found)
    entries = {(key["meta"], key["src_be"], key["dst_be"], key["src_port_be"], key["dst_port_be"]): value
               for key, value in gateway.tables.connections4.items()}  # fmt: skip
    for value in entries.values():
        twin = value["meta"], value["dst_be"], value["src_be"], value["dst_port_be"], value["src_port_be"]
        assert twin in entries
    tenants = dict(gateway.tables.nat_tenants.items())
    assert tenants[BLUE]["in_use"] * 2 == len(entries)


def test_cpus_that_race_with_one_packet_make_one_connection(gateway: Gateway) -> None:
    """The same first packet on two CPUs at once: one connection, and its quota is used once."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    for attempt in range(8):
        gateway.write(nat(ports=(40000, 40999)))
        gateway.run(udp("10.0.9.1", PEERS[4][1]), RED)
        gate = threading.Barrier(len(cpus))
        frame = with_meta(udp(f"10.0.0.{attempt + 1}", PEERS[4][0], 41000), BLUE)

        def begin(cpu: int, gate: threading.Barrier = gate, frame: bytes = frame) -> None:
            os.sched_setaffinity(0, {cpu})
            gate.wait()
            run_xdp(gateway.loaded.programs["nat"].fd, frame)

        racers = [threading.Thread(target=begin, args=(cpu,)) for cpu in cpus]
        for one in racers:
            one.start()
        for one in racers:
            one.join()
        entries = [key for key, _ in gateway.tables.connections4.items()]
        assert len(entries) == 4
        assert dict(gateway.tables.nat_tenants.items())[BLUE]["in_use"] == 1


# ---- no room


def test_exhaustion_is_counted_and_told_and_evicts_nothing(gateway: Gateway) -> None:
    """No port is free: a reason, a counter of the tenant, one event; who has a connection keeps it."""
    both = Both(gateway, nat(ports=(40000, 40000)))
    first = udp("10.0.0.1", PEERS[4][0])
    assert both.run(first, RED).reason == ""
    refused = both.run(udp("10.0.0.1", PEERS[4][0]), BLUE)
    assert refused.reason == "PORTS_EXHAUSTED"
    assert dict(gateway.tables.nat_tenants.items())[BLUE]["exhausted"] == 1
    assert both.run(first, RED).state is State.ESTABLISHED


def test_a_full_table_refuses_and_evicts_nothing() -> None:
    """The map holds no more: refused with a reason, and what there was goes on."""
    with loaded({"connections4": 8, "connections6": 8}) as small:
        small.write(nat(ports=(1024, 65535)))
        results = [small.run(udp("10.0.0.1", PEERS[4][0], 2000 + number), RED) for number in range(12)]
        kept = [one for one in results if not one.reason]
        assert {one.reason for one in results} == {"", "TABLE_FULL"}
        assert dict(small.tables.nat_tenants.items())[RED]["in_use"] == len(kept)
        for number in range(len(kept)):
            assert small.run(udp("10.0.0.1", PEERS[4][0], 2000 + number), RED).state is State.ESTABLISHED


def test_what_has_outlived_its_time_gives_its_port_back_in_line(gateway: Gateway) -> None:
    """Nobody sweeps: a connection that stands in the way of a new one goes, both entries and its place in the quota."""
    both = Both(gateway, nat(ports=(40000, 40000)))
    both.run(udp("10.0.0.1", PEERS[4][0]), RED)
    both.later(400)
    assert both.run(udp("10.0.0.1", PEERS[4][0]), BLUE).reason == ""
    tenants = dict(gateway.tables.nat_tenants.items())
    assert (tenants[RED]["in_use"], tenants[BLUE]["in_use"]) == (0, 1)
    assert len(list(gateway.tables.connections4.items())) == 2


PART = st.tuples(
    st.sampled_from([4, 6]),
    st.sampled_from([0, 8, 16]),
    st.booleans(),
    st.sampled_from([1, 2, 0x10001]),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(PART, max_size=16))
@settings(max_examples=24, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_fragments_end_as_in_the_interpreter(gateway: Gateway, parts: list[Any]) -> None:
    """First, later, out of order, of several datagrams, from inside and from outside; errors about them."""
    both = Both(gateway, nat())
    outer = {version: both.run(udp(INSIDE[version][0], PEERS[version][0]), RED).frame for version in (4, 6)}
    for version, offset, more, datagram, outward, fails in parts:
        if outward:
            source, target, ports = INSIDE[version][0], PEERS[version][0], {"sport": 40000, "dport": 53}
        else:
            source, target, packet = back(outer[version])
            ports = {"sport": packet[UDP].dport, "dport": packet[UDP].sport}
        if version == 4:
            front = ip(source, target, id=datagram & 0xFFFF, frag=offset // 8, flags="MF" if more else 0)
        else:
            front = ip(source, target) / IPv6ExtHdrFragment(id=datagram, offset=offset // 8, m=int(more), nh=17)
        sent = both.run(bytes(front / UDP(**ports, len=100) / Raw(b"12345678")), RED if outward else WORLD)
        if fails and sent.reason == "":
            both.run(about(sent.frame, ROUTER[version]), WORLD if outward else RED)
