# SPDX-License-Identifier: Apache-2.0
"""Conversations through the shipped gateway that translates in line, for any target: every kind of rule, both fabrics.

Each takes `run`, which sends a frame at a time and says how it ended; what is answered follows from what came out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from scapy.all import ICMP, IP, TCP, UDP, VXLAN, Dot1Q, Ether, ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment, Raw

from mizar.pipeline.interpreter.machine import Verdict
from tests.pipeline.rfc.world import fresh
from tests.unit.pipeline import frames as f

TAGGED_A, TAGGED_B, UNTAGGED, WORLD = 0x01000005, 0x01000006, 0x03000005, 0x02FF0064
START_NS = 5_000 * 1_000_000_000


class Ended(Protocol):
    """What a target says of a frame."""

    @property
    def verdict(self) -> Verdict: ...
    @property
    def frame(self) -> bytes: ...
    @property
    def meta(self) -> int | None: ...


Run = Callable[[bytes, int], Ended]


def entering(meta: int, packet: Any) -> bytes:
    """A tenant's packet as the fabric carries it."""
    if meta == WORLD:
        return f.in_vlan(packet)
    tagged = f.in_vxlan(packet, vni=meta & 0xFFFFFF)
    return tagged if meta >> 24 == 1 else tagged[:12] + tagged[16:]


def leaving(ended: Ended) -> tuple[int, Any]:
    """For whom a frame is that left, and the packet; its outer headers are those of its tunnel end."""
    assert ended.verdict is Verdict.EGRESS
    assert ended.meta is not None
    frame = Ether(ended.frame)
    if ended.meta == WORLD:
        assert frame[Dot1Q].vlan == 100
        return ended.meta, Ether(ended.frame[:12] + ended.frame[16:])
    assert (Dot1Q in frame, frame[VXLAN].vni) == (ended.meta >> 24 == 1, ended.meta & 0xFFFFFF)
    assert frame[IP].dst == ("192.0.2.2" if Dot1Q in frame else "192.0.2.3")
    return ended.meta, Ether(bytes(frame[VXLAN].payload))


def turned(packet: Any) -> Any:
    """The packet that answers one."""
    answer = packet.copy()
    ip = answer[IP] if IP in answer else answer[IPv6]
    ip.src, ip.dst = ip.dst, ip.src
    if ICMP in answer:
        answer[ICMP].type = 0
    else:
        l4 = answer[TCP] if TCP in answer else answer[UDP]
        l4.sport, l4.dport = l4.dport, l4.sport
        if TCP in answer:
            l4.flags = "SA"
    return fresh(answer)


def both_ways(run: Run, meta: int, packet: Any, to: int, now_ns: int = START_NS) -> Any:
    """A packet, which comes out for somebody, and its answer, which comes back as from who was asked."""
    sent = fresh(packet)
    there, out = leaving(run(entering(meta, sent), now_ns))
    assert there == to
    assert f.same(bytes(out)) == bytes(out)
    again, back = leaving(run(entering(to, turned(out)), now_ns))
    assert again == meta
    assert f.same(bytes(back)) == bytes(back)
    ends = [one[IP] if IP in one else one[IPv6] for one in (sent, back)]
    assert (ends[0].src, ends[0].dst) == (ends[1].dst, ends[1].src)
    return out


def masquerade(run: Run) -> None:
    """Every protocol and family, of both fabrics; two tenants with equal packets."""
    for meta in (TAGGED_A, TAGGED_B, UNTAGGED):
        for packet in (f.tcp(), f.udp(), f.echo(number=2000), f.udp(f.INSIDE6, f.SERVER6)):
            both_ways(run, meta, packet, WORLD)


def fixed(run: Run) -> None:
    """Static addresses from both sides, forwards from outside."""
    assert both_ways(run, TAGGED_A, f.udp("10.0.0.9"), WORLD)[IP].src == "203.0.113.9"
    assert both_ways(run, WORLD, f.tcp(f.SERVER, "203.0.113.9", 9, 22), TAGGED_A)[IP].dst == "10.0.0.9"
    assert both_ways(run, WORLD, f.udp(f.SERVER6, "2001:db8:ff::9", 9, 22), TAGGED_A)[IPv6].dst == "2001:db8:a::9"
    assert both_ways(run, WORLD, f.tcp(f.SERVER, "203.0.113.16", 9, 80), TAGGED_B)[TCP].dport == 8080
    assert both_ways(run, WORLD, f.udp(f.SERVER, "203.0.113.32", 9, 5042), UNTAGGED)[UDP].dport == 5042


