# SPDX-License-Identifier: Apache-2.0
"""Any process may be killed at any moment: the others go on, what is missing is made again, and nothing is left behind.

The moments and the victims are random but follow from the seed; what must hold afterwards does not depend on them.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.demo import members
from mizar.lab.findings import Cell, Member
from mizar.lab.names import LabName
from mizar.lab.probes import Probes
from mizar.lab.traffic import matrix
from tests.lab.conftest import leftovers, manifests, wait_until
from tests.marks import first_of

MIZAR = [sys.executable, "-m", "mizar.cli.main"]
SEEDS = range(int(os.environ.get("MIZAR_CHAOS", "3")))
"""More of them: MIZAR_CHAOS=50 pytest tests/lab/test_chaos.py."""
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def pause(seconds: float) -> None:
    """Lets the others work for a while: the moment of a blow is what is random here."""
    time.sleep(seconds)


@contextlib.contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`mizar` with some words, ended at the end whatever happens."""
    with subprocess.Popen(
        [*MIZAR, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def strike(lab: LabName, dice: random.Random, *, probes: bool = False) -> str:
    """Kills one process of the lab, if there is one; returns which."""
    found = [process for process in processes.marked(lab.name) if probes or process.name != "probe"]
    if not found:
        return "nobody"
    victim = dice.choice(found)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGKILL)
    return victim.name


def talking(lab: LabName, people: list[Member], dice: random.Random | None = None) -> list[Cell]:
    """All traffic between the endpoints, while processes are killed if there are dice."""
    with Probes(lab.name, people) as probes:
        done = threading.Event()

        def blows() -> None:
            while dice is not None and not done.wait(dice.uniform(0.0, 0.15)):
                strike(lab, dice)

        thread = threading.Thread(target=blows)
        thread.start()
        try:
            return matrix(probes, lambda _cell: None, limit_s=20.0)
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize("seed", first_of(SEEDS))
def test_whatever_is_killed_whenever(lab: LabName, manifest_file: Path, seed: int) -> None:
    """While it comes up, while traffic flows, while it goes down; and in between it can always be completed."""
    dice = random.Random(seed)
    # While it comes up: a process of it, then the command itself.
    for number in (signal.SIGKILL, dice.choice(SIGNALS)):
        with command("lab", "up", "-f", str(manifest_file)) as up:
            wait_until(lambda: lab.folder.exists(), 30)
            pause(dice.uniform(0.0, 1.5))
            strike(lab, dice)
            pause(dice.uniform(0.0, 0.5))
            up.send_signal(number)
            said = up.communicate(timeout=60)[1].decode()
            assert "Traceback" not in said
            assert "internal error" not in said
    labs.up(manifests(lab))
    assert labs.status(lab)["problems"] == []
    with Client(lab.server_url) as client:
        people = members(client)
    # While traffic flows: all of the control plane, one after the other.
    assert [cell for cell in talking(lab, people, dice) if not cell.ok] == []
    labs.up(manifests(lab))
    assert labs.status(lab)["problems"] == []
    assert [cell for cell in talking(lab, people) if not cell.ok] == []
    # While it goes down.
    with command("lab", "down", lab.name) as down:
        pause(dice.uniform(0.2, 1.2))
        strike(lab, dice)
        down.send_signal(dice.choice(SIGNALS))
        assert "Traceback" not in down.communicate(timeout=60)[1].decode()
    labs.down(lab)
    assert leftovers(lab) == []


@pytest.mark.parametrize("seed", first_of([1, 2]))
def test_a_demo_in_which_something_dies_is_red_and_leaves_nothing(lab: LabName, manifest_file: Path, seed: int) -> None:
    """A probe, a daemon or the server that dies in the middle is told in one block, and the lab goes down."""
    dice = random.Random(seed)
    with command("demo", "-f", str(manifest_file)) as demo:
        wait_until(lambda: any(process.name == "probe" for process in processes.marked(lab.name)), 60)
        while demo.poll() is None:
            pause(0.05)
            strike(lab, dice, probes=True)
        said = demo.communicate(timeout=60)[1].decode()
    assert demo.returncode == 1
    assert "Traceback" not in said
    assert "internal error" not in said
    assert leftovers(lab) == []


def test_a_demo_that_is_killed_leaves_what_down_removes(lab: LabName, manifest_file: Path) -> None:
    """SIGKILL leaves the lab up and its endpoints talking; the probes end by themselves, and `down` cleans up."""
    with command("demo", "-f", str(manifest_file)) as demo:
        wait_until(lambda: any(process.name == "probe" for process in processes.marked(lab.name)), 60)
        with Client(lab.server_url) as client:
            people = members(client)
        demo.kill()
        demo.wait()
    wait_until(lambda: all(process.name != "probe" for process in processes.marked(lab.name)))
    assert [cell for cell in talking(lab, people) if not cell.ok] == []
    assert labs.down(lab)
    assert leftovers(lab) == []
