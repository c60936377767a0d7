# SPDX-License-Identifier: Apache-2.0
"""Network functions on real droplets: whom they stop and whom not, what is told of it, and changes under traffic."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mizar.api.client import Client
from mizar.cli.function_files import function_read
from mizar.cli.main import app
from mizar.functions.tunnelled import Inner, TunnelPacket, read
from mizar.functions.user_space import UserSpaceFunction
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from mizar.lab.substrate import INTERFACE
from mizar.model.function import Function
from mizar.model.manifest import parse_resource
from mizar.model.resources import Ref
from tests.lab.conftest import SMALL, manifests, wait_until
from tests.lab.test_monitor import watching
from tests.lab.transfer import Numbered

pytestmark = pytest.mark.root

EXAMPLES = Path(__file__).parents[2] / "examples" / "functions"
PORT, LIMIT_S, TRY_S = 4300, 30.0, 0.1
REF = Ref("Function", "", "blocklist")


def blocklist(folder: Path, blocked: str, *attach: dict[str, Any], **spec: Any) -> Function:
    """The example, for some, with one address on its list."""
    bits = 128 if ":" in blocked else 96 + 32
    listed = {"blocked": [{"key": {"bits": bits, "address": blocked}}]}
    stages = ["ENDPOINT_INGRESS", "ON_XDP_TX"]
    whole = {"source": "blocklist.c", "attach": list(attach), "maps": listed, "stages": stages, **spec}
    manifest = {"apiVersion": "mizar/v1", "kind": "Function", "metadata": {"name": "blocklist"}, "spec": whole}
    found = parse_resource(manifest)
    assert isinstance(found, Function)
    return function_read(found, folder)


def another(folder: Path) -> Path:
    """A folder with another version of the example."""
    text = (EXAMPLES / "blocklist" / "blocklist.c").read_text()
    assert "on the operator's block list." in text
    (folder / "blocklist.c").write_text(text.replace("on the operator's block list.", "blocked by a newer version."))
    return folder


class Bench:
    """The small lab with echoes at all endpoints called TENANT-web, and questions from the others, db."""

    def __init__(self, lab: LabName, client: Client) -> None:
        self.lab, self.client = lab, client
        self._stop = threading.Event()
        self._tos: dict[bytes, int] = {}
        self._sockets = {tenant: self._open(tenant, f"{tenant}-web") for tenant in ("blue", "red")}
        for echo in self._sockets.values():
            echo.bind(("", PORT))
        self._worker = threading.Thread(target=self._echo)
        self._worker.start()

    def namespace(self, tenant: str, name: str) -> str:
        return labs.endpoint_namespace(self.lab, f"{tenant}/{name}")

    def address(self, tenant: str, name: str) -> str:
        found = self.client.get("Endpoint", name, tenant)["status"]["addresses"]
        return next(str(one) for one in found if ip_address(one).version == 4)

    def _open(self, tenant: str, name: str) -> socket.socket:
        with Namespace.by_name(self.namespace(tenant, name)) as inside:
            return inside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def _echo(self) -> None:
        while not self._stop.is_set():
            for fd in readable([one.fileno() for one in self._sockets.values()], TRY_S):
                echo = next(one for one in self._sockets.values() if one.fileno() == fd)
                data, notes, _, sender = echo.recvmsg(2048, 64)
                for _, kind, note in notes:
                    if kind == socket.IP_TOS:
                        self._tos[data] = note[0]
                echo.sendto(data, sender)

    def answers(self, tenant: str) -> bool:
        """Whether db gets an answer from web, asking until it does."""
        with self._open(tenant, "db") as asker:
            for _ in range(round(LIMIT_S / TRY_S)):
                asker.sendto(b"?", (self.address(tenant, f"{tenant}-web"), PORT))
                if readable([asker.fileno()], TRY_S):
                    return True
        return False

    def is_stopped(self, tenant: str, droplet: str) -> bool:
        """Asks until the function has dropped some more there; whether none of that was answered."""
        before, answered = self.dropped(droplet), False
        with self._open(tenant, "db") as asker:
            for _ in range(round(LIMIT_S / TRY_S)):
                asker.sendto(b"?", (self.address(tenant, f"{tenant}-web"), PORT))
                answered |= bool(readable([asker.fileno()], TRY_S))
                if answered or self.dropped(droplet) > before + 2:
                    break
        return not answered and self.dropped(droplet) > before

    def marks(self, tenant: str) -> tuple[int, int]:
        """DSCP of a datagram from db as it leaves d2 in its tunnel, and as web gets it."""
        payload = f"{tenant} shows its mark".encode()
        with Namespace.by_name(self.lab.droplet_namespace("d2")) as inside:
            wire = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        echo = self._sockets[tenant]
        echo.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        self._tos.pop(payload, None)
        with wire, self._open(tenant, "db") as asker:
            wire.bind((INTERFACE, 0))
            for _ in range(round(LIMIT_S / TRY_S)):
                asker.sendto(payload, (self.address(tenant, f"{tenant}-web"), PORT))
                frames = []
                while readable([wire.fileno()], TRY_S):
                    frames.append(wire.recv(65536))
                found = [found for frame in frames if payload in frame and (found := read(frame)) is not None]
                inner = [one.inner_frame for one in found if one.inner and one.inner.ports[1] == PORT]
                if inner and payload in self._tos:
                    return inner[0][15] >> 2, self._tos[payload] >> 2
        raise AssertionError("it never came")

    def dropped(self, droplet: str) -> int:
        return sum(row["packets"] for one in self.client.functions(droplet)["functions"] for row in one["drops"])

    def seen(self, droplet: str) -> int:
        return sum(row["packets"] for one in self.client.functions(droplet)["functions"] for row in one["stages"])

    def apply(self, function: Function) -> list[str]:
        """Where it is then."""
        self.client.apply([function])
        self.client.wait([REF], LIMIT_S)
        found: list[str] = self.client.get("Function", "blocklist")["status"]["droplets"]
        return found

    def close(self) -> None:
        self._stop.set()
        self._worker.join(LIMIT_S)
        for echo in self._sockets.values():
            echo.close()


def restart(lab: LabName, name: str) -> None:
    """Kills the daemon of a droplet, or the server; `mizar lab up` starts it again."""
    for process in processes.marked(lab.name):
        if process.name == name:
            os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(one.name == name for one in processes.marked(lab.name)))
    labs.up(manifests(lab))


def maps_of(lab: LabName, *words: str) -> dict[str, Any]:
    """What `mizar function maps` says of d1."""
    command = ["function", "maps", *words, "--droplet", "d1", "--server", lab.server_url, "-o", "json"]
    found: dict[str, Any] = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    return found


@contextmanager
def bench(lab: LabName) -> Iterator[Bench]:
    labs.up(manifests(lab))
    with Client(lab.server_url) as client:
        made = Bench(lab, client)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.long
def test_a_block_list_for_a_droplets_own_stack(lab: LabName) -> None:
    """What another host sends to the droplet itself is stopped; what it sends in tunnels, from the same address, is
    not. Without the function, the second `hears` is true."""
    with bench(lab) as here:
        own, other = (here.client.get("Droplet", name)["spec"]["address"] for name in ("d1", "d2"))
        ends = []
        for name in ("d1", "d2"):
            with Namespace.by_name(lab.droplet_namespace(name)) as host:
                ends.append(host.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        ear, mouth = ends
        with ear, mouth:
            ear.bind(("", PORT))

            def hears() -> bool:
                mouth.sendto(b"?", (own, PORT))
                return bool(readable([ear.fileno()], TRY_S)) and bool(ear.recv(8))

            wait_until(hears)
            stages = ["ON_XDP_PASS"]
            assert here.apply(blocklist(EXAMPLES / "blocklist", other, {"droplet": "d1"}, stages=stages)) == ["d1"]
            while readable([ear.fileno()], TRY_S):
                ear.recv(8)
            assert not any(hears() for _ in range(5))
            assert here.answers("blue")
            (drops,) = here.client.functions("d1")["functions"][0]["drops"]
            assert drops["packets"] >= 5
            here.client.delete("Function", "blocklist")
            wait_until(hears)


def test_a_block_list_stops_what_it_should_and_is_replaced_under_traffic(lab: LabName, tmp_path: Path) -> None:
    """One endpoint's packets from one address, and not another tenant's with the same addresses; told with the
    function's name and reason; new entries and versions lose no packet; unloaded it leaves nothing."""
    with bench(lab) as here:
        own = {"endpoint": {"tenant": "blue", "name": "blue-web"}}
        assert here.answers("blue")
        assert here.apply(blocklist(EXAMPLES / "blocklist", here.address("blue", "db"), own)) == ["d1"]
        with watching(lab, "--vpc", "blue/main") as watcher:
            assert here.is_stopped("blue", "d1")
            watcher.until(lambda seen: any(one.get("reason") == "FUNCTION_REFUSED" for one in seen))
        event = next(one for one in watcher.seen if one.get("reason") == "FUNCTION_REFUSED")
        assert (event["function"], event["functionReason"]) == ("blocklist", "SOURCE_BLOCKED")
        assert event["sentence"] == "The source is on the operator's block list."
        assert (event["droplet"], event["source"]["endpoint"]) == ("d1", "blue/db")
        assert here.answers("red")
        (drops,) = here.client.functions("d1")["functions"][0]["drops"]
        assert drops["name"] == "SOURCE_BLOCKED"
        assert [one["name"] for one in maps_of(lab, "blocklist")["maps"]] == ["blocked"]
        (row,) = maps_of(lab, "blocklist", "blocked")["rows"]
        assert row["key"] == {"bits": 128, "address": here.address("blue", "db")}
        assert row["value"] >= drops["packets"]

        assert here.apply(blocklist(EXAMPLES / "blocklist", "192.0.2.1", own)) == ["d1"]
        assert here.answers("blue")
        before = here.seen("d1")  # before the stream begins: its first datagram counts
        stream = Numbered(
            here.namespace("blue", "db"), here.namespace("blue", "blue-web"), here.address("blue", "blue-web")
        )
        for folder in (another(tmp_path), EXAMPLES / "blocklist", tmp_path):
            assert stream.goes_on()
            assert here.apply(blocklist(folder, "192.0.2.1", own)) == ["d1"]
        assert stream.goes_on()
        assert stream.end() == 0
        assert here.seen("d1") >= before + stream.sent
        here.client.delete("Function", "blocklist")
        here.client.wait([REF], LIMIT_S, until="gone")
        assert [here.client.functions(name)["functions"] for name in ("d1", "d2")] == [[], []]
        assert here.answers("blue")


