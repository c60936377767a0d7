# SPDX-License-Identifier: Apache-2.0
"""Routing with real daemons and real traffic: networks inside of networks."""

from __future__ import annotations

from pathlib import Path

from mizar.lab import lab as labs
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Resource
from tests.lab.screen import Recorder

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(lab: LabName, name: str) -> list[Resource]:
    """An example under a name of its own."""
    text = (EXAMPLES / f"{name}.yaml").read_text()
    assert text.count(f"metadata: {{name: {name}}}") == 1
    return parse_manifests(text.replace(f"metadata: {{name: {name}}}", f"metadata: {{name: {lab.name}}}"), name)


def test_everybody_is_reached_in_networks_inside_of_networks(lab: LabName) -> None:
    """Ping, UDP and TCP of both families between all pairs: of one network, inside and around, over other droplets."""
    labs.up(example(lab, "routing"))
    result = traffic(lab, Recorder())
    assert [cell for cell in result.cells if not cell.ok] == []
    assert len(result.cells) == 20
    assert [problem for path in result.paths for problem in path.problems] == []
    assert result.ok
