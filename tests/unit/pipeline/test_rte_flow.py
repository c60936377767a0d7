# SPDX-License-Identifier: Apache-2.0
"""rte_flow's rules do what the interpreter does, in a switch that executes them; what it cannot do is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from scapy.all import Ether

from mizar.model.errors import InvalidError
from mizar.pipeline import builder as b
from mizar.pipeline.box import Box
from mizar.pipeline.description import Group, Pipeline
from mizar.pipeline.interpreter.connection import read
from mizar.pipeline.interpreter.frame import field, headers
from mizar.pipeline.interpreter.machine import Machine, Outcome, Verdict
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.rte_flow.compile import compile_rules
from mizar.pipeline.rte_flow.connection import connection_rules
from mizar.pipeline.rte_flow.example import example_connection
from mizar.pipeline.rte_flow.lowering import Ports
from mizar.pipeline.rte_flow.match import patterns, rules_needed, unknown_field
from tests.unit.pipeline import frames as f
from tests.unit.pipeline.stacks import pipelines, stacks
from tests.unit.pipeline.switch import Switch
from tests.unit.pipeline.test_interpreter import NEW, SHIPPED, encapsulated, machine
from tests.unit.pipeline.test_pattern import chains

ENDS = {
    Verdict.EGRESS: ("represented_port", 0),
    Verdict.KERNEL: ("represented_port", 1),
    Verdict.QUEUE: ("port_representor", 0),
    Verdict.DROP: ("drop", 0),
}


def agree(switch: Switch, run: Machine, frame: bytes) -> Outcome:
    """Switch and interpreter end alike, with equal frames and metadata."""
    expected = run.run(frame)
    kind, port, out, meta = switch.run(frame)
    assert (kind, port) == ENDS[expected.verdict]
    if expected.verdict is not Verdict.DROP:
        assert f.same(out) == f.same(expected.frame)
        assert meta == expected.meta
    return expected


CORPUS = [
    *(f.in_vxlan(inner, vni) for inner in (*NEW, f.arp(), f.neighbour()) for vni in (5, 6, 0xFEFFFF, 0xFF1000)),
    *(f.in_vlan(inner, vid) for inner in (*NEW, f.arp(), f.neighbour()) for vid in (1, 3, 100, 4095)),
    f.in_vxlan(f.tcp(), 0xFF0000),
    f.in_vxlan(f.tcp(), 0xFF0FFF),
    f.in_vlan(f.tcp(), vid=2),
    f.in_vxlan(f.tcp(flags="A")),
    f.in_vxlan(f.tcp(flags="SA")),
    bytes(f.tcp()),
    bytes(f.arp()),
    f.in_vlan(f.in_vlan(f.tcp(), vid=7), vid=5),
    f.in_vxlan(f.tcp(), vid=3),
]


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("tenants", [(), (f.TENANT_A, f.WORLD)])
def test_packets_without_a_connection(name: str, tenants: tuple[int, ...]) -> None:
    """The whole corpus: new, neighbour discovery, what no case takes, values at the edges of conditions."""
    switch, run = Switch(compile_rules(f.shipped(name), tenants=tenants)), machine(name)
    for frame in CORPUS:
        agree(switch, run, frame)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    ("inner", "answer"),
    [
        (f.tcp(), f.tcp(f.SERVER, f.PUBLIC, 80, 40000, "SA")),
        (f.udp(), f.udp(f.SERVER, f.PUBLIC, 53, 40000)),
        (f.echo(number=2000), f.echo(f.SERVER, f.PUBLIC, 2000, reply=True)),
    ],
)
def test_established_connections(name: str, inner: Any, answer: Any) -> None:
    """With the rules of a connection, both directions are translated; another tenant's same packet is new."""
    run = machine(name)
    seen = read(bytes(inner), f.TENANT_A)
    assert seen is not None
    becomes = run.conntrack.allocate(seen, 0)
    assert becomes is not None
    plan = compile_rules(f.shipped(name), tenants=(f.TENANT_A,))
    switch = Switch(plan, list(connection_rules(plan, seen.flow, becomes, 1).rules))
    assert agree(switch, run, f.in_vxlan(inner)).meta == f.WORLD
    assert agree(switch, run, f.in_vlan(answer)).meta == f.TENANT_A
    assert agree(switch, run, f.in_vxlan(inner, vni=6)).verdict is not Verdict.EGRESS


def test_a_tcp_packet_that_the_check_refuses_is_invalid() -> None:
    """Hardware's conntrack says bad: counted and dropped as the description says of invalid."""
    plan = compile_rules(f.shipped("gateway-trap"))
    seen = read(bytes(f.tcp()), f.TENANT_A)
    assert seen is not None
    switch = Switch(plan, list(connection_rules(plan, seen.flow, seen.flow, 1).original.rules), conntrack=16)
    assert switch.run(f.in_vxlan(f.tcp()))[0] == "drop"
    names = {one.number: one.name for one in plan.counters}
    assert [names[number] for number in switch.counted] == ["invalid", "NAT, case 1, case 3, step 2: drop"]


