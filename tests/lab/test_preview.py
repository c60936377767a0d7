# SPDX-License-Identifier: Apache-2.0
"""What a preview says comes true: real traffic before and after the change that it told of."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.demo import members
from mizar.lab.findings import Member, pairs
from mizar.lab.names import LabName
from mizar.lab.probes import Probes
from mizar.model.manifest import parse_manifests

MIZAR = [sys.executable, "-m", "mizar.cli.main"]
LIMIT_S = 30.0
BASE = """
{{apiVersion: mizar/v1, kind: Lab, metadata: {{name: {lab}}}, spec: {{droplets: 3}}}}
---
{{apiVersion: mizar/v1, kind: Tenant, metadata: {{name: red}}}}
---
{{apiVersion: mizar/v1, kind: VPC, metadata: {{name: main, tenant: red}}, spec: {{cidrs: [10.0.0.0/16]}}}}
---
apiVersion: mizar/v1
kind: Network
metadata: {{name: front, tenant: red}}
spec: {{vpc: main, cidrs: [10.0.1.0/24]}}
---
{{apiVersion: mizar/v1, kind: Endpoint, metadata: {{name: e1, tenant: red}}, spec: {{network: front, droplet: d1}}}}
---
apiVersion: mizar/v1
kind: Network
metadata: {{name: back, tenant: red}}
spec: {{vpc: main, cidrs: [10.0.2.0/24]{routes}}}
---
{{apiVersion: mizar/v1, kind: Endpoint, metadata: {{name: e2, tenant: red}}, spec: {{network: back, droplet: d2}}}}
"""
ROUTES = ", routes: [{to: 10.0.1.0/24, via: blackhole}]"
MORE = """
---
{{apiVersion: mizar/v1, kind: Endpoint, metadata: {{name: e3, tenant: red}}, spec: {{network: back, droplet: d3}}}}
"""


def reached(lab: LabName, wanted: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs that reach one another by a ping; those of `wanted` are tried until they do, within the limit."""
    with Client(lab.server_url) as client:
        found = members(client)
    with Probes(lab.name, found) as probes:

        def pings(source: Member, destination: Member) -> bool:
            end = time.monotonic() + (LIMIT_S if (source.name, destination.name) in wanted else 0.0)
            while True:
                order = {"way": "icmp", "address": destination.addresses[0], "limit_s": 1.0, "bytes": 64}
                if probes.of(source).ask("check", **order)["ok"]:
                    return True
                if time.monotonic() > end:
                    return False

        return {(one.name, other.name) for one, other in pairs(found) if pings(one, other)}


def namespace(lab: LabName) -> str:
    return lab.endpoint_namespace("red", "e3")


def diff(lab: LabName, change: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*MIZAR, "diff", "-f", str(change), "--server", lab.server_url, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def told(pairs_: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["from"].removeprefix("red/"), one["to"].removeprefix("red/")) for one in pairs_}


def test_what_a_preview_says_comes_true(lab: LabName, tmp_path: Path) -> None:
    """An endpoint comes and a route takes reach away: pairs that gain and lose are those that do when it is applied,
    and until then nothing has changed."""
    before = {("e1", "e2"), ("e2", "e1")}
    labs.up(parse_manifests(BASE.format(lab=lab.name, routes=""), "base"))
    text = (BASE + MORE).format(lab=lab.name, routes=ROUTES)
    change = tmp_path / "change.yaml"
    # A server takes no Lab; what a lab makes of its endpoints, their namespaces, is asked for here.
    objects = [part for part in text.split("---") if "kind: Lab" not in part and "kind: Endpoint" not in part]
    third = MORE.format().replace("droplet: d3", f"droplet: d3, workload: {{namespace: {namespace(lab)}}}")
    change.write_text("---".join(objects) + third)

    done = diff(lab, change, "-o", "json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    gained, lost = told(found["reach"]["gained"]), told(found["reach"]["lost"])
    assert (gained, lost) == ({("e2", "e3"), ("e3", "e2")}, before)
    assert {one["name"] for one in found["objects"] if one["change"] != "unchanged"} == {"back", "e3"}
    assert reached(lab, before) == before, "a preview has changed something"

    labs.up(parse_manifests(text, "change"))
    assert reached(lab, gained) == (before | gained) - lost
    again = diff(lab, change)
    assert (again.returncode, again.stdout.startswith("nothing would change")) == (0, True), again.stdout + again.stderr
