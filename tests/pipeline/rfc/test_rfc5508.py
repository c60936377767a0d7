# SPDX-License-Identifier: Apache-2.0
"""RFC 5508 (ICMP), requirement by requirement; docs/nat.md has the table."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.all import ICMP, IP, UDP, ICMPv6EchoRequest, IPOption_RR, IPv6, Raw

from mizar.pipeline import builder as b
from mizar.pipeline.interpreter.machine import Verdict
from mizar.pipeline.nat import Masquerade, Timeouts
from tests.pipeline.rfc.world import INSIDE, PUBLIC, SERVER, A, B, Interpreter, Make, answer, error_about, fresh, opened
from tests.unit.pipeline import frames as f

MAPPED = {"mapping": "endpoint-independent"}
WORLD = 0x1064


def pool(**more: str) -> Masquerade:
    return b.masquerade([A, B], WORLD, PUBLIC, **more)


def echo(source: str = INSIDE, target: str = SERVER, number: int = 7000) -> Any:
    return f.echo(source, target, number)


def test_req1_queries_and_their_replies(make: Make) -> None:
    """Another id where it is taken, the query's own in the reply; a stranger's reply is invalid."""
    world = make(pool())
    first, second = world.sent(A, echo()), world.sent(B, echo())
    assert first.packet[ICMP].id == 7000 != second.packet[ICMP].id
    for got, meta in ((first, A), (second, B)):
        back = world.sent(WORLD, answer(got))
        assert (back.meta, back.ip.dst, back.packet[ICMP].id, back.packet[ICMP].type) == (meta, INSIDE, 7000, 0)
    assert world.send(WORLD, f.echo(SERVER, PUBLIC, 9, reply=True)) is None


def test_req1_queries_of_ipv6(make: Make) -> None:
    """The same, with the checksum that covers addresses."""
    world = make(b.masquerade(A, WORLD, "2001:db8:ff::1", ports="2000-2999"))
    got = world.sent(A, f.echo6())
    assert got.packet[ICMPv6EchoRequest].id in range(2000, 3000)
    back = world.sent(WORLD, answer(got))
    assert back.packet[IPv6].dst == f.INSIDE6


def test_req1a_ids_are_endpoint_independent_on_request(make: Make) -> None:
    """One query id is one outside, whoever is asked."""
    world = make(pool(ports="2000-2999", **MAPPED))
    ids = {world.sent(A, echo(target=f"198.51.100.{one}")).packet[ICMP].id for one in range(1, 9)}
    assert len(ids) == 1


@pytest.mark.parametrize(("seconds", "rules"), [(60, ()), (90, (b.timeouts(icmp_s=90),))])
def test_req2_a_minute_or_as_configured(make: Make, seconds: int, rules: tuple[Timeouts, ...]) -> None:
    """RFC 7857 11: replies do not prolong it, queries do."""
    world = make(pool(), *rules)
    got = world.sent(A, echo())
    for _ in range(3):
        world.later(seconds - 2)
        world.sent(WORLD, answer(got))
        world.sent(A, echo())
    world.later(seconds + 4)
    assert world.send(WORLD, answer(got)) is None


def test_req3_a_wrong_checksum_stays_wrong(make: Make) -> None:
    """Deviation: checksums are changed by the difference and not checked, so the receiver sees what was wrong."""
    world = make(pool())
    got = world.sent(A, f.udp())
    error = bytearray(bytes(error_about(got.packet, SERVER)))
    error[14 + 20 + 2] ^= 0x55
    outcome = world.engine.run(f.in_vlan(bytes(error), 100), int(world.now_s * 1e9))
    frame = outcome.frame[:12] + outcome.frame[16:]
    assert outcome.meta == A
    assert f.same(frame) != frame


def test_req3_options_inside_are_passed_over(make: Make) -> None:
    """The embedded header may be longer."""
    world = make(pool(ports="2000-2999"))
    packet = fresh(
        f.eth() / IP(src=INSIDE, dst=SERVER, options=[IPOption_RR(length=7)]) / UDP(sport=9, dport=9) / Raw(b"x")
    )
    got = world.sent(A, packet)
    came = world.sent(WORLD, error_about(got.packet, SERVER))
    inner = IP(bytes(came.ip.payload)[8:])
    assert inner.ihl > 5
    assert (inner.src, bytes(inner)[inner.ihl * 4 :][:2]) == (INSIDE, (9).to_bytes(2, "big"))


@pytest.mark.parametrize("packet", [f.udp(), f.tcp(), echo()], ids=["udp", "tcp", "echo"])
def test_req4_errors_from_outside(make: Make, packet: Any) -> None:
    """The packet inside is as it was sent, byte for byte; type and code stay; the error goes to its sender."""
    world = make(pool(ports="2000-2999"))
    sent = fresh(packet)
    got = world.sent(A, sent)
    came = world.sent(WORLD, error_about(got.packet, "192.0.2.77", 3, 10))
    assert (came.meta, came.ip.src, came.ip.dst) == (A, "192.0.2.77", INSIDE)
    assert (came.packet[ICMP].type, came.packet[ICMP].code) == (3, 10)
    inner = bytes(came.ip.payload)[8:]
    assert inner == bytes(sent[IP])[: len(inner)]


def test_req4_errors_about_nothing_are_dropped(make: Make) -> None:
    """Of no connection, of another tenant's, or sent to another than the sender."""
    world = make(pool())
    got = world.sent(A, f.udp())
    strange = f.udp(PUBLIC, SERVER, 999, 53)
    assert world.send(WORLD, error_about(fresh(strange), SERVER)) is None
    wrong = error_about(got.packet, SERVER)
    wrong[IP].dst = "203.0.113.7"
    del wrong[IP].chksum
    assert world.send(WORLD, wrong) is None
    assert world.engine.reasons()["ERROR_WITHOUT_CONNECTION"] == 1


