# SPDX-License-Identifier: Apache-2.0
"""An emulated switch that gets its rules through testpmd's parser does with frames what the interpreter does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scapy.all import IP, UDP, VXLAN, Dot1Q, Ether

from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline
from mizar.pipeline.interpreter.connection import ICMP_ERRORS, ICMP_REPLIES, ICMP_REQUESTS, read
from mizar.pipeline.interpreter.frame import headers
from mizar.pipeline.interpreter.machine import Machine, Outcome, Verdict
from mizar.pipeline.nat import NatRules
from mizar.pipeline.rte_flow.compile import compile_rules
from mizar.pipeline.rte_flow.connection import connection_rules
from mizar.pipeline.rte_flow.described import described
from mizar.pipeline.rte_flow.example import example_connection
from mizar.pipeline.rte_flow.rules import Plan, Rule
from tests.pipeline.corpus import corpus
from tests.pipeline.switch import Answer, EmulatedSwitch, Ending
from tests.pipeline.switch_driver.build import CannotBuildError, driver
from tests.pipeline.test_testpmd import every_action, every_match
from tests.unit.pipeline import frames as f
from tests.unit.pipeline.test_interpreter import machine

SECOND_NS = 1_000_000_000
SHIPPED = ["gateway-trap", "gateway-queue"]


@pytest.fixture(scope="module")
def plugin() -> Any:
    """The driver, built if it is not there."""
    if shutil.which("dpdk-testpmd") is None:
        pytest.skip("dpdk-testpmd is missing (Debian's package dpdk-dev)")
    try:
        return driver()
    except CannotBuildError as error:
        pytest.skip(f"the emulated switch cannot be built: {error}")


@pytest.fixture(scope="module")
def running(plugin: Any) -> Iterator[EmulatedSwitch]:
    """One for all tests: it takes half a second to start."""
    with EmulatedSwitch(plugin) as switch:
        yield switch


@pytest.fixture
def switch(running: EmulatedSwitch) -> EmulatedSwitch:
    """A switch without rules."""
    running.clear()
    return running


def agree(plan: Plan, expected: Outcome, found: Answer) -> None:
    """The same end, the same bytes, the same metadata."""
    ends = {
        Verdict.EGRESS: (Ending.REPRESENTED_PORT, 0),
        Verdict.KERNEL: (Ending.REPRESENTED_PORT, 1),
        Verdict.QUEUE: (Ending.QUEUED, 0),
    }
    assert found.ending is not Ending.BROKEN, found.frame.decode()
    if expected.verdict is Verdict.DROP:
        metered = expected.reason.endswith(" exceeded")
        assert found.ending is (Ending.DROPPED_BY_METER if metered else Ending.DROPPED)
        names = {one.number: one.name for one in plan.counters}
        if found.counted and not metered:
            assert names[found.counted[-1]] == expected.reason
        return
    assert (found.ending, found.port) == ends[expected.verdict]
    assert found.queue == (expected.queue or 0)
    assert found.frame == expected.frame
    assert found.meta == expected.meta


def behind_extension(title: str) -> bool:
    """Whether a frame of the corpus has a header behind IPv6's fragment header, where hardware does not look."""
    return "fragment of ipv6" in title or "fragment header of ipv6" in title or "fragment of icmp6" in title


def as_hardware(run: Machine, frame: bytes, now_ns: int) -> Outcome:
    """What the interpreter does; ICMP that it takes for invalid goes to software instead, as a query in its place."""
    expected = run.run(frame, now_ns)
    icmp = next((part for part in headers(frame) if part.kind in ICMP_ERRORS), None)
    if icmp is None or expected.reason != "NAT, case 1, case 3, step 2: drop":
        return expected
    kind = frame[icmp.begin]
    if kind not in ICMP_ERRORS[icmp.kind] + ICMP_REPLIES[icmp.kind]:
        return expected
    query = bytes([ICMP_REQUESTS[icmp.kind][0]])
    went = run.run(frame[: icmp.begin] + query + frame[icmp.begin + 1 :], now_ns)
    tunnel = next((part for part in headers(frame) if part.kind == "vxlan"), None)
    at = len(went.frame) - ((len(frame) if tunnel is None else tunnel.limit) - icmp.begin)
    return replace(went, frame=went.frame[:at] + bytes([kind]) + went.frame[at + 1 :])


