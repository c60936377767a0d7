# SPDX-License-Identifier: Apache-2.0
"""Descriptions are read whole, or every mistake is told at once with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.model.errors import ManifestErrors
from mizar.topology.reading import parse_topologies
from tests.unit.topology.world import HEAD, SMALL, described

EXAMPLES = sorted(Path(__file__).parents[3].glob("examples/topologies/*.yaml"))


def problems(text: str) -> list[tuple[int, str, str]]:
    """Line, field and message of each problem."""
    with pytest.raises(ManifestErrors) as refused:
        parse_topologies(text, "test")
    assert all(problem.file == "test" for problem in refused.value.problems)
    return [(problem.line, problem.field, problem.message) for problem in refused.value.problems]


def one(parts: str) -> tuple[str, str]:
    """Field and message of the only problem."""
    ((_, field, message),) = problems(HEAD + parts)
    return field, message


def test_all_of_the_design_s_topologies_are_shipped() -> None:
    """And each of them is valid."""
    assert [path.name for path in EXAMPLES] == ["bridge.yaml", "dpdk.yaml", "representors.yaml"]
    for path in EXAMPLES:
        assert parse_topologies(path.read_text(), path.name)[0].name == path.stem


def test_every_mistake_is_told_at_once_with_its_line() -> None:
    """Wrong values, unknown fields and references that lead nowhere, in one pass and in the order of lines."""
    text = (
        HEAD
        + """
  namespaces: [{name: a, colour: red}]
  bridges: [{name: a-name-of-more-than-15-bytes}]
  vteps:
    - {name: vx0, bridge: nowhere, id: 7}
    - {name: vx1, id: 16777216}
  veths:
    - name: v0
      ends:
        - {interface: v0, namespace: b}
        - {interface: "v 0"}
    - name: v1
      ends:
        - {interface: v1, namespace: a}
        - {interface: v2, namespace: c}
"""
    )
    told = problems(text)
    assert [(line, field) for line, field, _ in told] == [
        (6, "spec.namespaces[0].colour"),
        (7, "spec.bridges[0].name"),
        (9, "spec.vteps[0].bridge"),
        (10, "spec.vteps[1].id"),
        (15, "spec.veths[0].ends[1].interface"),
        (19, "spec.veths[1].ends[1].namespace"),
    ]


@pytest.mark.parametrize(
    ("parts", "field", "message"),
    [
        ("  vteps: [{name: x}]", "spec.vteps[0]", "either id (one VNI) or external"),
        ("  vteps: [{name: x, id: 1, external: true}]", "spec.vteps[0]", "either id (one VNI) or external"),
        ("  vteps: [{name: x, id: 1, vnis: [2]}]", "spec.vteps[0]", "for an external device"),
        ("  vteps: [{name: x, external: true, vnifilter: true}]", "spec.vteps[0]", "both or neither"),
        ("  vteps: [{name: x, external: true, vnis: [5]}]", "spec.vteps[0]", "both or neither"),
        (
            "  vteps: [{name: x, external: true, vnifilter: true, vnis: [9-5]}]",
            "spec.vteps[0].vnis[0]",
            "range such as",
        ),
        ("  vteps: [{name: x, external: true, vnifilter: true, vnis: [1-70000]}]", "spec.vteps[0]", "at most 65536"),
        (
            "  vteps: [{name: x, external: true, vnifilter: true, vnis: [1-9, 5]}]",
            "spec.vteps[0].vnis",
            "in two ranges",
        ),
        ("  vteps: [{name: x, id: 1, port: 0}]", "spec.vteps[0].port", "greater than or equal to 1"),
        ("  vteps: [{name: x, id: 1, local: 300.1.1.1}]", "spec.vteps[0].local", "300.1.1.1"),
        ("  vteps: [{name: x, id: 1, vlan: 5}]", "spec.vteps[0].vlan", "no port of a bridge with vlanFiltering"),
        ("  vteps: [{name: x, id: 1}, {name: y, id: 1}]", "spec.vteps[1]", "both have VNI 1"),
        ("  vteps: [{name: x, id: 1}, {name: y, external: true}]", "spec.vteps[1]", "cannot share UDP port 4789"),
        ("  vteps: [{name: x, external: true}, {name: y, external: true}]", "spec.vteps[1]", "takes every VNI"),
        ("  bridges: [{name: b}, {name: b}]", "spec.bridges[1].name", "each name once"),
        ("  bridges: [{name: b, mtu: 10}]", "spec.bridges[0].mtu", "greater than or equal to 68"),
        ("  bridges: [{name: b, addresses: [10.0.0.1]}]", "spec.bridges[0].addresses[0]", "prefix length"),
        ("  bridges: [{name: b, addresses: ['fe80::1/64']}]", "spec.bridges[0].addresses[0]", "no link-local"),
        ("  vteps: [{name: x, id: 1, local: 0.0.0.0}]", "spec.vteps[0].local", "unicast address"),
        ("  vteps: [{name: x, id: 1, local: 239.1.1.1}]", "spec.vteps[0].local", "unicast address"),
        ("  namespaces: [{name: a/b}]", "spec.namespaces[0].name", "under /run/netns"),
        ("  veths: [{name: v, ends: [{interface: x}]}]", "spec.veths[0].ends", "at least 2"),
        ("  notes: [{about: nobody, text: x}]", "spec.notes[0].about", "name of a part"),
        ("  eswitches: [{device: 0000-03}]", "spec.eswitches[0].device", "devlink handle"),
    ],
)
def test_what_cannot_be_is_refused(parts: str, field: str, message: str) -> None:
    """Each with the field, and with what was expected there."""
    found = [problem for problem in problems(HEAD + parts) if problem[1] == field]
    assert found, problems(HEAD + parts)
    assert message in found[0][2]


def test_ports_of_a_vlan_filtering_bridge_say_their_vlan() -> None:
    """Without one they would carry nothing; and elsewhere a VLAN would mean nothing."""
    text = """
  bridges: [{name: b, vlanFiltering: true}, {name: c}]
  vteps: [{name: x, bridge: b, external: true, vnifilter: true, vnis: [5], vlans: [{vlan: 10, vni: 6}]}]
  veths:
    - {name: v, ends: [{interface: v1, bridge: b}, {interface: v2, vlan: 3}]}
    - {name: w, ends: [{interface: w1, bridge: c, vlan: 3}, {interface: w2}]}
