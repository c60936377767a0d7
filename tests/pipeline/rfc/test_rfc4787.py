# SPDX-License-Identifier: Apache-2.0
"""RFC 4787 (UDP), requirement by requirement, with RFC 7857's updates; docs/nat.md has the table."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.all import IP, TCP, UDP, Ether, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, Raw

from mizar.pipeline import builder as b
from mizar.pipeline.nat import Masquerade, Timeouts
from tests.pipeline.rfc.world import INSIDE, PUBLIC, SERVER, A, B, Got, Make, World, answer, error_about, fresh
from tests.unit.pipeline import frames as f

MAPPED = {"mapping": "endpoint-independent"}
OTHER = "198.51.100.8"


def pool(*addresses: str, **more: str) -> Masquerade:
    return b.masquerade([A, B], 0x1064, *(addresses or (PUBLIC,)), **more)


def outer(world: World, meta: int = A, **ends: object) -> tuple[str, int]:
    """The outer end of a datagram from inside."""
    return world.sent(meta, f.udp(**ends)).ends[:2]  # type: ignore[arg-type]


def test_req1_endpoint_independent_mapping_on_request(make: Make) -> None:
    """One inner end is one outer end for every destination; by default a port is found for each destination."""
    world = make(pool(ports="2000-2999", **MAPPED))
    assert len({outer(world, target=one, dport=port) for one in (SERVER, OTHER) for port in (53, 99)}) == 1
    default = make(pool(ports="2000-2999"))
    assert len({outer(default, target=one, dport=port) for one in (SERVER, OTHER) for port in (53, 99)}) > 1


def test_req2_paired_pooling(make: Make) -> None:
    """An inner address always has the same outer one, of both protocols; together they use all of the pool."""
    world = make(pool("203.0.113.1-203.0.113.3"))
    assert len({outer(world, sport=sport)[0] for sport in range(5000, 5020)}) == 1
    assert world.sent(A, f.tcp()).ip.src == outer(world)[0]
    assert len({outer(world, source=f"10.0.0.{one}")[0] for one in range(1, 10)}) == 3


def test_req3_a_port_is_kept_where_it_is_free(make: Make) -> None:
    """And another one taken where it is not, in the range; a mapped end is never shared (no port overloading)."""
    world = make(pool(**MAPPED))
    assert outer(world) == (PUBLIC, 40000)
    others = {outer(world, B), outer(world, source="10.0.0.2"), outer(world, source="10.0.0.3")}
    assert len(others) == 3
    assert all(address == PUBLIC and port >= 1024 and port != 40000 for address, port in others)


def test_req3_one_address_serves_more_connections_than_ports(make: Make) -> None:
    """RFC 7857 3: a port is used again for another destination; answers find their own."""
    world = make(pool(ports="2000-2003"))
    got = [world.sent(A, f.udp(target=f"198.51.100.{one}", sport=sport)) for one in range(1, 9) for sport in range(4)]
    assert len({(one.ends) for one in got}) == 32
    assert {one.ends[1] for one in got} == {2000, 2001, 2002, 2003}
    for number, one in enumerate(got):
        assert world.sent(0x1064, answer(one)).ends[3] == number % 4


def test_req3a_well_known_ports_leave_the_range(make: Make) -> None:
    """Deviation: a source port below 1024 is not kept, unless the rule's ports have it."""
    assert outer(make(pool()), sport=500)[1] >= 1024
    assert outer(make(pool(ports="1-65535")), sport=500)[1] == 500


def test_req4_parity_is_kept_with_the_port_alone(make: Make) -> None:
    """Deviation, as RFC 7857 8 wants it: a port that has to change may change from even to odd."""
    world = make(pool(**MAPPED))
    assert outer(world)[1] % 2 == 0
    assert {outer(world, source=f"10.0.0.{one}")[1] % 2 for one in range(2, 20)} == {0, 1}


@pytest.mark.parametrize(("seconds", "rules"), [(300, ()), (120, (b.timeouts(udp_s=120),))])
def test_req5_five_minutes_or_as_configured(make: Make, seconds: int, rules: tuple[Timeouts, ...]) -> None:
    """And after it the connection is gone."""
    world = make(pool(), *rules)
    got = world.sent(A, f.udp())
    world.later(seconds - 2)
    world.sent(0x1064, answer(got))
    world.later(5)
    assert world.send(0x1064, answer(got)) is None


