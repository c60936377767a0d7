# SPDX-License-Identifier: Apache-2.0
"""Rules compiled to tables say of every packet what a reader who goes through the rules in their order says."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from mizar.model.addresses import to_mapped
from mizar.planner.policy import ALLOW, Matcher, Tables, Verdict, compile_rules, rule_number, rule_of
from mizar.planner.policy_peers import area_of, place_of
from mizar.planner.policy_ports import Span, prefixes_of

ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "192.0.2.1")]
ADDRESSES += [ip_address(text) for text in ("fd00::1", "fd00::2", "fd00:1::1", "2001:db8::1")]
PREFIXES = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.0.0.0/31", "10.0.0.2/32", "192.0.2.0/24"]
PREFIXES += ["::/0", "fd00::/16", "fd00::/32", "fd00::/64", "fd00::2/128", "2001:db8::/32"]
NETWORKS = [ip_network(text) for text in PREFIXES]


@dataclass(frozen=True)
class Written:
    """A rule as it is written."""

    deny: bool
    anybody: bool
    cidrs: tuple[tuple[str, tuple[str, ...]], ...]
    group_sets: frozenset[int]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Packet:
    """What rules look at."""

    peer: str
    group_set: int
    protocol: int
    port: int


@st.composite
def cidrs(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    outer = draw(st.sampled_from(NETWORKS))
    inner = [str(n) for n in NETWORKS if n.version == outer.version and n.subnet_of(outer)]  # type: ignore[arg-type]
    return str(outer), tuple(draw(st.lists(st.sampled_from(inner), max_size=2)))


PORTS = st.sampled_from([0, 1, 22, 79, 80, 81, 443, 1023, 1024, 65534, 65535])


@st.composite
def spans(draw: st.DrawFn) -> Span:
    protocol = draw(st.sampled_from([None, 1, 6, 6, 17]))
    if protocol is None or draw(st.booleans()):
        return Span(protocol)
    first, last = sorted((draw(PORTS), draw(PORTS)))
    return Span(protocol, first, last)


RULES = st.builds(
    Written,
    st.booleans(),
    st.integers(0, 4).map(lambda n: n == 0),
    st.lists(cidrs(), max_size=2).map(tuple),
    st.frozensets(st.integers(1, 4), max_size=2),
    st.lists(spans(), max_size=3).map(tuple),
)
PACKETS = st.builds(
    Packet,
    st.sampled_from(list(map(str, ADDRESSES))),
    st.integers(0, 5),
    st.sampled_from([1, 6, 17, 47]),
    st.one_of(PORTS, st.integers(0, 65535)),
)


def matches(rule: Written, packet: Packet) -> bool:
    """By the words of the rule."""
    peer = ip_address(packet.peer)
    by_address = any(
        peer in ip_network(cidr) and not any(peer in ip_network(hole) for hole in holes) for cidr, holes in rule.cidrs
    )
    if not (rule.anybody or by_address or packet.group_set in rule.group_sets):
        return False
    return not rule.spans or any(
        span.protocol is None or (span.protocol == packet.protocol and span.first <= packet.port <= span.last)
        for span in rule.spans
    )


def naive(rules: list[Written], packet: Packet) -> int | None:
    """The place of the first rule that matches."""
    return next((place for place, rule in enumerate(rules) if matches(rule, packet)), None)


def looked_up(tables: Tables, packet: Packet) -> Verdict | None:
    """As the data plane does it: two classes at most, the longest row of each, the lower rank of both."""
    host = place_of(ip_network(packet.peer))[0]
    held = [(bits, one) for (address, bits), one in tables.peers.items() if _leading(address, bits, host)]
    classes = [max(held)[1]] if held else []
    if packet.group_set in tables.groups:
        classes.append(tables.groups[packet.group_set])
    found = [row for one in classes if (row := _longest(tables.classes.get(one, ()), packet)) is not None]
    return min(found, key=lambda row: row.rank, default=None)


def _leading(address: bytes, bits: int, host: bytes) -> bool:
    return (int.from_bytes(address, "big") ^ int.from_bytes(host, "big")) >> (128 - bits) == 0


def _longest(rows: tuple[Verdict, ...], packet: Packet) -> Verdict | None:
    asked = packet.protocol << 16 | packet.port
    fits = [row for row in rows if (asked ^ (row.protocol << 16 | row.port)) >> (24 - row.bits) == 0]
    return max(fits, key=lambda row: row.bits, default=None)


def matchers(rules: list[Written]) -> list[Matcher]:
    """The same rules for the compiler; a rule's number is its place and 1."""
    return [
        Matcher(
            place + 1,
            0 if rule.deny else ALLOW,
            rule.anybody,
            tuple(area_of(ip_network(cidr), map(ip_network, holes)) for cidr, holes in rule.cidrs),
            rule.group_sets,
            rule.spans,
        )
        for place, rule in enumerate(rules)
    ]


