# SPDX-License-Identifier: Apache-2.0
"""Selectors as Kubernetes means them; groups and options in manifests."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.model.errors import InvalidError
from mizar.model.groups import GeneveOption, Selector
from mizar.model.manifest import parse_resource


@pytest.mark.parametrize(
    ("selector", "labels", "holds"),
    [
        ({}, {}, True),
        ({}, {"a": "b"}, True),
        ({"matchLabels": {"a": "b"}}, {"a": "b", "c": "d"}, True),
        ({"matchLabels": {"a": "b"}}, {"a": "c"}, False),
        ({"matchLabels": {"a": ""}}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}, {"a": "c"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}, {"a": "b"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}, {"a": "b"}, False),
    ],
)
def test_what_a_selector_selects(selector: dict[str, Any], labels: dict[str, str], holds: bool) -> None:
    """Every requirement has to hold; a key that is absent is in no list."""
    assert Selector.model_validate(selector).holds(labels) is holds


def refused(kind: str, **spec: Any) -> dict[str, str]:
    """Fields that a manifest is refused for, and the messages."""
    document = {"apiVersion": "mizar/v1", "kind": kind, "metadata": {"name": "n", "tenant": "t"}, "spec": spec}
    with pytest.raises(InvalidError) as caught:
        parse_resource(document)
    return {problem.field: problem.message for problem in caught.value.problems}


FIRST = "spec.selector.matchExpressions[0]"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"type": "group", "cidrs": ["10.0.0.0/24"]}, "spec.cidrs"),
        ({"type": "group", "bouncers": 2}, "spec.bouncers"),
        ({"type": "group", "tunnelProtocol": "vxlan"}, "spec.tunnelProtocol"),
        ({"cidrs": ["10.0.0.0/24"], "label": "x"}, "spec.label"),
        ({"cidrs": ["10.0.0.0/24"], "selector": {}}, "spec.selector"),
        ({"cidrs": ["10.0.0.0/24"], "members": ["x"]}, "spec.members"),
        ({}, "spec.cidrs"),
        ({"type": "group", "selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, FIRST),
        ({"type": "group", "selector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}, f"{FIRST}.operator"),
    ],
)
def test_fields_belong_to_a_type_of_network(spec: dict[str, Any], field: str) -> None:
    """The field that is wrong is named."""
    assert list(refused("Network", vpc="main", **spec)) == [field]


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ({"class": 0xFF01, "type": 1}, "the droplets' own"),
        ({"class": "0xff01", "type": 1}, "the droplets' own"),
        ({"class": 1, "type": 0x80}, "below 0x80"),
        ({"class": 0x10000, "type": 1}, ""),
        ({"class": "0x10000", "type": 1}, ""),
        ({"class": 1, "type": 1, "data": "abc"}, "hexadecimal"),
        ({"class": 1, "type": 1, "data": "abcd"}, "multiple of 4"),
        ({"class": 1, "type": 1, "data": "00" * 128}, "at most 124"),
    ],
)
def test_options_that_cannot_be(option: dict[str, Any], part: str) -> None:
    """Neither ours, nor critical, nor longer than an option can be."""
    (message,) = refused("Endpoint", network="n", droplet="d", geneveOptions=[option]).values()
    assert part in message


def test_options_together_have_a_limit() -> None:
    """128 bytes, headers included; the rest of a packet's room is the droplets'."""
    one = {"class": 1, "type": 1, "data": "00" * 60}
    found = refused("Endpoint", network="n", droplet="d", geneveOptions=[one, one, {"class": 1, "type": 2}])
    assert "at most 128 bytes of options, found 132" in str(found)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ({"droplet": "d", "workload": {"tap": {}}}, "a workload in a namespace"),
        ({"droplet": "d", "workload": {"ovs": {"bridge": "br"}}}, "a workload in a namespace"),
        ({"droplet": "d", "workload": {"namespace": "n", "configure": "dhcp"}}, "a workload in a namespace"),
        ({"type": "scaled"}, "unexpected for an endpoint of type scaled"),
        ({"type": "proxied", "target": {"endpoint": "e"}}, "unexpected for an endpoint of type proxied"),
    ],
)
def test_bypass_is_for_a_veth_alone(spec: dict[str, Any], part: str) -> None:
    """Whoever has none is told what is missing."""
    (message,) = refused("Endpoint", network="n", bypassDecapsulation=True, **spec).values()
    assert part in message


def test_an_option_as_on_the_wire() -> None:
    """RFC 8926 3.5."""
    option = GeneveOption.model_validate({"class": "0x0102", "type": 3, "data": "CAFE0001"})
    assert option.encoded == bytes.fromhex("0102 03 01 cafe0001")
