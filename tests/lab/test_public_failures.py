# SPDX-License-Identifier: Apache-2.0
"""Public addresses of a load balancer when something is wrong on the way: members that die, a path with a small MTU.
The lab is that of test_public_load_balancer.py."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from mizar.kernel.namespaces import Namespace, anonymous
from mizar.lab.names import LabName
from tests.lab.conftest import wait_until
from tests.lab.serving import ANY, begun, family_of, said
from tests.lab.test_load_balancer import SERVERS
from tests.lab.test_public_load_balancer import OVER, PUBLIC, Public

pytestmark = [pytest.mark.root, pytest.mark.long]
BULK, BULK_PORT = bytes(range(256)) * 2048, 9090
CLIENT, NEAR = ("198.51.100.7", "2001:db8:2::7"), ("198.51.100.1", "2001:db8:2::1")
ROUTER = ("172.31.0.6", "fd31::6")  # d5, behind which the client is
SMALL = 1300


class Mortal(Public):
    """Servers that can be killed, and clients behind a router."""

    def __init__(self, name: LabName) -> None:
        self.opened: dict[str, list[socket.socket]] = {}
        self.far: Namespace | None = None
        super().__init__(name)

    def open(self, name: str, family: int, kind: int) -> socket.socket:
        """`far`: behind the router. Those of servers are kept in mind."""
        if name == "far":
            assert self.far is not None
            made = self.far.run(lambda: socket.socket(family, kind))
        else:
            made = super().open(name, family, kind)
        if name in SERVERS and kind == socket.SOCK_STREAM:
            self.opened.setdefault(name, []).append(made)
        return made

    def kill(self, name: str) -> None:
        """Nobody serves there by TCP any more, as its health check finds."""
        for made in self.opened.pop(name):
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
            made.close()
        wait_until(lambda: {one["endpoint"]: one["state"] for one in self.status()["members"]}[name] == "down")

    def serve_bulk(self) -> None:
        """At a port of its own, each member sends a lot to whoever connects."""
        self.apply(listeners=[{"port": 80, "targetPort": 8080}, {"port": 81, "targetPort": BULK_PORT}])
        for server in SERVERS:
            for address in ANY:
                made = self.ended.enter_context(self.open(server, family_of(address), socket.SOCK_STREAM))
                made.bind((address, BULK_PORT))
                made.listen(16)
                made.settimeout(None)
                threading.Thread(target=_send_bulk, args=(made,), daemon=True).start()

    def go_behind_a_router(self) -> None:
        """d5 is a router, whose link to the client takes less than the substrate; the client does not know."""
        self.far = self.ended.enter_context(anonymous())
        self.run(
            "d5", "ip", "link", "add", "small", "mtu", str(SMALL), "type", "veth",
            "peer", "name", "wire", "netns", f"/proc/{os.getpid()}/fd/{self.far.fd}",
        )  # fmt: skip
        self.run("d5", "ip", "link", "set", "small", "up")
        self._far("ip", "link", "set", "wire", "up")
        for client, near, router, bits in zip(CLIENT, NEAR, ROUTER, (24, 64), strict=True):
            nodad = ["nodad"] if ":" in client else []
            self.run("d5", "ip", "addr", "add", f"{near}/{bits}", "dev", "small", *nodad)
            self._far("ip", "addr", "add", f"{client}/{bits}", "dev", "wire", *nodad)
            self._far("ip", "-6" if nodad else "-4", "route", "add", "default", "via", near)
            for droplet in ("d1", "d2"):
                self.run(droplet, "ip", "route", "add", f"{client}/{128 if nodad else 32}", "via", router)
        for switch in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            self.run("d5", "sysctl", "-qw", switch)

    def _far(self, *words: str) -> None:
        assert self.far is not None
        self.far.run(partial(subprocess.check_call, words))


def _send_bulk(listener: socket.socket) -> None:
    """Begins with the client's first octet."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1)
            connection.sendall(BULK)

    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


@pytest.fixture
def mortal(lab: LabName) -> Iterator[Mortal]:
    """The lab, up, with the client's way over d3."""
    with begun(Mortal(lab)) as found:
        found.go_over("d3")
        yield found


def test_a_member_dies_and_then_all_do(mortal: Mortal) -> None:
    """While clients come from outside: new flows go to who is left, what goes on there goes on; where nobody is left
    the client hears that the host is unreachable. Without health checks the first wait fails, without the messages
    the last assertion: clients run into their own limit."""
    wait_until(lambda: {mortal.who("outside", one) for one in PUBLIC for _ in range(20)} == set(SERVERS))
    held = [mortal.connect("outside", PUBLIC[number % 2]) for number in range(16)]
    living = [one for one in held if said(one) == "web-2"]
    assert living
    mortal.kill("web-1")
    for droplet in OVER:
        mortal.go_over(droplet)
        for address in PUBLIC:
            wait_until(lambda where=address: {mortal.who("outside", where) for _ in range(8)} == {"web-2"})  # type: ignore[misc]
            assert {mortal.who_by_udp("outside", address) for _ in range(20)} == {"web-2"}
    mortal.go_over("d3")
    assert {said(one) for one in living} == {"web-2"}
    for one in held:
        one.close()
    mortal.kill("web-2")

    def refused(address: str) -> int:
        try:
            mortal.connect("outside", address).close()
        except OSError as error:
            return error.errno or 0
        return 0

    for address in PUBLIC:
        wait_until(lambda where=address: refused(where) == errno.EHOSTUNREACH)  # type: ignore[misc]


@pytest.mark.parametrize("another", [False, True], ids=["over the same droplet", "over another droplet"])
def test_a_router_that_cannot_take_an_answer_tells_the_member(mortal: Mortal, another: bool) -> None:
    """The message about the answer's length is for the public address: it comes to the member that has the flow, be it
    by way of the droplet that took the flow or of another, and the transfer goes on. Where it is not handed on, the
    reader's limit ends the test."""
    mortal.serve_bulk()
    mortal.go_behind_a_router()
    for address in PUBLIC:
        for _ in range(4):
            mortal.go_over("d3")
            with mortal.open("far", family_of(address), socket.SOCK_STREAM) as made:
                made.settimeout(30)
                made.connect((address, 81))
                if another:
                    mortal.go_over("d4")
                made.send(b"?")
                with made.makefile("rb") as stream:
                    assert stream.read() == BULK
