# SPDX-License-Identifier: Apache-2.0
"""NAT gateways with real daemons, the gateway's program, and clients and servers inside and outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from scapy.all import IP, UDP

from mizar.api.client import Client
from mizar.kernel import nftables
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Ref, Resource
from mizar.transit.options import RUN_FOLDER
from mizar.transit.processes import running as process_in
from tests.gateway.rig import UdpEcho, heard_from
from tests.gateway.talk import REFUSED, bulk, ping, stream, told
from tests.lab.conftest import wait_until
from tests.lab.test_lab import kill
from tests.lab.world import WORLD4, WORLD6, world
from tests.peers.foreign import command

pytestmark = pytest.mark.root
EXAMPLE = (Path(__file__).parents[2] / "examples" / "nat-gateway.yaml").read_text()
TENANTS = ("blue", "green")
PUBLIC4, PUBLIC6 = "203.0.113.1", "2001:db8:1::1"
"""Of blue's gateway."""
PORT, FORWARDED, TARGET = 7000, 80, 8080
BLOCKED = ("172.31.0.3", "172.31.0.4", "172.31.0.99", "169.254.169.254", "fd00:ac1f::4")
"""The droplet that carries the gateway, another, one that is none (yet), and what hosts keep for themselves."""


@dataclass
class Rig:
    """The example's lab, its tenants' servers and the world."""

    lab: LabName
    world: Namespace
    ends: dict[str, Namespace] = field(default_factory=dict)

    def status(self, tenant: str = "blue") -> dict[str, Any]:
        """Of a tenant's gateway."""
        with Client(self.lab.server_url) as client:
            found: dict[str, Any] = client.get("NatGateway", "out", tenant)["status"]
        return found

    def runs(self, droplet: str = "", tenant: str = "blue") -> bool:
        """Whether a gateway is well, on this droplet."""
        status = self.status(tenant)
        return bool(status["state"] == "running" and droplet in ("", status["droplet"]))

    def change(self, change: Callable[[dict[str, Any]], None], name: str = "out", tenant: str = "blue") -> None:
        """Another manifest of blue's gateway."""
        documents = [one for one in yaml.safe_load_all(EXAMPLE) if one]
        (found,) = [one for one in documents if one["metadata"] == {"name": name, "tenant": tenant}
                    and one["kind"] == "NatGateway"]  # fmt: skip
        change(found["spec"])
        with Client(self.lab.server_url) as client:
            client.apply(parse_manifests(yaml.safe_dump(found), "test"))


def manifests(lab: LabName) -> list[Resource]:
    return parse_manifests(EXAMPLE.replace("name: nat-gateway", f"name: {lab.name}"), "test")


@contextmanager
def running(lab: LabName) -> Iterator[Rig]:
    """The example, until both gateways are well."""
    labs.up(manifests(lab))
    with ExitStack() as stack:
        rig = Rig(lab, stack.enter_context(world(lab, ("d1", "d2", "d3"))))
        for tenant in TENANTS:
            name = lab.endpoint_namespace(tenant, "web")
            rig.ends[tenant] = stack.enter_context(Namespace.by_name(name))
        wait_until(lambda: all(rig.runs(tenant=one) for one in TENANTS))
        yield rig


