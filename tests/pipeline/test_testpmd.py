# SPDX-License-Identifier: Apache-2.0
"""Every command that Mizar writes for testpmd is taken by testpmd's own parser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline
from mizar.pipeline.rte_flow.compile import compile_rules
from tests.pipeline.testpmd import Testpmd, understood
from tests.unit.pipeline.frames import TENANT_A, WORLD, shipped


@pytest.fixture(scope="module")
def testpmd() -> Iterator[Testpmd]:
    """One testpmd for all tests: rules that the driver refuses leave no trace."""
    if shutil.which("dpdk-testpmd") is None:
        pytest.skip("dpdk-testpmd is missing (Debian's package dpdk-dev)")
    with Testpmd() as running:
        yield running


def test_this_test_can_fail(testpmd: Testpmd) -> None:
    """A wrong word, a wrong number and a wrong encapsulation are told from rules that the driver refuses."""
    for command in (
        "flow create 0 group 1 transfer pattern eth / vlam / end actions drop / end",
        "flow create 0 group 1 transfer pattern eth / end actions jump group x / end",
        "flow create 0 group 1 transfer pattern eth / end actions drop",
        "set raw_encap 0 eth / ipv5 / end_set",
        "create port meter 0 1 1 1 yes",
        "bogus",
    ):
        assert not understood(command, testpmd.say(command)), command


@pytest.mark.parametrize("name", ["gateway-trap", "gateway-queue"])
@pytest.mark.parametrize("tenants", [(), (TENANT_A, WORLD)])
def test_shipped_pipelines(testpmd: Testpmd, name: str, tenants: tuple[int, ...]) -> None:
    """All set-up and all rules; those of connections need a driver, see test_emulated_switch.py."""
    assert testpmd.refused(compile_rules(shipped(name), tenants=tenants).commands()) == {}


def every_match() -> Pipeline:
    """Each header with a condition on each of its fields that rte_flow knows."""
    conditions = [
        "eth src 02:00:00:00:00:01 dst != 02:00:00:00:00:02",
        "eth / vlan 5 pcp 3",
        "eth / vlan / vlan 5-9",
        "eth / ipv4 dscp 5 ttl != 1 src 10.0.0.0/8 dst 192.0.2.1",
        "eth / ipv6 dscp != 5 ttl 1-3 src 2001:db8::/32 dst fe80::1",
        "eth / ip / tcp src 1 dst 1000-2000 flags 2",
        "eth / ip / udp src != 7 dst 53",
        "eth / ip / icmp type 8 code 0",
        "eth / ipv6 / nd 135",
        "eth / ipv4 / udp / vxlan 5 / eth / vlan 7 / ipv6",
        "eth / ipv6 / udp / geneve != 5 / eth / arp",
        "eth / arp",
    ]
    return b.pipeline("matches", b.group("G", b.parse(*(b.case(text, b.drop()) for text in conditions))))


def every_action() -> Pipeline:
    """Each step in each form: geneve, tables, tags, meters, a jump."""
    far = b.tunnel("far", "192.0.2.1", "192.0.2.2", "02:00:00:00:02:01", "02:00:00:00:02:02", vid=2)
    tagged = b.case(
        "eth / vlan",
        b.count("tagged"),
        b.limit("tags", packets_per_s=1000, burst=10),
        b.set_meta("vlan", table={5: 0x11, 6: 0x12}),
        b.pop_vlan(),
        b.goto("Out"),
    )
    tunnelled = b.case("eth / ipv4 / udp / geneve", b.set_meta("vni", add=0x05000000), b.decap("geneve"))
    return b.pipeline(
        "actions",
        far,
        b.group("In", b.parse(tagged, tunnelled, b.case("otherwise", b.queue(9)))),
        b.group("Between", b.push_vlan(), b.set_vid(), b.count("each", per_meta=True), b.stop()),
        b.group("Out", b.encap("geneve", "far", vlan=True), b.set_vni(table={0x11: 7}), b.trap()),
    )


@pytest.mark.parametrize("pipeline", [every_match(), every_action()], ids=lambda made: made.name)
def test_every_word_that_is_written(testpmd: Testpmd, pipeline: Pipeline) -> None:
    """All items with their fields, all actions with their configuration."""
    assert testpmd.refused(compile_rules(pipeline, tenants=(0x05000007,)).commands()) == {}
