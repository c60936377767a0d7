# SPDX-License-Identifier: Apache-2.0
"""examples/functions.yaml: functions in namespaces that their daemons had prepared talk to everybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from mizar.api.client import Client
from mizar.kernel import namespaces
from mizar.lab import lab as labs
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from tests.lab.conftest import leftovers, wait_until
from tests.lab.screen import Recorder

pytestmark = pytest.mark.root

EXAMPLE = Path(__file__).parents[2] / "examples" / "functions.yaml"


def test_functions_talk_and_go(lab: LabName) -> None:
    """Every pair, both families, ICMP, UDP, TCP; a function that is deleted leaves no namespace, nor does the lab."""
    text = EXAMPLE.read_text()
    assert text.count("metadata: {name: functions}") == 1
    labs.up(parse_manifests(text.replace("{name: functions}", f"{{name: {lab.name}}}"), "functions.yaml"))
    result = traffic(lab, Recorder())
    assert len(result.cells) == 6
    assert [cell for cell in result.cells if not cell.ok] == []
    function = lab.endpoint_namespace("blue", "resize")
    assert namespaces.exists(function)
    with Client(lab.server_url, timeout_s=10.0) as client:
        client.delete("Endpoint", "resize", "blue")
    wait_until(lambda: not namespaces.exists(function))
    assert labs.down(lab)
    assert leftovers(lab) == []
