# SPDX-License-Identifier: Apache-2.0
"""Public addresses of a load balancer in a lab: the client is the host of droplet d5, which has no part in any VPC. The
objects are those of examples/load-balancer-public.yaml: d3 and d4 attract the addresses, members are on d1 and d2."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab.names import LabName
from mizar.model.errors import NotFoundError
from tests.lab.conftest import wait_until
from tests.lab.serving import begun, family_of, opened, said
from tests.lab.test_load_balancer import FRAGMENTED, LIMIT_S, SERVERS, Balanced
from tests.lab.test_monitor import scraped, series

pytestmark = pytest.mark.root
PUBLIC = ("203.0.113.10", "2001:db8:1::a")
GUEST = ("172.31.0.200", "fd31::c8")
"""The client's, on the substrate's link: it is no droplet's."""
OVER = {"d3": ("172.31.0.4", "fd31::4"), "d4": ("172.31.0.5", "fd31::5")}
INSIDE = "10.0.1.77"


class Public(Balanced):
    """The client's way to the addresses is a route, so that a test says which droplet takes them."""

    example = "load-balancer-public"
    client = "d5"
    over = OVER

    def begin(self) -> None:
        """The client has its addresses."""
        super().begin()
        for own, bits in zip(GUEST, (24, 64), strict=True):
            nodad = ["nodad"] if bits == 64 else []
            self.run(self.client, "ip", "addr", "add", f"{own}/{bits}", "dev", "eth0", *nodad)

    def run(self, droplet: str, *words: str) -> None:
        """A command on the host of a droplet."""
        with Namespace.by_name(self.name.droplet_namespace(droplet)) as namespace:
            namespace.run(partial(subprocess.check_call, words))

    def go_over(self, droplet: str) -> None:
        """From now on, the client's packets come to this droplet."""
        for address, via, own in zip(PUBLIC, self.over[droplet], GUEST, strict=True):
            self.run(self.client, "ip", "route", "replace", address, "via", via, "src", own)

    def open(self, name: str, family: int, kind: int) -> socket.socket:
        """As of an endpoint; `outside` is the client's host."""
        if name != "outside":
            return super().open(name, family, kind)
        with Namespace.by_name(self.name.droplet_namespace(self.client)) as namespace:
            made = opened(namespace, family, kind)
        made.settimeout(LIMIT_S)
        return made

    def crossing(self, droplet: str) -> socket.socket:
        """All that comes to and leaves a droplet, from now on."""
        with Namespace.by_name(self.name.droplet_namespace(droplet)) as namespace:
            found = namespace.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        found.setblocking(False)
        return self.ended.enter_context(found)


@pytest.fixture
def public(lab: LabName) -> Iterator[Public]:
    """The example's lab, up, with the client's way over d3."""
    with begun(Public(lab)) as found:
        found.go_over("d3")
        yield found


def test_clients_outside_reach_members_and_are_answered_straight(public: Public) -> None:
    """TCP and UDP of both families, also from inside of the VPC; no answer crosses the droplet that took the request.
    Without public addresses the first assertion fails: nobody takes what comes for them."""
    seen = public.crossing("d3")
    for address in PUBLIC:
        assert {public.who("outside", address) for _ in range(30)} == set(SERVERS)
        assert {public.who_by_udp("outside", address) for _ in range(30)} == set(SERVERS)
        assert {public.who("client", address) for _ in range(30)} == set(SERVERS)
        assert public.who_by_udp("outside", address, FRAGMENTED) in SERVERS
    sources = {socket.inet_aton(PUBLIC[0]), socket.inet_pton(socket.AF_INET6, PUBLIC[1])}
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frames.append(seen.recv(2048))
    assert [frame for frame in frames if frame[36:38] == (6081).to_bytes(2, "big")]  # requests, which go on from there
    assert not [frame for frame in frames if frame[26:30] in sources or frame[22:38] in sources]
    what_came_is_counted(public)
    the_way_in_is_explained(public)


