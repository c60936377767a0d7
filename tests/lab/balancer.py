# SPDX-License-Identifier: Apache-2.0
"""An HTTP load balancer in a lab of its own, with real servers and clients in endpoints' namespaces. For tests.

The objects are those of examples/http-load-balancer.yaml. Servers answer with their names.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.demo import members
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.transit.options import LOG_FOLDER, RUN_FOLDER
from mizar.transit.processes import running
from tests.lab import websocket

EXAMPLE = (Path(__file__).parents[2] / "examples" / "http-load-balancer.yaml").read_text()
ADDRESSES = ("10.0.1.100", "fd00:10:0:1::100")
SERVERS = ("web-1", "api-1", "api-2")
PORT, LIMIT_S = 8080, 10.0


def certificate(*hosts: str, days: int = 1) -> tuple[str, str]:
    """Signed by its own key, good for so many days more: chain and key in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9)).not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()


class Balancer:
    """The lab, its servers and its clients."""

    def __init__(self, name: LabName) -> None:
        self.name = name
        self.servers: dict[str, ThreadingHTTPServer] = {}
        self.ended: dict[str, threading.Event] = {}
        self.namespaces: dict[str, str] = {}

    def up(self, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """`change` may change the load balancer's manifest."""
        documents = list(yaml.safe_load_all(EXAMPLE))
        documents[0]["metadata"]["name"] = self.name.name
        change(documents[-1])
        labs.up(parse_manifests(yaml.safe_dump_all(documents), "test"))
        with Client(self.name.server_url) as client:
            self.namespaces = {str(one): one.namespace for one in members(client)}
        for name in SERVERS:
            self.serve(name)

    def start_daemons(self) -> None:
        """Those that do not run."""
        documents = list(yaml.safe_load_all(EXAMPLE))
        documents[0]["metadata"]["name"] = self.name.name
        labs.up(parse_manifests(yaml.safe_dump(documents[0]), "test"))

    def down(self) -> None:
        for name in list(self.servers):
            self.end(name)
        labs.down(self.name)

    # ---- servers

    def serve(self, name: str) -> None:
        """A server in an endpoint, for both families."""
        ended = self.ended[name] = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if ended.is_set():
                    self.close_connection = True
                    return
                if "websocket" in self.headers.get("Upgrade", ""):
                    self.wfile.write(websocket.ANSWER)
                    while got := self.connection.recv(1 << 16):
                        self.connection.sendall(got)
                    self.close_connection = True
                    return
                if self.path.endswith("/long"):
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.close_connection = True
                    while not ended.wait(0.02):
                        told = f"{time.monotonic():020.6f}\n"
                        self.wfile.write(f"{len(told):x}\r\n{told}\r\n".encode())
                    return
                if self.path.startswith("/slow"):
                    time.sleep(0.5)
                content = json.dumps({"server": name, "path": self.path, "headers": dict(self.headers)}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        with Namespace.by_name(self.namespaces[f"blue/{name}"]) as namespace:
            made = namespace.run(
                lambda: socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
            )
        server = Server(("", 0), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = made
        made.listen(128)
        self.servers[name] = server
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def end(self, name: str) -> None:
        """A server that does not serve any more."""
        server = self.servers.pop(name)
        self.ended[name].set()
        server.shutdown()
        server.server_close()

    # ---- clients

    def open(self, address: str, port: int = 80, source: str = "client") -> socket.socket:
        """A connection from an endpoint."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with Namespace.by_name(self.namespaces[f"blue/{source}"]) as namespace:
            made = namespace.run(lambda: socket.socket(family, socket.SOCK_STREAM))
        made.settimeout(LIMIT_S)
        try:
            made.connect((address, port))
        except OSError:
            made.close()
            raise
        return made

    @contextlib.contextmanager
    def connection(
        self, address: str, port: int = 80, tls: ssl.SSLContext | None = None, host: str = ""
    ) -> Iterator[http.client.HTTPConnection]:
        """For requests one after the other."""
        made = self.open(address, port)
        if tls is not None:
            made = tls.wrap_socket(made, server_hostname=host)
        found = http.client.HTTPConnection(address, port, timeout=LIMIT_S)
        found.sock = made
        try:
            yield found
        finally:
            found.close()

    def get(self, path: str, host: str = "any.example.com", address: str = ADDRESSES[0]) -> tuple[int, dict[str, Any]]:
        """Status and what the server said of a request over a new connection."""
        with self.connection(address) as connection:
            return ask(connection, path, host)

    def who(self, path: str, host: str = "any.example.com", address: str = ADDRESSES[0]) -> str:
        """Which server answered."""
        status, found = self.get(path, host, address)
        assert status == 200, (path, host, status)
        return str(found["server"])

    # ---- the load balancer

    def status(self) -> dict[str, Any]:
        with Client(self.name.server_url) as client:
            found: dict[str, Any] = client.get("HttpLoadBalancer", "shop", "blue")["status"]
            return found

    def apply(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes the manifest."""
        with Client(self.name.server_url) as client:
            found = client.get("HttpLoadBalancer", "shop", "blue")
            manifest = {key: found[key] for key in ("apiVersion", "kind", "metadata", "spec")}
            change(manifest)
            client.apply([manifest])

    def label(self, name: str, labels: dict[str, str]) -> None:
        """Gives an endpoint these labels and no others."""
        with Client(self.name.server_url) as client:
            found = client.get("Endpoint", name, "blue")
            manifest = {key: found[key] for key in ("apiVersion", "kind", "metadata", "spec")}
            client.apply([manifest | {"metadata": {"name": name, "tenant": "blue", "labels": labels}}])

    def pids(self) -> dict[str, int]:
        """The process of each instance, by the uid of its endpoint."""
        folders = RUN_FOLDER.glob(f"{self.name.instance_prefix}*.engines/*/process")
        return {folder.parent.name: pid for folder in folders if (pid := running(folder))}

    def said(self) -> str:
        """What HAProxy said of itself."""
        files = LOG_FOLDER.glob(f"{self.name.instance_prefix}*/blue/shop/*.log")
        return "\n".join(file.read_text() for file in files)

    def logged(self) -> list[dict[str, Any]]:
        """The lines of all access logs."""
        files = LOG_FOLDER.glob(f"{self.name.instance_prefix}*/blue/shop/*.access.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def ask(connection: http.client.HTTPConnection, path: str, host: str) -> tuple[int, dict[str, Any]]:
    """One request over a connection that is there."""
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    content = answer.read()
    is_ours = answer.status == 200 and content.startswith(b"{")
    return answer.status, json.loads(content) if is_ours else dict(answer.getheaders())


class Held:
    """What stays: a WebSocket by each family, the second over TLS, and a download without an end, below a path."""

    def __init__(self, balancer: Balancer, path: str, tls: ssl.SSLContext, host: str) -> None:
        plain, other, self._download = (
            balancer.open(ADDRESSES[one], port) for one, port in ((0, 80), (1, 443), (0, 80))
        )
        self._both = plain, tls.wrap_socket(other, server_hostname=host)
        for one in self._both:
            one.sendall(websocket.request(path, host))
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 101")
        self._download.sendall(f"GET {path}/long HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    def check(self) -> None:
        """Each goes on: an echo comes back, and what the download brings is of now."""
        now = time.monotonic()
        for one in self._both:
            one.sendall(b"still there?")
            assert one.recv(1 << 16) == b"still there?"
        latest = 0.0
        while latest < now:
            got = self._download.recv(1 << 16)
            assert got, "the download has ended"
            told = [line for line in got.decode().splitlines() if len(line) == 20 and "." in line]
            latest = max([latest, *map(float, told)])

    def close(self) -> None:
        for one in (*self._both, self._download):
            one.close()


class Load:
    """Clients that ask without a pause, each in a thread, until told to stop. `failures` says what went wrong."""

    def __init__(self, balancer: Balancer, kinds: Mapping[str, str]) -> None:
        """`kinds`: path by "new" (a connection for each request) or "kept" (one, as long as the other end keeps it)."""
        self.failures: list[str] = []
        self.done = 0
        self._balancer = balancer
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=one, daemon=True) for one in kinds.items()]

    def _work(self, kind: str, path: str) -> None:
        while not self._ended.is_set():
            count = 0
            try:
                with self._balancer.connection(ADDRESSES[0]) as connection:
                    while not self._ended.is_set():
                        count += 1
                        status, _ = ask(connection, path, "any.example.com")
                        if status != 200:
                            self.failures.append(f"{kind} {path}: status {status}")
                        self.done += 1
                        if not kind.startswith("kept") or connection.sock is None:
                            break
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{kind} {path}, request {count} of its connection: {error!r}")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