def no_answer(client: Namespace, address: str) -> bool:
    """Whether nobody answers a connection: not even with a reset, which would be the host's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with client.run(lambda: socket.socket(family, socket.SOCK_STREAM)) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect((address, 22))
        except ConnectionRefusedError:
            return False
        except OSError:  # "no route to host": it is prohibited, as the gateway says
            return True
    return False


def test_tenants_speak_with_the_world(lab: LabName) -> None:
    """Both families, UDP, TCP and ping, two tenants with equal addresses, each from its own public address; the world
    comes in at a forwarded port alone, and so do the endpoints, as the gateway; no droplet is reached, be it known or
    not. Without gateways nobody is heard (the last assertions), and nothing is left of them."""
    with running(lab) as rig:
        for number, far in enumerate((WORLD4, WORLD6)):
            public = {tenant: rig.status(tenant)["addresses"][number] for tenant in TENANTS}
            assert public["blue"] == (PUBLIC4, PUBLIC6)[number] != public["green"]
            with UdpEcho(rig.world, far):
                for tenant, end in rig.ends.items():
                    assert heard_from(end, far, source_port=4000)[0] == public[tenant]
            with (
                stream(rig.ends["blue"], rig.world, far, PORT) as one,
                stream(rig.ends["green"], rig.world, far, PORT + 1) as two,
            ):
                bulk(*one)
                bulk(*two)
                answers_are_told(lab, far, one[1].getpeername()[:2])
            ping(rig.ends["blue"], far)
            assert told(rig.ends["blue"], far) == (REFUSED, far)
            with forwarded(rig.world, rig.ends["blue"], public["blue"]) as both:
                bulk(*both)
            with forwarded(rig.ends["blue"], rig.ends["blue"], public["blue"], seen=(public["blue"],)) as both:
                bulk(*both)  # fails without a hairpin
        nobody_poses_as_inside(rig)
        for address in BLOCKED:
            assert no_answer(rig.ends["blue"], address)
        wait_until(lambda: rig.status()["connections"])
        wait_until(lambda: rig.status()["standbyState"] == "ready")
        with Client(lab.server_url) as client:
            found = client.trace({"source": {"tenant": "blue", "name": "web"}, "destination": WORLD4})
            assert found["ok"], found
            assert f"leaves d2 into the world as {PUBLIC4} id " in found["ending"]
            assert (found["hops"][-1]["program"], found["hops"][-1]["verdict"]) == ("NAT gateway", "translated")
            for address in BLOCKED:
                barred = client.trace({"source": {"tenant": "blue", "name": "web"}, "destination": address})
                assert "administratively prohibited" in barred["ending"], barred
            found = client.trace({"source": {"tenant": "blue", "name": "web"}, "destination": PUBLIC4})
            assert "no forward of it takes the packet" in found["ending"]
            own: dict[str, Any] = {"source": {"tenant": "blue", "name": "web"}, "destination": PUBLIC4}
            found = client.trace(own | {"protocol": "tcp", "destinationPort": 80})
            assert found["ending"].startswith("delivered to blue/web on"), found
            for far, address in ((WORLD4, PUBLIC4), (WORLD6, PUBLIC6)):
                asked = {"source": far, "destination": address, "protocol": "tcp", "destinationPort": 80}
                way = client.trace(asked)
                assert way["ok"], way
                assert "portForwards of blue/out: tcp 80 → blue/web" in way["hops"][0]["table"]
                assert way["ending"].startswith("delivered to blue/web on")
            ending = client.trace(asked | {"protocol": "udp"})["ending"]
            assert "NAT gateway blue/out has no forward of udp 80" in ending
        the_audit_knows_its_rules(lab)
        with Client(lab.server_url) as client:
            client.delete("NatGateway", "out", "blue")
            client.wait([Ref("NatGateway", "blue", "out")], 30, until="gone")
            pool = client.get("AddressPool", "edge")["status"]
            assert PUBLIC4 not in [one["address"] for one in pool["claims"]]
        host = lab.droplet_namespace("d2")
        wait_until(lambda: PUBLIC4 not in command("ip", "neigh", "show", "proxy", namespace=host))
        assert PUBLIC4 not in command("ip", "route", namespace=host)
        assert no_answer(rig.ends["blue"], WORLD4)
        assert not no_answer(rig.ends["green"], WORLD4)


def answers_are_told(lab: LabName, far: str, public: tuple[str, int]) -> None:
    """A trace of an answer to a connection that was begun inside comes to who began it; to any other port it does not.
    Without the instance's word the first is told as dropped."""
    asked: dict[str, Any] = {"source": far, "destination": public[0], "protocol": "tcp", "sourcePort": PORT}
    with Client(lab.server_url) as client:
        found = client.trace(asked | {"destinationPort": public[1]})
        assert found["ending"].startswith("delivered to blue/web on"), found
        assert "the connection is known" in found["hops"][0]["table"], found
        beside = client.trace(asked | {"destinationPort": public[1] ^ 1})
        assert not beside["ok"], beside


