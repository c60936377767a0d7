# SPDX-License-Identifier: Apache-2.0
"""Routes into the substrate with real daemons and real traffic, to services in the droplets' own namespaces."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.names import LabName
from mizar.model.errors import InvalidError
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Ref
from tests.lab.conftest import wait_until
from tests.lab.test_routing import dropped, example

HERE = {4: "192.0.2.1", 6: "2001:db8:5::1"}
BEYOND = "192.0.2.2"
PORT = 7000
BULK_BYTES = 8_000_000
LIMIT_S = 20.0


@contextmanager
def opened(namespace: str, family: int, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """A socket of a namespace."""
    number = socket.AF_INET if family == 4 else socket.AF_INET6
    with Namespace.by_name(namespace) as inside, inside.run(partial(socket.socket, number, kind)) as found:
        found.settimeout(LIMIT_S)
        yield found


def command(namespace: str, *words: str) -> int:
    """Runs a command in a namespace."""
    with Namespace.by_name(namespace) as inside:
        return inside.run(partial(subprocess.run, words, capture_output=True, check=False)).returncode


def serve(lab: LabName) -> None:
    """Addresses of the substrate: on d1, and on d2, which d1 has a route to and which has one back."""
    for droplet, words in (
        ("d1", ("addr", "add", f"{HERE[4]}/32", "dev", "lo")),
        ("d1", ("addr", "add", f"{HERE[6]}/128", "dev", "lo")),
        ("d1", ("route", "add", BEYOND, "via", "172.31.0.3")),
        ("d2", ("addr", "add", f"{BEYOND}/32", "dev", "lo")),
        ("d2", ("route", "add", address(lab, "blue", "front-1", 4), "via", "172.31.0.2")),
    ):
        assert command(lab.droplet_namespace(droplet), "ip", *words) == 0, words
    assert command(lab.droplet_namespace("d1"), "sysctl", "-w", "net.ipv4.ip_forward=1") == 0


def address(lab: LabName, tenant: str, name: str, family: int) -> str:
    """Of an endpoint."""
    with Client(lab.server_url) as client:
        found: list[str] = client.get("Endpoint", name, tenant)["status"]["addresses"]
    return next(text for text in found if (":" in text) == (family == 6))


def datagram(lab: LabName, droplet: str, to: str, family: int) -> None:
    """A datagram to a droplet's stack and its answer."""
    with (
        opened(lab.droplet_namespace(droplet), family, socket.SOCK_DGRAM) as server,
        opened(lab.endpoint_namespace("blue", "front-1"), family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((to, PORT))
        client.sendto(b"question", (to, PORT))
        data, source = server.recvfrom(100)
        assert data == b"question"
        assert source[0] == address(lab, "blue", "front-1", family)
        server.sendto(b"answer", source)
        assert client.recvfrom(100)[0] == b"answer"


def received(found: socket.socket) -> bytes:
    """All until the other side has ended."""
    data = bytearray()
    while more := found.recv(1 << 16):
        data += more
    return bytes(data)


def stream(server_in: str, client_in: str, to: str, family: int) -> None:
    """Bulk in both directions at once."""
    there, back = os.urandom(BULK_BYTES), os.urandom(BULK_BYTES)
    with (
        opened(server_in, family, socket.SOCK_STREAM) as server,
        opened(client_in, family, socket.SOCK_STREAM) as client,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((to, PORT))
        server.listen()
        client.connect((to, PORT))
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(LIMIT_S)

            def send(found: socket.socket, data: bytes) -> None:
                found.sendall(data)
                found.shutdown(socket.SHUT_WR)

            results: list[bytes] = []
            threads = [
                threading.Thread(target=send, args=(client, there)),
                threading.Thread(target=send, args=(accepted, back)),
                threading.Thread(target=lambda: results.append(received(accepted))),
            ]
            for thread in threads:
                thread.start()
            assert received(client) == back
            for thread in threads:
                thread.join()
            assert results == [there]


def refused(lab: LabName, tenant: str, family: int, reason: str) -> None:
    """A datagram does not arrive, and a droplet says why: that of the sender, or the divider that it was sent to."""
    with Client(lab.server_url) as client:

        def drops() -> int:
            return sum(dropped(client, droplet).get(reason, 0) for droplet in ("d1", "d2"))

        before = drops()
        with (
            opened(lab.droplet_namespace("d1"), family, socket.SOCK_DGRAM) as server,
            opened(lab.endpoint_namespace(tenant, "front-1"), family, socket.SOCK_DGRAM) as sender,
        ):
            server.bind((HERE[family], PORT))

            def counted() -> bool:  # sent again: the first may be lost while a neighbour is resolved
                sender.sendto(b"question", (HERE[family], PORT))
                return drops() > before

            wait_until(counted, 30)
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.recvfrom(100)


def test_those_on_the_list_speak_with_the_substrate_and_nobody_else_does(lab: LabName) -> None:
    """UDP, TCP and ping of both families, flows of both sides; over the host's routes to another host; not for the
    other tenant with the same addresses; and not any more when the operator takes it back."""
    labs.up(example(lab, "substrate-route"))
    serve(lab)
    endpoint, stack = lab.endpoint_namespace("blue", "front-1"), lab.droplet_namespace("d1")
    for family in (4, 6):
        own = address(lab, "blue", "front-1", family)
        wait_until(lambda: command(endpoint, "ping", "-c1", "-W2", HERE[family]) == 0)  # noqa: B023 - called here
        datagram(lab, "d1", HERE[family], family)
        stream(stack, endpoint, HERE[family], family)
        stream(endpoint, stack, own, family) if family == 4 else None
        assert command(stack, "ping", "-c1", "-W2", "-I", HERE[family], own) == 0
    datagram(lab, "d2", BEYOND, 4)
    stream(lab.droplet_namespace("d2"), endpoint, BEYOND, 4)

    for family in (4, 6):
        refused(lab, "red", family, "NETWORK_UNKNOWN")
    with Client(lab.server_url) as client:
        before = dropped(client, "d1").get("SUBSTRATE_SOURCE", 0)
        own = address(lab, "blue", "front-1", 4)
        assert command(stack, "ping", "-c1", "-W1", "-I", "172.31.0.2", own) != 0
        assert dropped(client, "d1")["SUBSTRATE_SOURCE"] > before
        denied = [{"to": "192.0.2.0/24", "via": "substrate"}]
        network = client.get("Network", "front", "red")
        network["spec"]["routes"] = denied
        with pytest.raises(InvalidError, match=r"no SubstrateRoute allows 192\.0\.2\.0/24 to VPC red/main"):
            client.apply(parse_manifests(str(network), "test"))

        client.delete("SubstrateRoute", "services", None)
        client.wait([Ref("SubstrateRoute", "", "services")], LIMIT_S, until="gone")
        for family in (4, 6):
            refused(lab, "blue", family, "ROUTE_BLACKHOLE")
        status = client.get("Network", "front", "blue")["status"]
        assert status["routesRefused"] == ["192.0.2.0/24", "2001:db8:5::/64"]
        assert "no SubstrateRoute allows 192.0.2.0/24" in status["message"]
    with Namespace.by_name(stack) as inside:
        wait_until(lambda: "mzsub" not in str(inside.run(socket.if_nameindex)))


@pytest.mark.long
def test_traffic_goes_on_without_a_daemon_and_the_next_one_takes_over(lab: LabName) -> None:
    """Killed while a flow is under way: it does not stop. The next daemon finds the pair and the routes, mends what was
    undone meanwhile, and takes them away when they are not allowed any more."""
    labs.up(example(lab, "substrate-route"))
    serve(lab)
    endpoint, stack = lab.endpoint_namespace("blue", "front-1"), lab.droplet_namespace("d1")
    wait_until(lambda: command(endpoint, "ping", "-c1", "-W2", HERE[4]) == 0)
    (daemon,) = [process for process in processes.marked(lab.name) if process.name == "d1"]
    with (
        opened(stack, 4, socket.SOCK_DGRAM) as server,
        opened(endpoint, 4, socket.SOCK_DGRAM) as client,
    ):
        server.bind((HERE[4], PORT))
        client.connect((HERE[4], PORT))

        def exchange() -> None:
            client.send(b"question")
            _, source = server.recvfrom(100)
            server.sendto(b"answer", source)
            assert client.recv(100) == b"answer"

        exchange()
        os.kill(daemon.pid, signal.SIGKILL)
        wait_until(lambda: daemon.pid not in [process.pid for process in processes.marked(lab.name)])
        for family in (4, 6):
            datagram_once(lab, family)
        for _ in range(100):
            exchange()
        own = address(lab, "blue", "front-1", 4)
        assert command(stack, "ip", "route", "del", own) == 0, "somebody undoes what nobody watches"
        labs.up(example(lab, "substrate-route"))
        wait_until(lambda: command(stack, "ping", "-c1", "-W1", "-I", HERE[4], own) == 0)
        exchange()
    with Client(lab.server_url) as api:
        api.delete("SubstrateRoute", "services", None)
        api.wait([Ref("SubstrateRoute", "", "services")], LIMIT_S, until="gone")
    with Namespace.by_name(stack) as inside:
        wait_until(lambda: "mzsub" not in str(inside.run(socket.if_nameindex)))


def datagram_once(lab: LabName, family: int) -> None:
    """As datagram(), to another port of d1, with nobody to ask for addresses."""
    with (
        opened(lab.droplet_namespace("d1"), family, socket.SOCK_DGRAM) as server,
        opened(lab.endpoint_namespace("blue", "front-1"), family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((HERE[family], PORT + 1))
        client.sendto(b"question", (HERE[family], PORT + 1))
        server.sendto(b"answer", server.recvfrom(100)[1])
        assert client.recvfrom(100)[0] == b"answer"