def test_named_tenants_have_counters_of_their_own() -> None:
    """Others share one; the plan says what each number means."""
    plan = compile_rules(f.shipped("gateway-trap"), tenants=(f.TENANT_A,))
    meaning = {one.number: (one.name, one.meta) for one in plan.counters}
    for vni, meta in ((5, f.TENANT_A), (6, None)):
        switch = Switch(plan)
        switch.run(f.in_vxlan(f.tcp(), vni))
        assert [meaning[number] for number in switch.counted] == [("new", meta)]


def test_tables_are_rules() -> None:
    """Each entry is a rule; what the table lacks is dropped and counted, as the interpreter does."""
    made = b.pipeline(
        "tables",
        b.tunnel("far", "192.0.2.1", "192.0.2.9", "02:00:00:00:02:01", "02:00:00:00:02:09"),
        b.group(
            "In",
            b.parse(b.case("eth / vlan 1-9", b.set_meta("vlan", table={5: 50, 6: 60, 99: 9}), b.pop_vlan())),
        ),
        b.group("Out", b.encap("vxlan", "far"), b.set_vni(table={50: 500, 9: 900}), b.trap()),
    )
    switch, run = Switch(compile_rules(made)), Machine(made)
    assert agree(switch, run, f.in_vlan(f.tcp(), 5)).frame == encapsulated(bytes(f.tcp()), 500, 9)
    assert agree(switch, run, f.in_vlan(f.tcp(), 6)).reason == "Out, step 2: not in the table"
    assert agree(switch, run, f.in_vlan(f.tcp(), 7)).reason == "In, case 1, step 1: not in the table"
    assert agree(switch, run, f.in_vlan(f.tcp(), 99)).reason == "In: no case"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(pipelines(connections=False), st.data())
def test_drawn_pipelines(pipeline: Pipeline, data: st.DataObject) -> None:
    """Any valid pipeline without connections, on frames that its first case often takes; or a refusal by name."""
    try:
        plan = compile_rules(pipeline, tenants=(0x01000001, 0x02FF0002, 11))
    except InvalidError:
        event("refused")
        return
    first = pipeline.groups[0].block.switch
    assert first is not None
    pattern = first.cases[0].when
    assert isinstance(pattern, Pattern)
    shapes = st.sampled_from([*(box.shape for box in pattern.boxes), ("eth",)])
    for _ in range(3):
        frame = data.draw(stacks(begin=data.draw(shapes), whole=True))
        expected = Machine(pipeline).run(frame)
        if expected.reason == "slow exceeded":  # the switch of these tests has no meters
            continue
        kind, _port, out, meta = Switch(plan).run(frame)
        assert kind == ENDS[expected.verdict][0]
        if expected.verdict is not Verdict.DROP:
            assert f.same(out) == f.same(expected.frame)
            assert meta == (expected.meta or 0)


def test_every_group_that_a_rule_jumps_to_has_rules() -> None:
    """And every group has a rule that takes whatever comes."""
    for name in SHIPPED:
        plan = compile_rules(f.shipped(name), Ports(uplink=3, kernel=7))
        groups = {rule.group for rule in plan.rules if rule.domain == "transfer"}
        example = example_connection(plan, 3)
        assert example is not None
        rules = [*plan.rules, *example.rules]
        jumps = {dict(one.conf)["group"] for rule in rules for one in rule.actions if one.type == "jump"}
        assert jumps | {0} == groups
        for group in groups:
            last = max((rule for rule in plan.rules if rule.group == group), key=lambda rule: rule.priority)
            assert [str(item) for item in last.items] == ["eth"]
        assert {rule.port for rule in plan.rules} == {3}
        assert json.loads(json.dumps(plan.plain()))["rules"][0]["testpmd"] == plan.rules[0].command()


@given(chains())
def test_value_and_mask_match_what_the_pattern_matches(pattern: Pattern) -> None:
    """As many rules as announced, none of which overlap: together they limit each field to its range."""
    for box in pattern.boxes:
        if unknown_field(box) or rules_needed(box) > 300:
            continue
        found = list(patterns(box))
        assert len(found) == rules_needed(box)
        assert len(set(found)) == len(found)
        assert sum(_share(one) for one in found) == pytest.approx(_expected(box))


def _share(items: tuple[Any, ...]) -> float:
    """Of all values of the limited fields, the share that one rule matches."""
    implied = ("inner_type", "has_vlan", "has_more_vlan", "fragment_offset", "version_ihl", "optlen")
    bits = 0
    for item in items:
        for one in item.fields:
            if one.name not in implied and (one.name != "type" or item.type.startswith("icmp")):
                bits += one.mask.bit_count()
    return float(2**-bits)


