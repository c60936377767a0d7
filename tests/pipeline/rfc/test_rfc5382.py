# SPDX-License-Identifier: Apache-2.0
"""RFC 5382 (TCP), requirement by requirement, with RFC 7857's and RFC 5961's updates; docs/nat.md has the table."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.all import IP, TCP, Raw

from mizar.pipeline import builder as b
from mizar.pipeline.nat import Masquerade
from tests.pipeline.rfc.world import INSIDE, PUBLIC, SERVER, A, B, Got, Make, World, answer, error_about, opened, tcp
from tests.unit.pipeline import frames as f

MAPPED = {"mapping": "endpoint-independent"}
WORLD = 0x1064


def pool(**more: str) -> Masquerade:
    return b.masquerade([A, B], WORLD, PUBLIC, **more)


def back(got: Got, flags: str, seq: int, ack: int = 0, **more: int) -> Any:
    """A segment of the server."""
    return tcp(flags, seq, ack, **more, source=got.ip.dst, target=got.ip.src, sport=got.ends[3], dport=got.ends[1])


def lives(world: World, got: Got) -> bool:
    """Whether the server's segment still finds its way in."""
    return world.send(WORLD, back(got, "A", 501, 101)) is not None


def test_req1_endpoint_independent_mapping_on_request(make: Make) -> None:
    """RFC 7857 5: and apart from UDP's mapping."""
    world = make(pool(**MAPPED))
    world.sent(B, f.udp())
    ports = {world.sent(A, tcp("S", target=f"198.51.100.{one}")).ends[1] for one in range(1, 5)}
    assert ports == {40000}
    assert world.sent(A, f.udp()).ends[1] != 40000


def test_req2_three_way_handshake(make: Make) -> None:
    """And data, both ways, with the numbers untouched."""
    world = make(pool())
    got = opened(world)
    data = world.sent(A, tcp("PA", 101, 501) / Raw(b"hello"))
    assert (data.packet[TCP].seq, data.packet[TCP].ack, bytes(data.packet[TCP].payload)) == (101, 501, b"hello")
    assert world.sent(WORLD, back(got, "A", 501, 106)).ends == (SERVER, 80, INSIDE, 40000)


def test_req2_simultaneous_open(make: Make) -> None:
    """SYNs that cross; the connection is open then."""
    world = make(pool())
    got = world.sent(A, tcp("S", 100))
    assert world.sent(WORLD, back(got, "S", 500)).meta == A
    world.sent(A, tcp("SA", 100, 501))
    world.sent(WORLD, back(got, "A", 501, 101))
    world.later(7000)
    assert lives(world, got)


@pytest.mark.parametrize(
    ("filtering", "stranger", "neighbour"),
    [("endpoint-independent", True, True), ("address", False, True), ("address-and-port", False, False)],
)
def test_req3_filters(make: Make, filtering: str, stranger: bool, neighbour: bool) -> None:
    """As of UDP, and only a SYN may begin."""
    world = make(pool(filtering=filtering, **MAPPED))
    got = opened(world)
    for source, let_in in (("198.51.100.8", stranger), (SERVER, neighbour)):
        knock: dict[str, Any] = {"source": source, "target": PUBLIC, "sport": 99, "dport": got.ends[1]}
        assert world.send(WORLD, tcp("A", 1, 1, **knock)) is None
        assert (world.send(WORLD, tcp("S", 1, **knock)) is not None) is let_in


def test_req4_an_unsolicited_syn_is_not_answered(make: Make) -> None:
    """Deviation: dropped in silence, at once; a SYN from inside then opens all the same."""
    world = make(pool())
    assert world.send(WORLD, tcp("S", 9, source=SERVER, target=PUBLIC, sport=80, dport=40000)) is None
    assert world.sent(A, tcp("S", 100)).ends == (PUBLIC, 40000, SERVER, 80)
    assert world.send(WORLD, tcp("S", 9, source=SERVER, target=PUBLIC, sport=80, dport=40000)) is not None


