# SPDX-License-Identifier: Apache-2.0
"""A private link with real daemons and real traffic: two tenants with equal addresses, a grant, a chain, a carrier that
dies. The objects are those of examples/private-link.yaml."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.demo import members
from mizar.lab.findings import Member
from mizar.lab.names import LabName
from mizar.lab.probes import Probes
from mizar.model.errors import InvalidError
from mizar.model.manifest import parse_manifests
from tests.lab.conftest import leftovers, wait_until

EXAMPLE = (Path(__file__).parents[2] / "examples" / "private-link.yaml").read_text()
GRANT = "  grants: [{tenant: blue, vpc: main}]\n"
DB = ("10.0.1.100", "fd00:10:0:1::100")
CHAIN = ("10.0.1.200", "fd00:10:0:1::200")
WAYS = ("icmp", "udp", "tcp")
BYTES = 2_000_000


class Link:
    """The lab, and what tests do with it."""

    def __init__(self, name: LabName) -> None:
        self.name = name

    def up(self, text: str = EXAMPLE) -> None:
        labs.up(parse_manifests(text.replace("{name: private-link}", f"{{name: {self.name.name}}}"), "test"))

    def status(self, tenant: str, name: str) -> dict[str, Any]:
        with Client(self.name.server_url) as client:
            found: dict[str, Any] = client.get("Endpoint", name, tenant)["status"]
            return found

    def drops(self) -> dict[str, int]:
        """Refusals on all droplets, by reason."""
        total: dict[str, int] = {}
        with Client(self.name.server_url) as client:
            for droplet in client.list("Droplet"):
                for row in client.counters(droplet["metadata"]["name"]).get("drops", []):
                    total[row["name"]] = total.get(row["name"], 0) + int(row["packets"])
        return total

    def people(self) -> dict[str, Member]:
        with Client(self.name.server_url) as client:
            return {str(member): member for member in members(client)}

    def probes(self) -> Probes:
        return Probes(self.name.name, list(self.people().values()))

    def execute(self, endpoint: str, code: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A piece of Python inside of an endpoint."""
        command = [sys.executable, "-m", "mizar.cli.main", "lab", "exec", "-n", self.name.name, endpoint, "--"]
        return subprocess.run(
            [*command, sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=60
        )


def talk(probes: Probes, source: Member, addresses: tuple[str, ...], target: Member, limit_s: float = 5.0) -> list[str]:
    """What went wrong with any way to any of the addresses, behind which the target answers."""
    wrong = []
    for address in addresses:
        for way in WAYS:
            answer = probes.of(source).ask("check", way=way, address=address, limit_s=limit_s, bytes=BYTES)
            if not answer["ok"] or answer["answered_by"] not in ("", probes.of(target).token.hex()):
                wrong.append(f"{source} → {address} by {way}: {answer}")
    return wrong


def linked(lab: LabName) -> Iterator[Link]:
    """The example's lab, up, and gone afterwards."""
    found = Link(lab)
    try:
        found.up()
        yield found
    finally:
        labs.down(lab)
    assert leftovers(lab) == []


@pytest.fixture
def link(lab: LabName) -> Iterator[Link]:
    """A lab for a test that changes it."""
    yield from linked(lab)


@pytest.fixture(scope="module")
def calm() -> Iterator[Link]:
    """A lab for all tests that only look at it."""
    yield from linked(LabName(f"tpl{os.getpid()}"))


def test_traffic_through_link_and_chain(calm: Link) -> None:
    """Ping, UDP and bulk TCP of both families from clients on every droplet, over Geneve and VXLAN; the database hears
    them from the addresses that stand for them, and nothing is refused."""
    people = calm.people()
    database = people["red/database"]
    with calm.probes() as probes:
        assert talk(probes, people["blue/app-1"], DB, database) == []
        assert talk(probes, people["blue/app-2"], DB, database) == []
        assert talk(probes, people["blue/test-1"], CHAIN, database) == []
    drops = calm.drops()
    assert [name for name in drops if name.startswith(("PROXY", "REWRITE"))] == []
    shown = calm.status("blue", "db")
    assert shown["target"] == "red/database"
    assert len(shown["sourceAddresses"]) == 2
    with Client(calm.name.server_url) as client:
        sources = [item for item in client.list("Endpoint") if item["spec"].get("type") == "source"]
    assert {tuple(item["status"]["addresses"]) for item in sources if item["metadata"]["tenant"] == "red"} == {
        tuple(shown["sourceAddresses"])
    }


def test_only_clients_begin(calm: Link) -> None:
    """The database can open nothing towards blue, neither by the address that stands for blue's clients nor by theirs;
    and blue's second VPC, which has no grant of its own, reaches it by its chain alone."""
    source = calm.status("blue", "db")["sourceAddresses"][0]
    code = "import socket, sys; socket.create_connection((sys.argv[1], 7001), timeout=0.5)"
    assert "timed out" in calm.execute("red/database", code, source).stderr
    assert calm.drops()["PROXY_NO_FLOW"] >= 1
    assert calm.execute("blue/test-1", code, DB[0]).returncode != 0


SERVER = """
import socket, sys
with socket.create_server(("", 7100)) as server:
    print("ready", flush=True)
    while True:
        peer, address = server.accept()
        peer.sendall(repr(address).encode())
        peer.close()
"""
CLIENT = """
import socket, sys
with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", 50001)); s.settimeout(5); s.connect((sys.argv[1], 7100))
    print(s.recv(100).decode())
"""


def test_clients_with_one_port_are_told_apart(calm: Link) -> None:
    """Two clients with equal source ports to one service at once: one keeps its port, the other is given another."""
    command = [sys.executable, "-m", "mizar.cli.main", "lab", "exec", "-n", calm.name.name, "red/database", "--"]
    with subprocess.Popen([*command, sys.executable, "-c", SERVER], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        seen = [eval(calm.execute(f"blue/{name}", CLIENT, DB[0]).stdout) for name in ("app-1", "app-2")]
        server.kill()
    address = calm.status("blue", "db")["sourceAddresses"][0]
    assert [host for host, _ in seen] == [address, address]
    assert seen[0][1] == 50001 != seen[1][1]


CLOSED = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], 9)); s.settimeout(5)
    s.send(b"x")
    try:
        s.recv(1)
    except ConnectionRefusedError:
        print("refused")
