# SPDX-License-Identifier: Apache-2.0
"""Servers and certificates change in a worker of HAProxy that runs, and it is then what a new one would be. The HAProxy
is the real one, in no namespace."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.transit.engines import http_certificates, http_config, http_servers, http_socket
from mizar.transit.engines.engine import Place
from mizar.transit.engines.http_balancer import HttpBalancer
from tests.lab import websocket
from tests.lab.balancer import certificate

CHECK_ENABLED = 0x04
ADDRESS, USER = "127.77.6.1", 0
"""Of the loopback interface, for listeners; servers are nobody there."""


class HAProxy:
    """One, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = folder / "certificates"
        self.stats = folder / "stats.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, http: pb.HttpBalancer) -> None:
        program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if program is None:
            pytest.skip("the Debian package haproxy is not installed")
        self.folder.mkdir(exist_ok=True)
        http_certificates.write(self.certificates, http_certificates.contents(http), USER)
        content = http_config.text(http, self.stats.name, str(self.certificates)).replace("0.0.0.0:", f"{ADDRESS}:")
        lines = [line for line in content.splitlines() if "bind [::]" not in line and "log stdout" not in line]
        (self.folder / "haproxy.cfg").write_text("\n".join(lines) + "\n")
        argv = [program, "-db", "-f", "haproxy.cfg"]
        self._process = subprocess.Popen(argv, cwd=self.folder, stderr=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return "Pid:" in http_socket.ask(self.stats, "show info")
        except OSError:
            return False

    def end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def servers(self) -> set[tuple[str, ...]]:
        """What a server is, without what it has gone through; those that only end what they serve are none."""
        names = ("be_name", "srv_name", "srv_id", "srv_addr", "srv_port", "srv_uweight")
        head, *rows = (line for line in http_socket.ask(self.stats, "show servers state").splitlines()[1:] if line)
        found = (dict(zip(head[2:].split(), row.split(), strict=True)) for row in rows)
        there = (one for one in found if one["srv_admin_state"] == "0")
        return {(*(one[name] for name in names), str(int(one["srv_check_state"]) & CHECK_ENABLED)) for one in there}


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[], HAProxy]]:
    found: list[HAProxy] = []

    def make() -> HAProxy:
        found.append(HAProxy(tmp_path / str(len(found))))
        return found[-1]

    yield make
    for one in found:
        one.end()


def balancer(port: int = 0, hosts: list[tuple[str, Any]] | None = None) -> pb.HttpBalancer:
    """Two backends, of which the second is shared by clients' addresses; with TLS if there are certificates."""
    check = pb.HttpCheck(interval_ms=60_000, timeout_ms=100, rise=2, fall=3)
    balances = pb.HttpBackend.LEAST_CONNECTIONS, pb.HttpBackend.SOURCE
    return pb.HttpBalancer(
        listeners=[pb.HttpListener(port=port, tls=bool(hosts))] if port else [],
        certificates=[pb.HttpCertificate(name=f"c{n}", chain=c, key=k) for n, (_, (c, k)) in enumerate(hosts or [])],
        routes=[pb.HttpRoute(path="/", backend="b0")],
        backends=[
            pb.HttpBackend(name=f"b{n}", port=80 + n, balance=balance, check=check if n else None,
                           server_connections=9 * n) for n, balance in enumerate(balances)
        ],
        retries=1, connect_ms=100, client_ms=1000, server_ms=1000, connections=100, threads=1,
    )  # fmt: skip


def test_servers_are_those_of_a_new_worker(made: Callable[[], HAProxy]) -> None:
    """Added, moved, weighed, drained and taken away, in both backends and any order, of both families."""
    drawn, http, running = random.Random(6), balancer(18080), made()
    running.start(http)
    for step in range(12):
        for backend in http.backends:
            del backend.servers[:]
            for number in drawn.sample(range(8), drawn.randrange(7)):
                address = bytes([127, 0, 0, drawn.randrange(1, 4)]) if number % 2 else bytes(15) + b"\1"
                backend.servers.add(name=f"s{number}", address=address, weight=drawn.choice((0, 1, 3, 200)))
        assert http_servers.put(running.stats, http), step
        http_servers.sweep(running.stats, http)
        assert len(running.servers()) == sum(len(one.servers) for one in http.backends)
        if step % 3 == 2:
            fresh = made()
            (other := pb.HttpBalancer()).CopyFrom(http)
            other.listeners[0].port = 18080 + step
            fresh.start(other)
            assert running.servers() == fresh.servers()


