# SPDX-License-Identifier: Apache-2.0
"""SYN cookies for members of services, and what stands for them where no kernel can be asked."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from tests.lab.conftest import SMALL, wait_until
from tests.lab.serving import begun
from tests.lab.test_ddos import ALLOWING, NEAR, PORT, SYN, Bench, bench, endpoint, segment
from tests.lab.test_public_load_balancer import GUEST, PUBLIC, Public
from tests.transit.machine import Machine

pytestmark = [pytest.mark.root, pytest.mark.long]
SCALED, BALANCED, LISTENED = {4: "10.0.1.100", 6: "fd00:10:0:1::100"}, {4: "10.0.1.101", 6: "fd00:10:0:1::101"}, 443
BEHIND = f"network: front, type: scaled, addresses: ['{SCALED[4]}', '{SCALED[6]}'], members: [{{endpoint: blue-web}}]"
SERVICES = f"""{SMALL}{NEAR}{endpoint("scaled", BEHIND)}
---
apiVersion: mizar/v1
kind: LoadBalancer
metadata: {{name: balanced, tenant: blue}}
spec:
  network: front
  addresses: ["{BALANCED[4]}", "{BALANCED[6]}"]
  listeners: [{{port: {LISTENED}, targetPort: {PORT}}}]
  members: [{{endpoint: blue-web}}]
{ALLOWING}"""


def test_a_flood_on_a_services_address_does_not_reach_its_member(lab: LabName) -> None:
    """A scaled endpoint's and a load balancer's, of both families, from another droplet and the member's own: clients
    connect, connections from before go on, and no SYN comes to the member. Without cookies for what bears a service's
    address, the first `syns() == 0` fails.
    The member's policy lets it begin nothing itself, and keeps no answer back."""
    targets = [(SCALED, PORT), (BALANCED, LISTENED)]
    with bench(lab, SERVICES) as here:
        before = [here.connect("db", 4, (addresses[4], port)) for addresses, port in targets]
        here.apply(synCookies={"mode": "always"})
        wait_until(lambda: here.told().get("cookieEndpoints") == 1)
        here.frames()
        for addresses, port in targets:
            answered, verified = here.counted("synsAnswered"), here.counted("verified")
            here.flood("db", 1000, SYN, (addresses[4], port))
            assert here.syns() == 0
            wait_until(lambda count=answered: here.counted("synsAnswered") >= count + 1000)  # type: ignore[misc]
            for name, version in (("db", 4), ("db", 6), ("near", 4), ("near", 6)):
                with here.connect(name, version, (addresses[version], port)) as made:
                    assert here.says_back(made, b"x" * 100_000)
            assert here.syns() == 0
            wait_until(lambda count=verified: here.counted("verified") >= count + 2)  # type: ignore[misc]
        for connection in before:
            assert here.says_back(connection, b"still here")
            connection.close()


def test_a_flood_on_a_public_address_does_not_reach_its_members(lab: LabName) -> None:
    """From the substrate, answered straight by the members' droplets. Without cookies for it, SYNs come to them."""
    with begun(Public(lab)) as found:
        found.go_over("d3")
        found.put(
            {
                "apiVersion": "mizar/v1", "kind": "DdosProtection", "metadata": {"name": "shield", "tenant": "blue"},
                "spec": {"vpc": "main", "endpoints": ["web-1", "web-2"], "synCookies": {"mode": "always"}},
            }
        )  # fmt: skip
        wait_until(lambda: [row.get("cookieEndpoints") for row in _rows(found)] == [1, 1])
        wires = [_wire(found, name) for name in ("web-1", "web-2")]
        with Namespace.by_name(lab.droplet_namespace(found.client)) as outside:
            raw = outside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        with raw:
            for number in range(1000):
                frame = segment(GUEST[0], PUBLIC[0], 1024 + number, number + 1, SYN, 80)
                raw.sendto(frame, (PUBLIC[0], 0))
        for address in PUBLIC:
            assert {found.who("outside", address) for _ in range(30)} == {"web-1", "web-2"}
        assert sum(map(_syns_from_outside, wires)) == 0
        wait_until(lambda: sum(map(_answered, _rows(found))) >= 1000)


def _rows(found: Public) -> list[dict[str, Any]]:
    with Client(found.name.server_url) as client:
        rows: list[dict[str, Any]] = client.get("DdosProtection", "shield", "blue")["status"]["droplets"]
    return rows


def _answered(row: dict[str, Any]) -> int:
    return int(row.get("counts", {}).get("synsAnswered", {"packets": 0})["packets"])


def _wire(found: Public, name: str) -> socket.socket:
    with Namespace.by_name(found.namespaces[f"blue/{name}"]) as inside:
        made = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    made.setblocking(False)
    return found.ended.enter_context(made)


