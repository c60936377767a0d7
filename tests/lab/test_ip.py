# SPDX-License-Identifier: Apache-2.0
"""Being a good IP network, end to end: what the stack of an endpoint finds out about the way (docs/ip.md)."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.lab.probes import readable
from mizar.model.manifest import parse_manifests
from tests.lab.conftest import manifests, wait_until
from tests.transit.test_guest import dhclient
from tests.transit.traffic import ping

T = TypeVar("T")

# At least two droplets; a and b in "front" (Geneve), c and d in "back" (VXLAN).
LAB = """
{apiVersion: mizar/v1, kind: Lab, metadata: {name: NAME}, spec: {droplets: COUNT, substrate: {mtu: MTU}}}
---
{apiVersion: mizar/v1, kind: Tenant, metadata: {name: red}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {name: main, tenant: red}
spec: {cidrs: [10.0.0.0/16, "fd00:10::/48"]}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: front, tenant: red}
spec: {vpc: main, cidrs: [10.0.1.0/24, "fd00:10:0:1::/64"]}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: back, tenant: red}
spec: {vpc: main, cidrs: [10.0.2.0/24, "fd00:10:0:2::/64"], tunnelProtocol: vxlan}
"""
PLACES = {"a": ("front", "d1", 11), "b": ("front", "d2", 12), "c": ("back", "d1", 11), "d": ("back", "d2", 12)}
for _name, (_network, _droplet, _host) in PLACES.items():
    _part = 1 if _network == "front" else 2
    LAB += f"""
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {{name: {_name}, tenant: red}}
spec: {{network: {_network}, droplet: {_droplet}, addresses: [10.0.{_part}.{_host}, "fd00:10:0:{_part}::{_host:x}"]}}
"""
GATEWAYS = {4: {"10.0.1.1", "10.0.2.1"}, 6: {"fd00:10:0:1::1", "fd00:10:0:2::1"}}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
PAIRS = pytest.mark.parametrize(("source", "destination"), [("a", "b"), ("c", "d"), ("a", "d")])
PORT, LIMIT_S = 7007, 10.0
IP_RECVERR, IP_MTU_DISCOVER, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR = 11, 10, 14, 23, 24, 25
PMTUDISC_DO = 2
SENT = bytes(index & 0xFF for index in range(30000))


def address(name: str, family: int) -> str:
    network, _, host = PLACES[name]
    part = 1 if network == "front" else 2
    return f"10.0.{part}.{host}" if family == 4 else f"fd00:10:0:{part}::{host:x}"


def inside(namespace: str, work: Callable[[], T]) -> T:
    with Namespace.by_name(namespace) as entered:
        return entered.run(work)


class Net:
    """A lab that is up, by the names of its endpoints."""

    def __init__(self, lab: LabName) -> None:
        self.lab = lab

    def namespace(self, name: str) -> str:
        return self.lab.endpoint_namespace("red", name)

    def socket(self, name: str, family: int, kind: int) -> socket.socket:
        known = socket.AF_INET if family == 4 else socket.AF_INET6
        made = inside(self.namespace(name), lambda: socket.socket(known, kind))
        made.settimeout(LIMIT_S)
        return made

    def set_mtu(self, name: str, mtu: int) -> None:
        """Of an endpoint's interface, by hand, on both sides: its droplet has not meant it to be so."""
        host = self.lab.droplet_namespace(PLACES[name][1])
        found = labs.status(self.lab)["endpoints"]
        interface = next(one["status"]["hostInterface"] for one in found if one["metadata"]["name"] == name)
        for where, which in ((host, interface), (self.namespace(name), "eth0")):
            self.run(where, "ip", "link", "set", which, "mtu", str(mtu))

    @staticmethod
    def run(namespace: str, *command: str) -> str:
        done = inside(
            namespace, lambda: subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        )
        return done.stdout

    @contextmanager
    def echo(self, name: str, family: int) -> Iterator[None]:
        """An endpoint that sends datagrams back."""
        with self.socket(name, family, socket.SOCK_DGRAM) as server:
            server.bind((address(name, family), PORT))
            server.settimeout(0.05)
            ended = threading.Event()

            def serve() -> None:
                while not ended.is_set():
                    try:
                        data, sender = server.recvfrom(65535)
                        server.sendto(data, sender)
                    except (TimeoutError, OSError):
                        continue

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()

    def echoed(self, source: str, destination: str, family: int, data: bytes) -> bool:
        """Whether a datagram comes back; sent again as often as it is lost or refused."""
        with self.socket(source, family, socket.SOCK_DGRAM) as client:
            client.connect((address(destination, family), PORT))
            client.settimeout(0.3)
            end = time.monotonic() + LIMIT_S
            while time.monotonic() < end:
                try:
                    client.send(data)
                    if client.recv(65535) == data:
                        return True
                except OSError:
                    continue
        return False

    def transferred(self, source: str, destination: str, family: int) -> bool:
        """Whether a TCP transfer of megabytes arrives as it was sent."""
        data, came = os.urandom(2_000_000), hashlib.sha256()
        with self.socket(destination, family, socket.SOCK_STREAM) as listener:
            listener.bind((address(destination, family), PORT))
            listener.listen()

            def take() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(LIMIT_S)
                    while piece := connection.recv(1 << 16):
                        came.update(piece)

            thread = threading.Thread(target=take)
            thread.start()
            with self.socket(source, family, socket.SOCK_STREAM) as client:
                client.connect((address(destination, family), PORT))
                client.sendall(data)
            thread.join(2 * LIMIT_S)
        return came.digest() == hashlib.sha256(data).digest()