@given(st.lists(RULES, max_size=8), st.lists(PACKETS, min_size=1, max_size=24))
@settings(max_examples=120, deadline=None)
def test_tables_say_what_the_first_rule_that_matches_says(rules: list[Written], packets: list[Packet]) -> None:
    tables = compile_rules(matchers(rules))
    for packet in packets:
        wanted, found = naive(rules, packet), looked_up(tables, packet)
        assert (None if found is None else found.rank) == wanted, packet
        if found is not None and wanted is not None:
            assert (found.rule, found.action) == (wanted + 1, 0 if rules[wanted].deny else ALLOW)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_of_ports_becomes_prefixes_that_hold_exactly_it(one: int, other: int) -> None:
    first, last = sorted((one, other))
    edge = first
    for port, bits in prefixes_of(first, last):
        assert port == edge
        assert port % (1 << (16 - bits)) == 0
        edge = port + (1 << (16 - bits))
    assert edge == last + 1


def test_what_everybody_and_groups_may_is_one_row_each() -> None:
    tables = compile_rules([Matcher(1, ALLOW, group_sets=frozenset({7})), Matcher(2, 0, anybody=True)])
    assert len(tables.peers) == 1
    assert set(tables.groups) == {7}
    assert tables.size == 4


def test_an_equal_class_keeps_its_number_when_others_come() -> None:
    def to(*hosts: str) -> Tables:
        areas = tuple(area_of(ip_network(host)) for host in hosts)
        return compile_rules([Matcher(1, ALLOW, areas=areas, spans=(Span(6, 80, 80),))])

    small, large = to("10.0.0.1"), to("10.0.0.1", "10.0.0.9", "fd00::9")
    assert large.classes == small.classes
    assert set(small.peers.items()) < set(large.peers.items())


def test_many_rules_are_as_many_rows() -> None:
    rules = [
        Matcher(
            n + 1, ALLOW, areas=(area_of(ip_network((0x0A000000 + n, 32))),), spans=(Span(6, n & 0xFFFF, n & 0xFFFF),)
        )
        for n in range(20_000)
    ]
    tables = compile_rules(rules)
    assert len(tables.peers) == 20_000
    assert tables.size == 40_000


def test_no_ipv6_prefix_holds_an_ipv4_address() -> None:
    tables = compile_rules([Matcher(1, ALLOW, areas=(area_of(ip_network("::/0")),))])
    assert looked_up(tables, Packet("10.0.0.1", 0, 6, 80)) is None
    assert looked_up(tables, Packet("fd00::1", 0, 6, 80)) is not None
    assert to_mapped(b"\x0a\0\0\1")[:12] != bytes(12)


@given(st.integers(1, 65535), st.booleans(), st.integers(0, 32767))
def test_a_number_of_a_rule_tells_its_policy_direction_and_place(policy: int, egress: bool, place: int) -> None:
    number = rule_number(policy, egress, place)
    assert 0 < number < 2**32
    assert rule_of(number) == (policy, egress, place)
