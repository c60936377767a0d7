# SPDX-License-Identifier: Apache-2.0
"""Protections on real droplets: clients that connect through a flood, of which nothing reaches the server."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from mizar.model.manifest import parse_resource
from mizar.model.resources import Ref
from tests.lab.conftest import SMALL, manifests, wait_until
from tests.lab.live_maps import open_policy_flows
from tests.lab.test_monitor import watching
from tests.lab.test_network_functions import restart

pytestmark = pytest.mark.root

PORT, LIMIT_S, TRY_S = 8443, 30.0, 0.1
REF = Ref("DdosProtection", "blue", "shield")
SYN, ACK = 0x02, 0x10
_ALL = 3


class Bench:
    """The small lab, with a server of TCP (it says back what it hears) in blue-web on d1."""

    def __init__(self, lab: LabName, client: Client) -> None:
        self.lab, self.client = lab, client
        self._stop = threading.Event()
        with Namespace.by_name(self.namespace("blue-web")) as inside:
            self._server = inside.run(lambda: socket.create_server(("::", PORT), family=socket.AF_INET6,
                                                                   dualstack_ipv6=True, backlog=64))  # fmt: skip
            self._wire = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)))
        self._wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)
        self._wire.setblocking(False)
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def namespace(self, name: str) -> str:
        return labs.endpoint_namespace(self.lab, f"blue/{name}")

    def address(self, name: str, version: int = 4) -> str:
        found = self.client.get("Endpoint", name, "blue")["status"]["addresses"]
        return next(str(one) for one in found if ip_address(one).version == version)

    def inside(self, name: str, call: Callable[[], Any]) -> Any:
        with Namespace.by_name(self.namespace(name)) as inside:
            return inside.run(call)

    def _serve(self) -> None:
        open_: dict[int, socket.socket] = {}
        while not self._stop.is_set():
            for fd in readable([self._server.fileno(), *open_], TRY_S):
                if fd == self._server.fileno():
                    taken, _ = self._server.accept()
                    open_[taken.fileno()] = taken
                elif data := open_[fd].recv(65536):
                    open_[fd].sendall(data)
                else:
                    open_.pop(fd).close()
        for one in open_.values():
            one.close()

    def connect(self, name: str, version: int = 4, to: tuple[str, int] | None = None) -> socket.socket:
        """A connection from an endpoint, tried again until there is one."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        target = to or (self.address("blue-web", version), PORT)
        for _ in range(10):
            made: socket.socket = self.inside(name, lambda: socket.socket(family, socket.SOCK_STREAM))
            made.settimeout(LIMIT_S / 10)
            try:
                made.connect(target)
            except OSError:
                made.close()
            else:
                return made
        raise AssertionError("no connection came about")

    @staticmethod
    def says_back(connection: socket.socket, data: bytes) -> bool:
        connection.settimeout(LIMIT_S)
        connection.sendall(data)
        got = b""
        while len(got) < len(data) and (more := connection.recv(65536)):
            got += more
        return got == data

    def frames(self) -> list[bytes]:
        """What has come to the server's interface since the last time."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, where = self._wire.recvfrom(65536)
                if where[2] != socket.PACKET_OUTGOING and where[0] != "lo":
                    found.append(frame)
        return found

    def syns(self) -> int:
        """SYNs among them, to the server's port."""
        return sum(_tcp(frame) == (PORT, SYN) for frame in self.frames())

    def flood(self, name: str, count: int, flags: int = SYN, to: tuple[str, int] | None = None) -> None:
        """Segments to the server from many ports, of one endpoint."""
        source, (target, port) = self.address(name), to or (self.address("blue-web"), PORT)
        raw = self.inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        with raw:
            for number in range(count):
                raw.sendto(segment(source, target, 1024 + number % 60000, number + 1, flags, port), (target, 0))

    def apply(self, **spec: Any) -> None:
        manifest = {
            "apiVersion": "mizar/v1", "kind": "DdosProtection", "metadata": {"name": "shield", "tenant": "blue"},
            "spec": {"vpc": "main", "endpoints": ["blue-web"], **spec},
        }  # fmt: skip
        self.client.apply([parse_resource(manifest)])
        self.client.wait([REF], LIMIT_S)

    def told(self) -> dict[str, Any]:
        """What d1 says of the protection."""
        rows = self.client.get("DdosProtection", "shield", "blue")["status"]["droplets"]
        return next((row for row in rows if row["droplet"] == "d1"), {})

    def mizar(self, *words: str) -> Any:
        """What a command says."""
        command = [sys.executable, "-m", "mizar.cli.main", *words, "--server", self.lab.server_url, "-o", "json"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    def counted(self, kind: str) -> int:
        return int(self.told().get("counts", {}).get(kind, {"packets": 0})["packets"])

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
        self._server.close()
        self._wire.close()


def _tcp(frame: bytes) -> tuple[int, int]:
    """Destination port and flags of a TCP segment; of others zeros."""
    if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
        at = 14 + (frame[14] & 15) * 4
    elif frame[12:14] == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP:
        at = 54
    else:
        return 0, 0
    return int(struct.unpack_from("!H", frame, at + 2)[0]), frame[at + 13]


def segment(source: str, target: str, port: int, number: int, flags: int, target_port: int = PORT) -> bytes:
    """A TCP header without data, with its checksum."""
    options = b"\x02\x04\x05\x78" if flags == SYN else b""
    length = 20 + len(options)
    header = struct.pack("!HHIIBBHHH", port, target_port, number, 0, length // 4 << 4, flags, 1024, 0, 0) + options
    pseudo = ip_address(source).packed + ip_address(target).packed + struct.pack("!II", length, 6)
    total = sum(struct.unpack(f"!{(len(pseudo) + length) // 2}H", pseudo + header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


@contextlib.contextmanager
def bench(lab: LabName, text: str = SMALL) -> Iterator[Bench]:
    labs.up(manifests(lab, text))
    with Client(lab.server_url) as client:
        made = Bench(lab, client)
        try:
            yield made
        finally:
            made.close()


def endpoint(name: str, spec: str) -> str:
    """One more of blue's."""
    head = f"apiVersion: mizar/v1\nkind: Endpoint\nmetadata: {{name: {name}, tenant: blue}}"
    return f"\n---\n{head}\nspec: {{{spec}}}\n"


NEAR = endpoint("near", "network: front, droplet: d1")
ALLOWING = """
---
apiVersion: mizar/v1
kind: Policy
metadata: {name: web, tenant: blue}
spec: {vpc: main, subjects: {names: [blue-web]}, ingress: [{ports: [{protocol: tcp}]}], egress: []}
"""


def test_a_flood_of_syns_does_not_reach_the_server_and_a_client_does(lab: LabName) -> None:
    """By cookies, over both families; a connection from before goes on; forged ACKs stop; of the flood, which a policy
    allows, nothing stays in the policy's table, though the server may begin nothing itself. Without the protection the
    first assertion behind the flood fails: its SYNs reach the server."""
    with bench(lab, f"{SMALL}{ALLOWING}") as here:
        before = here.connect("db")
        assert here.says_back(before, b"before")
        here.apply(synCookies={"mode": "always"})
        wait_until(lambda: here.told().get("cookieEndpoints") == 1)
        here.frames()
        here.flood("db", 2000)
        here.flood("db", 500, ACK)
        assert here.syns() == 0
        with open_policy_flows(lab, "d1") as flows:
            assert sum(1 for _ in flows.items()) < 100
        for version in (4, 6):
            with here.connect("db", version) as made:
                assert here.says_back(made, b"x" * 100_000)
        assert here.says_back(before, b"after")
        assert here.syns() == 0
        wait_until(lambda: here.counted("synsAnswered") >= 2000 and here.counted("noSuchConnection") >= 500)
        wait_until(lambda: here.counted("verified") >= 2)
        wait_until(lambda: here.told()["top"])
        (said,) = here.mizar("ddos", "report", "-t", "blue")
        source = here.address("db")
        assert said["state"] == "engaged"
        assert said["totals"]["synsAnswered"]["packets"] >= 2000
        named = {(one["source"], one["target"], one["droplet"]) for one in said["top"]}
        assert {(source, "blue-web", "d1"), (f"{source.rpartition('.')[0]}.0/24", "blue-web", "d1")} <= named
        assert {one["kind"] for one in said["top"]} <= {"synsAnswered", "noSuchConnection"}
        before.close()
        here.client.delete("DdosProtection", "shield", "blue")
        here.client.wait([REF], LIMIT_S, until="gone")
        assert here.client.functions("d1")["functions"] == []
        with here.connect("db") as made:
            assert here.says_back(made, b"without")
        assert here.syns() > 0
        here.apply(synCookies={"mode": "always"})  # the function was gone, and is told of the endpoint's kernel anew
        wait_until(lambda: here.told().get("cookieEndpoints") == 1)
        here.frames()
        here.flood("db", 200)
        assert here.syns() == 0


MORE = SMALL + NEAR + endpoint("over", "network: front, droplet: d2, tunnelProtocol: vxlan")


def datagram(here: Bench, sender: str, source_port: int, port: int, payload: bytes = b"reflected") -> None:
    """From a port of an endpoint to one of the server's."""
    with here.inside(sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", source_port))
        sock.sendto(payload, (here.address("blue-web"), port))


@pytest.mark.long
def test_cookies_engage_by_themselves_and_for_clients_of_the_same_droplet(lab: LabName) -> None:
    """Quiet, SYNs pass; behind the threshold they do not, whichever droplet and tunnel they come by; then they pass
    again. Without the protection SYNs of the second flood reach the server."""
    with bench(lab, MORE) as here:
        here.apply(synCookies={"mode": "auto", "synsPerS": 200}, holdS=3)
        wait_until(lambda: here.told().get("cookieEndpoints") == 1)
        here.frames()
        with here.connect("db") as made:
            assert here.says_back(made, b"quiet")
        assert here.syns() > 0
        assert here.told()["engaged"] == []
        held = {name: here.connect(name) for name in ("db", "near", "over")}
        with watching(lab, "--vpc", "blue/main") as watcher:
            for name in ("db", "near", "over"):
                here.flood(name, 1500)
                here.frames()
                here.flood(name, 200)
                with here.connect(name) as made:
                    assert here.says_back(made, b"y" * 50_000)
                assert here.syns() == 0
            wait_until(lambda: here.told()["engaged"] == ["synCookies"])
            assert here.client.get("DdosProtection", "shield", "blue")["status"]["state"] == "engaged"
            for connection in held.values():
                assert here.says_back(connection, b"held")
                connection.close()
            wait_until(lambda: here.told()["engaged"] == [])
            watcher.until(lambda seen: any(one.get("engaged") == ["synCookies"] for one in seen))
            watcher.until(lambda seen: any(one.get("withdrawn") == ["synCookies"] for one in seen))
        assert "withdrawnAt" in here.told()["synCookies"]
        events = here.client.get("DdosProtection", "shield", "blue")["status"]["events"]
        assert [one["event"] for one in events[-2:]] == ["engaged", "withdrawn"]
        assert events[-1]["packets"] > 0
        with here.connect("near") as made:
            assert here.says_back(made, b"quiet again")
        assert here.syns() > 0
        restart(lab, "d1")
        here.client.wait([REF], LIMIT_S)
        here.flood("db", 1500)
        wait_until(lambda: here.told().get("engaged") == ["synCookies"])
        with here.connect("db") as made:
            assert here.says_back(made, b"after a restart")


def traced(here: Bench) -> str:
    """What a trace says of the protection, of a datagram that nobody sends."""
    ends = {"source": {"tenant": "blue", "name": "db"}, "destination": {"tenant": "blue", "name": "blue-web"}}
    return " ".join(note for hop in here.client.trace(ends)["hops"] for note in hop["notes"])


@pytest.mark.long
def test_lists_limits_and_reflected_datagrams(lab: LabName) -> None:
    """What a list blocks, what it allows in spite of that, what is over a limit, what nobody asked for: dropped, each
    for its reason; and an answer to a question is not. Without the protection the first `stops` fails."""
    with bench(lab) as here:
        source = here.address("db")
        ears = here.inside("blue-web", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        ears.bind(("", 5300))

        def heard() -> bool:
            got = bool(readable([ears.fileno()], 2 * TRY_S))
            while readable([ears.fileno()], 0):
                ears.recv(65536)
            return got

        def arrives(port: int = 4000) -> bool:
            for _ in range(50):
                datagram(here, "db", port, 5300)
                if heard():
                    return True
            return False

        def stops(kind: str, port: int = 4000) -> None:
            before = here.counted(kind)
            for _ in range(3):
                datagram(here, "db", port, 5300)
            assert not heard()
            wait_until(lambda: here.counted(kind) >= before + 3)

        with ears:
            assert arrives()
            here.apply(block=[f"{source.rpartition('.')[0]}.0/24"])
            with watching(lab, "--vpc", "blue/main") as watcher:
                stops("blocked")
                watcher.until(lambda seen: any(one.get("functionReason") == "SOURCE_BLOCKED" for one in seen))
            assert f"SOURCE_BLOCKED, {source} is on its block list" in traced(here)
            here.apply(block=[f"{source.rpartition('.')[0]}.0/24"], allow=[source])
            assert arrives()
            here.apply(reflection={"mode": "always", "ports": [123]})
            stops("reflected", 123)
            assert arrives()
            ears.sendto(b"question", (source, 123))
            datagram(here, "db", 123, 5300)
            assert heard()
            here.apply(perSource={"packetsPerS": 1}, burstMs=2000)
            for _ in range(50):
                datagram(here, "db", 4000, 5300)
            wait_until(lambda: here.counted("sourceOverLimit") > 20)
            here.apply(perTarget={"packetsPerS": 1}, burstMs=2000)
            for _ in range(50):
                datagram(here, "db", 4000, 5300)
            wait_until(lambda: here.counted("targetOverLimit") > 20)


SCALED = SMALL + endpoint(
    "pool", "network: front, type: scaled, addresses: [10.0.1.100], members: [{endpoint: blue-web}]"
)


@pytest.mark.long
def test_flows_of_a_scaled_endpoint_go_on_while_its_member_is_protected(lab: LabName) -> None:
    """In the middle of a flood on the member's own address too, and new ones come about. Did the member's kernel have
    to know the scaled endpoint's address, the connection would stop."""
    with bench(lab, SCALED) as here:
        made: socket.socket | None = None

        def connects() -> bool:
            nonlocal made
            made = here.inside("db", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            made.settimeout(1)
            return made.connect_ex(("10.0.1.100", PORT)) == 0

        wait_until(connects)
        assert made is not None
        assert here.says_back(made, b"before")
        here.apply(synCookies={"mode": "always"})
        wait_until(lambda: here.told().get("cookieEndpoints") == 1)
        here.flood("db", 2000)
        assert here.says_back(made, b"z" * 50_000)
        made.close()
        wait_until(connects)
        assert here.says_back(made, b"anew")
        made.close()


@pytest.mark.long
def test_a_list_of_a_million_prefixes(lab: LabName, tmp_path: Path) -> None:
    """From its file to the droplet: who is on it is blocked, who is not on it is heard, and it is kept when something
    else of the protection changes. Without the list, the datagram of the one that is on it would arrive."""
    with bench(lab, MORE) as here:
        blocked = here.address("near")
        file = tmp_path / "list.txt"
        # Every other address of 20.0.0.0 on, so that none of them joins another.
        lines = [f"{20 + (at >> 23)}.{at >> 15 & 255}.{at >> 7 & 255}.{at << 1 & 255}" for at in range(999_999)]
        file.write_text("\n".join([*lines, blocked]))
        here.apply(perSource={"packetsPerS": 10**6})
        said = here.mizar("ddos", "load", "shield", str(file), "-t", "blue", "--timeout", "300")
        assert (said["prefixes"], said["change"]) == (1_000_000, "changed")
        ears = here.inside("blue-web", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with ears:
            ears.bind(("", 5300))

            def hears() -> bool:
                datagram(here, "near", 4000, 5300, b"blocked")
                datagram(here, "db", 4001, 5300, b"allowed")
                heard = [ears.recv(65536)] if readable([ears.fileno()], TRY_S) else []
                assert b"blocked" not in heard
                return bool(heard)

            wait_until(hears)
            wait_until(lambda: here.counted("blocked") > 0)