def the_audit_knows_its_rules(lab: LabName) -> None:
    """What somebody takes away around an instance is told by the name of its endpoint, and written again."""
    with Client(lab.server_url) as client:
        assert [one for one in client.audit("d2")["findings"] if one["table"] == "engine"] == []
        workload = client.get("Endpoint", "out-1", "blue")["spec"]["workload"]

        def found() -> list[dict[str, Any]]:
            with Namespace.by_name(workload["namespace"]) as namespace:
                nftables.apply("flush chain inet mizar_nat out4", namespace)
            return [one for one in client.audit("d2", repair=True)["findings"] if one["table"] == "engine"]

        told = found()
        while not told:  # the daemon has mended it just then, which it does every five seconds
            told = found()
        assert [(one["key"], one["repair"]) for one in told] == [("nftables chain out4", "written again")], told
        assert "out-1" in str(told)
        assert [one for one in client.audit("d2")["findings"] if one["table"] == "engine"] == []


def nobody_poses_as_inside(rig: Rig) -> None:
    """A datagram from the world with an address of the VPC does not arrive, where one from its own does."""
    payload = bytes(IP(src="10.0.1.77", dst=PUBLIC4) / UDP(sport=5000, dport=53) / b"posing")
    with (
        rig.ends["blue"].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server,
        rig.world.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as posing,
        rig.world.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as honest,
    ):
        server.bind(("", 5353))
        server.settimeout(0.5)
        for _ in range(60):
            posing.sendto(payload, (PUBLIC4, 0))
            honest.sendto(b"honest", (PUBLIC4, 53))
            with suppress(TimeoutError):
                assert server.recvfrom(100)[1][0] == WORLD4
                return
    raise AssertionError("nothing arrived at all")


