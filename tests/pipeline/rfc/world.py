# SPDX-License-Identifier: Apache-2.0
"""A gateway between tenants and the world, for any engine: packets go in by a VLAN and come out by one.

The address plan is that of tests/unit/pipeline/frames.py; tenant A is VLAN 5, tenant B VLAN 6 with the same
addresses, the world VLAN 100. Every whole packet that leaves has right checksums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from scapy.all import ICMP, IP, TCP, Dot1Q, Ether, ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment, Raw, in6_chksum

from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline
from mizar.pipeline.interpreter.checksum import internet
from mizar.pipeline.interpreter.machine import Machine, Outcome, Verdict
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.nat import NatRules
from tests.unit.pipeline import frames as f

META = 0x1000
A, B, WORLD = META + 5, META + 6, META + 100
PUBLIC, SERVER, INSIDE = f.PUBLIC, f.SERVER, f.INSIDE
SECOND_NS = 1_000_000_000


def nat_pipeline(*rules: Any) -> Pipeline:
    """Every VLAN is a tenant; whatever has a rule is translated, in line; the rest is dropped."""
    known = "eth / ip / (tcp | udp | icmp | fragment)"
    states = b.conntrack(
        b.case("new | established | related", b.nat(allocate=True)), b.case("invalid", b.count("invalid"), b.drop())
    )
    return b.pipeline(
        "rfc",
        *rules,
        b.group("In", b.parse(b.case("eth / vlan 1-200", b.set_meta("vlan", add=META), b.pop_vlan()))),
        b.group("Nat", b.parse(b.case(known, states))),
        b.group("Out", b.push_vlan(), b.set_vid(), b.stop()),
    )


class Engine(Protocol):
    """What runs a pipeline."""

    def run(self, frame: bytes, now_ns: int) -> Outcome:
        """One frame."""

    def sweep(self, now_ns: int) -> None:
        """Removes what has run out."""

    def reasons(self) -> Counter[str]:
        """Why packets were invalid or not translated."""

    def told(self) -> set[tuple[str, int]]:
        """Reason and tenant of every event."""


class Interpreter:
    """The engine that all others are compared with."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.table = NatTable(pipeline.nat or NatRules())
        self.machine = Machine(pipeline, self.table)

    def run(self, frame: bytes, now_ns: int) -> Outcome:
        return self.machine.run(frame, now_ns)

    def sweep(self, now_ns: int) -> None:
        self.table.expire(now_ns)

    def reasons(self) -> Counter[str]:
        return Counter({str(reason): count for reason, count in self.table.reasons.items()})

    def told(self) -> set[tuple[str, int]]:
        return {(str(event.reason), event.tenant) for event in self.table.events}


@dataclass(frozen=True)
class Got:
    """What came out: for whom, and the packet without its tag."""

    meta: int
    packet: Any

    @property
    def ip(self) -> Any:
        """Its IP header."""
        return self.packet[IP] if IP in self.packet else self.packet[IPv6]

    @property
    def ends(self) -> tuple[str, int, str, int]:
        """Addresses and ports."""
        l4 = self.ip.payload
        return self.ip.src, l4.sport, self.ip.dst, l4.dport


@dataclass
class World:
    """A gateway and the time."""

    engine: Engine
    now_s: float = 1000.0

    def send(self, meta: int, packet: Any) -> Got | None:
        """A packet of a tenant or from the world; None: dropped."""
        outcome = self.engine.run(f.in_vlan(packet, meta - META), int(self.now_s * SECOND_NS))
        if outcome.verdict is Verdict.DROP:
            return None
        assert outcome.verdict is Verdict.EGRESS
        frame = Ether(outcome.frame)
        assert frame[Dot1Q].vlan + META == outcome.meta
        bare = outcome.frame[:12] + outcome.frame[16:]
        got = Got(frame[Dot1Q].vlan + META, Ether(bare))
        pieces = IPv6ExtHdrFragment in got.packet or (IP in got.packet and (got.ip.frag or got.ip.flags.MF))
        if not pieces:
            assert is_right(got), "a checksum is wrong"
        return got

    def sent(self, meta: int, packet: Any) -> Got:
        """The same, of a packet that has to come out."""
        got = self.send(meta, packet)
        assert got is not None, self.engine.reasons()
        return got

    def later(self, seconds: float) -> None:
        """Time goes by; what has run out is removed."""
        self.now_s += seconds
        self.engine.sweep(int(self.now_s * SECOND_NS))


Make = Callable[..., World]


def answer(got: Got) -> Any:
    """The packet of the same kind that goes back where one came from."""
    packet = got.packet.copy()
    ip = packet[IP] if IP in packet else packet[IPv6]
    ip.src, ip.dst = ip.dst, ip.src
    l4 = ip.payload
    if l4.haslayer(ICMP) or "Echo" in l4.name:
        l4.type = 0 if IP in packet else 129
    else:
        l4.sport, l4.dport = l4.dport, l4.sport
        if TCP in packet:
            l4.flags = "SA"
    return fresh(packet)


def fresh(packet: Any) -> Any:
    """With every length and checksum made anew."""
    return Ether(f.same(bytes(packet)))


def tcp(flags: str, seq: int = 0, ack: int = 0, window: int = 8192, **ends: Any) -> Any:
    """A TCP segment without data from inside, or with other ends."""
    base = {"source": INSIDE, "target": SERVER, "sport": 40000, "dport": 80} | ends
    layer = TCP(sport=base["sport"], dport=base["dport"], flags=flags, seq=seq, ack=ack, window=window)
    return f.eth() / IP(src=base["source"], dst=base["target"]) / layer


def error_about(packet: Any, source: str, kind: int = 3, code: int = 1) -> Any:
    """An ICMP error to who sent a packet, with as much of it as RFC 792 wants, and a little more."""
    ip = packet[IP] if IP in packet else packet[IPv6]
    if IP in packet:
        return Ether(bytes(f.eth() / IP(src=source, dst=ip.src) / ICMP(type=kind, code=code) / Raw(bytes(ip)[:40])))
    return Ether(bytes(f.eth() / IPv6(src=source, dst=ip.src) / ICMPv6DestUnreach(code=code) / Raw(bytes(ip)[:60])))


def is_right(got: Got) -> bool:
    """Whether its checksums are right; of an ICMP error the outer ones, as what it is about is cut off."""
    if ICMP in got.packet and got.packet[ICMP].type in (3, 11, 12):
        return internet(bytes(got.ip)[: got.ip.ihl * 4]) == 0 == internet(bytes(got.ip.payload))
    if ICMPv6DestUnreach in got.packet:
        return int(in6_chksum(58, got.ip, bytes(got.ip.payload))) in (0, 0xFFFF)
    return f.same(bytes(got.packet)) == bytes(got.packet)


def opened(world: World, **ends: Any) -> Got:
    """A TCP connection that is open: SYN 100, SYN 500, ACK. What its first packet became."""
    got = world.sent(A, tcp("S", 100, **ends))
    back = {"source": got.ip.dst, "target": got.ip.src, "sport": got.ends[3], "dport": got.ends[1]}
    world.sent(got.meta, tcp("SA", 500, 101, **back))
    world.sent(A, tcp("A", 101, 501, **ends))
    return got
