# SPDX-License-Identifier: Apache-2.0
"""Labs of their own for tests: names that nobody else uses, and nothing left behind whatever happens."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mizar.kernel import bpffs, namespaces
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Resource
from mizar.transit.options import RUN_FOLDER

_numbers = itertools.count(1)

# Two droplets, two tenants with the same addresses, an endpoint of each on each droplet.
SMALL = """
apiVersion: mizar/v1
kind: Lab
metadata: {name: NAME}
spec: {droplets: 2}
"""
for _tenant in ("blue", "red"):
    SMALL += f"""
---
{{apiVersion: mizar/v1, kind: Tenant, metadata: {{name: {_tenant}}}}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {{name: main, tenant: {_tenant}}}
spec: {{cidrs: [10.0.0.0/16, "fd00:10::/48"]}}
---
apiVersion: mizar/v1
kind: Network
metadata: {{name: front, tenant: {_tenant}}}
spec: {{vpc: main, cidrs: [10.0.1.0/24, "fd00:10:0:1::/64"]}}
---
apiVersion: mizar/v1
kind: Network
metadata: {{name: back, tenant: {_tenant}}}
spec: {{vpc: main, cidrs: [10.0.2.0/24, "fd00:10:0:2::/64"]}}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {{name: {_tenant}-web, tenant: {_tenant}}}
spec: {{network: front, droplet: d1}}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {{name: db, tenant: {_tenant}}}
spec: {{network: back, droplet: d2}}
"""


def leftovers(lab: LabName) -> list[str]:
    """Everything on this machine that carries the lab's name."""
    found = [f"namespace {name}" for name in namespaces.names() if name.startswith(lab.namespace_prefix)]
    found += [f"pins {name}" for name in bpffs.instances() if name.startswith(lab.instance_prefix)]
    found += [f"process {process}" for process in processes.marked(lab.name)]
    found += [f"file {path}" for path in (lab.folder, lab.lock) if path.exists()]
    found += [f"file {path}" for path in RUN_FOLDER.glob(f"{lab.instance_prefix}*")]
    return found


def wait_until(condition: Callable[[], object], limit_s: float = 30.0) -> None:
    """Returns as soon as the condition holds; fails when it does not within the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def manifests(lab: LabName, text: str = SMALL) -> list[Resource]:
    """The small lab under a name."""
    return parse_manifests(text.replace("NAME", lab.name), "test")


@pytest.fixture
def lab() -> Iterator[LabName]:
    """A name for a lab, which is gone after the test."""
    name = LabName(f"t{os.getpid()}-{next(_numbers)}")
    yield name
    labs.down(name)


@pytest.fixture
def manifest_file(lab: LabName, tmp_path: Path) -> Path:
    """The small lab in a file."""
    path = tmp_path / "lab.yaml"
    path.write_text(SMALL.replace("NAME", lab.name))
    return path
