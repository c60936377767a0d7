# SPDX-License-Identifier: Apache-2.0
"""What an HTTP load balancer was told, checked: every text in it comes from a manifest, and is hostile.

Called by `http_balancer`. What passes here can stand in a configuration of HAProxy as it is, between single quotes
where `http_config` puts them: no text has a quote, a blank, a control character, a backslash, a dollar or a percent
sign.
"""

import re
from collections.abc import Iterable

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9._~!&()*+,;=:@/-]{0,1023}")
_PEM = re.compile(r"[\x20-\x7e\r\n]{1,65536}")
_PORTS, _MS = range(1, 65536), range(1, 86_400_001)
_MOST = {"listeners": 16, "certificates": 256, "routes": 1024, "backends": 128, "servers": 1024}


def checked(http: pb.HttpBalancer) -> pb.HttpBalancer:
    """The same. Raises InvalidError that says what cannot be."""
    for what in ("tenant", "name", "instance"):
        _match(_NAME, getattr(http, what), what)
    for what in ("listeners", "certificates", "routes", "backends"):
        _few(getattr(http, what), what)
    if not http.listeners:
        raise InvalidError("a load balancer needs a listener")
    _unique((str(one.port) for one in http.listeners), "port of a listener")
    for listener in http.listeners:
        _within(_PORTS, listener.port, "the port of a listener")
        if listener.redirect:
            _within(_PORTS, listener.redirect, "the port of a redirection")
        if listener.tls and not http.certificates:
            raise InvalidError(f"the listener at port {listener.port} has no certificate")
    _unique((one.name for one in http.certificates), "certificate")
    for certificate in http.certificates:
        _match(_NAME, certificate.name, "the name of a certificate")
        for text in (certificate.chain, certificate.key):
            if not _PEM.fullmatch(text):
                raise InvalidError(f"certificate {certificate.name} is not PEM")
    names = {one.name for one in http.backends}
    _unique((one.name for one in http.backends), "backend")
    for route in http.routes:
        if route.host:
            _match(_HOST, route.host, "a host")
        _match(_PATH, route.path, "a path")
        if route.backend not in names:
            raise InvalidError(f"a route leads to {route.backend!r}, which is no backend")
    for backend in http.backends:
        _backend(backend)
    for what in ("connect_ms", "client_ms", "server_ms"):
        _within(_MS, getattr(http, what), what)
    _within(range(101), http.retries, "retries")
    _within(range(1, 1_000_001), http.connections, "connections")
    _within(range(1, 65), http.threads, "threads")
    return http


def _backend(backend: pb.HttpBackend) -> None:
    _match(_NAME, backend.name, "the name of a backend")
    _within(_PORTS, backend.port, "the port of a backend")
    _few(backend.servers, "servers")
    _unique((one.name for one in backend.servers), "server")
    if backend.balance not in (
        pb.HttpBackend.ROUND_ROBIN, pb.HttpBackend.LEAST_CONNECTIONS, pb.HttpBackend.SOURCE
    ):  # fmt: skip
        raise InvalidError(f"backend {backend.name} does not say how it shares requests")
    for server in backend.servers:
        _match(_NAME, server.name, "the name of a server")
        _within(range(257), server.weight, "the weight of a server")
        if len(server.address) not in (4, 16):
            raise InvalidError(f"server {server.name} has no address")
    _within(range(1_000_001), backend.server_connections, "connections to a server")
    check = backend.check
    if check.interval_ms:
        _within(_MS, check.interval_ms, "the interval of a check")
        _within(_MS, check.timeout_ms, "the time-out of a check")
        _within(range(1, 101), check.rise, "rise of a check")
        _within(range(1, 101), check.fall, "fall of a check")
        if check.path:
            _match(_PATH, check.path, "the path of a check")


def _match(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.fullmatch(text):
        raise InvalidError(f"{text[:64]!r} cannot be {what} of a load balancer")


def _within(numbers: range, number: int, what: str) -> None:
    if number not in numbers:
        raise InvalidError(f"{what} is {number}; expected {numbers.start} to {numbers.stop - 1}")


def _few(values: Iterable[object], what: str) -> None:
    if (count := len(list(values))) > _MOST[what]:
        raise InvalidError(f"a load balancer has {count} {what}; at most {_MOST[what]} are possible")


def _unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidError(f"{what} {name} is there twice")
        seen.add(name)
