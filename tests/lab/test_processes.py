# SPDX-License-Identifier: Apache-2.0
"""Processes of a lab are found by their mark, and nobody else is ever ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mizar.lab import processes
from mizar.lab.names import LabName

WAIT = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"


@pytest.fixture
def stranger(lab: LabName) -> Iterator[subprocess.Popen[str]]:
    """A process of another lab whose name begins alike."""
    environment = processes.environment(f"{lab.name}-other", "d1")
    with subprocess.Popen([sys.executable, "-c", WAIT], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def start(lab: LabName, name: str, script: str, log: Path) -> int:
    """Starts a process and waits until it has said that it is up."""
    pid = processes.start(lab.name, name, [sys.executable, "-c", script], log)
    with subprocess.Popen(["tail", "-f", "-n", "+1", str(log)], stdout=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        tail.stdout.readline()
        tail.kill()
    return pid


def test_marked_processes_are_found_and_ended(lab: LabName, tmp_path: Path, stranger: subprocess.Popen[str]) -> None:
    """stop() ends what carries the mark, and nothing else."""
    pid = start(lab, "d1", WAIT, tmp_path / "log")
    assert processes.marked(lab.name) == [processes.LabProcess("d1", pid)]
    assert processes.stop(lab.name) == 1
    assert processes.marked(lab.name) == []
    assert stranger.poll() is None


def test_a_process_that_ignores_sigterm_is_killed(lab: LabName, tmp_path: Path) -> None:
    """Whoever does not go when asked is made to go."""
    start(lab, "d1", STUBBORN, tmp_path / "log")
    assert processes.stop(lab.name, grace_s=0.2) == 1
    assert processes.marked(lab.name) == []


def test_children_of_marked_processes_are_theirs(lab: LabName, tmp_path: Path) -> None:
    """What a process of the lab started is ended with it, whoever its parent is by then."""
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WAIT!r}])"
    start(lab, "exec", script, tmp_path / "log")
    assert processes.stop(lab.name) >= 1
    assert processes.marked(lab.name) == []
