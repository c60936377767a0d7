# SPDX-License-Identifier: Apache-2.0
"""A load balancer in mode nat in a lab: the client is the host of droplet d4, one member is behind a vxlan device of
the kernel, and one droplet of the pool translates both ways. The objects: examples/load-balancer-nat.yaml."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel import nftables
from mizar.kernel.namespaces import Namespace
from mizar.lab.names import LabName
from tests.lab.conftest import wait_until
from tests.lab.serving import ANY, KINDS, answer, begun, family_of, opened, said
from tests.lab.test_load_balancer import LIMIT_S, SERVERS, TARGET
from tests.lab.test_public_load_balancer import GUEST, PUBLIC, Public
from tests.peers.foreign import Foreign, kernel_vxlan

pytestmark = pytest.mark.root
PEER, PEER_ADDRESSES = "172.31.0.100", ("10.0.1.200/24", "fd00:10:0:1::c8/64")
EVERYBODY = {*SERVERS, "legacy"}
OVER = {"d2": ("172.31.0.3", "fd31::3"), "d3": ("172.31.0.4", "fd31::4")}
CLIENT = "d4"
INSIDE = "10.0.1.77"


class Translated(Public):
    """The lab, with a server behind the foreign tunnel end too."""

    example = "load-balancer-nat"
    client = CLIENT
    over = OVER
    foreign: Foreign

    def begin(self) -> None:
        """The client's way leads over the droplet that translates, and all members answer."""
        super().begin()
        with Client(self.name.server_url) as client:
            network = client.get("Network", "front", "blue")
            bouncer = client.get("Droplet", network["status"]["bouncers"][0])["spec"]["address"]
        self.foreign = self.ended.enter_context(kernel_vxlan(self.name, bouncer, PEER, PEER_ADDRESSES))
        for address, kind in itertools.product(ANY, KINDS):
            made = self.ended.enter_context(opened(self.foreign.endpoint, family_of(address), kind))
            answer(made, address, TARGET, "legacy")
        self.follow()

    def follow(self, but: str = "") -> str:
        """The client's packets come to the droplet that translates, once that is another than `but`."""
        wait_until(lambda: self.status()["state"] == "running" and self.status()["droplet"] != but)
        droplet: str = self.status()["droplet"]
        self.go_over(droplet)
        return droplet

    def seen(self, address: str) -> set[str]:
        """Who answers some new connections."""
        try:
            return {self.who("outside", address) for _ in range(24)}
        except OSError:
            return set()

    def refuses(self, address: str, port: int) -> bool:
        """Whether a datagram to there is answered with port unreachable."""
        with self.open("outside", family_of(address), socket.SOCK_DGRAM) as made:
            made.connect((address, port))
            made.send(b"?")
            try:
                made.recv(8)
            except ConnectionRefusedError:
                return True
            except TimeoutError:
                return False
        return False

    def hold(self) -> list[socket.socket]:
        """Connections of both families, until the lab ends."""
        return [self.ended.enter_context(self.connect("outside", PUBLIC[number % 2])) for number in range(48)]


@pytest.fixture
def translated(lab: LabName) -> Iterator[Translated]:
    """The example's lab, up."""
    with begun(Translated(lab)) as found:
        yield found


def test_members_that_cannot_answer_straight(translated: Translated) -> None:
    """TCP and UDP of both families from outside, of members at home and behind a foreign tunnel end; all answers cross
    the droplet that took the requests. Without translation the foreign member is never heard (first assertion)."""
    for address in PUBLIC:
        assert {translated.who("outside", address) for _ in range(40)} == EVERYBODY
        assert {translated.who_by_udp("outside", address) for _ in range(40)} == EVERYBODY
        assert {translated.who("client", address) for _ in range(20)} == set(SERVERS)  # inside, by the scaled endpoint
    the_trace_tells_the_member(translated)
    the_audit_knows_its_rules(translated)


