# SPDX-License-Identifier: Apache-2.0
"""Members of a scaled endpoint that die, come back, move, or lose their droplet, with real servers and traffic; and a
chain proxied → scaled → simple. Objects are those of examples/scaled.yaml, whose members are asked by HTTP."""

from __future__ import annotations

import contextlib
import errno
import http.client
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from pyroute2 import NetNS

from mizar.api.client import Client
from mizar.lab.names import LabName
from tests.lab.conftest import wait_until
from tests.lab.serving import begun, said
from tests.lab.test_lab import kill
from tests.lab.test_scaled import EXAMPLE, PORT, SERVICE, UNCHECKED, WEB, Scaled

MIZAR = [sys.executable, "-m", "mizar.cli.main"]
LIMIT_S = 30.0


class Served(Scaled):
    """The lab, with an HTTP server process in each member that is told to have one."""

    def __init__(self, name: LabName, folder: Path) -> None:
        super().__init__(name, EXAMPLE)
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ended.callback(self.end_all)

    def serve(self, name: str) -> None:
        """Nothing is served at first."""

    def start(self, name: str) -> None:
        """`python -m http.server`, for both families; /who says its name."""
        files = self.folder / name
        files.mkdir(exist_ok=True)
        (files / "who").write_text(name)
        serve = [sys.executable, "-m", "http.server", str(PORT), "--bind", "::", "--directory", str(files)]
        inside = ["nsenter", f"--net=/run/netns/{self.namespaces[f'blue/{name}']}", *serve]
        self.running[name] = subprocess.Popen(inside, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self, name: str, number: int = signal.SIGKILL) -> None:
        server = self.running.pop(name)
        server.send_signal(number)
        server.wait(LIMIT_S)

    def end_all(self) -> None:
        for name in list(self.running):
            self.end(name)

    def ask(self, address: str, source: str = "client") -> str:
        """Who answers a new HTTP request."""
        connection = http.client.HTTPConnection(address, PORT)
        connection.sock = self.connect(source, address)
        with contextlib.closing(connection):
            connection.request("GET", "/who")
            return connection.getresponse().read().decode()

    def askers(self, count: int = 40) -> set[str]:
        return {self.ask(address) for address in SERVICE for _ in range(count)}

    def answer(self, names: Collection[str], count: int = 40) -> bool:
        """Whether these answer for the service and nobody else. Droplets are told of a member's health one by one."""
        try:
            return self.askers(count) == set(names)
        except OSError:
            return False

    def refuses(self, address: str) -> bool:
        """Whether the sender is told that nobody serves."""
        try:
            self.ask(address)
        except OSError as error:
            return error.errno == errno.EHOSTUNREACH
        return False

    def states(self) -> dict[str, str]:
        return {row["endpoint"]: row["state"] for row in self.status()["members"]}

    def drops(self, reason: str) -> int:
        with Client(self.name.server_url) as client:
            droplets = [droplet["metadata"]["name"] for droplet in client.list("Droplet")]
            rows = [row for name in droplets for row in client.counters(name).get("drops", [])]
        return sum(int(row["packets"]) for row in rows if row["name"] == reason)


@pytest.fixture
def served(lab: LabName, tmp_path: Path) -> Iterator[Served]:
    """The example's lab, up; nobody serves yet."""
    with begun(Served(lab, tmp_path)) as found:
        yield found


def started(served: Served) -> None:
    for name in WEB:
        served.start(name)
    wait_until(lambda: served.status()["ready"] == "3/3", LIMIT_S)


def test_members_die_and_come_back(served: Served) -> None:
    """Nobody serves: refused, counted and visible. All serve: all answer. One dies: the others answer for all; it comes
    back. One hangs, and goes on. All die."""
    wait_until(lambda: served.refuses(SERVICE[0]), LIMIT_S)
    assert served.drops("SERVICE_WITHOUT_MEMBER") > 0
    assert served.status()["ready"] == "0/3"
    started(served)
    wait_until(lambda: served.answer(WEB), LIMIT_S)
    served.end("web-2")
    wait_until(lambda: served.states()["web-2"] == "down", LIMIT_S)
    assert "connection refused" in served.status()["members"][1]["reason"]
    wait_until(lambda: served.answer({"web-1", "web-3"}), LIMIT_S)
    served.start("web-2")
    wait_until(lambda: served.states()["web-2"] == "healthy", LIMIT_S)
    wait_until(lambda: served.answer(WEB), LIMIT_S)
    served.running["web-1"].send_signal(signal.SIGSTOP)
    wait_until(lambda: served.states()["web-1"] == "down", LIMIT_S)
    assert "no answer" in served.status()["members"][0]["reason"]
    wait_until(lambda: served.answer({"web-2", "web-3"}), LIMIT_S)
    served.running["web-1"].send_signal(signal.SIGCONT)
    served.apply(health={"type": "tcp", "port": PORT, "intervalMs": 100})
    wait_until(lambda: served.states()["web-1"] == "healthy", LIMIT_S)
    for name in WEB:
        served.end(name)
    wait_until(lambda: set(served.states().values()) == {"down"}, LIMIT_S)
    wait_until(lambda: served.refuses(SERVICE[1]), LIMIT_S)