@pytest.mark.parametrize("name", SHIPPED)
def test_the_corpus(switch: EmulatedSwitch, name: str) -> None:
    """Every frame, one a second: end, bytes, metadata and a drop's reason; docs/pipeline.md names the differences."""
    plan = compile_rules(f.shipped(name), tenants=(f.TENANT_A, f.WORLD))
    switch.add(plan.commands())
    run, wrong = machine(name), []
    for number, (title, frame) in enumerate(corpus(), 1):
        found = switch.run(frame, number * SECOND_NS)
        if title == "vxlan with outer ip options":  # raw decap takes off a fixed length
            assert found.ending is Ending.DROPPED
            continue
        if behind_extension(title):
            continue
        try:
            agree(plan, as_hardware(run, frame, number * SECOND_NS), found)
        except AssertionError as error:
            wrong.append((title, str(error)))
    assert not wrong


@pytest.mark.parametrize(("name", "tenants"), [("gateway-trap", (f.TENANT_A, f.WORLD)), ("gateway-queue", ())])
def test_the_structure_is_what_was_meant(switch: EmulatedSwitch, name: str, tenants: tuple[int, ...]) -> None:
    """Places, kinds of items and actions, and their numbers, as the driver got them; every jump leads somewhere."""
    plan = compile_rules(f.shipped(name), tenants=tenants)
    example = example_connection(plan, 0)
    assert example is not None
    switch.add([*plan.commands(), *example.commands()])
    lines = switch.dump()
    assert [said(rule) for rule in (*plan.rules, *example.rules)] == [skeleton(line) for line in lines]
    groups = {int(line.split()[2]) for line in lines}
    assert {int(group) for line in lines for group in re.findall(r"> JUMP (\d+)", line)} | {0} == groups


NUMBERED = {"jump": "group", "count": "identifier", "meter": "mtr_id", "queue": "index"} | {
    "represented_port": "ethdev_port_id",
    "port_representor": "port_id",
}


def said(rule: Rule) -> str:
    """What the rule means to say, without the bytes of its items."""
    actions = []
    for one in rule.actions:
        conf = dict(one.conf)
        number = f" {conf[NUMBERED[one.type]]}" if one.type in NUMBERED else ""
        actions.append({"indirect": "CONNTRACK"}.get(one.type, one.type.upper()) + number)
    items = [one.type.upper() for one in rule.items]
    place = f"{rule.domain} group {rule.group} priority {rule.priority}"
    return " > ".join([" | ".join([place, *items]), *actions])


def skeleton(line: str) -> str:
    """The same of a line that the driver wrote."""
    head, *actions = line.split(" > ")
    place, *items = head.split(" | ")
    kept = [one if one.split()[0].lower() in NUMBERED else one.split()[0] for one in actions]
    return " > ".join([" | ".join([place, *(one.split()[0] for one in items)]), *kept])


def test_headers_bytes(switch: EmulatedSwitch) -> None:
    """What is put on is whole: types, flags, addresses; what is taken off has the length of what was matched."""
    switch.add(compile_rules(f.shipped("gateway-trap")).commands())
    text = "\n".join(switch.dump())
    expected = set()
    for mac, address, tag in (("02:00:00:00:02:09", "192.0.2.9", None), ("02:00:00:00:02:02", "192.0.2.2", 2)):
        ether = Ether(src="02:00:00:00:02:01", dst=mac)
        front = ether / Dot1Q(vlan=tag) if tag else ether
        ip = IP(src="192.0.2.1", dst=address, ttl=64, flags="DF", id=0, len=0, chksum=0)
        tail = ip / UDP(sport=49152, dport=4789, len=0, chksum=0) / VXLAN(flags=8, vni=0)
        expected.add(bytes(front / tail).hex())
    assert set(re.findall(r"RAW_ENCAP ([0-9a-f]+)", text)) == expected
    assert set(re.findall(r"RAW_DECAP (\d+)", text)) == {str(14 + 4 + 20 + 8 + 8)}