def _expected(box: Box) -> float:
    share = 1.0
    limits = dict(box.limits)
    for index, kind in enumerate(box.shape):
        if kind in ("nd", "icmp6") and (index, "type") not in limits:
            share *= (5 if kind == "nd" else 251) / 256
    for (index, name), ranges in limits.items():
        values = [number for low, high in ranges.spans for number in (low, high)]
        size = sum(high - low + 1 for low, high in ranges.spans)
        if name == "type" and box.shape[index] in ("nd", "icmp6") and values:
            inside = sum(number in ranges for number in range(133, 138))
            size = inside if box.shape[index] == "nd" else size - inside
        share *= size / 2**ranges.width
    return share


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: b.pipeline("p", b.group("G", b.parse(b.case("eth / arp 1", b.drop())))),
            r"test_rte_flow.py:\d+: pipeline p: G, case 1: rte_flow cannot match arp op",
        ),
        (
            lambda: b.pipeline(
                "p",
                b.group("A", b.parse(b.case("eth / vlan", b.set_meta("vlan"), b.pop_vlan()))),
                b.group(
                    "B",
                    b.parse(b.case("eth / ip / udp", b.conntrack(b.case("new | established", b.nat(allocate=True))))),
                ),
                b.group("C", b.stop()),
            ),
            "rte_flow cannot allocate a translation",
        ),
    ],
)
def test_what_a_switch_cannot_do_is_refused_by_name(made: Any, message: str) -> None:
    """With file, line and rule."""
    with pytest.raises(InvalidError, match=message):
        compile_rules(made())


FAR = b.tunnel("far", "192.0.2.1", "192.0.2.9", "02:00:00:00:02:01", "02:00:00:00:02:09", vid=2)


def test_outer_headers_are_known_from_the_ways() -> None:
    """A step in a later group than its header; an underlay of either IP version, each with its own raw decap."""
    made = b.pipeline(
        "later",
        FAR,
        b.group("In", b.parse(b.case("eth / ip / udp / vxlan", b.set_meta("vni", add=0x01000000), b.decap("vxlan")))),
        b.group("Encap", b.encap("geneve", "far")),
        b.group("Fill", b.set_vni(), b.stop()),
    )
    plan = compile_rules(made)
    for version in ("ipv4", "ipv6"):
        assert any(f"eth / {version} / udp / vxlan / end_set" in command for command in plan.setup)
    assert any("dst_type geneve_vni" in rule.command() for rule in plan.rules)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [
                b.group("A", b.parse(b.case("eth / vlan", b.count("a")))),
                b.group("B", b.set_meta("vlan", table={1: 2}), b.drop()),
            ],
            "a table has to stand in the case that asks for the header",
        ),
        (
            [
                b.group("A", b.parse(b.case("eth / ip / udp / vxlan", b.count("a")))),
                b.group("B", b.decap("vxlan"), b.drop()),
            ],
            "ways lead here with different outer headers",
        ),
        (
            [
                b.group(
                    "A",
                    b.parse(
                        b.case(
                            "eth / vlan", b.set_meta("vlan"), b.count("c", per_meta=True), b.set_meta("vlan"), b.drop()
                        )
                    ),
                )
            ],
            "set_meta beside steps that look metadata up",
        ),
    ],
)
def test_what_rules_cannot_say_is_refused(groups: list[Group], message: str) -> None:
    """Descriptions that are valid and have no rules; with the way out."""
    with pytest.raises(InvalidError, match=message):
        compile_rules(b.pipeline("p", *groups))


def test_established_without_a_case_is_dropped() -> None:
    """A connection's rule leads to a drop that is counted."""
    tracked = b.conntrack(b.case("new", b.trap()), b.case("invalid", b.drop()))
    made = b.pipeline(
        "p",
        b.group("A", b.parse(b.case("eth / vlan", b.set_meta("vlan", add=0x02FF0000), b.pop_vlan()))),
        b.group("B", b.parse(b.case("eth / ip / udp", tracked))),
    )
    plan = compile_rules(made)
    seen = read(bytes(f.udp()), f.WORLD)
    assert seen is not None
    switch = Switch(plan, list(connection_rules(plan, seen.flow, seen.flow, 1).original.rules))
    assert switch.run(f.in_vlan(f.udp()))[0] == "drop"
    assert switch.run(f.in_vlan(f.udp(sport=9)))[0] == "represented_port"
    names = {one.number: one.name for one in plan.counters}
    assert [names[number] for number in switch.counted] == ["B, case 1: no case"]


def test_icmp_has_rules_where_its_id_stays() -> None:
    """No action of rte_flow changes an ICMP id, and no item matches one of IPv6."""
    plan = compile_rules(f.shipped("gateway-trap"))
    for packet, kept in ((f.echo(), "to another id"), (f.echo6(), "match the id of icmp6")):
        seen = read(bytes(packet), f.TENANT_A)
        assert seen is not None
        with pytest.raises(ValueError, match=kept):
            connection_rules(plan, seen.flow, replace(seen.flow, source_port=8, destination_port=8), 1)


def test_the_switch_of_these_tests_sees_what_the_interpreter_sees() -> None:
    """Two parsers that know nothing of one another agree on the fields of a frame."""
    frame = f.in_vxlan(f.tcp())
    parts = headers(frame)
    packet = Ether(frame)
    assert field(frame, parts[1], "vid") == packet.vlan
    assert field(frame, parts[4], "vni") == packet["VXLAN"].vni