@pytest.mark.long
def test_all_scopes_restarts_and_a_trace(lab: LabName) -> None:
    """Each kind of scope stops the packet where it is for it; daemons and server come back, and it is still stopped; a
    trace names the function that has dropped its packet, and those that see it."""
    with bench(lab) as here:
        blocked, folder = here.address("blue", "db"), EXAMPLES / "blocklist"
        here.client.apply(
            [
                parse_resource(
                    {
                        "apiVersion": "mizar/v1",
                        "kind": "Network",
                        "metadata": {"name": "stores", "tenant": "blue"},
                        "spec": {"vpc": "main", "type": "group", "members": ["blue-web"]},
                    }
                )
            ]
        )
        for attach, stopped in (
            ({"droplet": "d1"}, True),
            ({"droplet": "all"}, True),
            ({"vpc": {"tenant": "blue", "name": "main"}}, True),
            ({"network": {"tenant": "blue", "name": "front"}}, True),
            ({"group": {"tenant": "blue", "name": "stores"}}, True),
            ({"endpoint": {"tenant": "blue", "name": "blue-web"}}, True),
            ({"vpc": {"tenant": "red", "name": "main"}}, False),
            ({"endpoint": {"tenant": "red", "name": "red-web"}}, False),
        ):
            droplets = here.apply(blocklist(folder, blocked, attach))
            assert "d1" in droplets
            if stopped:
                assert here.is_stopped("blue", "d1"), attach
            else:
                assert here.answers("blue"), attach
        own = {"endpoint": {"tenant": "blue", "name": "blue-web"}}
        assert here.apply(blocklist(folder, blocked, own)) == ["d1"]
        for name in ("d1", "server"):
            restart(lab, name)
            wait_until(lambda: here.client.get("Droplet", "d1")["status"]["connected"])
            here.client.wait([REF], LIMIT_S)
            assert here.is_stopped("blue", "d1")
            assert here.answers("red")
        found = here.client.trace(
            {
                "source": {"tenant": "blue", "name": "db"},
                "destination": {"tenant": "blue", "name": "blue-web"},
                "live": True,
            }
        )
        assert any("blocklist at ENDPOINT_INGRESS" in hop["functions"] for hop in found["hops"])
        assert "function blocklist: SOURCE_BLOCKED" in found["divergence"]