def _syns_from_outside(wire: socket.socket) -> int:
    sources, found = (socket.inet_aton(GUEST[0]), socket.inet_pton(socket.AF_INET6, GUEST[1])), 0
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = wire.recv(2048)
            v4 = frame[12:14] == b"\x08\x00"
            source, at = (frame[26:30], 34) if v4 else (frame[22:38], 54)
            protocol = frame[23] if v4 else frame[20]
            found += source in sources and protocol == 6 and frame[at + 13] == SYN
    return found


TAPPED = "".join(
    [
        SMALL,
        endpoint("machine", "network: front, droplet: d1, workload: {tap: {name: ddos-machine}}"),
        endpoint("other", "network: back, droplet: d2"),
        ALLOWING.replace("web", "machine").replace("blue-machine", "machine"),
    ]
)


@contextlib.contextmanager
def powered(here: Bench) -> Iterator[str]:
    """A machine at the tap: its kernel is that of a namespace, which no droplet knows, and its memory a thread that
    copies frames. The namespace's name."""
    name = f"{here.lab.endpoint_namespace('blue', 'machine')}-vm"
    status = here.client.get("Endpoint", "machine", "blue")["status"]

    def run(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    run("netns", "add", name)
    try:
        run("-n", name, "tuntap", "add", "eth0", "mode", "tap", "vnet_hdr")
        run("-n", name, "link", "set", "eth0", "address", status["mac"], "mtu", "1400")
        with Machine(here.lab.droplet_namespace("d1"), status["hostInterface"]) as near, Machine(name, "eth0") as far:
            run("-n", name, "link", "set", "eth0", "up")
            run("-n", name, "addr", "add", f"{here.address('machine')}/24", "dev", "eth0")
            run("-n", name, "route", "add", "default", "via", "10.0.1.1")
            with copied(near, far):
                yield name
    finally:
        run("netns", "del", name)


@contextlib.contextmanager
def copied(*ends: Machine) -> Iterator[None]:
    """Frames of each end come to the other."""
    stop = threading.Event()
    fds = [end.fd for end in ends]

    def copy() -> None:
        while not stop.is_set():
            for fd in readable(fds, 0.1):
                with contextlib.suppress(OSError):
                    os.write(fds[1 - fds.index(fd)], os.read(fd, 1 << 17))

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_flood_does_not_reach_a_machine_and_a_client_does(lab: LabName) -> None:
    """Whose kernel nobody can ask: SYNs are answered so that who sent them refuses that and sends them again, then is
    let in for a minute; and so is, later, who is behind a firewall that lets no such answer pass. Without the
    challenge the flood's SYNs come to the machine."""
    with bench(lab, TAPPED) as here, powered(here) as machine:
        with Namespace.by_name(machine) as inside:
            server = inside.run(lambda: socket.create_server(("", PORT), backlog=64))
            server.settimeout(1)
            wire = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        wire.setblocking(False)
        with server, wire:
            target = (here.address("machine"), PORT)
            with here.connect("db", 4, target):
                server.accept()[0].close()
            here.apply(endpoints=["machine"], synCookies={"mode": "always"})
            wait_until(lambda: here.told().get("endpoints") == 1 and "withoutCookies" in here.told())
            wall(here.namespace("blue-web"), "meta l4proto tcp")
            _syns(wire)
            here.flood("blue-web", 1000, SYN, target)
            wait_until(lambda: here.counted("synsAnswered") >= 1000)
            assert _syns(wire) == 0
            wall(here.namespace("other"), "ct state invalid")
            for client in ("db", "other"):
                wait_until(lambda client=client: talks(here, client, target, server), 60)  # type: ignore[misc]
                _syns(wire)
                wait_until(lambda client=client: talks(here, client, target, server))  # type: ignore[misc]
                assert _syns(wire) > 0
            wait_until(lambda: here.counted("verified") >= 2)


def wall(namespace: str, what: str) -> None:
    """It hears none of that: as who forges addresses, whose kernel gets no answers; as who is behind a firewall."""
    rules = f"table inet wall {{ chain input {{ type filter hook input priority 0; {what} drop; }}; }}\n"
    subprocess.run(["ip", "netns", "exec", namespace, "nft", "-f", "-"], input=rules, text=True, check=True)


def talks(here: Bench, client: str, target: tuple[str, int], server: socket.socket) -> bool:
    """Whether a new connection comes about, and brings what is said."""
    with here.inside(client, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as made:
        made.settimeout(5)
        try:
            made.connect(target)
            with server.accept()[0] as taken:
                taken.sendall(b"welcome")
                return bool(made.recv(7) == b"welcome")
        except OSError:
            return False


def _syns(wire: socket.socket) -> int:
    found = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            frame, where = wire.recvfrom(2048)
            found += where[2] != socket.PACKET_OUTGOING and frame[12:14] == b"\x08\x00" and frame[23] == 6 and (
                frame[47] == SYN
            )  # fmt: skip
    return found
