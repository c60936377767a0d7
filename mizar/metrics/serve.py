# SPDX-License-Identifier: Apache-2.0
"""Where metrics are read: HTTP on a unix socket or loopback; anywhere else with certificates, as all of Mizar.

Called by the daemon and the server. Metrics tell of all tenants: over TLS only servers and administrators may read
them. It must never answer a question that it was not built for, and never make the process that it reports on wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from cryptography import x509
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from uvicorn.protocols.http.h11_impl import H11Protocol

from mizar.api.listen import Listen, open_socket, parse_listen
from mizar.model.errors import InvalidError, MizarError
from mizar.pki.identity import Role, identity_of

MOST_ENDPOINTS = 1000
"""Endpoints that a reader may ask for."""
GRACE_S = 1
_READERS = frozenset({Role.SERVER, Role.ADMIN})

Read = Callable[[int], Awaitable[Iterable[Metric]]]
"""Gives all metrics, with those of so many endpoints."""


class _Protocol(H11Protocol):
    """HTTP that knows whether its caller may read, and for which hosts requests may come in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        secured = transport.get_extra_info("ssl_object")
        allowed = secured is None or _may_read(secured.getpeercert(binary_form=True))
        loopback = secured is None and self.server is not None and self.server[1] is not None
        hosts = frozenset({"localhost", "127.0.0.1", "::1"}) if loopback else None
        self.app_state = {**self.app_state, "allowed": allowed, "hosts": hosts}


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(place: str, read: Read, certificates: tuple[Path, str] | None) -> AsyncIterator[None]:
    """Metrics at a place (`unix:///path` or `address:port`) for the length of the block; none when it is empty.

    `certificates`: a folder of `mizar pki`, and whose certificate in it is ours. Raises InvalidError for a place that
    would be open to strangers.
    """
    if not place:
        yield
        return
    listen = parse_listen(place, certificates=certificates is not None)
    tls = _context(*certificates) if listen.tls and certificates is not None else None
    with contextlib.closing(open_socket(listen)) as opened:
        config = uvicorn.Config(
            _app(read), http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=GRACE_S, limit_concurrency=16,
        )  # fmt: skip
        config.load()
        config.ssl = tls
        server = _Server(config)
        task = asyncio.create_task(server.serve([opened]))
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.gather(task, return_exceptions=True)
            if listen.path is not None:
                listen.path.unlink(missing_ok=True)


def check(place: str, certificates: bool) -> Listen | None:
    """Raises InvalidError, before anything is begun, when metrics cannot be served there."""
    return parse_listen(place, certificates=certificates) if place else None


def _app(read: Read) -> Any:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            status, kind, body = await _answer(scope, read)
            headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app


async def _answer(scope: Any, read: Read) -> tuple[int, str, bytes]:
    headers, state = dict(scope["headers"]), scope["state"]
    if not state["allowed"]:
        return _refusal(403, "this certificate may not read metrics: use a server's or an administrator's")
    if state["hosts"] is not None and _host(headers.get(b"host", b"")) not in state["hosts"]:
        return _refusal(421, "this is not that host")
    if scope["path"] != "/metrics":
        return _refusal(404, "there is nothing but /metrics")
    if scope["method"] not in ("GET", "HEAD"):
        return _refusal(405, "metrics are read by GET")
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("endpoints", ["0"])[-1]
    if not asked.isdecimal() or int(asked) > MOST_ENDPOINTS:
        return _refusal(400, f"endpoints: expected a number up to {MOST_ENDPOINTS}")
    encode, kind = choose_encoder(headers.get(b"accept", b"").decode("latin-1"))
    try:
        found = list(await read(int(asked)))
    except MizarError as error:
        return _refusal(503, str(error))
    return 200, kind, await asyncio.to_thread(encode, _Collected(found))


class _Collected:
    """What was read, in the shape of a registry."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """All of it."""
        return self._metrics


def _refusal(status: int, why: str) -> tuple[int, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{why}\n".encode()


def _host(header: bytes) -> str:
    text = header.decode("latin-1").lower()
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]


def _may_read(certificate: bytes | None) -> bool:
    try:
        return certificate is not None and (
            identity_of(x509.load_der_x509_certificate(certificate).subject).role in _READERS
        )
    except (InvalidError, ValueError):
        return False


def _context(folder: Path, own: str) -> ssl.SSLContext:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder / f"{own}.crt", folder / f"{own}.key")
        context.load_verify_locations(folder / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidError(f"the certificates in {folder} cannot be used: {error}") from error
    return context