@pytest.mark.parametrize("pipeline", [every_match(), every_action()], ids=lambda made: made.name)
def test_every_word_is_understood(switch: EmulatedSwitch, pipeline: Pipeline) -> None:
    """All items with their fields, all actions with their configuration: the driver takes them as they arrive."""
    plan = compile_rules(pipeline, tenants=(0x05000007,))
    switch.add(plan.commands())
    assert [said(rule) for rule in plan.rules] == [skeleton(line) for line in switch.dump()]


def test_fields_that_patterns_name(switch: EmulatedSwitch) -> None:
    """Each case of a pipeline with a condition on every field takes the frames that the interpreter says."""
    plan = compile_rules(every_match())
    switch.add(plan.commands())
    run = Machine(every_match())
    for title, frame in corpus():
        if not behind_extension(title):
            agree(plan, run.run(frame), switch.run(frame))


CONNECTIONS = {
    "tcp": (f.tcp(), f.tcp(f.SERVER, f.PUBLIC, 80, 40000, "SA")),
    "udp": (f.udp(), f.udp(f.SERVER, f.PUBLIC, 53, 40000)),
    "echo": (f.echo(number=2000), f.echo(f.SERVER, f.PUBLIC, 2000, reply=True)),
    "tcp6": (f.tcp(f.INSIDE6, f.SERVER6), f.tcp(f.SERVER6, f.PUBLIC6, 80, 40000, "SA")),
    "udp6": (f.udp(f.INSIDE6, f.SERVER6), f.udp(f.SERVER6, f.PUBLIC6, 53, 40000)),
}


def established(switch: EmulatedSwitch, name: str, *begun: Any) -> tuple[Plan, Machine, list[tuple[Rule, int]]]:
    """A pipeline with the connections that packets begin: plan, interpreter, and the connections' rules by number."""
    plan, run = compile_rules(f.shipped(name), tenants=(f.TENANT_A,)), machine(name)
    switch.add(plan.commands())
    made: list[tuple[Rule, int]] = []
    for number, inner in enumerate(begun, 1):
        seen = read(bytes(inner), f.TENANT_A)
        assert seen is not None
        becomes = run.conntrack.allocate(seen, 0)
        assert becomes is not None
        rules = connection_rules(plan, seen.flow, becomes, number)
        made += zip(rules.rules, switch.add(rules.commands()), strict=True)
    return plan, run, made


@pytest.mark.parametrize("name", SHIPPED)
def test_established_connections(switch: EmulatedSwitch, name: str) -> None:
    """Both directions are translated, byte for byte; another tenant's same packet is new."""
    plan, run, _ = established(switch, name, *(inner for inner, _ in CONNECTIONS.values()))
    for inner, answer in CONNECTIONS.values():
        for frame, goes in ((f.in_vxlan(inner), True), (f.in_vlan(answer), True), (f.in_vxlan(inner, vni=6), False)):
            expected = run.run(frame)
            agree(plan, expected, switch.run(frame))
            assert (expected.verdict is Verdict.EGRESS) is goes