@pytest.mark.long
def test_metadata_is_on_the_wire_and_not_at_the_endpoint(lab: LabName) -> None:
    """What one endpoint sends bears the mark between droplets, what another sends does not; no one gets it."""
    with bench(lab) as here:
        sender = {"endpoint": {"tenant": "blue", "name": "db"}}
        here.client.apply(
            [
                example("metadata-inject", [sender], parameters={"dscp": 46}),
                example("metadata-strip", [{"droplet": "all"}]),
            ]
        )
        here.client.wait([Ref("Function", "", name) for name in ("metadata-inject", "metadata-strip")], LIMIT_S)
        assert {tenant: here.marks(tenant) for tenant in ("blue", "red")} == {"blue": (46, 0), "red": (0, 0)}


def example(name: str, attach: list[dict[str, Any]], **spec: Any) -> Function:
    """A function of examples/."""
    whole = {"source": f"{name}.c", "attach": attach, **spec}
    found = parse_resource({"apiVersion": "mizar/v1", "kind": "Function", "metadata": {"name": name}, "spec": whole})
    assert isinstance(found, Function)
    return function_read(found, EXAMPLES / name)


SCALED = """
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: near, tenant: blue}
spec: {network: front, droplet: d1}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: echo, tenant: blue}
spec:
  network: front
  type: scaled
  addresses: [10.0.1.100, "fd00:10:0:1::100"]
  members: [{endpoint: blue-web}, {endpoint: db}]
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: whole1, tenant: blue}
spec: {network: front, droplet: d1, bypassDecapsulation: true}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: whole2, tenant: blue}
spec: {network: front, droplet: d2, bypassDecapsulation: true}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: whole, tenant: blue}
spec:
  network: front
  type: scaled
  addresses: [10.0.1.101, "fd00:10:0:1::101"]
  members: [{endpoint: whole1}, {endpoint: whole2}]
"""