def the_trace_tells_the_member(translated: Translated) -> None:
    """Of a connection that is to come, which member it will have, from a port that says so, and of one that is there;
    what a listener does not take ends where it comes in."""
    members = {"10.0.1.200": "legacy", "fd00:10:0:1::c8": "legacy"}
    with Client(translated.name.server_url) as client:
        for name in SERVERS:
            members |= dict.fromkeys(client.get("Endpoint", name, "blue")["status"]["addresses"], name)
        for number in range(8):
            address, source = PUBLIC[number % 2], GUEST[number % 2]
            asked = {"source": source, "destination": address, "protocol": "tcp", "destinationPort": 80}
            with translated.open("outside", family_of(address), socket.SOCK_STREAM) as made:
                made.bind((source, 0))
                made.settimeout(30)
                asked |= {"sourcePort": made.getsockname()[1]}
                foretold = client.trace(asked)
                made.connect((address, 80))
                who = said(made)
                known = client.trace(asked)
            for found, how in ((foretold, "a new connection"), (known, "the connection is known")):
                assert how in found["hops"][0]["table"], found
                to = found["hops"][0]["rewrite"][1].split(" → ")[1].rpartition(":")[0].strip("[]")
                assert members[to] == who, found
        lost = client.trace(asked | {"destinationPort": 81})
        assert (lost["ok"], len(lost["hops"])) == (False, 1)


def the_audit_knows_its_rules(translated: Translated) -> None:
    """What somebody takes away in its namespace is told by the name of its endpoint, and written again."""
    droplet = translated.status()["droplet"]
    with Client(translated.name.server_url) as client:
        workload = client.get("Endpoint", "shop-1", "blue")["spec"]["workload"]
        with Namespace.by_name(workload["namespace"]) as namespace:
            nftables.apply("flush chain inet mizar_balance choose", namespace)
        found = client.audit(droplet, repair=True)["findings"]
        rules = [one for one in found if one["table"] == "engine"]
        assert [(one["key"], one["repair"]) for one in rules] == [("nftables chain choose", "written again")], found
        assert "shop-1" in str(rules)
        assert [one for one in client.audit(droplet)["findings"] if one["table"] == "engine"] == []
    assert translated.who("outside", PUBLIC[0]) in EVERYBODY


@pytest.mark.long
@pytest.mark.timeout(300)
def test_connections_go_on_and_end_as_listeners_and_members_say(translated: Translated) -> None:
    """Past the ends of daemons and server; a member that drains keeps them; a listener or member that is gone does not.
    Errors of ICMP come back from the public address, from members of both kinds."""
    held = translated.hold()
    before = [said(one) for one in held]
    assert set(before) == EVERYBODY
    droplet = translated.status()["droplet"]
    translated.restart(droplet, "server")
    assert [said(one) for one in held] == before
    wait_until(lambda: translated.status()["state"] == "running" and translated.status()["connections"] >= len(held))

    drained: list[dict[str, Any]] = [
        {"endpoint": "web-1"},
        {"endpoint": "web-2", "drain": True},
        {"endpoint": "legacy", "weight": 3},
    ]
    listeners: list[dict[str, Any]] = [
        {"port": 80, "targetPort": TARGET},
        {"protocol": "udp", "port": 54, "targetPort": 9999},
    ]
    translated.apply(selector={}, members=drained, listeners=listeners)
    wait_until(lambda: all(translated.seen(address) == {"web-1", "legacy"} for address in PUBLIC))
    assert [said(one) for one in held] == before
    for address in PUBLIC:
        wait_until(partial(translated.refuses, address, 54))

    translated.apply(members=[drained[0], drained[2]])
    wait_until(lambda: all(is_over(one) for one, who in zip(held, before, strict=True) if who == "web-2"))
    kept = [(one, who) for one, who in zip(held, before, strict=True) if who != "web-2"]
    assert [said(one) for one, _ in kept] == [who for _, who in kept]
    translated.apply(listeners=[listeners[0] | {"port": 81}])
    wait_until(lambda: all(is_over(one) for one, _ in kept))
    assert {translated.who("outside", PUBLIC[0], 81) for _ in range(60)} == {"web-1", "legacy"}


def is_over(connection: socket.socket) -> bool:
    """Whether nobody answers on it any more."""
    connection.settimeout(LIMIT_S)
    try:
        return not said(connection)
    except OSError:
        return True


