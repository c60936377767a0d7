# SPDX-License-Identifier: Apache-2.0
"""Load balancers in a lab with real daemons, clients and servers. The objects are those of
examples/load-balancer.yaml: what comes to port 80, or to port 53 by UDP, is for port 8080 of two members on two
droplets, one of them over VXLAN."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.lab import processes
from mizar.lab.names import LabName
from tests.lab.conftest import wait_until
from tests.lab.serving import Serving, begun, family_of, said

pytestmark = pytest.mark.root
ADDRESSES = ("10.0.1.100", "fd00:10:0:1::100")
SERVERS, TARGET, LIMIT_S = ("web-1", "web-2"), 8080, 1.0
FRAGMENTED = 4000
"""Octets of a datagram that goes in fragments, and whose answer does."""


class Balanced(Serving):
    """Its service is a load balancer."""

    example, kind, called = "load-balancer", "LoadBalancer", "shop"
    servers, port, target = SERVERS, 80, TARGET
    limit_s, connect_s = LIMIT_S, 30.0

    def begin(self) -> None:
        """All members answer inside of the VPC."""
        super().begin()
        wait_until(lambda: all(self.reached("client", address) == set(SERVERS) for address in ADDRESSES))

    def restart(self, *names: str) -> None:
        """Kills daemons, or the server, and starts them again."""
        for process in processes.marked(self.name.name):
            if process.name in names:
                os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not any(one.name in names for one in processes.marked(self.name.name)))
        self.up()

    def reached(self, source: str, address: str) -> set[str]:
        """Who answers some new connections; nobody, while the droplet knows of no healthy member."""
        try:
            return {self.who(source, address) for _ in range(8)}
        except OSError:
            return set()

    def who_by_udp(self, source: str, address: str, size: int = 10) -> str:
        """Who answers a datagram from a new port; sent again as long as nobody does, or the way is found narrower."""
        for _ in range(30):
            with self.open(source, family_of(address), socket.SOCK_DGRAM) as made, contextlib.suppress(OSError):
                made.connect((address, 53))  # an answer from any other address or port is not taken
                made.send(bytes(size))
                return made.recv(65535).rstrip(b"\0").decode()
        raise AssertionError(f"nobody answers at {address}")

    def is_silent(self, kind: int, address: str, port: int) -> bool:
        """Whether nothing comes back from there."""
        with self.open("client", family_of(address), kind) as made:
            try:
                made.connect((address, port))
                made.send(b"?")
                made.recv(8)
            except TimeoutError:
                return True
        return False

    def put(self, manifest: dict[str, Any]) -> None:
        """An object more."""
        with Client(self.name.server_url) as client:
            client.apply([manifest])
            one = (manifest["kind"], manifest["metadata"]["name"], "blue")
            wait_until(lambda: client.get(*one)["status"]["phase"] == "Provisioned")


@pytest.fixture
def balanced(lab: LabName) -> Iterator[Balanced]:
    """The example's lab, up."""
    with begun(Balanced(lab)) as found:
        yield found


def test_ports_are_shared_and_nothing_else_comes_in(balanced: Balanced) -> None:
    """TCP and UDP of both families reach the members' port 8080, on the client's own droplet and on the other, and from
    a member, also in fragments; what no listener takes goes nowhere. Without listeners the first assertion fails:
    nobody is at port 80."""
    for address in ADDRESSES:
        assert {balanced.who("client", address) for _ in range(30)} == set(SERVERS)
        assert {balanced.who_by_udp("client", address) for _ in range(30)} == set(SERVERS)
        assert {balanced.who("web-1", address) for _ in range(30)} == set(SERVERS)  # itself among them
        assert {balanced.who_by_udp(one, address, FRAGMENTED) for one in ("client", *SERVERS)} <= set(SERVERS)
    assert balanced.is_silent(socket.SOCK_STREAM, ADDRESSES[0], TARGET)  # the members' port is not the load balancer's
    assert balanced.is_silent(socket.SOCK_DGRAM, ADDRESSES[1], 80)
    status = balanced.status()
    assert (status["addresses"], status["ready"]) == (list(ADDRESSES), "2/2")
    assert [(row["endpoint"], row["droplet"]) for row in status["members"]] == [("web-1", "d1"), ("web-2", "d2")]


@pytest.mark.long
def test_affinity_weights_and_draining(balanced: Balanced) -> None:
    """By the client's address alone each client has one member, for TCP and UDP; connections outlive a change of
    that."""
    held = [balanced.connect("client", ADDRESSES[number % 2]) for number in range(16)]
    before = [said(one) for one in held]
    assert set(before) == set(SERVERS)
    balanced.apply(affinity="client")
    for address in ADDRESSES:
        chosen = balanced.who("client", address)
        assert {balanced.who("client", address) for _ in range(30)} == {chosen}
        assert balanced.who_by_udp("client", address) == chosen
    balanced.apply(affinity="flow", members=[{"endpoint": "web-1", "weight": 4}, {"endpoint": "web-2"}], selector={})
    found = Counter(balanced.who("client", ADDRESSES[0]) for _ in range(120))
    assert found["web-1"] > found["web-2"] > 0  # 96 and 24, with chance far away
    balanced.apply(members=[{"endpoint": "web-1", "drain": True}, {"endpoint": "web-2"}])
    assert {balanced.who("client", ADDRESSES[1]) for _ in range(30)} == {"web-2"}
    assert [said(one) for one in held] == before
    for one in held:
        one.close()


@pytest.mark.long
def test_policies_see_the_members_port(balanced: Balanced) -> None:
    """A policy that allows the members' port 8080 lets in what comes by port 80 of the load balancer, and answers
    out."""
    rules = [{"ports": [{"protocol": "tcp", "port": TARGET}]}]
    spec = {"vpc": "main", "subjects": {"names": list(SERVERS)}, "ingress": rules, "egress": []}
    balanced.put(
        {"apiVersion": "mizar/v1", "kind": "Policy", "metadata": {"name": "in", "tenant": "blue"}, "spec": spec}
    )
    for address in ADDRESSES:
        assert {balanced.who("client", address) for _ in range(30)} == set(SERVERS)
    assert balanced.is_silent(socket.SOCK_DGRAM, ADDRESSES[0], 53)


@pytest.mark.long
def test_listeners_come_and_go_and_outlive_a_daemon(balanced: Balanced) -> None:
    """Another port is taken as soon as it is applied, and refused when it is gone. Restarts change nothing; deletion
    ends all: the address is nobody's."""
    listener = {"port": 443, "targetPort": TARGET}
    balanced.apply(listeners=[listener])
    assert balanced.who("client", ADDRESSES[0], 443) in SERVERS
    assert balanced.is_silent(socket.SOCK_STREAM, ADDRESSES[0], 80)
    balanced.restart("d1", "d2", "server")  # which applies the example anew
    wait_until(lambda: balanced.reached("client", ADDRESSES[1]) == set(SERVERS))
    with Client(balanced.name.server_url) as client:
        client.delete("LoadBalancer", "shop", "blue")
        wait_until(lambda: "shop" not in {one["metadata"]["name"] for one in client.list("Endpoint", "blue")})
    assert balanced.is_silent(socket.SOCK_STREAM, ADDRESSES[0], 80)
