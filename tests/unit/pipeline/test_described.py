# SPDX-License-Identifier: Apache-2.0
"""Connections that a description's own rules translate, as rte_flow rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mizar.model.errors import InvalidError
from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline
from mizar.pipeline.nat import NatRules, Timeouts
from mizar.pipeline.rte_flow.compile import compile_rules
from mizar.pipeline.rte_flow.described import described, flow_text, read_flow
from tests.unit.pipeline import frames as f

TEXTS = [
    "0x1000005 tcp 10.0.0.1:40000 198.51.100.7:443",
    "0x2ff0064 icmp4 10.0.0.1:7 198.51.100.7:7",
    "0x1000005 udp [2001:db8:a::1]:1 [2001:db8:9::7]:65535",
]


def translating(**more: object) -> Pipeline:
    rules = NatRules(
        masquerade=(b.masquerade(f.TENANT_A, f.WORLD, f.PUBLIC), b.masquerade(f.TENANT_A, f.WORLD, f.PUBLIC6)),
        timeouts=Timeouts(udp_s=120),
    )
    return replace(f.shipped("gateway-queue"), nat=replace(rules, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", TEXTS)
def test_flows_are_read_as_they_are_written(text: str) -> None:
    """There and back."""
    assert flow_text(read_flow(text)) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected META"),
        ("5 sctp 10.0.0.1:1 10.0.0.2:1", "expected META"),
        ("x tcp 10.0.0.1:1 10.0.0.2:1", "expected a number, found x"),
        ("0x100000000 tcp 10.0.0.1:1 10.0.0.2:1", "32 bits"),
        ("5 tcp 10.0.0.1 10.0.0.2:1", "expected ADDRESS:PORT, found 10.0.0.1"),
        ("5 tcp 10.0.0.256:1 10.0.0.2:1", "expected ADDRESS:PORT"),
        ("5 tcp 10.0.0.1:65536 10.0.0.2:1", "expected ADDRESS:PORT"),
        ("5 tcp 10.0.0.1:1 [fd00::1]:1", "one family"),
        ("5 icmp6 10.0.0.1:1 10.0.0.2:1", "one family, and its ICMP"),
        ("5 icmp4 10.0.0.1:1 10.0.0.2:2", "the same id"),
    ],
)
def test_texts_that_are_no_flow(text: str, why: str) -> None:
    """The message says which part."""
    with pytest.raises(InvalidError, match=why):
        read_flow(text)


def test_ages_are_the_descriptions() -> None:
    """Time-outs of the section, by protocol; connections are numbered as they begin."""
    text = "0x01000005 {} 10.0.0.1:2000 198.51.100.7:2000"
    pipeline = translating()
    flows = [read_flow(text.format(protocol)) for protocol in ("udp", "tcp", "icmp4", "udp")]
    found = described(pipeline, compile_rules(pipeline), flows)
    assert [dict(one.rules.rules[0].actions[0].conf)["timeout"] for one in found] == [120, 7440, 60]
    tags = [
        dict(rule.actions[1].conf)["data"] for one in found for rule in one.rules.rules if "age" in str(rule.actions[0])
    ]
    assert sorted(set(tags)) == [1, 2, 3, 4, 5, 6]
    assert str(found[0]).endswith("becomes 0x2ff0064 udp 203.0.113.1:2000 198.51.100.7:2000")


@pytest.mark.parametrize(
    ("pipeline", "text", "why"),
    [
        (lambda: replace(f.shipped("gateway-queue"), nat=None), TEXTS[0], "has no section nat"),
        (translating, "6 tcp 10.0.0.1:1 198.51.100.7:1", "gets no translation: NO_RULE"),
        (
            lambda: translating(masquerade=(b.masquerade(f.TENANT_A, f.WORLD, f.PUBLIC, ports="9-9"),)),
            "0x01000005 icmp4 10.0.0.1:7 198.51.100.7:7",
            "cannot translate icmp4 to another id",
        ),
        (translating, "0x01000005 icmp6 [2001:db8:a::1]:7 [2001:db8:9::7]:7", "cannot match the id of icmp6"),
    ],
)
def test_connections_without_rules_are_refused(pipeline: object, text: str, why: str) -> None:
    """By name."""
    made: Pipeline = pipeline()  # type: ignore[operator]
    with pytest.raises(InvalidError, match=why):
        described(made, compile_rules(made), [read_flow(text)])