def made(lab: LabName, mtu: int, droplets: int = 2) -> Net:
    labs.up(manifests(lab, LAB.replace("MTU", str(mtu)).replace("COUNT", str(droplets))))
    return Net(lab)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """A lab with the usual MTU."""
    name = LabName(f"tip{os.getpid()}")
    try:
        yield made(name, 1500, droplets=4)
    finally:
        labs.down(name)


@pytest.fixture(scope="module")
def jumbo() -> Iterator[Net]:
    """A lab whose substrate carries jumbo frames."""
    name = LabName(f"tij{os.getpid()}")
    try:
        yield made(name, 9000)
    finally:
        labs.down(name)


def hop(net: Net, source: str, destination: str, family: int, ttl: int) -> tuple[str, int] | None:
    """Who says what about a datagram with this TTL: address and ICMP type, from the socket's queue of errors."""
    level, receive, limit = (
        (socket.IPPROTO_IP, IP_RECVERR, socket.IP_TTL)
        if family == 4
        else (socket.IPPROTO_IPV6, IPV6_RECVERR, socket.IPV6_UNICAST_HOPS)
    )
    with net.socket(source, family, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(level, receive, 1)
        probe.setsockopt(level, limit, ttl)
        probe.connect((address(destination, family), 33434 + ttl))
        probe.send(b"where are you?")
        if not readable([probe.fileno()], 2.0):  # poll() tells of errors always
            return None
        _, told, _, _ = probe.recvmsg(512, 512, socket.MSG_ERRQUEUE)
        data = next(data for at, kind, data in told if (at, kind) == (level, receive))
        offender = data[16:]
        name = (
            socket.inet_ntop(socket.AF_INET, offender[4:8])
            if family == 4
            else socket.inet_ntop(socket.AF_INET6, offender[8:24])
        )
        return name, data[5]


def route(net: Net, source: str, destination: str, family: int) -> list[tuple[str, int]]:
    """All who answer, up to the endpoint itself."""
    hops: list[tuple[str, int]] = []
    answers: list[tuple[str, int] | None] = []

    def answered() -> bool:
        answers.append(hop(net, source, destination, family, len(hops) + 1))
        return answers[-1] is not None

    while len(hops) < 8 and (not hops or hops[-1][0] != address(destination, family)):
        wait_until(answered, LIMIT_S)
        hops += [one for one in answers[-1:] if one is not None]
    return hops


@FAMILIES
def test_traceroute_shows_the_virtual_routers(net: Net, family: int) -> None:
    """Each hop answers by a gateway's address; the last answer is the endpoint's, that nobody listens there."""
    exceeded, unreachable = (11, 3) if family == 4 else (3, 1)
    routers = set()
    for source, destination in itertools.permutations(PLACES, 2):
        hops = route(net, source, destination, family)
        assert hops[-1] == (address(destination, family), unreachable), "port unreachable, from the endpoint itself"
        assert {kind for _, kind in hops[:-1]} <= {exceeded}
        routers |= {name for name, _ in hops[:-1]}
    assert routers == GATEWAYS[family]


@FAMILIES
@PAIRS
def test_an_endpoint_learns_that_a_port_is_closed(net: Net, family: int, source: str, destination: str) -> None:
    """Port unreachable, with the datagram's headers in it, reaches the very socket that sent."""
    with net.socket(source, family, socket.SOCK_DGRAM) as client:
        client.connect((address(destination, family), PORT + 1))
        end = time.monotonic() + LIMIT_S
        code = 0
        while code != errno.ECONNREFUSED and time.monotonic() < end:
            try:
                client.send(b"anybody?")
                client.settimeout(0.5)
                client.recv(100)
            except OSError as error:
                code = error.errno or 0
        assert code == errno.ECONNREFUSED


@FAMILIES
@PAIRS
def test_fragments_are_carried_and_joined_at_the_far_end(net: Net, family: int, source: str, destination: str) -> None:
    """A datagram of 20000 bytes, there and back."""
    with net.echo(destination, family):
        assert net.echoed(source, destination, family, SENT[:20000])


def path_mtu(net: Net, source: str, destination: str, family: int, size: int) -> int:
    """What the sender's stack believes of the way, after it has sent a datagram that must not be fragmented."""
    level, discover, known = (
        (socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_MTU)
        if family == 4
        else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_MTU)
    )
    with net.socket(source, family, socket.SOCK_DGRAM) as client:
        client.setsockopt(level, discover, PMTUDISC_DO)
        client.connect((address(destination, family), PORT))

        def refused() -> bool:
            try:
                client.send(SENT[:size])
            except OSError as error:
                return error.errno == errno.EMSGSIZE
            return False

        wait_until(refused, LIMIT_S)
        return client.getsockopt(level, known)