def test_req5_errors_from_inside(make: Make) -> None:
    """Of the host itself or of a router before it: the outside sees the outer address alone."""
    world = make(pool(ports="2000-2999"))
    got = world.sent(A, f.udp())
    back = world.sent(WORLD, answer(got))
    for source in (INSIDE, "10.0.0.254"):
        came = world.sent(A, error_about(back.packet, source, 3, 3))
        assert (came.meta, came.ip.src, came.ip.dst) == (WORLD, PUBLIC, SERVER)
        inner = IP(bytes(came.ip.payload)[8:])
        assert (inner.src, inner.dst) == (SERVER, PUBLIC)
        assert bytes(inner)[22:24] == got.ends[1].to_bytes(2, "big")


def test_req5_static_addresses(make: Make) -> None:
    """The error of a host with an address of its own comes from that address."""
    world = make(b.static(A, INSIDE, WORLD, "203.0.113.9"))
    got = world.sent(WORLD, f.udp(SERVER, "203.0.113.9", 53, 40000))
    came = world.sent(A, error_about(got.packet, INSIDE, 3, 3))
    assert (came.ip.src, came.ip.dst) == ("203.0.113.9", SERVER)


def test_req6_errors_prolong_and_end_nothing(make: Make) -> None:
    """UDP's time runs on, TCP stays open."""
    world = make(pool())
    got = world.sent(A, f.udp())
    world.later(250)
    error = error_about(got.packet, SERVER)
    world.sent(WORLD, error)
    world.later(60)
    assert world.send(WORLD, error) is None
    tcp = opened(world)
    world.sent(WORLD, error_about(tcp.packet, SERVER))
    world.later(7000)
    assert world.send(WORLD, error_about(tcp.packet, SERVER)) is not None


def test_req7_hairpin_of_queries(make: Make) -> None:
    """To a static address; RFC 7857 12."""
    world = make(pool(), b.static(B, "10.0.0.9", WORLD, "203.0.113.9"))
    got = world.sent(A, echo(target="203.0.113.9"))
    assert (got.meta, got.ip.src, got.ip.dst) == (B, PUBLIC, "10.0.0.9")
    back = world.sent(B, answer(got))
    assert (back.meta, back.ip.src, back.ip.dst) == (A, "203.0.113.9", INSIDE)


@pytest.mark.parametrize("source", [INSIDE, "10.0.0.9"])
def test_req7_hairpin_of_queries_to_mappings(make: Make, source: str) -> None:
    """More than is asked for: a mapped id can be asked too, from a pool and from a static address."""
    world = make(
        pool(ports="2000-2999", filtering="endpoint-independent", **MAPPED),
        b.static(A, "10.0.0.9", WORLD, "203.0.113.9"),
    )
    number = world.sent(B, echo()).packet[ICMP].id
    got = world.sent(A, echo(source, PUBLIC, number))
    assert (got.meta, got.ip.dst) == (B, INSIDE)
    back = world.sent(B, answer(got))
    assert (back.meta, back.ip.src, back.ip.dst, back.packet[ICMP].id) == (A, PUBLIC, source, number)


def test_req7_hairpin_of_errors(make: Make) -> None:
    """Both ends of the packet inside are turned back."""
    world = make(pool(ports="2000-2999"), b.forward(WORLD, PUBLIC, 53, B, "10.0.0.2", 5353))
    sent = fresh(f.udp(target=PUBLIC))
    got = world.sent(A, sent)
    came = world.sent(B, error_about(got.packet, "10.0.0.2", 3, 3))
    assert (came.meta, came.ip.src, came.ip.dst) == (A, PUBLIC, INSIDE)
    inner = bytes(came.ip.payload)[8:]
    assert inner == bytes(sent[IP])[: len(inner)]


def test_req8_a_refused_packet_is_not_answered(make: Make) -> None:
    """Deviation: no ICMP error is made; the reason is counted."""
    world = make(b.masquerade(A, WORLD, PUBLIC))
    assert world.send(B, f.udp()) is None
    assert world.engine.reasons() == {"NO_RULE": 1}


def test_trapped_for_the_kernel() -> None:
    """REQ-10: an echo for the gateway's own address goes to the host's stack, by a case before the translating one."""
    made = b.pipeline(
        "own",
        pool(),
        b.group("In", b.parse(b.case("eth / vlan 1-200", b.set_meta("vlan", add=0x1000), b.pop_vlan()))),
        b.group(
            "Nat",
            b.parse(
                b.case(f"eth / ipv4 dst {PUBLIC} / icmp type == 8", b.trap()),
                b.case(
                    "eth / ip / (tcp | udp | icmp)",
                    b.conntrack(
                        b.case("new | established | related", b.nat(allocate=True)), b.case("invalid", b.drop())
                    ),
                ),
            ),
        ),
        b.group("Out", b.push_vlan(), b.set_vid(), b.stop()),
    )
    outcome = Interpreter(made).run(f.in_vlan(echo(SERVER, PUBLIC), 100), 1)
    assert outcome.verdict is Verdict.KERNEL


@pytest.mark.parametrize("kind", [5, 9, 10, 17])
def test_req11_other_icmp_is_dropped(make: Make, kind: int) -> None:
    """Redirects, router discovery, address masks: invalid, from either side."""
    world = make(pool())
    for meta in (A, WORLD):
        assert world.send(meta, f.eth() / IP(src=INSIDE, dst=SERVER) / ICMP(type=kind)) is None