def test_a_server_that_serves_goes_on_when_it_is_wanted_no_more(made: Callable[[], HAProxy]) -> None:
    """It is deleted once nobody uses it, and comes back if it is wanted before."""
    running, http = made(), balancer(18095)
    with socket.create_server((ADDRESS, 80)) as server:
        server.settimeout(30)
        http.backends[0].servers.add(name="one", address=socket.inet_aton(ADDRESS), weight=1)
        running.start(http)
        with socket.create_connection((ADDRESS, 18095)) as client:
            client.settimeout(30)
            client.sendall(websocket.request("/", "x"))
            served = server.accept()[0]
            served.settimeout(30)
            assert b"websocket" in served.recv(65536)
            served.sendall(websocket.ANSWER)
            assert client.recv(65536).startswith(b"HTTP/1.1 101")
            without = pb.HttpBalancer()
            without.CopyFrom(http)
            del without.backends[0].servers[:]
            for now, left in ((without, True), (http, False), (without, True)):
                assert http_servers.put(running.stats, now)
                assert http_servers.sweep(running.stats, now) == left
                for one, other in ((client, served), (served, client)):
                    one.sendall(b"still there")
                    assert other.recv(65536) == b"still there"
            served.close()
        until(lambda: not http_servers.sweep(running.stats, without))


def test_certificates_are_those_of_a_new_worker(made: Callable[[], HAProxy]) -> None:
    """Renewed, added and taken away without another worker, as far as it gives what that would; else it is told so."""
    port = 18443
    first, second, third, renewed = ((h, certificate(h)) for h in ("a.test", "b.test", "c.test", "a.test"))
    running = made()
    running.start(balancer(port, [first, second]))
    loaded = http_certificates.digests(http_certificates.contents(balancer(port, [first, second])))

    def put(hosts: list[tuple[str, Any]]) -> bool:
        nonlocal loaded
        wanted = http_certificates.contents(balancer(port, hosts))
        done = http_certificates.put(running.stats, running.certificates, wanted, loaded, listens=True)
        if done:
            loaded = http_certificates.digests(wanted)
            for name, (host, (chain, _)) in zip(("a.test", "b.test", "c.test"), hosts, strict=False):
                assert host == name
                assert served(host, port) == ssl.PEM_cert_to_DER_cert(chain)
            assert served("nobody.test", port) == ssl.PEM_cert_to_DER_cert(hosts[0][1][0])
        return done

    assert put([first, second])
    assert put([renewed, second])
    assert put([renewed, second, third])
    assert put([renewed, second])
    assert put([renewed])
    two_for_one = [renewed, first]
    assert not put(two_for_one)
    chain, key = renewed[1]
    assert not put([("a.test", (chain + second[1][0], key))])  # another chain behind the same certificate


def test_a_certificate_brings_no_commands_and_keeps_its_chain(made: Callable[[], HAProxy]) -> None:
    """An empty line ends what HAProxy takes as a certificate: what stands behind it is no command, and is not lost."""
    port, (chain, key), (other, _) = 18444, certificate("a.test"), certificate("b.test")
    running, renewed = made(), certificate("a.test")
    before, after = balancer(port, [("a.test", (chain, key))]), balancer(port, [("a.test", renewed)])
    for http in (before, after):
        http.backends[0].servers.add(name="one", address=socket.inet_aton(ADDRESS), weight=1)
    running.start(before)
    servers = running.servers()
    after.certificates[0].chain = f"{renewed[0]}\r\n \n\nset server to-b0/one state maint\n\n{other}"
    wanted, loaded = http_certificates.contents(after), http_certificates.digests(http_certificates.contents(before))
    http_certificates.put(running.stats, running.certificates, wanted, loaded, listens=True)
    assert running.servers() == servers
    told = http_socket.ask(running.stats, f"show ssl cert {running.certificates / next(iter(wanted))}")
    assert served("a.test", port) == ssl.PEM_cert_to_DER_cert(renewed[0])
    assert "b.test" in told.partition("Chain Subject")[2]


def test_a_change_that_ended_midway_is_not_taken_for_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates were changed, servers could not be: whoever wants what was before needs a worker that reads it."""
    (tmp_path / "haproxy").mkdir()
    one = HttpBalancer(Place("u1", tmp_path, tmp_path, "path:/proc/self/ns/net", lambda: None))
    before = balancer(443, [("a.test", certificate("a.test"))])
    after = balancer(443, [("a.test", certificate("a.test"))])
    one._record(before, 7)
    monkeypatch.setattr(http_certificates, "put", lambda *_, **__: True)
    monkeypatch.setattr(http_servers, "sweep", lambda *_: False)
    monkeypatch.setattr(http_servers, "put", lambda *_: True)
    assert one._change(before, 7)
    one._record(before, 7)
    monkeypatch.setattr(http_servers, "put", lambda *_: False)
    assert not one._change(after, 7)
    monkeypatch.setattr(http_servers, "put", lambda *_: True)
    assert not one._change(before, 7)


def served(host: str, port: int) -> bytes:
    """The certificate that a client gets who asks for a name."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection((ADDRESS, port), 30)
    with trusting.wrap_socket(plain, server_hostname=host) as found:
        return found.getpeercert(binary_form=True) or b""