def test_connections_of_the_nat_section(switch: EmulatedSwitch) -> None:
    """Masquerade, static, forward and hairpin of a description, outward and inward: each in both directions."""
    rules = NatRules(
        masquerade=(b.masquerade([f.TENANT_A, f.TENANT_B], f.WORLD, f.PUBLIC),),
        static=(b.static(f.TENANT_A, "10.0.0.9", f.WORLD, "203.0.113.9"),),
        forward=(b.forward(f.WORLD, f.PUBLIC, "8080-8089", f.TENANT_B, "10.0.0.7", "80-89"),),
    )
    pipeline = replace(f.shipped("gateway-queue"), nat=rules)
    plan, run = compile_rules(pipeline), Machine(pipeline)
    switch.add(plan.commands())
    cases = [
        (f.TENANT_A, f.tcp(), f.WORLD, f.tcp(f.SERVER, f.PUBLIC, 80, 40000, "SA")),
        (f.TENANT_B, f.tcp(dport=81), f.WORLD, f.tcp(f.SERVER, f.PUBLIC, 81, 40000, "SA")),
        (f.TENANT_A, f.udp("10.0.0.9"), f.WORLD, f.udp(f.SERVER, "203.0.113.9", 53, 40000)),
        (f.WORLD, f.udp(f.SERVER, "203.0.113.9", 7, 8), f.TENANT_A, f.udp("10.0.0.9", f.SERVER, 8, 7)),
        (f.WORLD, f.tcp(f.SERVER, f.PUBLIC, 7, 8081), f.TENANT_B, f.tcp("10.0.0.7", f.SERVER, 81, 7, "SA")),
        (f.TENANT_A, f.udp(f.INSIDE, f.PUBLIC, 5000, 8080), f.TENANT_B, f.udp("10.0.0.7", f.PUBLIC, 80, 5000)),
    ]
    flows = []
    for meta, inner, _, _ in cases:
        seen = read(bytes(inner), meta)
        assert seen is not None
        run.conntrack.allocate(seen, 0)
        flows.append(seen.flow)
    for one in described(pipeline, plan, flows):
        switch.add(one.rules.commands())
    for meta, inner, back_meta, answer in cases:
        for at, packet in ((meta, inner), (back_meta, answer)):
            if at is not None:
                frame = f.in_vlan(packet) if at == f.WORLD else f.in_vxlan(packet, at & 0xFFFFFF)
                expected = run.run(frame)
                assert expected.verdict is Verdict.EGRESS
                agree(plan, expected, switch.run(frame))


def test_a_connection_ages_and_goes(switch: EmulatedSwitch) -> None:
    """Silence is reported for each direction by itself; without its rules the connection's packets are new again."""
    inner, answer = CONNECTIONS["udp"]
    _, _, made = established(switch, "gateway-queue", inner)
    finding = [number for rule, number in made if rule.actions[0].type == "age"]
    assert len(finding) == 2
    switch.run(f.in_vlan(answer), 200 * SECOND_NS)
    switch.tick(301 * SECOND_NS)
    aged = switch.testpmd.say("flow aged 0")
    assert re.findall(r"^Flow\s+(\d+)", aged, re.M) == [str(finding[0])], aged
    switch.testpmd.say("flow destroy 0 " + " ".join(f"rule {number}" for _, number in made))
    assert switch.run(f.in_vxlan(inner), 302 * SECOND_NS).ending is Ending.QUEUED


def test_the_end_of_a_tcp_connection_passes(switch: EmulatedSwitch) -> None:
    """Hardware's state changes with FIN and RST, from both sides: these packets are translated as all others are."""
    plan, run, _ = established(switch, "gateway-trap", f.tcp())
    frames = [f.in_vxlan(f.tcp(flags=flags)) for flags in ("A", "FA", "A", "R")]
    frames[2:2] = [f.in_vlan(f.tcp(f.SERVER, f.PUBLIC, 80, 40000, "FA"))]
    for frame in frames:
        agree(plan, run.run(frame), switch.run(frame))


