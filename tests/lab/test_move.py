# SPDX-License-Identifier: Apache-2.0
"""An endpoint moves between droplets under traffic, by the command that people use."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel import namespaces
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from mizar.model.errors import InvalidError
from tests.lab.conftest import SMALL, manifests, wait_until
from tests.lab.screen import Recorder

MIZAR = [sys.executable, "-m", "mizar.cli.main"]
THREE = SMALL.replace("droplets: 2", "droplets: 3")

# Echoes one connection; says so when it listens.
SERVER = """
import socket, sys
with socket.create_server(('::', 7777), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print('listening', flush=True)
    connection = listener.accept()[0]
    while data := connection.recv(65536):
        connection.sendall(data)
"""
# Sends numbered blocks and compares each echo, until its input ends; then tells how many.
CLIENT = """
import select, socket, sys
with socket.create_connection((sys.argv[1], 7777), timeout=30) as connection:
    stream, number = connection.makefile('rb'), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        block = number.to_bytes(4, 'big') * 500
        connection.sendall(block)
        assert stream.read(len(block)) == block, number
        number += 1
        if number == 1:
            print('flowing', flush=True)
print(number)
"""


@pytest.fixture
def up(lab: LabName) -> LabName:
    """Three droplets: blue-web and red-web on d1, both db on d2."""
    labs.up(manifests(lab, THREE))
    return lab


def move(lab: LabName, name: str, to: str) -> subprocess.CompletedProcess[str]:
    """`mizar endpoint move`."""
    command = [*MIZAR, "endpoint", "move", name, "--to", to, "-o", "json", "--server", lab.server_url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@contextlib.contextmanager
def inside(lab: LabName, tenant: str, name: str, script: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A script in an endpoint's namespace that has said its first line."""
    with namespaces.Namespace.by_name(lab.endpoint_namespace(tenant, name)) as namespace:
        process = namespace.run(
            lambda: subprocess.Popen(
                [sys.executable, "-c", script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    try:
        assert process.stdout is not None
        assert readable([process.stdout.fileno()], 20), "it said nothing"
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def status(lab: LabName, tenant: str, name: str) -> dict[str, Any]:
    with Client(lab.server_url) as client:
        found: dict[str, Any] = client.get("Endpoint", name, tenant)["status"]
    return found


def test_connections_survive_moves_and_the_address_stays(up: LabName) -> None:
    """To a droplet that knew nothing of its VPC, to that of its peer, and back: one TCP connection all the way."""
    before = status(up, "blue", "blue-web")
    for address in ("10.0.2.2", "fd00:10:0:2::2"):
        with inside(up, "blue", "db", SERVER), inside(up, "blue", "blue-web", CLIENT, address) as client:
            for target in ("d3", "d2", "d1"):
                done = move(up, "blue/blue-web", target)
                assert done.returncode == 0, done.stderr
                told = json.loads(done.stdout)
                assert (told["target"], told["stage"]) == (target, "Done")
                assert told["blackoutMs"] > 0
            rest, _ = client.communicate("", timeout=60)
        assert client.returncode == 0
        assert int(rest) > 1
    after = status(up, "blue", "blue-web")
    assert (after["addresses"], after["mac"], after["phase"]) == (before["addresses"], before["mac"], "Provisioned")
    wait_until(lambda: labs.status(up)["problems"] == [])
    assert move(up, "red/red-web", "d3").returncode == 0
    assert traffic(up, Recorder()).ok, "the tenants have the same addresses, and keep apart"


@pytest.mark.long
def test_a_server_killed_during_a_move_leaves_a_whole_endpoint(up: LabName) -> None:
    """At any moment: the next server ends the move or takes it back, and all traffic flows."""
    dice = random.Random(1)
    for target in ("d3", "d2", "d3"):
        kill_during_move(up, target, dice)
    assert traffic(up, Recorder()).ok


def kill_during_move(up: LabName, target: str, dice: random.Random) -> None:
    (server,) = [process.pid for process in processes.marked(up.name) if process.name == "server"]
    command = [*MIZAR, "endpoint", "move", "blue/blue-web", "--to", target, "--server", up.server_url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: status(up, "blue", "blue-web").get("move", {}).get("target") == target)
        time.sleep(dice.uniform(0.0, 0.05))
        os.kill(server, signal.SIGKILL)
        process.wait()
    with contextlib.suppress(InvalidError):  # if it has moved already, the manifest names its former droplet
        labs.up(manifests(up, THREE))
    wait_until(lambda: status(up, "blue", "blue-web")["move"]["stage"] in ("Done", "Failed"))
    wait_until(lambda: status(up, "blue", "blue-web")["phase"] == "Provisioned")


def test_a_move_that_cannot_be_is_refused_with_the_reason(up: LabName) -> None:
    for name, to, words in (
        ("blue/blue-web", "d9", "no droplet d9"),
        ("blue/blue-web", "d1", "on droplet d1 already"),
        ("blue/nobody", "d2", "no such object"),
    ):
        done = move(up, name, to)
        assert done.returncode == 1
        assert words in done.stderr
    assert labs.status(up)["problems"] == []