def what_came_is_counted(public: Public) -> None:
    """By the droplet that took it: all requests, and those to a port that none listens at."""
    with public.open("outside", socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((PUBLIC[0], 9))
        wait_until(lambda: made.send(b"?") and _counted(public, "d3", 0, "refused_packets", reason="NO_LISTENER"))
    for number in range(len(PUBLIC)):
        assert _counted(public, "d3", number, "packets") > 60
        assert _counted(public, "d3", number, "bytes") > 60 * 42
        assert _counted(public, "d4", number, "packets") == 0


def _counted(public: Public, droplet: str, number: int, what: str, **labels: str) -> float:
    with Client(public.name.server_url) as client:
        vpc = str(client.get("VPC", "main", "blue")["status"]["number"])
    named = series(f"mizar_public_{what}_total", address=PUBLIC[number], vpc=vpc, **labels)
    return scraped(public.name, droplet)[named]


def the_way_in_is_explained(public: Public) -> None:
    """`mizar trace` from outside: by each droplet of the pool, of both families, and of what is refused."""
    with Client(public.name.server_url) as client:
        ways = zip(GUEST, PUBLIC, strict=True)
        for droplet, (outside, address) in itertools.product(("d3", "d4"), ways):
            question = {"source": outside, "destination": address, "protocol": "tcp", "droplet": droplet}
            found = client.trace(question)
            assert found["ok"], found
            assert found["hops"][0]["droplet"] == droplet
            assert f"{address} is blue/shop's, attracted by d3, d4" in found["hops"][0]["table"]
            assert "listeners: tcp 80 → members' port 8080" in found["hops"][0]["table"]
            last = found["hops"][-1]
            member = {"d1": "blue/web-1", "d2": "blue/web-2"}[last["droplet"]]
            assert f"services: {member} on {last['droplet']} takes it" in found["hops"][0]["table"]
            assert found["ending"] == f"delivered to {member} on {last['droplet']}"
            assert f"the answer leaves {last['droplet']} straight" in last["table"]
            sent = client.trace(question | {"live": True})
            assert (sent["ok"], sent["live"], sent["divergence"]) == (True, True, ""), sent
            assert all(hop["seen"] for hop in sent["hops"]), sent
        for protocol, source, reason in (
            ("icmp", GUEST[0], "NO_LISTENER"),
            ("udp", INSIDE, "PUBLIC_SOURCE"),
            ("udp", OVER["d3"][0], "PUBLIC_SOURCE"),
        ):
            found = client.trace(
                {"source": source, "destination": PUBLIC[0], "protocol": protocol, "destinationPort": 53}
            )
            assert not found["ok"]
            assert reason in found["ending"], found

        def lost() -> bool:  # told by a counter, which another packet may have moved meanwhile
            asked = {"source": GUEST[0], "destination": PUBLIC[0], "protocol": "icmp", "live": True}
            found = client.trace(asked)
            assert not found["ok"]
            return bool(found["divergence"] == "" and found["hops"][0]["seen"].startswith("dropped"))

        wait_until(lost)
        with pytest.raises(NotFoundError):
            client.trace({"source": GUEST[0], "destination": "203.0.113.9"})
    told = ["trace", "--from", GUEST[0], "--to", f"{PUBLIC[0]}:80", "--protocol", "tcp", "--droplet", "d4"]
    shown = subprocess.run(
        [sys.executable, "-m", "mizar.cli.main", *told, "--server", public.name.server_url, "-o", "json"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(shown.stdout)["ok"]


@pytest.mark.long
def test_a_connection_outlives_the_droplet_that_took_it(public: Public) -> None:
    """Its packets come to another droplet that attracts the address: that one chooses the same member."""
    held = [public.connect("outside", PUBLIC[number % 2]) for number in range(16)]
    before = [said(one) for one in held]
    assert set(before) == set(SERVERS)
    public.run("d3", "ip", "link", "set", "eth0", "down")
    public.go_over("d4")
    assert [said(one) for one in held] == before
    for one in held:
        one.close()


@pytest.mark.long
def test_nobody_outside_is_somebody_inside(public: Public) -> None:
    """What bears an address of the VPC is refused where it comes in."""
    public.run("d5", "ip", "addr", "add", f"{INSIDE}/32", "dev", "lo")
    with public.open("outside", family_of(INSIDE), socket.SOCK_DGRAM) as made:
        made.bind((INSIDE, 0))
        made.connect((PUBLIC[0], 53))

        def refused() -> bool:
            made.send(b"?")
            with Client(public.name.server_url) as client:
                return "PUBLIC_SOURCE" in str(client.counters("d3"))

        wait_until(refused)


@pytest.mark.long
def test_the_link_is_answered_and_deletion_ends_all(public: Public) -> None:
    """Who is on the same link asks by ARP and neighbour discovery; a deleted load balancer's addresses are nobody's."""
    for address, own in zip(PUBLIC, GUEST, strict=True):
        public.run("d5", "ip", "route", "replace", address, "dev", "eth0", "src", own)
        assert public.reached("outside", address) == set(SERVERS)
    with Client(public.name.server_url) as client:
        client.delete("LoadBalancer", "shop", "blue")
        wait_until(lambda: not client.get("AddressPool", "edge")["status"]["claims"])
    public.go_over("d4")
    with public.open("outside", socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((PUBLIC[0], 53))
        made.send(b"?")
        with pytest.raises(OSError, match=r"timed out|refused|unreachable|No route"):
            made.recv(8)