@pytest.mark.long
@pytest.mark.timeout(300)
def test_one_address_one_member_and_another_droplet(translated: Translated) -> None:
    """`affinity: client` sees the client's own address; when the droplet dies, another of the pool takes the addresses
    over for new connections; who bears an address of the VPC is not let in; a deleted one is nobody's."""
    translated.apply(affinity="client")
    wait_until(lambda: all(len(translated.seen(address)) == 1 for address in PUBLIC))
    translated.apply(affinity="flow")
    wait_until(lambda: all(translated.seen(address) == EVERYBODY for address in PUBLIC))

    translated.run(CLIENT, "ip", "addr", "add", f"{INSIDE}/32", "dev", "lo")
    with translated.open("outside", socket.AF_INET, socket.SOCK_DGRAM) as posing:
        posing.bind((INSIDE, 0))
        posing.connect((PUBLIC[0], 53))
        posing.send(bytes(10))
        with pytest.raises(TimeoutError):
            posing.recv(8)

    with Client(translated.name.server_url) as client:
        legacy = {"source": {"tenant": "blue", "name": "shop-1"}, "destination": "10.0.1.200"}
        assert client.trace(legacy)["hops"]
        came = client.trace({"source": "198.51.100.7", "destination": PUBLIC[0], "protocol": "tcp"})
        assert came["ok"], came
        assert came["ending"].startswith("delivered to blue/web-") or "foreign" in came["ending"], came
    first = translated.status()["droplet"]
    other = (set(OVER) - {first}).pop()
    with Client(translated.name.server_url) as client:
        pool = client.get("AddressPool", "edge")
        client.apply([{key: pool[key] for key in ("apiVersion", "kind", "metadata")}
                      | {"spec": pool["spec"] | {"droplets": [other]}}])  # fmt: skip
    assert translated.follow(but=first) == other
    wait_until(lambda: all(translated.seen(address) == EVERYBODY for address in PUBLIC))
    with Client(translated.name.server_url) as client:
        client.delete("LoadBalancer", "shop", "blue")
        wait_until(lambda: not client.get("AddressPool", "edge")["status"]["claims"])
    wait_until(lambda: not translated.seen(PUBLIC[0]))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_quota_is_one_load_balancers_alone(translated: Translated) -> None:
    """Beyond its quota one takes nothing new and says so; what it has goes on, and another's is untouched. Whoever in
    the VPC sends to the instance itself uses nothing of it up."""
    with Client(translated.name.server_url) as client:
        shop = client.get("LoadBalancer", "shop", "blue")
        small = {key: shop[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "small", "tenant": "blue"}}
        public = {"pool": "edge", "addresses": ["203.0.113.11"], "mode": "nat", "connections": 16}
        spec = {key: value for key, value in shop["spec"].items() if key != "addresses"}
        client.apply([small | {"spec": spec | {"public": public}}])

        def status() -> dict[str, Any]:
            found: dict[str, Any] = client.get("LoadBalancer", "small", "blue")["status"]
            return found

        wait_until(lambda: status()["state"] == "running")
        translated.run(CLIENT, "ip", "route", "replace", "203.0.113.11", "via", OVER[status()["droplet"]][0])
        (own, _) = client.get("Endpoint", "small-1", "blue")["status"]["addresses"]
        for _ in range(64):
            with translated.open("client", socket.AF_INET, socket.SOCK_DGRAM) as made:
                made.sendto(b"?", (own, 53))
        held = [translated.ended.enter_context(translated.connect("outside", "203.0.113.11"))]
        wait_until(lambda: status()["connections"])
        assert status()["connections"] < 16

        def full() -> bool:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                made = stack.enter_context(translated.open("outside", socket.AF_INET, socket.SOCK_STREAM))
                made.connect(("203.0.113.11", 80))
                stack.pop_all()
                held.append(translated.ended.enter_context(made))
            return bool(status()["refused"])

        wait_until(full)
        assert 16 <= len(held) <= 64
        assert said(held[0])
        assert translated.who("outside", PUBLIC[0]) in EVERYBODY
        assert not translated.status()["refused"]