def test_req6_traffic_from_inside_alone_refreshes(make: Make) -> None:
    """However much comes from outside."""
    world = make(pool())
    got = world.sent(A, f.udp())
    for _ in range(2):
        world.later(200)
        world.sent(A, f.udp())
    for _ in range(2):
        world.later(149)
        world.sent(0x1064, answer(got))
    world.later(5)
    assert world.send(0x1064, answer(got)) is None


def test_req7_inside_and_outside_may_have_the_same_addresses(make: Make) -> None:
    """Tenants are metadata: an inner address may be the server's, and two tenants' the same."""
    world = make(pool())
    got = world.sent(A, f.udp(source=SERVER, target=SERVER))
    assert got.ends == (PUBLIC, 40000, SERVER, 53)
    back = world.sent(0x1064, answer(got))
    assert (back.meta, back.ends) == (A, (SERVER, 53, SERVER, 40000))
    twin = world.sent(B, f.udp(source=SERVER, target=SERVER))
    assert world.sent(0x1064, answer(twin)).meta == B


@pytest.mark.parametrize(
    ("filtering", "stranger", "neighbour"),
    [("endpoint-independent", True, True), ("address", False, True), ("address-and-port", False, False)],
)
def test_req8_filters(make: Make, filtering: str, stranger: bool, neighbour: bool) -> None:
    """Who may send to a mapping: anybody, the addresses that were sent to, or the ends alone; that is the default."""
    world = make(pool(filtering=filtering, **MAPPED))
    address, port = outer(world)
    for source, let_in in ((OTHER, stranger), (SERVER, neighbour)):
        got = world.send(0x1064, f.udp(source=source, target=address, sport=99, dport=port))
        assert (got is not None) is let_in
        if got is not None:
            assert (got.meta, got.ends) == (A, (source, 99, INSIDE, 40000))
            assert world.sent(A, answer(got)).ends == (address, port, source, 99)
    assert world.send(0x1064, f.udp(source=SERVER, target=address, sport=53, dport=port + 1)) is None
    assert world.send(0x1064, f.tcp(source=SERVER, target=address, sport=53, dport=port)) is None


def test_req9_hairpin_with_the_outer_source(make: Make) -> None:
    """From inside to a mapping, a forward and a static address of the same gateway; the answer comes the same way."""
    world = make(
        pool(filtering="endpoint-independent", **MAPPED),
        b.forward(0x1064, "203.0.113.2", 53, B, "10.0.0.2", 5353),
        b.static(B, "10.0.0.3", 0x1064, "203.0.113.3"),
    )
    address, port = outer(world, B, source="10.0.0.4", sport=41000)
    for target, dport, inner in (
        (address, port, ("10.0.0.4", 41000)),
        ("203.0.113.2", 53, ("10.0.0.2", 5353)),
        ("203.0.113.3", 7, ("10.0.0.3", 7)),
    ):
        got = world.sent(A, f.udp(target=target, dport=dport))
        assert (got.meta, got.ends) == (B, (PUBLIC, 40000, *inner))
        back = world.sent(B, answer(got))
        assert (back.meta, back.ends) == (A, (target, dport, INSIDE, 40000))


def test_req9_hairpin_obeys_the_filter(make: Make) -> None:
    """Who is not let in from outside is not from inside either: the packet goes out, as to any other address."""
    world = make(pool(**MAPPED))
    address, port = outer(world, B)
    got = world.sent(A, f.udp(target=address, dport=port))
    assert (got.meta, got.ip.dst) == (0x1064, address)


def test_req9_two_who_called_one_another_meet_at_the_router(make: Make) -> None:
    """Where filters let nobody in: what the world's router sends back finds the other's connection."""
    world = make(pool(**MAPPED))
    first, second = outer(world), outer(world, B)

    def call(meta: int, target: tuple[str, int]) -> Got | None:
        out = world.sent(meta, f.udp(target=target[0], dport=target[1]))
        assert out.meta == 0x1064
        return world.send(0x1064, out.packet)

    assert call(A, second) is None
    there, back = call(B, first), call(A, second)
    assert there is not None
    assert back is not None
    assert (there.meta, there.ends) == (A, (*second, INSIDE, 40000))
    assert (back.meta, back.ends) == (B, (*first, INSIDE, 40000))


