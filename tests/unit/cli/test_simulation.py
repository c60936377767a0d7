# SPDX-License-Identifier: Apache-2.0
"""`--simulate` needs neither privileges nor Linux, and says that it is a simulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BLOCKED = (
    "pyroute2",
    "cffi",
    "_cffi_backend",
    "fcntl",
    "grpc",
    "mizar.kernel",
    "mizar.transit",
    "mizar._built.transit_pb2",
)
RUNNER = f"""
import importlib.abc, os, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == each or name.startswith(each + ".") for each in {BLOCKED!r}):
            raise ImportError(name + " is not there: this is no Linux")

sys.meta_path.insert(0, Blocked())
for each in {BLOCKED!r}:
    sys.modules.pop(each, None)
assert os.geteuid() != 0
from mizar.cli.main import main
main()
"""


def without_privileges(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user without any capability, on a system that lacks all that only Linux has."""
    command = [sys.executable, "-B", "-c", RUNNER, *words]
    if os.geteuid() == 0:
        # In a user namespace of its own that maps nobody: no longer root, without capabilities, and our files readable.
        if subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True).returncode:
            pytest.skip("this machine makes no user namespaces")
        command = ["unshare", "--user", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_demo_without_privileges() -> None:
    """The whole matrix of the example, and in the first and in the last line what it is."""
    done = without_privileges("demo", "--simulate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SIMULATION: no packet was sent")
    assert "60 of 60 cells are green in this simulation" in done.stdout
    assert "Nothing is left running" in done.stdout


def test_a_lab_without_privileges() -> None:
    """`mizar lab up --simulate` says the same as JSON."""
    done = without_privileges("lab", "up", "--simulate", "-f", "examples/peering.yaml", "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["simulation"], found["ok"], len(found["cells"])) == (True, True, 14)


def test_what_a_policy_does_not_allow_is_shown_and_is_no_fault() -> None:
    """The database takes pings of all, and the rest from web servers alone."""
    done = without_privileges("demo", "--simulate", "-f", "examples/policy.yaml", "-o", "json")
    assert done.returncode == 0, done.stderr
    cells = {(cell["from"], cell["to"]): cell["checks"] for cell in json.loads(done.stdout)["cells"]}
    assert not any(one["policy"] for one in cells["blue/web-1", "blue/db"].values())
    refused = {way for way, one in cells["blue/stranger", "blue/db"].items() if one["policy"]}
    assert refused == {"udp4", "tcp4", "udp6", "tcp6"}


def test_the_real_demo_without_privileges_offers_the_simulation() -> None:
    """By the command's name."""
    done = without_privileges("demo")
    assert done.returncode == 1
    assert "mizar demo --simulate" in done.stderr


def test_a_simulation_leaves_nothing_to_keep() -> None:
    """--keep is misused, and said so."""
    done = without_privileges("demo", "--simulate", "--keep")
    assert done.returncode == 2
    assert "leaves nothing behind" in done.stderr