class Echo(UserSpaceFunction):
    """Sends datagrams back: plain ones, or those in tunnel packets, of which it keeps who they were addressed to."""

    def __init__(self, name: str, namespace: Namespace, plain: bool) -> None:
        super().__init__(plain=plain, namespace=namespace)
        self.name, self.ready = name, threading.Event()
        self.addressed: set[str] = set()

    def packet(self, packet: TunnelPacket) -> None:
        if packet.inner is not None and packet.inner.protocol == 17:
            self.addressed.add(str(packet.inner.destination))
            self.send(packet.inner.back())

    def started(self) -> None:
        self.ready.set()

    def inner(self, packet: Inner) -> None:
        if packet.protocol == 17:
            self.send(packet.back())


@pytest.mark.long
@pytest.mark.parametrize(
    ("members", "addresses"),
    [
        (("blue-web", "db"), ("10.0.1.100", "fd00:10:0:1::100")),
        (("whole1", "whole2"), ("10.0.1.101", "fd00:10:0:1::101")),
    ],
    ids=["plain", "whole"],
)
def test_functions_in_user_space_are_members_of_a_scaled_endpoint(
    lab: LabName, members: tuple[str, str], addresses: tuple[str, str]
) -> None:
    """Two processes over AF_XDP on two droplets, behind ordinary endpoints or behind those that get tunnel packets
    whole: a client's flows are shared among both, and every answer comes from the address that was asked. Those that
    get them whole see that address; without the right to answer from it, no answer would come."""
    labs.up(manifests(lab, SMALL + SCALED))
    functions, threads = [], []
    for name in members:
        namespace = Namespace.by_name(labs.endpoint_namespace(lab, f"blue/{name}"))
        functions.append(Echo(name, namespace, plain="whole" not in name))
        threads.append(threading.Thread(target=functions[-1].run, kwargs={"signals": False}))
        threads[-1].start()
        assert functions[-1].ready.wait(LIMIT_S)
    try:
        with Namespace.by_name(labs.endpoint_namespace(lab, "blue/near")) as inside:
            for family, address in zip((socket.AF_INET, socket.AF_INET6), addresses, strict=True):
                before = [one.counters.received for one in functions]
                asked = 0
                while asked < 200 and not all(
                    one.counters.received > had for one, had in zip(functions, before, strict=True)
                ):
                    with inside.run(lambda family=family: socket.socket(family, socket.SOCK_DGRAM)) as asker:  # type: ignore[misc]
                        asker.connect((address, PORT))  # a new flow: its answers come from there alone
                        assert answered(asker), address
                    asked += 1
                assert all(one.counters.received > had for one, had in zip(functions, before, strict=True))
    finally:
        for one, thread in zip(functions, threads, strict=True):
            one.stop()
            thread.join(LIMIT_S)
    assert [one.counters.failed for one in functions] == [0, 0]
    assert all(one.addressed == (set() if "whole" not in one.name else set(addresses)) for one in functions)


def answered(asker: socket.socket) -> bool:
    """Asks until there is an answer."""
    for _ in range(round(LIMIT_S / TRY_S)):
        asker.send(b"who is it?")
        if readable([asker.fileno()], TRY_S):
            return asker.recv(2048) == b"who is it?"
    return False