@FAMILIES
@PAIRS
def test_an_interface_with_too_large_an_mtu_learns_what_fits(
    net: Net, family: int, source: str, destination: str
) -> None:
    """The droplet tells 1450 (RFC 1191, RFC 8201); datagrams arrive in fragments then, and TCP never sends too much."""
    net.set_mtu(source, 4000)
    try:
        assert net.transferred(source, destination, family), "the MSS of SYN and SYN-ACK was lowered"
        assert net.transferred(destination, source, family)
        assert path_mtu(net, source, destination, family, 3000) == 1450
        with net.echo(destination, family):
            assert net.echoed(source, destination, family, SENT[:3000])
    finally:
        net.set_mtu(source, 1450)


@FAMILIES
@PAIRS
def test_jumbo_frames(jumbo: Net, family: int, source: str, destination: str) -> None:
    """Endpoints have 8950 bytes of the substrate's 9000; a datagram of that size is one packet, and TCP fills them."""
    assert "mtu 8950" in jumbo.run(jumbo.namespace(source), "ip", "link", "show", "eth0")
    with jumbo.echo(destination, family):
        assert jumbo.echoed(source, destination, family, SENT[: 8950 - (28 if family == 4 else 48)])
    assert jumbo.transferred(source, destination, family)


def test_a_fleet_of_mixed_mtus(lab: LabName) -> None:
    """Droplet d2 comes down to 1500: all others are told, and their endpoints, with 8950, are told in turn."""
    net = made(lab, 9000)
    host = net.lab.droplet_namespace("d2")
    net.run(host, "ip", "link", "set", "eth0", "mtu", "1500")
    for family in (4, 6):
        for source, destination in (("a", "b"), ("a", "d"), ("b", "a"), ("d", "a")):
            assert path_mtu(net, source, destination, family, 5000) == 1450, (family, source, destination)
            assert net.transferred(source, destination, family)
            with net.echo(destination, family):
                assert net.echoed(source, destination, family, SENT[:5000])
        assert path_mtu(net, "a", "c", family, 20000) == 8950, "on one droplet, and not over the substrate"


@pytest.mark.skipif(shutil.which("dhclient") is None, reason="needs dhclient (isc-dhcp-client)")
def test_the_example_of_an_endpoint_that_configures_itself(lab: LabName, tmp_path: Path) -> None:
    """Brought up as it stands, but for its name: the address comes by DHCP, and the other endpoint reaches it."""
    text = Path("examples/self-configured.yaml").read_text().replace("self-configured", lab.name)
    labs.up(parse_manifests(text, "example"))
    net = Net(lab)
    told = dhclient(net.namespace("alone"), tmp_path, "-4")
    assert (told["new_ip_address"], told["new_domain_name"]) == ("10.0.1.11", "red.example")
    assert told["new_domain_name_servers"] == "10.0.1.53"
    wait_until(lambda: ping(net.namespace("given"), "10.0.1.11", 0.5) is not None, LIMIT_S)