def test_req10_no_gateway_looks_into_payloads(make: Make) -> None:
    """There are no ALGs: an address in the payload stays."""
    world = make(pool())
    packet = f.eth() / IP(src=INSIDE, dst=SERVER) / UDP(sport=40000, dport=5060) / Raw(b"Contact: <sip:1@10.0.0.1>")
    assert bytes(world.sent(A, packet).packet[UDP].payload) == b"Contact: <sip:1@10.0.0.1>"


def test_req11_the_same_traffic_has_the_same_translation(make: Make) -> None:
    """Deterministic: two gateways with the same rules and packets, conflicts included."""
    found = []
    for _ in range(2):
        world = make(pool("203.0.113.1-203.0.113.2", ports="2000-2400", **MAPPED))
        found.append([outer(world, meta, source=f"10.0.0.{one}") for meta in (A, B) for one in range(1, 30)])
    assert found[0] == found[1]


@pytest.mark.parametrize("code", [0, 1, 3, 4, 13])
def test_req12_icmp_ends_no_mapping(make: Make, code: int) -> None:
    """Whatever the error says, the connection goes on."""
    world = make(pool())
    got = world.sent(A, f.udp())
    world.sent(0x1064, error_about(got.packet, SERVER, 3, code))
    assert world.sent(0x1064, answer(got)).meta == A


def test_req13_lengths_and_dont_fragment_stay(make: Make) -> None:
    """Deviation: nothing is fragmented and no ICMP error made here; translation makes no packet longer."""
    packet = fresh(f.eth() / IP(src=INSIDE, dst=SERVER, flags="DF", id=77) / UDP(sport=9, dport=9) / Raw(bytes(1400)))
    got = make(pool()).sent(A, packet)
    assert len(got.packet) == len(packet)
    assert got.ip.flags.DF
    assert got.ip.id == 77  # RFC 7857 10: the identification is the sender's


def pieces(packet: object, meta_id: int = 7) -> list[object]:
    """A datagram of 60 bytes in three fragments."""
    whole = fresh(packet)
    data = bytes(whole[IP].payload)
    cuts = [(0, 24), (24, 48), (48, len(data))]
    return [
        Ether(
            bytes(
                f.eth()
                / IP(
                    src=whole[IP].src,
                    dst=whole[IP].dst,
                    proto=17,
                    id=meta_id,
                    flags="MF" * (end < len(data)),
                    frag=at // 8,
                )
                / Raw(data[at:end])
            )
        )
        for at, end in cuts
    ]


def large(**ends: object) -> object:
    """A datagram that has to come in pieces."""
    base = {"source": INSIDE, "target": SERVER, "sport": 40000, "dport": 53} | ends
    return (
        f.eth()
        / IP(src=base["source"], dst=base["target"])
        / UDP(sport=base["sport"], dport=base["dport"])
        / Raw(bytes(range(52)))
    )


def test_req14_fragments_are_translated(make: Make) -> None:
    """The first, then the later ones in any order; put together, they are the whole datagram translated."""
    world = make(pool(ports="2000-2999"))
    first, second, third = pieces(large())
    got = [world.sent(A, one) for one in (first, third, second)]
    data = b"".join(bytes(one.ip.payload) for one in sorted(got, key=lambda one: int(one.ip.frag)))
    assert {(one.meta, one.ip.src, one.ip.dst) for one in got} == {(0x1064, PUBLIC, SERVER)}
    whole = fresh(f.eth() / IP(src=PUBLIC, dst=SERVER) / UDP(data[:8]) / Raw(data[8:]))
    assert bytes(whole[UDP]) == data
    assert data[8:] == bytes(range(52))
    back = pieces(large(source=SERVER, target=PUBLIC, sport=53, dport=whole[UDP].sport))
    assert {(world.sent(0x1064, one).meta) for one in back} == {A}


def test_req14_a_fragment_before_its_first_is_dropped(make: Make) -> None:
    """Deviation: nothing is kept that has no ports yet. Other datagrams and tenants are apart."""
    world = make(pool())
    first, second, _ = pieces(large())
    assert world.send(A, second) is None
    world.sent(A, first)
    world.sent(A, second)
    assert world.send(B, second) is None
    assert world.send(A, pieces(large(), 8)[1]) is None
    world.later(20)
    assert world.send(A, second) is None
    assert world.engine.reasons()["FRAGMENT_BEFORE_FIRST"] == 4


