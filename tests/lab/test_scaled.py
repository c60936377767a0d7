# SPDX-License-Identifier: Apache-2.0
"""A scaled endpoint with real daemons and real traffic: who answers, what stays while members come and go, and what is
said when nobody is left. The objects are those of examples/scaled.yaml: members on all droplets, one over VXLAN."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.demo import members
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from tests.lab.conftest import leftovers, wait_until

EXAMPLE = (Path(__file__).parents[2] / "examples" / "scaled.yaml").read_text()
UNCHECKED = "\n".join(line for line in EXAMPLE.splitlines() if not line.startswith("  health:")) + "\n"
SERVICE = ("10.0.1.100", "fd00:10:0:1::100")
PORT, LIMIT_S = 8080, 10.0
WEB = ("web-1", "web-2", "web-3")


class Scaled:
    """The lab, with a server in each member that says its name to everybody, as often as asked."""

    def __init__(self, name: LabName) -> None:
        self.name = name
        self.ended = contextlib.ExitStack()

    def up(self, text: str = UNCHECKED) -> None:
        labs.up(parse_manifests(text.replace("{name: scaled}", f"{{name: {self.name.name}}}"), "test"))
        with Client(self.name.server_url) as client:
            self.namespaces = {str(one): one.namespace for one in members(client)}
        for name in WEB:
            self.serve(name)

    def open(self, name: str, family: int, kind: int) -> socket.socket:
        """A socket in an endpoint's namespace."""
        with Namespace.by_name(self.namespaces[f"blue/{name}"]) as namespace:
            made = namespace.run(lambda: socket.socket(family, kind))
        made.settimeout(LIMIT_S)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return made

    def serve(self, name: str) -> None:
        for family in (socket.AF_INET, socket.AF_INET6):
            listener = self.ended.enter_context(self.open(name, family, socket.SOCK_STREAM))
            listener.bind(("", PORT) if family == socket.AF_INET else ("::", PORT))
            listener.listen(64)
            listener.settimeout(None)
            threading.Thread(target=accept, args=(listener, name.encode()), daemon=True).start()
            datagrams = self.ended.enter_context(self.open(name, family, socket.SOCK_DGRAM))
            datagrams.bind(("", PORT) if family == socket.AF_INET else ("::", PORT))
            datagrams.settimeout(None)
            threading.Thread(target=reply, args=(datagrams, name.encode()), daemon=True).start()

    def connect(self, source: str, address: str) -> socket.socket:
        """A connection to the service."""
        made = self.open(source, family_of(address), socket.SOCK_STREAM)
        made.connect((address, PORT))
        return made

    def who(self, source: str, address: str) -> str:
        """Who answers a new connection."""
        with self.connect(source, address) as connection:
            return said(connection)

    def who_by_udp(self, source: str, address: str, size: int = 10) -> str:
        """Who answers a datagram of this size, with an answer as long."""
        with self.open(source, family_of(address), socket.SOCK_DGRAM) as made:
            made.sendto(bytes(size), (address, PORT))
            answer, sender = made.recvfrom(65535)
            assert sender[0] == address
            assert len(answer) >= size
            return answer.rstrip(b"\0").decode()

    def apply(self, **spec: Any) -> None:
        """Another spec of the service; returns when all droplets have it."""
        with Client(self.name.server_url) as client:
            web = client.get("Endpoint", "web", "blue")
            manifest = {key: web[key] for key in ("apiVersion", "kind", "metadata")}
            manifest["spec"] = web["spec"] | spec
            client.apply([manifest])
            wait_until(lambda: client.get("Endpoint", "web", "blue")["status"]["phase"] == "Provisioned")

    def status(self) -> dict[str, Any]:
        with Client(self.name.server_url) as client:
            found: dict[str, Any] = client.get("Endpoint", "web", "blue")["status"]
            return found


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def accept(listener: socket.socket, name: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=talk, args=(connection, name), daemon=True).start()