def test_req5_open_for_two_hours_and_four_minutes(make: Make) -> None:
    """Both sides' segments keep it."""
    world = make(pool())
    got = opened(world)
    world.later(7430)
    assert lives(world, got)
    world.later(7430)
    world.sent(A, tcp("A", 101, 501))
    world.later(7450)
    assert not lives(world, got)


@pytest.mark.parametrize("answered", [False, True])
def test_req5_opening_for_four_minutes(make: Make, answered: bool) -> None:
    """RFC 7857 2.1: until the other side's SYN; an acknowledgement without one opens nothing."""
    world = make(pool())
    got = world.sent(A, tcp("S", 100))
    if answered:
        world.sent(WORLD, back(got, "A", 500, 101))
    world.later(230)
    world.sent(A, tcp("S", 100))
    world.later(235)
    assert world.send(WORLD, back(got, "SA", 500, 101)) is not None


def test_req5_opening_ends(make: Make) -> None:
    """After four silent minutes."""
    world = make(pool())
    got = world.sent(A, tcp("S", 100))
    world.later(245)
    assert world.send(WORLD, back(got, "SA", 500, 101)) is None


def test_req5_closing_for_four_minutes(make: Make) -> None:
    """RFC 7857 2.1: one FIN is half a connection, which lives; after both nothing prolongs it."""
    world = make(pool())
    got = opened(world)
    world.sent(A, tcp("FA", 101, 501))
    world.later(7000)
    world.sent(WORLD, back(got, "FA", 501, 102))
    world.sent(A, tcp("A", 102, 502))
    world.later(200)
    world.sent(A, tcp("A", 102, 502))
    world.later(45)
    assert not lives(world, got)


def test_req5_a_syn_begins_a_closed_connection_anew(make: Make) -> None:
    """With the same translation, and the long time-out once it is open."""
    world = make(pool())
    got = opened(world)
    world.sent(A, tcp("FA", 101, 501))
    world.sent(WORLD, back(got, "FA", 501, 102))
    assert opened(world).ends == got.ends
    world.later(7000)
    assert lives(world, got)


@pytest.mark.parametrize(
    ("flags", "seq", "ack", "counts"),
    [
        ("R", 501, 0, True),  # what the inside expects next
        ("RA", 501, 101, True),
        ("R", 501 + 8192, 0, True),  # the end of its window
        ("R", 500, 0, False),
        ("R", 501 + 8193, 0, False),
        ("R", 501 + 2**31, 0, False),
    ],
)
def test_rst_counts_only_within_the_window(make: Make, flags: str, seq: int, ack: int, counts: bool) -> None:
    """RFC 7857 2.2, RFC 5961: always translated; one out of the blue does not shorten the connection's life."""
    world = make(pool())
    got = opened(world)
    assert world.send(WORLD, back(got, flags, seq, ack)) is not None
    world.later(300)
    assert lives(world, got) is not counts


def test_rst_counts_with_the_scaled_window(make: Make) -> None:
    """RFC 7323: where both sides offered a scale."""
    for scales, counts in (((7, 7), True), ((7, None), False)):
        world = make(pool())
        syns = [[("WScale", scale)] if scale is not None else [] for scale in scales]
        first = tcp("S", 100)
        first[TCP].options = syns[0]
        got = world.sent(A, first)
        second = back(got, "SA", 500, 101)
        second[TCP].options = syns[1]
        world.sent(WORLD, second)
        world.sent(A, tcp("A", 101, 501, window=1000))
        world.sent(WORLD, back(got, "R", 501 + 100_000))
        world.later(300)
        assert lives(world, got) is not counts


def test_rst_keeps_the_state_for_four_minutes(make: Make) -> None:
    """RFC 7857 2.2: a segment from who seems to have reset takes the RST back."""
    world = make(pool())
    got = opened(world)
    world.sent(WORLD, back(got, "R", 501))
    world.later(200)
    world.sent(WORLD, back(got, "A", 501, 101))
    world.later(7000)
    assert lives(world, got)


def test_rst_of_a_refused_connection(make: Make) -> None:
    """Before there was an acknowledgement: it acknowledges the SYN, or it does not count."""
    world = make(pool())
    got = world.sent(A, tcp("S", 100))
    world.sent(WORLD, back(got, "RA", 0, 77))
    world.later(100)
    world.sent(A, tcp("S", 100))
    world.sent(WORLD, back(got, "RA", 0, 101))
    world.later(200)
    world.sent(A, tcp("A", 101, 1))
    world.later(45)
    assert not lives(world, got)