"""


def test_icmp_errors_reach_the_client(calm: Link) -> None:
    """A closed port of the database is a closed port of the proxied endpoint: its error quotes what the client sent."""
    for name, addresses in (("app-1", DB), ("app-2", DB), ("test-1", CHAIN)):
        for address in addresses:
            assert calm.execute(f"blue/{name}", CLOSED, address).stdout == "refused\n", (name, address)


def test_a_grant_is_needed_and_can_be_taken_back(link: Link) -> None:
    """Revoked: out of service, flows end, the address in red is given back; granted again: in service again."""
    people = link.people()
    with link.probes() as probes:
        with pytest.raises(InvalidError, match="out of service"):
            link.up(EXAMPLE.replace(GRANT, ""))
        shown = link.status("blue", "db")
        assert (shown["phase"], shown["reason"], shown["target"]) == ("Failed", "NoTarget", "")
        answer = probes.of(people["blue/app-1"]).ask("check", way="icmp", address=DB[0], limit_s=0.5, bytes=1)
        assert not answer["ok"]
        with Client(link.name.server_url) as client:
            wait_until(
                lambda: (
                    not any(
                        item["spec"].get("type") == "source" and item["metadata"]["tenant"] == "red"
                        for item in client.list("Endpoint")
                    )
                )
            )
        link.up()
        wait_until(lambda: link.status("blue", "db")["phase"] == "Provisioned")
        assert talk(probes, people["blue/app-1"], DB, people["red/database"]) == []
        assert talk(probes, people["blue/test-1"], CHAIN, people["red/database"]) == []


def test_without_a_grant_all_targets_are_alike(calm: Link) -> None:
    """The same answer whether the target is there or not, and nothing is stored."""
    words = []
    for name in ("database", "no-such"):
        text = EXAMPLE + (
            "---\n{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: sneak, tenant: blue}, "
            f"spec: {{type: proxied, network: dev, target: {{tenant: red, endpoint: {name}}}}}}}\n"
        )
        with pytest.raises(InvalidError) as caught:
            calm.up(text)
        words.append(str(caught.value).replace(name, "NAME"))
    assert words[0] == words[1]
    with Client(calm.name.server_url) as client:
        assert "sneak" not in [item["metadata"]["name"] for item in client.list("Endpoint")]


def kill(lab: LabName, name: str) -> None:
    (pid,) = [process.pid for process in processes.marked(lab.name) if process.name == name]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: name not in [process.name for process in processes.marked(lab.name)])


@pytest.mark.long
def test_flows_survive_the_daemon(link: Link) -> None:
    """An open connection goes on while the carrier's daemon is dead, and after another has taken over."""
    people = link.people()
    carrier = link.status("blue", "db")["host"]
    with link.probes() as probes:
        kill(link.name, carrier)
        assert talk(probes, people["blue/app-2"], DB, people["red/database"]) == []
        link.up()
        assert talk(probes, people["blue/app-2"], DB, people["red/database"]) == []


