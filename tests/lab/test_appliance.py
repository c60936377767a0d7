# SPDX-License-Identifier: Apache-2.0
"""A firewall between two networks, with real daemons and real traffic: a namespace that forwards as any Linux does."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from mizar.model.resources import Ref
from tests.lab.conftest import wait_until
from tests.lab.test_ip import IP_RECVERR, IPV6_RECVERR
from tests.lab.test_move import CLIENT, SERVER, inside, move
from tests.lab.test_routing import dropped, example
from tests.lab.test_substrate_route import address, command, opened, stream

PORT = 7010
EXCEEDED, UNREACHABLE = {4: 11, 6: 3}, {4: 3, 6: 1}
GATEWAY = {4: "10.0.1.1", 6: "fd00:10:0:1::1"}
"""Of the network web."""


@pytest.fixture
def up(lab: LabName) -> LabName:
    """The example, whose firewall forwards."""
    labs.up(example(lab, "appliance"))
    return lab


def green(lab: LabName, name: str) -> str:
    return lab.endpoint_namespace("green", name)


def repeat(work: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Again until it succeeds: a datagram may be lost while a way changes."""
    end = time.monotonic() + limit_s
    while not work():
        assert time.monotonic() < end, "it did not succeed in time"


def arrives(lab: LabName, client: str, server: str, family: int) -> bool:
    """Whether a datagram arrives, from its sender's own address, and its answer."""
    to = address(lab, "green", server, family)
    with (
        opened(green(lab, server), family, socket.SOCK_DGRAM) as listening,
        opened(green(lab, client), family, socket.SOCK_DGRAM) as asking,
    ):
        listening.bind((to, PORT))
        asking.sendto(b"question", (to, PORT))
        if not readable([listening.fileno()], 0.5):
            return False
        data, source = listening.recvfrom(100)
        assert (data, source[0]) == (b"question", address(lab, "green", client, family))
        listening.sendto(b"answer", source)
        return bool(readable([asking.fileno()], 0.5)) and asking.recv(100) == b"answer"


def hop(lab: LabName, to: str, family: int, ttl: int) -> tuple[str, int]:
    """Who answers a datagram of web-1 with this TTL, and by which ICMP type."""
    level, receive, limit = (
        (socket.IPPROTO_IP, IP_RECVERR, socket.IP_TTL)
        if family == 4
        else (socket.IPPROTO_IPV6, IPV6_RECVERR, socket.IPV6_UNICAST_HOPS)
    )
    with opened(green(lab, "web-1"), family, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(level, receive, 1)
        probe.setsockopt(level, limit, ttl)
        probe.connect((to, 33434 + ttl))

        def answered() -> bool:
            with contextlib.suppress(ConnectionError, OSError):  # what came before, told by send()
                probe.send(b"where are you?")
            return bool(readable([probe.fileno()], 1.0))

        repeat(answered)
        _, told, _, _ = probe.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    data = next(data for at, kind, data in told if (at, kind) == (level, receive))
    known, begin, end = (socket.AF_INET, 20, 24) if family == 4 else (socket.AF_INET6, 24, 40)
    return socket.inet_ntop(known, data[begin:end]), data[5]


def test_a_firewall_stands_between_two_networks(up: LabName) -> None:
    """TCP both ways, from a droplet of its own and from the firewall's, Geneve to VXLAN; traceroute shows it; what it
    drops does not arrive by any other way; and without it nothing does."""
    with Client(up.server_url) as client:
        wait_until(lambda: client.get("Network", "web", "green")["status"].get("routesRefused", []) == [])
    for family in (4, 6):
        to, firewall = address(up, "green", "db-1", family), address(up, "green", "fw", family)
        for source in ("web-1", "web-2"):
            repeat(lambda source=source, family=family: arrives(up, source, "db-1", family))  # type: ignore[misc]
            stream(green(up, "db-1"), green(up, source), to, family)
        assert hop(up, to, family, 1) == (GATEWAY[family], EXCEEDED[family])
        assert hop(up, to, family, 2) == (firewall, EXCEEDED[family])
        assert hop(up, to, family, 6) == (to, UNREACHABLE[family])
        assert command(green(up, "fw"), "ip", "route", "add", "blackhole", to) == 0
        assert not any(arrives(up, source, "db-1", family) for source in ("web-1", "web-2"))
        assert command(green(up, "fw"), "ip", "route", "del", "blackhole", to) == 0
        repeat(lambda family=family: arrives(up, "web-1", "db-1", family))  # type: ignore[misc]
    with Client(up.server_url) as client:
        client.delete("Endpoint", "fw", "green")
        client.wait([Ref("Endpoint", "green", "fw")], 30, until="gone")
        status = client.get("Network", "db", "green")["status"]
        assert status["routesRefused"] == ["10.0.1.0/24", "fd00:10:0:1::/64"]
        assert "there is no endpoint fw" in status["message"]
        before = dropped(client, "d1").get("ROUTE_BLACKHOLE", 0)
        assert not arrives(up, "web-1", "db-1", 4)
        assert dropped(client, "d1")["ROUTE_BLACKHOLE"] > before


@pytest.mark.long
def test_a_firewall_moves_and_connections_go_on(up: LabName) -> None:
    """To the droplet of one side, to that of the other, and back."""
    repeat(lambda: arrives(up, "web-1", "db-1", 4))
    to = address(up, "green", "db-1", 4)
    with inside(up, "green", "db-1", SERVER), inside(up, "green", "web-1", CLIENT, to) as client:
        for target in ("d1", "d3", "d2"):
            done = move(up, "green/fw", target)
            assert done.returncode == 0, done.stderr
            repeat(lambda: arrives(up, "web-2", "db-1", 4))
        rest, _ = client.communicate("", timeout=90)
    assert client.returncode == 0
    assert int(rest) > 1
    wait_until(lambda: labs.status(up)["problems"] == [])
