# SPDX-License-Identifier: Apache-2.0
"""VPCs of several domains on one VNI, with the same addresses on the same droplets, and real traffic in all of them."""

from __future__ import annotations

from pathlib import Path

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from tests.lab.screen import Recorder

EXAMPLE = Path(__file__).parents[2] / "examples" / "one-vni.yaml"


def test_three_vpcs_on_one_vni(lab: LabName) -> None:
    """All of each VPC is reached, by the ways that it should be; nobody hears a stranger, and every packet that the
    droplets delivered is accounted for in the VPC that it was of."""
    labs.up(parse_manifests(EXAMPLE.read_text().replace("name: one-vni", f"name: {lab.name}"), "test"))
    with Client(lab.server_url) as client:
        found = {item["metadata"]["tenant"]: item["status"] for item in client.list("VPC")}
    assert {status["vni"] for status in found.values()} == {100}
    assert found["blue"]["number"] == 100
    assert {found["red"]["number"], found["green"]["number"]} == {2**24, 2**24 + 1}
    result = traffic(lab, Recorder())
    assert [cell for cell in result.cells if not cell.ok] == []
    assert len(result.cells) == 18
    assert result.isolation.problems == ()
    assert result.isolation.foreign == ()
    assert result.isolation.heard == result.isolation.expected > 0
    assert [problem for path in result.paths for problem in path.problems] == []
