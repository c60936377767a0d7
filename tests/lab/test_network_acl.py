# SPDX-License-Identifier: Apache-2.0
"""A network's ACL in a lab with real daemons and real traffic: over dividers, on the direct path and on one droplet."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_resource
from mizar.model.resources import Ref
from tests.lab.conftest import manifests, wait_until
from tests.lab.test_monitor import watching

pytestmark = pytest.mark.root

# The server on d1, as near, which is of another network; far is on a droplet that has no part in the server's network.
MANIFESTS = """
apiVersion: mizar/v1
kind: Lab
metadata: {name: NAME}
spec: {droplets: 3}
---
{apiVersion: mizar/v1, kind: Tenant, metadata: {name: blue}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {name: main, tenant: blue}
spec: {cidrs: [10.0.0.0/16, "fd00:10::/48"], dividers: 1}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: front, tenant: blue}
spec: {vpc: main, cidrs: [10.0.1.0/24, "fd00:10:0:1::/64"], bouncers: 1}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: data, tenant: blue}
spec: {vpc: main, cidrs: [10.0.2.0/24, "fd00:10:0:2::/64"], bouncers: 1}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: db, tenant: blue}
spec: {network: data, droplet: d1}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: inside, tenant: blue}
spec: {network: data, droplet: d2}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: near, tenant: blue}
spec: {network: front, droplet: d1}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: far, tenant: blue}
spec: {network: front, droplet: d3}
"""
EVERYTHING: list[dict[str, Any]] = [{}]
CLIENTS = {"ports": [{"protocol": "tcp", "port": 32768, "endPort": 65535}]}


class Bench:
    """A lab with a server that answers UDP on ports 53 and 99, and TCP on 80."""

    def __init__(self, lab: LabName, client: Client) -> None:
        self.lab, self.client = lab, client
        self.addresses: list[str] = client.get("Endpoint", "db", "blue")["status"]["addresses"]
        self.listening: list[socket.socket] = []
        for address in self.addresses:
            for port in (53, 99):
                self._serve(address, port, socket.SOCK_DGRAM, _answer)
            self._serve(address, 80, socket.SOCK_STREAM, _accept)

    def _serve(self, address: str, port: int, kind: int, what: Callable[[socket.socket], None]) -> None:
        made = self._inside("db", address, kind)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen(16)
        self.listening.append(made)
        threading.Thread(target=what, args=(made,), daemon=True).start()

    def _inside(self, name: str, address: str, kind: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with Namespace.by_name(self.lab.endpoint_namespace("blue", name)) as namespace:
            return namespace.run(lambda: socket.socket(family, kind))

    def asks(self, name: str, port: int, tries: int = 1) -> list[bool]:
        """Whether the server answers a datagram, by each of its addresses."""
        return [any(self._asked(name, address, port) for _ in range(tries)) for address in self.addresses]

    def _asked(self, name: str, address: str, port: int) -> bool:
        with contextlib.suppress(OSError), self._inside(name, address, socket.SOCK_DGRAM) as made:
            made.settimeout(0.3)
            made.sendto(b"hello", (address, port))
            return made.recv(64) == b"hello"
        return False

    def connects(self, name: str) -> list[bool]:
        """Whether a TCP connection to port 80 says something and gets it back."""
        found = []
        for address in self.addresses:
            with self._inside(name, address, socket.SOCK_STREAM) as made:
                made.settimeout(0.4)
                try:
                    made.connect((address, 80))
                    made.sendall(b"hello")
                    found.append(made.recv(64) == b"hello")
                except OSError:
                    found.append(False)
        return found

    def wait(self, name: str, port: int, *, answered: bool) -> None:
        wait_until(lambda: self.asks(name, port) == [answered, answered])

    def apply(self, **spec: Any) -> list[str]:
        manifest = {"apiVersion": "mizar/v1", "kind": "NetworkAcl", "metadata": {"name": "data", "tenant": "blue"}}
        spec = {"vpc": "main", "networks": ["data"], **spec}
        (result,) = self.client.apply([parse_resource({**manifest, "spec": spec})])
        self.client.wait([Ref("NetworkAcl", "blue", "data")], 30.0)
        found: list[str] = result.get("warnings", [])
        return found

    def trace(self, source: str, port: int) -> dict[str, Any]:
        ends = {"source": {"tenant": "blue", "name": source}, "destination": {"tenant": "blue", "name": "db"}}
        found: dict[str, Any] = self.client.trace({**ends, "protocol": "udp", "destinationPort": port, "live": True})
        return found


def _answer(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, who = sock.recvfrom(4096)
            sock.sendto(data, who)


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(64))


@contextlib.contextmanager
def bench(lab: LabName) -> Iterator[Bench]:
    labs.up(manifests(lab, MANIFESTS))
    with Client(lab.server_url) as client:
        made = Bench(lab, client)
        try:
            yield made
        finally:
            for one in made.listening:
                one.close()


def test_an_acl_is_asked_whatever_the_way_is(lab: LabName) -> None:
    """Over hops and on the direct path, which is known before, and between neighbours; within the network it is not.
    Answers need a rule of their own; each refusal is named by trace and monitor; without it all is as before."""
    dns = {"ports": [{"protocol": "udp", "port": 53}]}
    with bench(lab) as here:
        for client in ("near", "far", "inside"):
            for port in (53, 99):
                here.wait(client, port, answered=True)
            wait_until(lambda client=client: here.connects(client) == [True, True])  # type: ignore[misc]
        rules = [{**dns, "action": "deny", "cidrs": ["192.0.2.0/24"]}, dns, {**dns, "action": "deny"}, CLIENTS]
        (warning,) = here.apply(ingress=rules, egress=EVERYTHING)
        assert warning.startswith("network ACL data ingress rule 3 never decides: network ACL data ingress rule 2")
        with watching(lab, "--reason", "NETWORK_ACL_DEFAULT") as watcher:
            for client in ("near", "far"):
                assert here.asks(client, 53, tries=20) == [True, True]
                assert (here.asks(client, 99), here.connects(client)) == ([False, False], [False, False])
                last = "into its network: denied by the last rule of network ACL data (ingress)"
                assert last in (found := here.trace(client, 99))["ending"], found
                assert here.trace(client, 53)["ok"]
            assert here.asks("inside", 99, tries=20) == [True, True]
            seen = watcher.until(lambda events: [one for one in events if one["type"] == "drop"])
            drop = next(one for one in seen if one["type"] == "drop")
            assert (drop["acl"], drop["rule"].split(" (")[0]) == ("blue/data", "the last rule of network ACL data")
        here.apply(ingress=EVERYTHING, egress=[CLIENTS])
        for client in ("near", "far"):
            wait_until(lambda client=client: here.connects(client) == [True, True])  # type: ignore[misc]
            assert here.asks(client, 53) == [False, False], "the answer is refused"
        here.client.delete("NetworkAcl", "data", "blue")
        here.client.wait([Ref("NetworkAcl", "blue", "data")], 30.0, until="gone")
        for client in ("near", "far"):
            here.wait(client, 99, answered=True)
