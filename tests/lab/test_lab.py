# SPDX-License-Identifier: Apache-2.0
"""Labs with real daemons: brought up, broken, repaired, taken down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mizar.api.client import Client
from mizar.kernel import bpffs, namespaces
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.model.errors import ConflictError, MizarError, NotFoundError
from mizar.model.manifest import parse_manifests
from tests.lab.conftest import SMALL, leftovers, manifests, wait_until
from tests.lab.screen import Recorder
from tests.marks import first_of

MIZAR = [sys.executable, "-m", "mizar.cli.main"]
PROCESSES = ["server", "d1", "d2"]

MORE = """
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: late, tenant: blue}
spec: {network: back, droplet: d1}
"""

FUNCTION = """
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: function, tenant: blue}
spec: {network: back, droplet: d1, workload: {namespace: NAME, pool: true}}
"""


def kill(lab: LabName, name: str) -> None:
    """kill -9, and waits until the process is gone."""
    (pid,) = [process.pid for process in processes.marked(lab.name) if process.name == name]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: name not in [process.name for process in processes.marked(lab.name)])


def names(lab: LabName) -> list[str]:
    return sorted(process.name for process in processes.marked(lab.name))


def execute(lab: LabName, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """`mizar lab exec`."""
    command = [*MIZAR, "lab", "exec", "-n", lab.name, *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def up(lab: LabName) -> LabName:
    """A small lab that is up."""
    labs.up(manifests(lab))
    return lab


@pytest.fixture(scope="module")
def calm() -> Iterator[LabName]:
    """One for all tests that leave it as it is."""
    name = LabName(f"tl{os.getpid()}")
    try:
        labs.up(manifests(name))
        yield name
    finally:
        labs.down(name)


def test_up_provisions_everything_and_down_leaves_nothing(up: LabName) -> None:
    """What `up` made works and is whole; after `down` nothing carries the lab's name, and a second one has no work."""
    found = labs.status(up)
    assert found["problems"] == []
    assert len(found["droplets"]) == 2
    assert len(found["endpoints"]) == 4
    assert names(up) == sorted(PROCESSES)
    assert labs.down(up)
    assert leftovers(up) == []
    assert not labs.down(up)
    with pytest.raises(NotFoundError):
        labs.status(up)


def test_traffic_in_a_lab_is_green(calm: LabName) -> None:
    """Every cell, the isolation of equal addresses, and every way hop by hop."""
    screen = Recorder()
    result = traffic(calm, screen)
    assert [cell for cell in result.cells if not cell.ok] == []
    assert len(result.cells) == 4
    assert result.isolation.problems == ()
    assert result.isolation.heard == result.isolation.expected > 0
    assert [problem for path in result.paths for problem in path.problems] == []
    assert len(result.paths) == 4
    assert result.ok
    assert screen.said[0] == "begin"
    assert screen.said.count("cell") == 8
    assert screen.said[-3:] == ["end", "isolation", "paths"]


def test_a_broken_endpoint_makes_the_verdict_red(up: LabName) -> None:
    """An endpoint that has lost its interface is found out in its row and its column, and nowhere else."""
    from pyroute2 import NetNS

    with NetNS(up.endpoint_namespace("blue", "db")) as inside:
        inside.link("set", index=inside.link_lookup(ifname="eth0")[0], state="down")
    result = traffic(up, Recorder(), limit_s=0.3)
    assert not result.ok
    wrong = {(str(cell.source), str(cell.destination)) for cell in result.cells if not cell.ok}
    assert wrong == {("blue/blue-web", "blue/db"), ("blue/db", "blue/blue-web")}


@pytest.mark.parametrize("name", first_of(PROCESSES, 2))
def test_a_process_that_died_is_told_and_started_again(up: LabName, name: str) -> None:
    """status names what died; `up` starts it again and nothing else; traffic flows afterwards."""
    before = {process.name: process.pid for process in processes.marked(up.name)}
    kill(up, name)
    assert any(name in problem for problem in labs.status(up)["problems"])
    labs.up(manifests(up))
    after = {process.name: process.pid for process in processes.marked(up.name)}
    assert {one for one in after if before[one] != after[one]} == {name}
    assert labs.status(up)["problems"] == []
    assert traffic(up, Recorder()).ok


def test_traffic_flows_while_every_process_is_dead(up: LabName) -> None:
    """The data plane needs neither daemons nor server; `exec` works without them too."""
    for name in PROCESSES:
        kill(up, name)
    script = "import socket; print(socket.create_connection(('10.0.2.2', 7), timeout=30))"
    code = f"try:\n {script}\nexcept ConnectionRefusedError:\n exit(9)"
    done = execute(up, "blue-web", sys.executable, "-c", code)
    assert done.returncode == 9, "the other endpoint refuses the connection: the packet got there and back"


def test_up_applies_what_changed(up: LabName) -> None:
    """A second `up` with one endpoint more makes that endpoint, and restarts nothing."""
    before = processes.marked(up.name)
    labs.up(manifests(up, SMALL + MORE))
    assert processes.marked(up.name) == before
    found = labs.status(up)
    assert found["problems"] == []
    assert len(found["endpoints"]) == 5
    assert up.endpoint_namespace("blue", "late") in namespaces.names()


def test_two_labs_stand_side_by_side(calm: LabName) -> None:
    """Labs with the same substrate addresses do not touch, and one goes without the other."""
    other = LabName(f"{calm.name}-b")
    try:
        labs.up(manifests(other))
        assert labs.status(other)["problems"] == []
        assert labs.down(other)
        assert leftovers(other) == []
        assert labs.status(calm)["problems"] == []
        assert traffic(calm, Recorder()).ok
    finally:
        labs.down(other)


