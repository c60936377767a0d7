# SPDX-License-Identifier: Apache-2.0
"""A real server on a unix socket, loopback, and loopback with certificates, with two fake daemons."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest_asyncio

from mizar.api.client import Client
from mizar.api.serve import serve
from mizar.pki.authority import initialise, issue
from mizar.pki.identity import Identity, Role
from tests.fake_daemon import FakeDaemon
from tests.unit.manager.world import QUICK

_T = TypeVar("_T")


@dataclass
class Site:
    """Where the server is, and certificates to come with."""

    directory: Path
    plain_port: int
    tls_port: int
    daemons: list[FakeDaemon]

    @property
    def unix(self) -> str:
        return f"unix://{self.directory}/server.sock"

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    def client(self) -> Client:
        return Client(self.unix, timeout_s=10.0)

    def certified(self, stem: str) -> Client:
        return Client(
            f"https://127.0.0.1:{self.tls_port}",
            ca=self.pki / "ca.crt",
            certificate=self.pki / f"{stem}.crt",
            key=self.pki / f"{stem}.key",
            timeout_s=10.0,
        )

    def remote_daemon(self, number: int, pki: Path) -> FakeDaemon:
        """A daemon that is reached over TCP, with the certificates of an authority."""
        parts = [(pki / name).read_bytes() for name in ("daemon.key", "daemon.crt", "ca.crt")]
        credentials = grpc.ssl_server_credentials(
            [(parts[0], parts[1])], root_certificates=parts[2], require_client_auth=True
        )
        return FakeDaemon(self.directory / "unused", f"172.31.0.{10 + number}", credentials)

    def droplets(self) -> list[dict[str, Any]]:
        return [
            {
                "apiVersion": "mizar/v1",
                "kind": "Droplet",
                "metadata": {"name": f"d{number}"},
                "spec": {"address": daemon.address, "daemon": daemon.target},
            }
            for number, daemon in enumerate(self.daemons, 1)
        ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def aside(work: Callable[[], _T]) -> _T:
    """Runs the synchronous client beside the server's event loop."""
    return await asyncio.to_thread(work)


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    initialise(tmp_path / "pki")
    for identity in (Identity(Role.TENANT, "red"), Identity(Role.TENANT, "blue")):
        issue(tmp_path / "pki", identity)
    daemons = [FakeDaemon(tmp_path / f"d{n}.sock", f"172.31.0.{10 + n}") for n in (1, 2)]
    for daemon in daemons:
        await daemon.start()
    found = Site(tmp_path, free_port(), free_port(), daemons)
    ready, stop = asyncio.Event(), asyncio.Event()
    listens = [found.unix, f"127.0.0.1:{found.plain_port}", f"https://127.0.0.1:{found.tls_port}"]
    task = asyncio.create_task(serve(tmp_path / "db", listens, found.pki, timing=QUICK, ready=ready, stop=stop))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    assert ready.is_set(), task.exception()
    yield found
    stop.set()
    await task
    for daemon in daemons:
        await daemon.stop()
