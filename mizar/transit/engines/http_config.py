# SPDX-License-Identifier: Apache-2.0
"""The configuration of HAProxy 2.6 for an instance of an HTTP load balancer. Pure.

Called by `http_balancer` with values that `http_values` has checked. Each text of a manifest stands between single
quotes, where HAProxy takes everything as it is (Configuration Manual 2.2), or is a name of letters, digits and `-`.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from mizar._built import transit_pb2 as pb
from mizar.model.addresses import text_of

OLD_WORKERS_S = 600
"""How long connections that began before a change may go on with what was before it."""
_BALANCE = {
    pb.HttpBackend.ROUND_ROBIN: "roundrobin",
    pb.HttpBackend.LEAST_CONNECTIONS: "leastconn",
    pb.HttpBackend.SOURCE: "source",
}
_SHARES, _HEAVIEST = 16, 256
# One line of JSON for each request. Names of clients' making pass a converter that escapes what JSON needs escaped.
_LOG = ",".join(
    (
        '{"time":%Ts.%ms', '"client":"%ci"', '"clientPort":%cp', '"listener":"%f"', '"tls":"%sslv"',
        '"method":"%[capture.req.method,json(utf8ps)]"', '"host":"%[capture.req.hdr(0),json(utf8ps)]"',
        '"path":"%[capture.req.uri,bytes(0,1024),json(utf8ps)]"', '"status":%ST', '"bytes":%B', '"backend":"%b"',
        '"server":"%s"', '"queueMs":%Tw', '"connectMs":%Tc', '"responseMs":%Tr', '"totalMs":%Ta', '"retries":"%rc"',
        '"end":"%tsc"}',
    )
)  # fmt: skip


def text(http: pb.HttpBalancer, stats: str, certificates: str) -> str:
    """The whole file. `stats`: the socket for questions, in the working folder; `certificates`: folder of PEM files."""
    lines = [*_global(http, stats), *_defaults(http)]
    for listener in http.listeners:
        lines += _frontend(http, listener, certificates)
    for backend in http.backends:
        lines += _backend(backend)
    lines += ["backend no-route", "    http-request return status 404 content-type text/plain string 'no route'"]
    return "\n".join(lines) + "\n"


def _global(http: pb.HttpBalancer, stats: str) -> Iterator[str]:
    yield "global"
    yield "    log stdout len 4000 format raw local0 info"
    yield f"    stats socket unix@{stats} mode 600 level admin expose-fd listeners"
    yield f"    maxconn {http.connections}"
    yield f"    nbthread {http.threads}"
    yield f"    hard-stop-after {OLD_WORKERS_S}s"
    yield "    mworker-max-reloads 64"
    yield "    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets"
    yield "    tune.ssl.default-dh-param 2048"


def _defaults(http: pb.HttpBalancer) -> Iterator[str]:
    yield "defaults"
    yield "    mode http"
    yield "    log global"
    yield "    option dontlognull"
    yield "    option http-ignore-probes"  # a check of the scaled endpoint is no request
    yield "    option forwardfor"
    yield "    option redispatch 1"
    # A worker that ends closes no connection that a client may be about to use.
    yield "    option idle-close-on-response"
    yield "    http-reuse safe"
    yield f"    retries {http.retries}"
    yield "    retry-on conn-failure empty-response response-timeout"
    yield f"    timeout connect {http.connect_ms}ms"
    yield f"    timeout queue {http.connect_ms}ms"
    yield f"    timeout client {http.client_ms}ms"
    yield f"    timeout http-request {http.client_ms}ms"
    yield f"    timeout http-keep-alive {http.client_ms}ms"
    yield f"    timeout server {http.server_ms}ms"
    yield f"    timeout tunnel {max(http.client_ms, http.server_ms, 3_600_000)}ms"


def _frontend(http: pb.HttpBalancer, listener: pb.HttpListener, certificates: str) -> Iterator[str]:
    tls = f" ssl crt {certificates} alpn h2,http/1.1" if listener.tls else ""
    yield f"frontend port-{listener.port}"
    yield f"    bind 0.0.0.0:{listener.port}{tls}"
    yield f"    bind [::]:{listener.port} v6only{tls}"
    yield "    capture request header Host len 256"
    yield f"    log-format '{_LOG}'"
    if listener.redirect:
        port = "" if listener.redirect == 443 else f":{listener.redirect}"
        where = f"https://%[req.hdr(host),host_only]{port}%[pathq]"
        yield f"    http-request redirect code 308 location '{where}'"
        return
    yield f"    http-request set-header X-Forwarded-Proto {'https' if listener.tls else 'http'}"
    yield "    http-request set-var(txn.host) req.hdr(host),host_only,lower"
    # What may have had an effect is never sent twice.
    yield "    http-request disable-l7-retry unless { method GET HEAD OPTIONS TRACE }"
    for route in sorted(http.routes, key=_specific):
        for condition in _conditions(route):
            yield f"    use_backend to-{route.backend} if {condition}".rstrip()
    yield "    default_backend no-route"


def _specific(route: pb.HttpRoute) -> tuple[bool, bool, int, bool, int, str, str]:
    """Named hosts first, then those below a domain, the longer one first; of a host exact paths, then longer ones."""
    below = route.host.startswith("*.")
    return not route.host, below, -len(route.host), not route.exact, -len(route.path), route.host, route.path


def _conditions(route: pb.HttpRoute) -> Iterator[str]:
    host = ""
    if route.host.startswith("*."):
        host = f"{{ var(txn.host) -m end -- '{route.host[1:]}' }} "
    elif route.host:
        host = f"{{ var(txn.host) -m str -- '{route.host}' }} "
    if route.exact:
        yield f"{host}{{ path -m str -- '{route.path}' }}"
        return
    whole = route.path.rstrip("/")
    yield f"{host}{{ path -m beg -- '{whole}/' }}"
    if whole:
        yield f"{host}{{ path -m str -- '{whole}' }}"


def _backend(backend: pb.HttpBackend) -> Iterator[str]:
    yield f"backend to-{backend.name}"
    yield f"    balance {_BALANCE[backend.balance]}"
    if backend.balance == pb.HttpBackend.SOURCE:
        yield "    hash-type consistent"  # the other one takes no server at run time
    check = backend.check
    if check.interval_ms:
        yield f"    timeout check {check.timeout_ms}ms"
    if check.interval_ms and check.path:
        yield "    option httpchk"
        yield f"    http-check send meth GET uri '{check.path}' ver HTTP/1.1 hdr Host health.invalid"
        yield "    http-check expect status 200-399"
    for server in served(backend).values():
        yield f"    server {server.words}"


@dataclass(frozen=True, slots=True)
class Served:
    """A server as HAProxy is told. `words`: its name, where it is and what holds for it, in a configuration and when it
    is added to a worker alike."""

    address: bytes
    port: int
    number: int
    weight: int
    words: str


def served(backend: pb.HttpBackend) -> dict[str, Served]:
    """The servers of a backend by name, in one order whoever sends them."""
    check, found, taken = backend.check, dict[str, Served](), set[int]()
    rest = f" check inter {check.interval_ms}ms rise {check.rise} fall {check.fall}" if check.interval_ms else ""
    rest += f" maxconn {backend.server_connections}" if backend.server_connections else ""
    shares = 1
    if backend.balance == pb.HttpBackend.SOURCE and backend.servers:  # many small shares of its circle are fairer
        shares = min(_SHARES, _HEAVIEST // max(1, *(one.weight for one in backend.servers)))
    for server in sorted(backend.servers, key=lambda one: one.name):
        # By its name, so that a client's address leads to the same server in every instance and worker.
        number = zlib.crc32(server.name.encode()) & 0x3FFFFFFF or 1
        while number in taken:
            number += 1
        taken.add(number)
        where, weight = text_of(server.address), server.weight * shares
        where = f"[{where}]" if ":" in where else where
        words = f"{server.name} {where}:{backend.port} id {number} weight {weight}{rest}"
        found[server.name] = Served(server.address, backend.port, number, weight, words)
    return found