@contextmanager
def forwarded(
    client: Namespace,
    server: Namespace,
    public: str,
    port: int = FORWARDED,
    target: int = TARGET,
    seen: tuple[str, ...] = (WORLD4, WORLD6),
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection to a forwarded port: both ends. `seen`: as whom the client is seen."""
    family = socket.AF_INET6 if ":" in public else socket.AF_INET
    with server.run(lambda: socket.create_server(("", target), family=family)) as listening:
        listening.settimeout(30)
        with client.run(lambda: socket.create_connection((public, port), 30)) as near:
            far, who = listening.accept()
            assert who[0] in seen
            with far:
                for end in (near, far):
                    end.settimeout(30)
                yield near, far


@pytest.mark.long
@pytest.mark.timeout(300)
def test_connections_go_on_whatever_else_happens(lab: LabName) -> None:
    """A stream out and one in: past forwards that come and go, the end of the gateway's process, that of the daemon and
    that of the server. The forward that is gone lets nobody in."""
    with (
        running(lab) as rig,
        stream(rig.ends["blue"], rig.world, WORLD4, PORT) as out,
        forwarded(rig.world, rig.ends["blue"], PUBLIC6) as into,
    ):

        def both() -> None:
            bulk(*out)
            bulk(*into)

        both()
        rig.change(lambda spec: spec["portForwards"].append({"port": 81, "endpoint": "web", "targetPort": TARGET + 1}))

        def is_open(port: int) -> bool:
            try:
                with forwarded(rig.world, rig.ends["blue"], PUBLIC4, port, TARGET + 1):
                    return True
            except OSError:
                return False

        wait_until(lambda: is_open(81))
        both()
        rig.change(lambda spec: spec["portForwards"].append({"port": 82, "endpoint": "web", "targetPort": TARGET + 1}))
        wait_until(lambda: is_open(82))
        assert no_answer(rig.world, PUBLIC4)
        both()
        process = one_process(lab, "d2")
        os.kill(process, signal.SIGKILL)
        both()
        wait_until(lambda: one_process(lab, "d2") not in (0, process))
        wait_until(rig.runs)
        both()
        for name in ("d2", "server"):
            kill(lab, name)
            both()
            labs.up(manifests(lab))
            wait_until(rig.runs)
            both()


def one_process(lab: LabName, droplet: str) -> int:
    """The number of the process of a gateway of blue on a droplet; 0 while there is none."""
    folders = (RUN_FOLDER / f"{lab.instance(droplet)}.engines").glob("*")
    for own in folders:
        if '"203.0.113.1"' in (own / "nat" / "nat.json").read_text():
            return process_in(own / "process")
    return 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_another_droplet_takes_over(lab: LabName) -> None:
    """When its droplet is dead, the pool's next one has the addresses, and whoever had known them hears of it; when the
    first one comes back, it attracts them no more, but stands by. Connections of both directions go on, which they do
    not without the standby: then the streams' ends hear nothing any more."""
    with (
        running(lab) as rig,
        stream(rig.ends["blue"], rig.world, WORLD4, PORT) as out,
        forwarded(rig.world, rig.ends["blue"], PUBLIC6) as into,
    ):
        ping(rig.ends["blue"], WORLD4)
        first = rig.status()["droplet"]
        (second,) = {"d2", "d3"} - {first}
        bulk(*out)
        bulk(*into)
        wait_until(lambda: rig.status()["standbyState"] == "ready")
        assert rig.status()["standby"] == second
        host = lab.droplet_namespace(first)
        command("ip", "link", "set", "eth0", "down", namespace=host)
        kill(lab, first)
        wait_until(lambda: rig.runs(second), 60)
        for both in (out, into):
            bulk(*both)
        for far in (WORLD4, WORLD6):
            ping(rig.ends["blue"], far)
        with forwarded(rig.world, rig.ends["blue"], PUBLIC4) as both:
            bulk(*both)
        old, new = (mac_of(lab, name) for name in (first, second))
        for address in (PUBLIC4, PUBLIC6):  # as if the first had answered while the two were apart
            neighbour(rig, "replace", address, "lladdr", old, "dev", "wire", "nud", "stale")
        command("ip", "link", "set", "eth0", "up", namespace=host)
        labs.up(manifests(lab))
        wait_until(lambda: PUBLIC4 not in command("ip", "neigh", "show", "proxy", namespace=host), 60)
        assert rig.status()["droplet"] == second
        wait_until(lambda: rig.runs(second))
        for address in (PUBLIC4, PUBLIC6):  # without asking; fails if the one that went on does not announce them again
            wait_until(partial(lambda one: new in neighbour(rig, "show", one), address), 60)
        for both in (out, into):
            bulk(*both)
        wait_until(lambda: (rig.status()["standby"], rig.status()["standbyState"]) == (first, "ready"))


def mac_of(lab: LabName, droplet: str) -> str:
    """Of a droplet's interface."""
    words = command("ip", "-o", "link", "show", "eth0", namespace=lab.droplet_namespace(droplet)).split()
    return words[words.index("link/ether") + 1]


def neighbour(rig: Rig, *words: str) -> str:
    """What `ip neigh` says in the world."""
    return rig.world.run(
        lambda: subprocess.run(["ip", "neigh", *words], capture_output=True, text=True, check=True)
    ).stdout


@pytest.mark.long
@pytest.mark.timeout(300)
def test_one_tenant_uses_up_its_own_connections_alone(lab: LabName) -> None:
    """What is beyond them is refused and told; the neighbour on the same droplet begins as many as it wants."""
    text = EXAMPLE.replace("pool: edge, standby: false}", "pool: edge, standby: false, connections: 16}")
    labs.up(parse_manifests(text.replace("name: nat-gateway", f"name: {lab.name}"), "test"))
    with world(lab, ("d1", "d2", "d3")) as outside, ExitStack() as stack:
        rig = Rig(lab, outside)
        for tenant in TENANTS:
            opened = Namespace.by_name(lab.endpoint_namespace(tenant, "web"))
            rig.ends[tenant] = stack.enter_context(opened)
        wait_until(lambda: all(rig.runs(tenant=one) for one in TENANTS))
        sending = stack.enter_context(rig.ends["green"].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))

        def refused() -> bool:
            for port in range(20000, 20100):
                sending.sendto(b"one", (WORLD4, port))
            return bool(rig.status("green")["refused"])

        wait_until(refused)
        assert rig.status("green")["connections"] <= 16
        with UdpEcho(outside, WORLD4):
            for port in range(4000, 4040):
                assert heard_from(rig.ends["blue"], WORLD4, source_port=port)[0] == PUBLIC4