@pytest.mark.long
def test_restarts_do_not_flap(served: Served) -> None:
    """Daemon and server die while one member is down and the others serve: no new flow fails, before or after."""
    started(served)
    served.end("web-3")
    wait_until(lambda: served.answer({"web-1", "web-2"}), LIMIT_S)
    kill(served.name, "d1")
    assert served.askers(10) == {"web-1", "web-2"}
    kill(served.name, "server")
    assert served.askers(10) == {"web-1", "web-2"}
    served.up()
    wait_until(lambda: served.states() == {"web-1": "healthy", "web-2": "healthy", "web-3": "down"}, LIMIT_S)
    assert served.askers(10) == {"web-1", "web-2"}
    served.start("web-3")
    wait_until(lambda: served.status()["ready"] == "3/3", LIMIT_S)
    wait_until(lambda: served.answer(WEB), LIMIT_S)


@pytest.mark.long
def test_a_droplet_that_is_down(served: Served) -> None:
    """Its members are passed over as soon as its peers miss it, and are shown as down."""
    started(served)
    wait_until(lambda: served.answer(WEB), LIMIT_S)
    with NetNS(served.name.droplet_namespace("d3")) as inside:
        inside.link("set", index=inside.link_lookup(ifname="eth0")[0], state="down")
    wait_until(lambda: served.states()["web-3"] == "down", LIMIT_S)
    assert "droplet d3 is down" in served.status()["members"][2]["reason"]
    wait_until(lambda: served.answer({"web-1", "web-2"}), LIMIT_S)
    with NetNS(served.name.droplet_namespace("d3")) as inside:
        inside.link("set", index=inside.link_lookup(ifname="eth0")[0], state="up")
    wait_until(lambda: served.status()["ready"] == "3/3", LIMIT_S)
    wait_until(lambda: served.answer(WEB, 20), LIMIT_S)


@pytest.mark.long
def test_a_member_moves(served: Served) -> None:
    """To another droplet, while it serves: its connections go on, it gets new ones, and it is never down."""
    started(served)
    served.apply(members=[{"endpoint": "web-1"}])
    connection = http.client.HTTPConnection(SERVICE[0], PORT)
    connection.sock = served.connect("client", SERVICE[0])
    move = [*MIZAR, "endpoint", "move", "blue/web-1", "--to", "d2", "--server", served.name.server_url]
    done = subprocess.run(move, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    connection.request("GET", "/who")
    assert connection.getresponse().read() == b"web-1"
    connection.close()
    assert served.askers(5) == {"web-1"}
    wait_until(lambda: served.states() == {"web-1": "healthy"}, LIMIT_S)
    served.end("web-1")
    wait_until(lambda: served.states() == {"web-1": "down"}, LIMIT_S)


CHAIN = """---
{apiVersion: mizar/v1, kind: Tenant, metadata: {name: red}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {name: main, tenant: red}
spec: {cidrs: [10.0.0.0/16, "fd00:10::/48"]}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: apps, tenant: red}
spec: {vpc: main, cidrs: [10.0.1.0/24, "fd00:10:0:1::/64"]}
---
{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: app, tenant: red}, spec: {network: apps, droplet: d2}}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: link, tenant: red}
spec:
  type: proxied
  network: apps
  addresses: [10.0.1.200, "fd00:10:0:1::200"]
  target: {tenant: blue, endpoint: web}
"""


@pytest.mark.long
def test_proxied_to_scaled_to_simple(lab: LabName) -> None:
    """A client of another tenant reaches all members by a private link to the scaled endpoint; connections stay."""
    text = UNCHECKED.replace("  type: scaled\n", "  type: scaled\n  grants: [{tenant: red}]\n") + CHAIN
    with begun(Scaled(lab, text)) as chain:
        chain.namespaces["blue/app"] = chain.namespaces["red/app"]
        for address in ("10.0.1.200", "fd00:10:0:1::200"):
            assert {chain.who("app", address) for _ in range(60)} == set(WEB)
            assert {chain.who_by_udp("app", address) for _ in range(40)} == set(WEB)
            with contextlib.closing(chain.connect("app", address)) as connection:
                assert len({said(connection) for _ in range(20)}) == 1