def test_limits_are_meters(switch: EmulatedSwitch) -> None:
    """The burst passes, the rest of that instant does not, for each tenant by itself; with time, frames pass again."""
    plan, run = compile_rules(f.shipped("gateway-trap"), tenants=(f.TENANT_A, f.TENANT_B)), machine("gateway-trap")
    switch.add(plan.commands())
    exceeded = 0
    for now in (0, 5_000_000, 10_000_000, 35_000_000, 10 * SECOND_NS):
        for vni in (5, 6):
            for _ in range(22):
                expected = run.run(f.in_vxlan(f.arp(), vni), now)
                agree(plan, expected, switch.run(f.in_vxlan(f.arp(), vni), now))
                exceeded += expected.verdict is Verdict.DROP
    assert 2 * 22 < exceeded < 2 * 22 * 4


ENCAP = "eth src is 02:00:00:00:02:01 dst is 02:00:00:00:02:02{} / ipv4 src is 1.1.1.1 dst is 2.2.2.2 ttl is 64 / "
ENCAP += "udp src is 1 dst is {} / {} / end_set"
TO_IT = "flow create 0 group 1 transfer pattern eth / end actions raw_encap index 7 / jump group 2 / end"


@pytest.mark.parametrize(
    ("setup", "command", "why"),
    [
        ([], "flow create 0 group 1 transfer pattern eth / end actions jump group 1 / end", "to its own"),
        ([], "flow create 0 group 1 transfer pattern eth / end actions count / end", "nowhere"),
        ([], "flow create 0 group 1 transfer pattern eth / end actions drop / count / end", "behind the one"),
        ([], "flow create 0 group 1 transfer pattern eth / tcp / end actions drop / end", "cannot stand behind"),
        ([], "flow create 0 group 1 ingress pattern eth / end actions drop / end", "group 0 of a port"),
        (
            [],
            "flow create 0 group 1 transfer pattern eth / end actions represented_port ethdev_port_id 7 / end",
            "port",
        ),
        ([], "flow create 0 group 1 transfer pattern eth / end actions conntrack / jump group 2 / end", "indirect"),
        ([], "flow create 0 group 1 transfer pattern eth / end actions meter mtr_id 77 / drop / end", "no such meter"),
        ([], "flow create 0 group 1 transfer pattern eth / end actions queue index 1 / end", "no queues"),
        (["set raw_encap 7 " + ENCAP.format(" / vlan vid is 2", 4789, "vxlan")], TO_IT, "type is not IPv4"),
        (["set raw_encap 7 " + ENCAP.format("", 6081, "geneve vni is 0")], TO_IT, "does not carry Ethernet"),
        (["set raw_encap 7 " + ENCAP.format("", 4788, "vxlan vni is 0")], TO_IT, "no tunnel's port"),
    ],
)
def test_the_driver_refuses_what_cannot_be_meant(
    switch: EmulatedSwitch, setup: list[str], command: str, why: str
) -> None:
    """These tests can fail: mistakes that testpmd's parser does not see."""
    for line in setup:
        assert switch.testpmd.say(line) == ""
    assert why in switch.why_not(command)


def test_rules_that_forget_a_frame_are_found(switch: EmulatedSwitch) -> None:
    """A group without a last rule, two rules that both match, a header that is not there."""
    create = "flow create 0 group {} priority 0 transfer pattern {} / end actions {} / end"
    switch.add(
        [
            create.format(0, "eth has_vlan is 1", "of_pop_vlan / of_pop_vlan / drop"),
            create.format(0, "eth has_vlan is 0 / arp_eth_ipv4", "jump group 5"),
            create.format(0, "eth has_vlan is 0 / ipv4", "drop"),
            create.format(0, "eth / ipv4 / udp", "drop"),
        ]
    )
    for frame, why in (
        (f.in_vlan(f.tcp()), b"an action on a header that is not there"),
        (bytes(f.arp()), b"no rule matches"),
        (bytes(f.udp()), b"two rules of one priority"),
    ):
        answer = switch.run(frame)
        assert (answer.ending, answer.frame) == (Ending.BROKEN, why)
