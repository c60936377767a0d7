# SPDX-License-Identifier: Apache-2.0
"""Labs with a service whose members say their names: which of them has taken a connection or a datagram."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.demo import members
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from tests.lab.conftest import leftovers, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
ANY = ("0.0.0.0", "::")
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


class Serving:
    """A lab with one service of the tenant blue, and with a server in each of its members."""

    example: ClassVar[str]
    """The file of its objects, and what the lab is called there."""
    kind: ClassVar[str]
    called: ClassVar[str]
    """The service, and its endpoint too."""
    servers: ClassVar[tuple[str, ...]]
    """Its members at home."""
    port: ClassVar[int]
    target: ClassVar[int]
    """The port of the service, and that of its members."""
    limit_s: ClassVar[float]
    connect_s: ClassVar[float]
    """How long a socket waits; a connection's, within which the kernel sends lost segments again."""

    def __init__(self, name: LabName, text: str = "") -> None:
        """`text` takes the place of the example's."""
        text = text or (EXAMPLES / f"{self.example}.yaml").read_text()
        self.name = name
        self.text = text.replace(f"{{name: {self.example}}}", f"{{name: {name.name}}}")
        self.ended = contextlib.ExitStack()
        self.namespaces: dict[str, str] = {}

    def up(self) -> None:
        """Makes what is not there."""
        labs.up(parse_manifests(self.text, "test"))

    def begin(self) -> None:
        """The lab is up, and the servers answer or are about to."""
        self.up()
        with Client(self.name.server_url) as client:
            self.namespaces = {str(one): one.namespace for one in members(client)}
        for server in self.servers:
            self.serve(server)

    def open(self, name: str, family: int, kind: int) -> socket.socket:
        """A socket in an endpoint's namespace."""
        with Namespace.by_name(self.namespaces[f"blue/{name}"]) as namespace:
            made = opened(namespace, family, kind)
        made.settimeout(self.limit_s)
        return made

    def serve(self, name: str) -> None:
        """TCP and UDP of both families at the port of members."""
        for address in ANY:
            for kind in KINDS:
                answer(self.ended.enter_context(self.open(name, family_of(address), kind)), address, self.target, name)

    def connect(self, source: str, address: str, port: int = 0) -> socket.socket:
        """A connection to the service."""
        made = self.open(source, family_of(address), socket.SOCK_STREAM)
        made.settimeout(self.connect_s)
        made.connect((address, port or self.port))
        return made

    def who(self, source: str, address: str, port: int = 0) -> str:
        """Who answers a new connection."""
        with self.connect(source, address, port) as connection:
            return said(connection)

    def apply(self, **spec: Any) -> None:
        """Another spec of the service; returns when all droplets have it."""
        with Client(self.name.server_url) as client:
            found = client.get(self.kind, self.called, "blue")
            manifest = {key: found[key] for key in ("apiVersion", "kind", "metadata")}
            manifest["spec"] = found["spec"] | spec
            client.apply([manifest])
            wait_until(lambda: client.get("Endpoint", self.called, "blue")["status"]["phase"] == "Provisioned")

    def status(self) -> dict[str, Any]:
        """Of the service."""
        with Client(self.name.server_url) as client:
            found: dict[str, Any] = client.get(self.kind, self.called, "blue")["status"]
            return found


_Serving = TypeVar("_Serving", bound=Serving)


@contextlib.contextmanager
def begun(found: _Serving) -> Iterator[_Serving]:
    """The lab, for one test; nothing of it is left behind."""
    try:
        found.begin()
        yield found
    finally:
        found.ended.close()
        labs.down(found.name)
    assert leftovers(found.name) == []


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def opened(namespace: Namespace, family: int, kind: int) -> socket.socket:
    """A socket, which has its port to itself in its own family alone."""
    made = namespace.run(lambda: socket.socket(family, kind))
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def answer(made: socket.socket, address: str, port: int, name: str) -> None:
    """Says the name to whoever asks there, until the socket is closed."""
    made.bind((address, port))
    made.settimeout(None)
    if made.type == socket.SOCK_STREAM:
        made.listen(64)
    work = _accept if made.type == socket.SOCK_STREAM else _reply
    threading.Thread(target=work, args=(made, name.encode()), daemon=True).start()


def _accept(listener: socket.socket, name: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_talk, args=(connection, name), daemon=True).start()


def _talk(connection: socket.socket, name: bytes) -> None:
    with connection, contextlib.suppress(OSError):
        while connection.recv(1):
            connection.sendall(name.ljust(8))


def _reply(datagrams: socket.socket, name: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, sender = datagrams.recvfrom(65535)
            datagrams.sendto(name.ljust(max(len(data), 8), b"\0"), sender)


def said(connection: socket.socket) -> str:
    connection.sendall(b"?")
    return connection.recv(8).decode().strip()
