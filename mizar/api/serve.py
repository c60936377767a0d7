# SPDX-License-Identifier: Apache-2.0
"""The server process: store, manager, and the API on its sockets, from start to end.

Called by mizar.cli.server and tests. Owns what the caller is: learnt from the socket (unix and loopback: administrator)
or from the client's certificate. It must never listen where strangers could come in without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from cryptography import x509
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from mizar.api.app import make_app
from mizar.api.caller import ADMINISTRATOR, Caller, caller_of
from mizar.api.garbage import set_aside
from mizar.api.listen import Listen, open_socket, parse_listen
from mizar.manager.audit import NO_AUDITS, Audits
from mizar.manager.droplet_link import Timing
from mizar.manager.manager import Manager, no_credentials
from mizar.metrics.serve import check as check_place
from mizar.metrics.serve import serving
from mizar.model.errors import InvalidError
from mizar.pki.identity import identity_of
from mizar.planner.vni import ALL_VNIS
from mizar.store.sqlite import SqliteStore

_log = logging.getLogger(__name__)

GRACE_S = 2


class _Protocol(H11Protocol):
    """HTTP with the caller of the connection in every request's state."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        secured = transport.get_extra_info("ssl_object")
        caller = ADMINISTRATOR if secured is None else _certified(secured.getpeercert(binary_form=True))
        self.app_state = {**self.app_state, "caller": caller, "hosts": self._hosts(secured)}

    def _hosts(self, secured: object) -> frozenset[str] | None:
        """Host headers that may come in: those of loopback on loopback, any where TLS has named the server."""
        if secured is not None or self.server is None or self.server[1] is None:
            return None
        return frozenset({"localhost", "127.0.0.1", "::1", self.server[0]})


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: one process has several of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    db: Path,
    listens: Sequence[str],
    pki: Path | None = None,
    *,
    timing: Timing | None = None,
    vnis: range = ALL_VNIS,
    metrics: str = "",
    audits: Audits = NO_AUDITS,
    ready: asyncio.Event | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Runs a server until `stop` is set, or SIGINT or SIGTERM comes. What is wrong is raised before it listens; a
    defect that ends the manager's work ends the server too. `metrics`: where Prometheus reads; empty: nowhere."""
    places = [parse_listen(text, certificates=pki is not None) for text in listens]
    tls = _server_context(pki) if pki is not None and any(place.tls for place in places) else None
    check_place(metrics, certificates=pki is not None)
    for place in places:
        if pki is not None and place.host and not place.tls:
            _log.warning("at %s every user of this machine is an administrator, without a certificate: to ask for one, "
                         "listen at https://", place)  # fmt: skip
    stop = stop or _until_signal()
    with contextlib.ExitStack() as stack:
        stack.enter_context(set_aside())
        store = SqliteStore(db)
        stack.callback(store.close)
        sockets = [(place, stack.enter_context(open_socket(place))) for place in places]
        for place in places:
            if place.path is not None:
                stack.callback(place.path.unlink, missing_ok=True)
        manager = Manager(
            store, (lambda: _client_credentials(pki)) if pki is not None else no_credentials, timing, vnis, audits
        )
        await manager.start()
        try:
            certificates = (pki, "server") if pki is not None else None
            async with (
                _listening(make_app(manager), sockets, tls),
                serving(metrics, manager.metrics.read, certificates),
            ):
                if ready is not None:
                    ready.set()
                await _first(stop.wait(), manager.broken())
        finally:
            await manager.stop()


@contextlib.asynccontextmanager
async def _listening(
    app: FastAPI, sockets: Sequence[tuple[Listen, Any]], tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    """The app on all sockets: one uvicorn for those in the clear, one for those with certificates."""
    servers: list[tuple[_Server, list[Any]]] = []
    for secured in (False, True):
        group = [opened for place, opened in sockets if place.tls is secured]
        if group:
            config = uvicorn.Config(
                app, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, proxy_headers=False, timeout_graceful_shutdown=GRACE_S,
            )  # fmt: skip
            config.load()
            config.ssl = tls if secured else None
            servers.append((_Server(config), group))
    tasks = [asyncio.create_task(server.serve(group)) for server, group in servers]
    try:
        yield
    finally:
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


async def _first(*waits: Coroutine[object, object, object]) -> None:
    """Returns when one of them does, or raises what it raises. A server whose manager is broken ends, so that whoever
    watches over it starts another, which compares everything; it would not help anybody to answer and do nothing."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


def _certified(certificate: bytes | None) -> Caller | None:
    if certificate is None:
        return None
    try:
        return caller_of(identity_of(x509.load_der_x509_certificate(certificate).subject))
    except (InvalidError, ValueError):
        return None


def _server_context(pki: Path) -> ssl.SSLContext:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(pki / "server.crt", pki / "server.key")
        context.load_verify_locations(pki / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidError(f"the certificates in {pki} cannot be used: {error}; `mizar pki init` makes them") from error
    return context


def _client_credentials(pki: Path | None) -> grpc.ChannelCredentials:
    assert pki is not None
    try:
        parts = [(pki / name).read_bytes() for name in ("ca.crt", "server.key", "server.crt")]
    except OSError as error:
        raise InvalidError(f"the certificates in {pki} cannot be read: {error}") from error
    return grpc.ssl_channel_credentials(*parts)


def _until_signal() -> asyncio.Event:
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, event.set)
    return event