"""
    assert [field for _, field, _ in problems(HEAD + text)] == [
        "spec.vteps[0].vlans[0].vni",
        "spec.veths[0].ends[0].vlan",
        "spec.veths[0].ends[1].vlan",
        "spec.veths[1].ends[0].vlan",
    ]


def test_an_interface_name_is_taken_once_in_a_namespace() -> None:
    """The same name in two namespaces is fine; a bridge's port is where its bridge is."""
    text = """
  namespaces: [{name: a}]
  bridges: [{name: b, namespace: a}]
  veths:
    - {name: v, ends: [{interface: x, bridge: b}, {interface: x}]}
    - {name: w, ends: [{interface: x, namespace: a}, {interface: y}]}
"""
    assert one(text) == (
        "spec.veths[1].ends[0].interface",
        "expected each interface name once in a namespace, found x in a again",
    )


def test_a_mistake_in_a_part_is_not_told_again_by_those_who_name_it() -> None:
    """One wrong MTU is one problem, although a port names that bridge."""
    field, _ = one("  bridges: [{name: b, mtu: nine}]\n  vteps: [{name: x, bridge: b, id: 1}]\n")
    assert field == "spec.bridges[0].mtu"


def test_unknown_fields_are_told_with_those_that_are_known() -> None:
    """At any depth."""
    assert one("  veths: [{name: v, ends: [{interface: a, brigde: b}, {interface: c}]}]\n") == (
        "spec.veths[0].ends[0].brigde",
        "unknown field (did you mean bridge?); known are interface, bridge, namespace, vlan, addresses",
    )


def test_other_texts_are_refused() -> None:
    """Other kinds, no text, broken YAML, two topologies of one name."""
    assert problems("kind: VPC\n")[0][1] == "kind"
    assert "found nothing" in problems("")[0][2]
    assert problems(HEAD + "  bridges: [")[0][2].startswith("expected YAML")
    assert "each topology once" in problems(f"{SMALL}---\n{SMALL}")[0][2]
    assert problems("- 1\n")[0][2].startswith("expected a mapping")


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=0, max_size=20))
def test_interface_names_are_what_the_kernel_takes(name: str) -> None:
    """Anything that is let through fits IFNAMSIZ and dev_valid_name()."""
    import json

    try:
        topology = described(HEAD + f"  bridges: [{{name: {json.dumps(name)}}}]\n")
    except ManifestErrors:
        return
    taken = topology.spec.bridges[0].name
    assert taken == name
    assert 1 <= len(name.encode()) <= 15
    assert not set(name) & set("/: \t\n")
    assert name not in (".", "..")