def test_a_carrier_that_dies_is_replaced(link: Link) -> None:
    """Its daemon does not come back: another droplet carries the endpoint, with the same address in red, and traffic
    flows. When it does come back, nothing moves again."""
    people = link.people()
    before = link.status("blue", "db")
    kill(link.name, before["host"])
    wait_until(lambda: link.status("blue", "db")["host"] != before["host"], 30)
    after = link.status("blue", "db")
    assert after["sourceAddresses"] == before["sourceAddresses"]
    with link.probes() as probes:
        wait_until(lambda: not talk(probes, people["blue/app-2"], DB[:1], people["red/database"], 1.0), 30)
        link.up()
        wait_until(lambda: link.status("blue", "db")["phase"] == "Provisioned", 30)
        assert link.status("blue", "db")["host"] == after["host"]
        assert talk(probes, people["blue/app-1"], DB, people["red/database"]) == []


ECHO = """
import socket
with socket.create_server(("", 7200)) as server:
    print("ready", flush=True)
    peer, _ = server.accept()
    while data := peer.recv(1000):
        peer.sendall(data)
"""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7200), timeout=60) as s:
    for line in sys.stdin:
        s.sendall(line.encode())
        print(s.recv(1000).decode(), end="", flush=True)
"""


@pytest.mark.long
def test_an_open_connection_survives_its_carrier(link: Link) -> None:
    """It goes on over the droplet that takes over: same addresses, same port, nothing to begin anew."""
    run = [sys.executable, "-m", "mizar.cli.main", "lab", "exec", "-n", link.name.name]
    server = [*run, "red/database", "--", sys.executable, "-c", ECHO]
    client = [*run, "blue/app-2", "--", sys.executable, "-c", TALK, DB[0]]
    pipe = subprocess.PIPE
    with subprocess.Popen(server, stdout=pipe) as echo:
        assert echo.stdout is not None
        assert echo.stdout.readline() == b"ready\n"
        with subprocess.Popen(client, stdin=pipe, stdout=pipe) as speaker:
            assert said(speaker, b"before\n") == b"before\n"
            carrier = link.status("blue", "db")["host"]
            kill(link.name, carrier)
            assert said(speaker, b"meanwhile\n") == b"meanwhile\n"
            wait_until(lambda: link.status("blue", "db")["host"] != carrier, 30)
            assert said(speaker, b"afterwards\n") == b"afterwards\n"
            speaker.kill()
        echo.kill()


def said(speaker: subprocess.Popen[bytes], words: bytes) -> bytes:
    """What comes back for a line."""
    assert speaker.stdin is not None
    assert speaker.stdout is not None
    speaker.stdin.write(words)
    speaker.stdin.flush()
    return speaker.stdout.readline()


SERVICE = """
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: second, tenant: red}
spec: {network: data, droplet: d3, addresses: [10.0.1.30, "fd00:10:0:1::30"]}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: pool, tenant: red}
spec:
  type: scaled
  network: data
  addresses: [10.0.1.50, "fd00:10:0:1::50"]
  members: [{endpoint: database}, {endpoint: second}]
  grants: [{tenant: blue}]
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: pool, tenant: blue}
spec:
  type: proxied
  network: apps
  addresses: [10.0.1.101, "fd00:10:0:1::101"]
  target: {tenant: red, endpoint: pool}
"""


def test_a_link_to_a_service(link: Link) -> None:
    """proxied → scaled → simple: clients on both droplets are answered, and both members take a share of the flows."""
    link.up(EXAMPLE + SERVICE)
    people = link.people()
    behind = {people["red/database"], people["red/second"]}
    with link.probes() as probes:
        tokens = {probes.of(member).token.hex() for member in behind}
        met = set()
        for name in ("blue/app-1", "blue/app-2"):
            for address in ("10.0.1.101", "fd00:10:0:1::101"):
                for way in (*WAYS, *["udp"] * 8):
                    answer = probes.of(people[name]).ask("check", way=way, address=address, limit_s=20.0, bytes=BYTES)
                    assert answer["ok"], (name, address, way, answer)
                    met.add(answer["answered_by"])
    assert met - {""} == tokens
