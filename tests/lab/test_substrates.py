# SPDX-License-Identifier: Apache-2.0
"""Labs over an IPv6 substrate and over one of both families: all traffic between all endpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Ref
from tests.lab.conftest import leftovers, wait_until
from tests.marks import first_of

EXAMPLES = Path(__file__).parents[2] / "examples"
MIZAR = [sys.executable, "-m", "mizar.cli.main"]


def example(lab: LabName, name: str) -> str:
    """An example under the lab's name."""
    text = (EXAMPLES / f"{name}-substrate.yaml").read_text()
    assert text.count(f"metadata: {{name: {name}}}") == 1
    return text.replace(f"metadata: {{name: {name}}}", f"metadata: {{name: {lab.name}}}")


def mtu(namespace: str) -> int:
    """Of an endpoint, as its workload sees it."""
    shown = subprocess.run(
        ["ip", "-n", namespace, "-j", "link", "show", "eth0"], capture_output=True, text=True, check=True
    )
    return int(json.loads(shown.stdout)[0]["mtu"])


@pytest.mark.parametrize(("name", "cells"), first_of([("mixed", 30), ("ipv6", 12)]))
def test_the_demo_over_other_substrates(lab: LabName, tmp_path: Path, name: str, cells: int) -> None:
    """ICMP, UDP and TCP of both families between all endpoints, and the ways that packets took."""
    path = tmp_path / "example.yaml"
    path.write_text(example(lab, name))
    done = subprocess.run(
        [*MIZAR, "demo", "-f", str(path), "-o", "json"], capture_output=True, text=True, check=False, timeout=110
    )
    result = json.loads(done.stdout)
    assert [cell for cell in result["cells"] if not cell["ok"]] == []
    assert len(result["cells"]) == cells
    assert [each["problems"] for each in result["paths"] if not each["ok"]] == []
    assert (done.returncode, result["ok"]) == (0, True)
    assert leftovers(lab) == []


def test_packets_are_as_large_as_the_fleet_allows(lab: LabName) -> None:
    """While a droplet without IPv4 is there endpoints have 70 bytes less than the substrate; when it goes, 50."""
    made = labs.up(parse_manifests(example(lab, "mixed"), "mixed"))
    front = lab.endpoint_namespace("green", "front-1")
    assert front in made.endpoint_namespaces
    assert mtu(front) == 1430
    with Client(lab.server_url) as client:
        for ref in (Ref("Endpoint", "green", "front-2"), Ref("Endpoint", "green", "back-2"), Ref("Droplet", "", "d2")):
            client.delete(ref.kind, ref.name, ref.tenant)
            client.wait([ref], 30, until="gone")
    wait_until(lambda: mtu(front) == 1450, 30)


def test_a_fleet_that_nothing_joins_says_so(lab: LabName) -> None:
    """Two droplets without a common family: their status tells, and what meets the border is counted."""
    text = f"""
apiVersion: mizar/v1
kind: Lab
metadata: {{name: {lab.name}}}
spec: {{droplets: 2, substrate: {{secondCidr: "fd31::/64", only: {{d1: ipv4, d2: ipv6}}}}}}
---
""" + example(lab, "mixed").split("\n---\n", 1)[1].split("metadata: {name: front-3")[0].rpartition("\n---\n")[0]
    labs.up(parse_manifests(text, "split"))
    with Client(lab.server_url) as client:
        for ref in (Ref("Droplet", "", "d1"), Ref("Droplet", "", "d2"), Ref("Endpoint", "green", "front-2")):
            assert client.get(ref.kind, ref.name, ref.tenant)["status"]["reason"] == "CutOff"