def test_req6_no_gateway_looks_into_payloads(make: Make) -> None:
    """There is no ALG, of FTP neither."""
    world = make(pool())
    opened(world, dport=21)
    got = world.sent(A, tcp("PA", 101, 501, dport=21) / Raw(b"PORT 10,0,0,1,156,64\r\n"))
    assert bytes(got.packet[TCP].payload) == b"PORT 10,0,0,1,156,64\r\n"


def test_req7_a_mapped_end_is_never_shared(make: Make) -> None:
    """No port overloading: two inner ends with one port have two outer ones."""
    world = make(pool(**MAPPED))
    assert len({world.sent(meta, tcp("S", 1)).ends[:2] for meta in (A, B)}) == 2


def test_req8_hairpin(make: Make) -> None:
    """With the outer source; both directions are one connection, which closes and opens as any."""
    world = make(pool(ports="2000-3000"), b.forward(WORLD, PUBLIC, 80, B, "10.0.0.2", 8080, ("tcp",)))
    got = opened(world, target=PUBLIC)
    assert got.meta == B
    assert got.ends[2:] == ("10.0.0.2", 8080)
    assert got.ip.src == PUBLIC
    world.later(7000)
    assert world.sent(B, back(got, "A", 501, 101)).ends == (PUBLIC, 80, INSIDE, 40000)


@pytest.mark.parametrize(("kind", "code"), [(3, 1), (3, 3), (3, 4), (11, 0)])
def test_req9_icmp_errors_are_translated(make: Make, kind: int, code: int) -> None:
    """To who sent the segment, with the segment as it was sent."""
    world = make(pool(ports="2000-3000"))
    got = opened(world)
    came = world.sent(WORLD, error_about(got.packet, "192.0.2.77", kind, code))
    assert (came.meta, came.ip.src, came.ip.dst) == (A, "192.0.2.77", INSIDE)
    inner = IP(bytes(came.ip.payload)[8:])
    assert (inner.src, inner.dst) == (INSIDE, SERVER)
    assert bytes(inner)[20:22] == (40000).to_bytes(2, "big")


def test_req10_icmp_ends_no_connection(make: Make) -> None:
    """Whatever the error says."""
    world = make(pool())
    got = opened(world)
    for code in range(16):
        world.sent(WORLD, error_about(got.packet, SERVER, 3, code))
    world.later(7000)
    assert lives(world, got)


def test_forwards_lead_inside(make: Make) -> None:
    """A range of ports, in order; everything beside it is closed; the answer leaves as who was asked."""
    world = make(pool(ports="2000-3000"), b.forward(WORLD, PUBLIC, "80-89", A, INSIDE, "8080-8089", ("tcp",)))
    for port in (80, 85, 89):
        got = world.sent(WORLD, tcp("S", 1, source=SERVER, target=PUBLIC, sport=4000, dport=port))
        assert (got.meta, got.ends) == (A, (SERVER, 4000, INSIDE, port + 8000))
        assert world.sent(A, answer(got)).ends == (PUBLIC, port, SERVER, 4000)
    for port in (79, 90):
        assert world.send(WORLD, tcp("S", 1, source=SERVER, target=PUBLIC, sport=4000, dport=port)) is None
    assert world.send(WORLD, f.udp(source=SERVER, target=PUBLIC, dport=80)) is None


def test_static_addresses_both_ways(make: Make) -> None:
    """Every port, from whichever side."""
    world = make(b.static(A, INSIDE, WORLD, "203.0.113.9"))
    assert world.sent(A, tcp("S", 1, sport=7)).ends == ("203.0.113.9", 7, SERVER, 80)
    got = world.sent(WORLD, tcp("S", 1, source=SERVER, target="203.0.113.9", sport=9, dport=22))
    assert (got.meta, got.ends) == (A, (SERVER, 9, INSIDE, 22))
    assert world.send(B, tcp("S", 1)) is None
