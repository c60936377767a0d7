# SPDX-License-Identifier: Apache-2.0
"""Patterns: what can be written is what can match, and the normal form reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.pipeline.headers import HEADERS, Notation
from mizar.pipeline.interpreter.machine import matches
from mizar.pipeline.pattern import Condition, Pattern, Term
from mizar.pipeline.pattern_text import parse_pattern, write_pattern
from mizar.pipeline.ranges import Ranges
from tests.unit.pipeline import frames

ACCEPTED = [
    ("eth / vlan 2 / ipv4 / udp dst == 4789 / vxlan", "eth / vlan 2 / ipv4 / udp dst == 4789 / vxlan"),
    ("eth/vlan vid != 2", "eth / vlan != 2"),
    ("eth/ip/(tcp|udp|icmp)", "eth / ip / (tcp | udp | icmp)"),
    ("eth / (arp | ipv6 / nd)", "eth / (arp | ipv6 / nd)"),
    ("eth / ipv4 src {10.0.0.0/8,192.168.0.0/16} / tcp dst {443, 80}", None),
    ("eth src 02:00:00:00:00:01 / ipv6 dst fe80::/10 / nd", None),
    ("eth / ipv4 / udp / geneve 0x10000-0x1ffff / eth", "eth / ipv4 / udp / geneve 0x10000-0x1ffff / eth"),
    ("eth / vlan 0-4095", "eth / vlan"),
    ("eth / ipv4 / udp dst 1-10 dst 5-20", "eth / ipv4 / udp dst 5-10"),
    ("eth src != 02:00:00:00:00:01 src != 02:00:00:00:00:03", None),
]

REFUSED = [
    ("ipv4", "expected eth as the first header"),
    ("eth / nd", "nd never follows eth"),
    ("eth / ipv4 / nd", "nd never follows ipv4"),
    ("eth / tcp", "behind it may stand arp, ipv4, ipv6, vlan"),
    ("eth / ipv4 / udp dst 5 / vxlan", "vxlan is recognised by udp dst == 4789"),
    ("eth / vlan 4096", "expected numbers from 0 to 4095"),
    ("eth / vlan 5-3", "in order"),
    ("eth / bar", "expected a header"),
    ("eth / ipv4 src fe80::1", "expected an IPv4 address"),
    ("eth / ipv4 src 10.0.0.1/8", "has host bits set"),
    ("eth / ipv4 src 300.0.0.1", "300.0.0.1"),
    ("eth / ipv6 src 1:2", "1:2"),
    ("eth /", "found the end"),
    ("", "found the end"),
    ("(eth", r"expected \)"),
    ("eth / vlan colour 3", "no field 'colour'"),
    ("eth 3", "has no field"),
    ("eth / vlan 3 vid 4", "no vid of vlan satisfies this"),
    ("eth $", "found '\\$'"),
    ("eth eth", "no field 'eth'"),
    ("(" * 20 + "eth" + ")" * 20, "at most 8 levels"),
    ("eth" + " / vlan" * 2000, "at most 4096 characters"),
    ("eth" + " / vlan" * 16, "at most 16 headers, found 17"),
    ("eth" + " / (vlan | vlan)" * 14 + " / ipv4", "at most 4096 ways to choose"),
    ("eth" + " / (vlan | arp)" * 200, "headers|ways to choose"),
    ("eth / ip" + "/ (tcp | udp)" * 9, "never follows"),
]


@pytest.mark.parametrize(("text", "normal"), ACCEPTED)
def test_a_pattern_reads_back(text: str, normal: str | None) -> None:
    """The normal form is the same value, and reads as documented."""
    pattern = parse_pattern(text)
    assert parse_pattern(write_pattern(pattern)) == pattern
    if normal is not None:
        assert write_pattern(pattern) == normal


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_cannot_match_is_refused(text: str, message: str) -> None:
    """A refusal says what was expected, or what never follows what."""
    with pytest.raises(ValueError, match=message):
        parse_pattern(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text ends in anything but a pattern or a ValueError."""
    try:
        pattern = parse_pattern(text)
    except ValueError:
        return
    assert parse_pattern(write_pattern(pattern)) == pattern


@st.composite
def chains(draw: st.DrawFn) -> Pattern:
    """A chain of headers as they may follow one another, with conditions on their fields."""
    kinds, terms = ["eth"], []
    while len(kinds) < 7 and HEADERS[kinds[-1]].followers and draw(st.booleans()):
        kinds.append(draw(st.sampled_from(HEADERS[kinds[-1]].followers)))
    for index, kind in enumerate(kinds):
        following = kinds[index + 1] if index + 1 < len(kinds) else ""
        names = [name for name in HEADERS[kind].fields if not (following in ("vxlan", "geneve") and name == "dst")]
        conditions = []
        for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=2)) if names else []:
            field = HEADERS[kind].fields[name]
            top = (1 << field.width) - 1
            ends = sorted(draw(st.tuples(st.integers(0, top), st.integers(0, top))))
            ranges = Ranges(field.width, ((ends[0], ends[1] if field.notation is Notation.NUMBER else ends[0]),))
            conditions.append(Condition(name, ~ranges if draw(st.booleans()) and not ranges.is_full else ranges))
        terms.append(Term(kind, tuple(conditions)))
    return Pattern(tuple(terms))


@given(chains())
def test_every_pattern_has_a_text(pattern: Pattern) -> None:
    """Writing and reading give the same value for any pattern that can be built."""
    assert parse_pattern(write_pattern(pattern)) == pattern


MATCHES = [
    ("eth / vlan 2 / ipv4 / udp dst == 4789 / vxlan", frames.in_vxlan(frames.tcp()), True),
    ("eth / vlan 2 / ipv4 / udp dst == 4789 / vxlan 5 / eth / ipv4 / tcp", frames.in_vxlan(frames.tcp()), True),
    ("eth / vlan 2 / ipv4 / udp / vxlan != 5", frames.in_vxlan(frames.tcp()), False),
    ("eth / vlan != 2", frames.in_vxlan(frames.tcp()), False),
    ("eth / vlan != 2", frames.in_vlan(frames.tcp()), True),
    ("eth / ipv4", frames.in_vlan(frames.tcp()), False),
    ("eth / ip / icmp", bytes(frames.echo6()), True),
    ("eth / ip / icmp", bytes(frames.neighbour()), False),
    ("eth / ipv6 / nd 135", bytes(frames.neighbour()), True),
    ("eth / arp 1", bytes(frames.arp()), True),
    ("eth / ipv4 src 10.0.0.0/8 / tcp flags 2", bytes(frames.tcp()), True),
    ("eth / ipv4 src != 10.0.0.0/8", bytes(frames.tcp()), False),
    ("eth src 02:00:00:00:0a:01", bytes(frames.tcp()), True),
    ("eth / ipv4 / udp dst 50-60", bytes(frames.udp()), True),
]


@pytest.mark.parametrize(("text", "frame", "expected"), MATCHES)
def test_patterns_on_real_frames(text: str, frame: bytes, expected: bool) -> None:
    """Frames of scapy match what they should."""
    assert matches(parse_pattern(text), frame) is expected
