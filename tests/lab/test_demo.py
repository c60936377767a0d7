# SPDX-License-Identifier: Apache-2.0
"""The demo as people run it: the example's manifests, the command line, the exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mizar.cli.demo import EXAMPLE
from mizar.lab import processes
from mizar.lab.names import LabName
from tests.lab.conftest import leftovers, wait_until
from tests.marks import first_of

MIZAR = [sys.executable, "-m", "mizar.cli.main"]


@pytest.fixture
def example(lab: LabName, tmp_path: Path) -> Path:
    """The example under a name of its own."""
    path = tmp_path / "example.yaml"
    text = EXAMPLE.read_text()
    assert text.count("metadata: {name: demo}") == 1
    path.write_text(text.replace("metadata: {name: demo}", f"metadata: {{name: {lab.name}}}"))
    return path


def test_the_demo_is_green_and_leaves_nothing(lab: LabName, example: Path) -> None:
    """All cells of both tenants, isolation and ways; the whole result as JSON; nothing is left."""
    done = subprocess.run(
        [*MIZAR, "demo", "-f", str(example), "-o", "json"], capture_output=True, text=True, check=False, timeout=110
    )
    result = json.loads(done.stdout)
    assert [cell for cell in result["cells"] if not cell["ok"]] == []
    assert len(result["cells"]) == 60
    assert {way for cell in result["cells"] for way in cell["checks"]} == {
        "icmp4",
        "icmp6",
        "udp4",
        "udp6",
        "tcp4",
        "tcp6",
    }
    switch = result["switch"]
    assert switch["ok"], switch
    assert 0 < switch["direct"] < switch["packets"], "the first packets went over the hops, the others did not"
    assert result["isolation"]["ok"], result["isolation"]
    assert [path["problems"] for path in result["paths"] if not path["ok"]] == []
    assert max(len(path["hops"]) for path in result["paths"]) >= 3
    assert (done.returncode, result["ok"]) == (0, True)
    assert leftovers(lab) == []


def test_the_demo_for_people(lab: LabName, example: Path) -> None:
    """Plain text carries the rows, the isolation, a way and the verdict; --keep leaves the lab up."""
    done = subprocess.run(
        [*MIZAR, "demo", "-f", str(example), "--keep"], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("→") == 13  # a row for each endpoint, and the way that is shown
    assert "0 by others ok" in done.stdout
    assert "The direct path: of the first 200 packets" in done.stdout
    assert "60 of 60 cells are green" in done.stdout
    assert {process.name for process in processes.marked(lab.name)} == {"server", "d1", "d2", "d3", "d4"}


@pytest.mark.parametrize("number", first_of([signal.SIGINT, signal.SIGTERM]))
def test_a_demo_that_is_interrupted_cleans_up(lab: LabName, example: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM take the lab down."""
    with subprocess.Popen([*MIZAR, "demo", "-f", str(example)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        wait_until(lambda: any(process.name == "probe" for process in processes.marked(lab.name)), 60)
        run.send_signal(number)
        said = run.communicate(timeout=60)[1].decode()
        assert run.returncode == 130
    assert "Traceback" not in said
    assert leftovers(lab) == []