def talk(connection: socket.socket, name: bytes) -> None:
    with connection, contextlib.suppress(OSError):
        while connection.recv(1):
            connection.sendall(name.ljust(8))


def reply(datagrams: socket.socket, name: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, sender = datagrams.recvfrom(65535)
            datagrams.sendto(name.ljust(max(len(data), 8), b"\0"), sender)


def said(connection: socket.socket) -> str:
    connection.sendall(b"?")
    return connection.recv(8).decode().strip()


@pytest.fixture
def scaled(lab: LabName) -> Iterator[Scaled]:
    """The example's lab, up."""
    found = Scaled(lab)
    found.up()
    yield found
    found.ended.close()
    labs.down(lab)
    assert leftovers(lab) == []


def test_flows_are_shared_and_stay(scaled: Scaled) -> None:
    """TCP and UDP of both families from a client, and from a member; by weights; small and in fragments; connections
    outlive a member that drains, one that goes and one that comes."""
    assert scaled.status()["ready"] == "3/3"
    for address in SERVICE:
        found = Counter(scaled.who("client", address) for _ in range(240))
        assert set(found) == set(WEB)
        assert found["web-2"] > max(found["web-1"], found["web-3"])  # of 240: 120, 60, 60, with chance far away
        assert {scaled.who_by_udp("client", address) for _ in range(40)} == set(WEB)
        assert scaled.who_by_udp("client", address, 4000) in WEB
        assert {scaled.who("web-1", address) for _ in range(40)} == set(WEB)  # itself among them
    connections = [scaled.connect("client", SERVICE[number % 2]) for number in range(24)]
    before = [said(connection) for connection in connections]
    assert set(before) == set(WEB)
    scaled.apply(members=[{"endpoint": "web-1"}, {"endpoint": "web-2", "drain": True}, {"endpoint": "web-3"}])
    assert [said(connection) for connection in connections] == before
    assert {scaled.who("client", SERVICE[0]) for _ in range(40)} == {"web-1", "web-3"}
    assert [row["state"] for row in scaled.status()["members"]] == ["healthy", "draining", "healthy"]
    scaled.apply(members=[{"endpoint": "web-1"}, {"endpoint": "web-2"}])
    stayed = [(connection, name) for connection, name in zip(connections, before, strict=True) if name != "web-3"]
    assert [said(connection) for connection, _ in stayed] == [name for _, name in stayed]
    assert {scaled.who("client", SERVICE[1]) for _ in range(40)} == {"web-1", "web-2"}
    scaled.apply(members=[], selector={"app": "web"})
    assert {scaled.who("client", SERVICE[1]) for _ in range(60)} == set(WEB)
    assert [said(connection) for connection, _ in stayed] == [name for _, name in stayed]
    for connection in connections:
        connection.close()


def test_colocated_and_nobody_left(scaled: Scaled) -> None:
    """A member on the client's droplet comes first; without members, a connection is refused at once as unreachable."""
    scaled.apply(selection="colocated")
    for address in SERVICE:
        assert {scaled.who("client", address) for _ in range(20)} == {"web-1"}
    scaled.apply(members=[{"endpoint": "web-2"}])
    assert scaled.who("client", SERVICE[0]) == "web-2"
    scaled.apply(members=[], selection="hash")
    assert scaled.status()["ready"] == "0/0"
    for address in SERVICE:
        with pytest.raises(OSError, match="No route to host"):
            scaled.who("client", address)


@pytest.mark.long
def test_tapped_interfaces_change_nothing(scaled: Scaled) -> None:
    """While packet sockets look on at every droplet, the kernel copies frames that are written to."""
    taps = []
    for droplet in ("d1", "d2", "d3"):
        with Namespace.by_name(scaled.name.droplet_namespace(droplet)) as namespace:
            taps.append(namespace.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))))
    try:
        for address in SERVICE:
            assert {scaled.who("client", address) for _ in range(40)} == set(WEB)
    finally:
        for tap in taps:
            tap.close()
