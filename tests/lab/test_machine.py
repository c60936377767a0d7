# SPDX-License-Identifier: Apache-2.0
"""examples/vm.yaml with a real virtual machine: Linux in QEMU takes its address by DHCP and talks to a container."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from tests.guest.image import Image, UnavailableError, image
from tests.guest.machine import Guest
from tests.lab.conftest import wait_until
from tests.transit.traffic import ping

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "vm.yaml"
MACHINE, CONTAINER = "10.0.1.10", "10.0.1.20"


@pytest.fixture(scope="module")
def booted() -> Image:
    """What the machine boots; the test is skipped, and says why, where there is none."""
    try:
        return image()
    except UnavailableError as error:
        pytest.skip(f"no virtual machine here: {error}")


@pytest.fixture
def up(lab: LabName) -> LabName:
    """The example under a name of its own."""
    text = EXAMPLE.read_text()
    assert text.count("metadata: {name: vm}") == 1
    labs.up(parse_manifests(text.replace("metadata: {name: vm}", f"metadata: {{name: {lab.name}}}"), "vm.yaml"))
    return lab


@contextmanager
def served(namespace: Namespace, folder: Path) -> Iterator[None]:
    """A web server in the container, with the files of a folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = namespace.run(lambda: http.server.ThreadingHTTPServer((CONTAINER, 8000), handler))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def fetched(namespace: str, url: str) -> bytes:
    """What a process in a namespace gets from a web server."""
    code = "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1], timeout=60).read())"
    command = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", code, url]
    return subprocess.run(command, capture_output=True, check=True, timeout=90).stdout


def test_a_virtual_machine_and_a_container_talk(up: LabName, booted: Image, tmp_path: Path) -> None:
    """Its address, router and MTU come by DHCP; pings and megabytes of TCP go both ways between the machine and the
    container, on different droplets."""
    with Client(up.server_url, timeout_s=10.0) as client:
        status = client.get("Endpoint", "machine", "blue")["status"]
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    container = up.endpoint_namespace("blue", "container")
    with (
        Namespace.by_name(container) as inside,
        served(inside, tmp_path),
        Guest(booted, up.droplet_namespace("d1"), status["hostInterface"], status["mac"]) as guest,
    ):
        guest.run("udhcpc -i eth0 -n -q -t 10 -T 1 -s /etc/udhcpc.script", 60)
        assert f"inet {MACHINE}/24" in guest.run("ip addr show eth0")
        assert "mtu 1450" in guest.run("ip link show eth0")
        assert "default via 10.0.1.1" in guest.run("ip route")
        guest.run(f"ping -c 2 -W 5 {CONTAINER}")
        guest.run("ping -c 1 -W 5 10.0.1.1")
        wait_until(lambda: ping(container, MACHINE) is not None)
        digest = hashlib.sha256(data).hexdigest()
        guest.run(f"wget -q -O /www/file http://{CONTAINER}:8000/file", 90)
        assert digest in guest.run("sha256sum /www/file")
        guest.run("httpd -p 80 -h /www")
        assert hashlib.sha256(fetched(container, f"http://{MACHINE}/file")).hexdigest() == digest