def hairpin(run: Run) -> None:
    """From one fabric to the other, and a stranger to a mapping that lets everybody in."""
    assert both_ways(run, TAGGED_A, f.tcp(target="203.0.113.16", sport=41000), TAGGED_B)[IP].dst == "10.0.0.80"
    outer = both_ways(run, UNTAGGED, f.udp(sport=42000), WORLD)
    assert (outer[IP].src, outer[UDP].sport) == ("203.0.113.32", 42000)
    assert both_ways(run, TAGGED_A, f.udp(target="203.0.113.32", dport=42000), UNTAGGED)[IP].dst == f.INSIDE
    assert both_ways(run, WORLD, f.udp("192.0.2.77", "203.0.113.32", 7, 42000), UNTAGGED)[UDP].dport == 42000


def refused(run: Run) -> None:
    """No rule, no connection, another tenant's answer."""
    for meta, packet in (
        (WORLD, f.udp(f.SERVER, "203.0.113.17", 53, 40000)),
        (TAGGED_A, f.tcp(flags="A")),
        (0x01000007, f.udp()),
        (WORLD, f.tcp(f.SERVER, "203.0.113.32", 9, 4999)),
    ):
        assert run(entering(meta, packet), START_NS).verdict is Verdict.DROP
    assert run(f.in_vlan(f.arp()), START_NS).verdict is Verdict.KERNEL


def fragments(run: Run) -> None:
    """A datagram in two pieces; the second alone is nobody's."""
    whole = fresh(f.eth() / IP(src=f.INSIDE, dst=f.SERVER) / UDP(sport=43000, dport=53) / Raw(bytes(range(56))))
    data = bytes(whole[IP].payload)
    first, second = (
        f.eth() / IP(src=f.INSIDE, dst=f.SERVER, proto=17, id=77, flags=flags, frag=at // 8) / Raw(data[at:end])
        for flags, at, end in (("MF", 0, 32), (0, 32, 64))
    )
    assert run(entering(TAGGED_A, second), START_NS).verdict is Verdict.DROP
    pieces = [leaving(run(entering(TAGGED_A, one), START_NS)) for one in (first, second)]
    assert [meta for meta, _ in pieces] == [WORLD, WORLD]
    joined = b"".join(bytes(one[IP].payload) for _, one in pieces)
    ends = pieces[0][1][IP]
    assert bytes(fresh(f.eth() / IP(src=ends.src, dst=ends.dst) / UDP(joined[:8]) / Raw(joined[8:]))[UDP]) == joined


def fragments_of_ipv6(run: Run) -> None:
    """The same, with IPv6's fragment header; an error about the first one finds its way back."""
    whole = fresh(f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6) / UDP(sport=43000, dport=53) / Raw(bytes(range(56))))
    data = bytes(whole[UDP])
    base = f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6)
    first, second = (
        base / IPv6ExtHdrFragment(nh=17, id=0x77000001, m=more, offset=at // 8) / Raw(data[at:end])
        for more, at, end in ((1, 0, 32), (0, 32, 64))
    )
    assert run(entering(TAGGED_A, second), START_NS).verdict is Verdict.DROP
    pieces = [leaving(run(entering(TAGGED_A, one), START_NS)) for one in (first, second)]
    assert [meta for meta, _ in pieces] == [WORLD, WORLD]
    joined = b"".join(bytes(one[IPv6ExtHdrFragment].payload) for _, one in pieces)
    ends = pieces[0][1][IPv6]
    assert ends.src != f.INSIDE6
    assert bytes(fresh(f.eth() / IPv6(src=ends.src, dst=ends.dst) / UDP(joined[:8]) / Raw(joined[8:]))[UDP]) == joined
    error = f.eth() / IPv6(src="2001:db8:77::1", dst=ends.src) / ICMPv6DestUnreach() / Raw(bytes(ends))
    meta, back = leaving(run(entering(WORLD, Ether(bytes(error))), START_NS))
    assert (meta, back[IPv6].dst) == (TAGGED_A, f.INSIDE6)
    assert bytes(back[ICMPv6DestUnreach])[8:] == bytes(Ether(bytes(first))[IPv6])


def errors(run: Run) -> None:
    """Unreachable, from outside about a query, from inside about its answer."""
    sent = fresh(f.udp(sport=44000))
    out = both_ways(run, TAGGED_A, sent, WORLD)
    error = f.eth() / IP(src="192.0.2.77", dst=out[IP].src) / ICMP(type=3, code=1) / Raw(bytes(out[IP])[:28])
    meta, back = leaving(run(entering(WORLD, Ether(bytes(error))), START_NS))
    assert (meta, back[IP].dst) == (TAGGED_A, f.INSIDE)
    assert bytes(back[ICMP])[8:] == bytes(sent[IP])[:28]


CONVERSATIONS = [masquerade, fixed, hairpin, refused, fragments, fragments_of_ipv6, errors]