def test_exec_passes_input_output_and_exit_code_through(calm: LabName) -> None:
    """A command inside of an endpoint is like one outside: stdin, stdout and exit code are its own."""
    script = "import socket, sys; print(sys.stdin.read() + str(len(socket.if_nameindex()))); sys.exit(7)"
    for separator in (["--"], []):
        done = execute(calm, "blue/db", *separator, sys.executable, "-c", script, text="in:")
        assert (done.returncode, done.stdout, done.stderr) == (7, "in:2\n", "")  # lo and eth0
    assert execute(calm, "blue/db", "--", "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL
    assert execute(calm, "blue/db", "/no/such/command").returncode == 127
    assert execute(calm, "blue/db", "/etc/passwd").returncode == 126
    for endpoint, words in (("db", "blue/db, red/db"), ("nobody", "no endpoint 'nobody'")):
        done = execute(calm, endpoint, "true")
        assert done.returncode == 1
        assert words in done.stderr


def test_a_lab_does_not_lose_droplets(calm: LabName) -> None:
    """Fewer droplets, or another substrate, are refused while the lab is up; nothing changes."""
    for old, new in (("{droplets: 2}", "{droplets: 1}"), ("{droplets: 2}", "{droplets: 2, substrate: {mtu: 9000}}")):
        with pytest.raises(ConflictError, match="other droplets"):
            labs.up(manifests(calm, SMALL.replace(old, new)))
    assert labs.status(calm)["problems"] == []


def test_a_lab_gains_droplets(up: LabName) -> None:
    """One more droplet is made and joined."""
    labs.up(manifests(up, SMALL.replace("{droplets: 2}", "{droplets: 3}")))
    assert "d3" in names(up)
    assert labs.status(up)["problems"] == []
    assert traffic(up, Recorder()).ok


def test_what_was_started_and_brought_in_a_lab_goes_with_it(up: LabName) -> None:
    """`down` ends a command that still runs inside of an endpoint, and takes away the namespace that a daemon brought
    for a function, though its name tells of no lab and the daemon was killed."""
    brought = f"fn-{up.name}"
    with Client(up.server_url) as client:
        (function,) = parse_manifests(FUNCTION.replace("NAME", brought), "test")
        client.apply([function])
        client.wait([function.ref], 30.0)
    assert brought in namespaces.names()
    command = [*MIZAR, "lab", "exec", "-n", up.name, "blue/db", "--", "sleep", "1000"]
    with subprocess.Popen(command) as process:
        wait_until(lambda: "exec" in names(up))
        kill(up, "d1")
        labs.down(up)
        assert process.wait(timeout=30) != 0
    assert leftovers(up) == []
    assert brought not in namespaces.names()


@contextmanager
def bringing_up(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`mizar lab up` as a process of its own."""
    with subprocess.Popen([*MIZAR, "lab", "up", "-f", str(path)], stderr=subprocess.DEVNULL) as process:
        yield process


@pytest.mark.parametrize("moment", first_of(["d2", "folder", "substrate", "server", "pins"]))
def test_down_cleans_after_an_up_that_was_killed(lab: LabName, manifest_file: Path, moment: str) -> None:
    """kill -9 of `lab up` at any moment leaves nothing that `down` does not find; and `up` could also go on."""
    reached = {
        "folder": lambda: lab.folder.exists(),
        "substrate": lambda: lab.substrate_namespace in namespaces.names(),
        "server": lambda: "server" in names(lab),
        "d2": lambda: "d2" in names(lab),
        "pins": lambda: lab.instance("d1") in bpffs.instances(),
    }[moment]
    with bringing_up(manifest_file) as process:
        wait_until(reached, 30)
        process.kill()
        process.wait()
    labs.down(lab)
    assert leftovers(lab) == []


def test_an_up_that_was_killed_can_go_on(lab: LabName, manifest_file: Path) -> None:
    """`up` after a killed `up` completes the lab."""
    with bringing_up(manifest_file) as process:
        wait_until(lambda: lab.instance("d1") in bpffs.instances(), 30)
        process.kill()
        process.wait()
    labs.up(manifests(lab))
    assert labs.status(lab)["problems"] == []


def test_down_waits_for_nobody_else(lab: LabName, manifest_file: Path) -> None:
    """While one brings the lab up, another is refused with a conflict, not mixed in."""
    with bringing_up(manifest_file) as process:
        wait_until(lambda: lab.folder.exists(), 30)
        with pytest.raises(ConflictError, match="somebody else"):
            labs.down(lab)
        assert process.wait(timeout=60) == 0


def test_status_shows_a_table_and_json(up: LabName) -> None:
    """The command line shows the same as the library, and exits 1 when there is a problem."""
    command = [*MIZAR, "lab", "status", "-n", up.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("server", "d1", "172.31.0.2", "blue/db", "no problems"):
        assert word in done.stdout
    kill(up, "d2")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "d2 does not run" in done.stdout


def test_a_lab_belongs_to_root(lab: LabName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others could not see its processes, and would be told that they are dead."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for use in (lambda: labs.status(lab), lambda: labs.down(lab), lambda: labs.execute(lab, "blue/db", ["true"])):
        with pytest.raises(MizarError, match="run this as root"):
            use()
    monkeypatch.undo()