def pieces6(packet: object, number: int = 7) -> list[object]:
    """A datagram of IPv6 in three fragments."""
    whole = fresh(packet)
    data, last = bytes(whole[IPv6].payload), 48
    base = f.eth() / IPv6(src=whole[IPv6].src, dst=whole[IPv6].dst)
    return [
        Ether(bytes(base / IPv6ExtHdrFragment(nh=whole[IPv6].nh, id=number, m=at < last, offset=at // 8) / Raw(part)))
        for at, part in ((0, data[:24]), (24, data[24:last]), (last, data[last:]))
    ]


@pytest.mark.parametrize(
    "transport",
    [UDP(sport=40000, dport=53), TCP(sport=40000, dport=80, flags="S"), ICMPv6EchoRequest(id=7)],
    ids=["udp", "tcp", "icmp"],
)
def test_req14_fragments_of_ipv6_are_translated(make: Make, transport: object) -> None:
    """Put together, they are the whole datagram translated, its checksum right; the last may come before the second."""
    world = make(pool("2001:db8:ff::1", ports="2000-2999"))
    base = f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6)
    first, second, third = pieces6(base / transport / Raw(bytes(range(52))), 0x12340007)
    got = [world.sent(A, one) for one in (first, third, second)]
    assert {(one.meta, one.ip.src, one.ip.dst) for one in got} == {(0x1064, "2001:db8:ff::1", f.SERVER6)}
    parts = sorted((one.packet[IPv6ExtHdrFragment] for one in got), key=lambda one: int(one.offset))
    assert {one.id for one in parts} == {0x12340007}
    data = b"".join(bytes(one.payload) for one in parts)
    assert data.endswith(bytes(range(52)))
    whole = f.eth() / IPv6(src="2001:db8:ff::1", dst=f.SERVER6, nh=parts[0].nh) / Raw(data)
    assert bytes(fresh(whole)) == bytes(Ether(bytes(whole)))


def test_req14_answers_of_ipv6_may_be_fragments(make: Make) -> None:
    """Those of a connection's other side, with an identification of 32 bits of their own."""
    world = make(pool("2001:db8:ff::1", ports="2000-2999"))
    got = world.sent(A, f.udp(f.INSIDE6, f.SERVER6))
    packet = f.eth() / IPv6(src=f.SERVER6, dst=got.ip.src) / UDP(sport=53, dport=got.ends[1]) / Raw(bytes(52))
    back = [world.sent(got.meta, one) for one in pieces6(packet)]
    assert {(one.meta, one.ip.dst) for one in back} == {(A, f.INSIDE6)}
    assert back[0].packet[UDP].dport == 40000


def test_req14_a_fragment_of_ipv6_before_its_first_is_dropped(make: Make) -> None:
    """As of IPv4; all 32 bits of the identification count."""
    world = make(pool("2001:db8:ff::1"))
    packet = f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6) / UDP(sport=40000, dport=53) / Raw(bytes(52))
    first, second, _ = pieces6(packet, 8)
    assert world.send(A, second) is None
    world.sent(A, first)
    world.sent(A, second)
    assert world.send(B, second) is None
    assert world.send(A, pieces6(packet, 0x10008)[1]) is None
    world.later(20)
    assert world.send(A, second) is None
    assert world.engine.reasons()["FRAGMENT_BEFORE_FIRST"] == 4


def test_a_fragment_header_without_fragments(make: Make) -> None:
    """RFC 6946: such a datagram is whole; nothing is noted of it for others with its identification."""
    world = make(pool("2001:db8:ff::1", ports="2000-2999"))
    base = f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6) / IPv6ExtHdrFragment(id=7)
    got = world.sent(A, Ether(bytes(base / UDP(sport=40000, dport=53) / Raw(bytes(52)))))
    assert got.packet[UDP].sport in range(2000, 3000)
    packet = f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6) / UDP(sport=40000, dport=53) / Raw(bytes(52))
    assert world.send(A, pieces6(packet)[1]) is None


def test_addresses_of_ipv6_are_translated_the_same(make: Make) -> None:
    """Masquerade, answer and error, for IPv6."""
    world = make(pool("2001:db8:ff::1", ports="2000-2999"))
    got = world.sent(A, f.udp(f.INSIDE6, f.SERVER6))
    assert ip_address(got.ip.src) == ip_address("2001:db8:ff::1")
    assert world.sent(0x1064, answer(got)).ends == (f.SERVER6, 53, f.INSIDE6, 40000)
    back = world.sent(0x1064, error_about(got.packet, "2001:db8:9::1"))
    assert back.ip.dst == f.INSIDE6
