# SPDX-License-Identifier: Apache-2.0
"""HttpLoadBalancer: what takes HTTP requests at one address and hands them to servers. Owns the shape of its manifest.

Part of mizar.model.resources. What depends on other objects is in mizar.manager.balancers; what certificates have to be
in `certificates`. Every text here is hostile: hosts and paths are of letters that need no quoting anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mizar.model import certificates, fields
from mizar.model.base import Resource, Scope, Status
from mizar.model.fields import Value
from mizar.model.secret import SecretText

_HOST = re.compile(r"(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9._~!&()*+,;=:@/-]{0,1023}")
MOST_PEM = 2 << 20
"""Characters of all certificates and keys of one: each of its instances is sent all of them."""
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Weight = Annotated[int, Field(strict=True, ge=0, le=256)]
Milliseconds = Annotated[int, Field(strict=True, ge=10, le=86_400_000)]


def _host(text: str) -> str:
    if len(text) > 253 or not _HOST.fullmatch(text):
        raise ValueError(f"expected a host name in lower case, or *.DOMAIN for all below it, found {text[:80]!r}")
    return text


def _path(text: str) -> str:
    if not _PATH.fullmatch(text):
        letters = "letters, digits and ._~!&()*+,;=:@/-"
        raise ValueError(f"expected a path of {letters} that begins with a slash, found {text[:80]!r}")
    return text


Host = Annotated[str, AfterValidator(_host)]
UrlPath = Annotated[str, AfterValidator(_path)]


class Algorithm(StrEnum):
    """Which server takes a request: each in turn, the least busy one, or one for each client's address."""

    ROUND_ROBIN = "roundRobin"
    LEAST_CONNECTIONS = "leastConnections"
    SOURCE = "source"


class HttpListenerSpec(Value):
    """A port that takes requests. `redirect`: they are sent to https at that port, with status 308."""

    port: Port
    tls: bool = False
    redirect: Port | None = None


class CertificateSpec(Value):
    """For the host names that it is made out for: PEM, with the certificates that sign it behind it, and its key."""

    name: fields.Name
    chain: Annotated[str, Field(min_length=1, max_length=65536)]
    key: SecretText


class HttpRouteSpec(Value):
    """Which requests a backend gets. Without `hosts` those to any; a prefix is one of whole segments of the path."""

    hosts: Annotated[tuple[Host, ...], Field(max_length=64)] = ()
    path: UrlPath = "/"
    match: Literal["prefix", "exact"] = "prefix"
    backend: fields.Name


class HttpHealthSpec(Value):
    """How servers are checked: with a GET of `path`, or by a connection where there is none."""

    path: UrlPath | None = None
    interval_ms: Annotated[int, Field(strict=True, ge=100, le=600_000)] = 1000
    timeout_ms: Annotated[int, Field(strict=True, ge=10, le=60_000)] = 500
    healthy_after: Annotated[int, Field(strict=True, ge=1, le=100)] = 2
    unhealthy_after: Annotated[int, Field(strict=True, ge=1, le=100)] = 3


class HttpBackendSpec(Value):
    """Endpoints of the VPC that share requests: those that are named, simple or scaled, and simple ones by labels.

    `weights`: of some by name, 1 for the others; 0 for one that gets no requests any more and ends what it serves.
    """

    name: fields.Name
    port: Port
    endpoints: Annotated[tuple[fields.Name, ...], Field(max_length=1024)] = ()
    selector: dict[fields.LabelKey, fields.LabelValue] = Field(default_factory=dict)
    algorithm: Algorithm = Algorithm.ROUND_ROBIN
    health: HttpHealthSpec | None = HttpHealthSpec()
    connections_per_server: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 0
    weights: Annotated[dict[fields.Name, Weight], Field(max_length=1024)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_servers(self) -> Self:
        if not self.endpoints and not self.selector:
            raise PydanticCustomError("missing", "missing; expected endpoints or a selector", {"field": "endpoints"})
        return self


class HttpTimeoutsSpec(Value):
    """For a server to take a connection and to answer, and for a client to send a request."""

    connect_ms: Milliseconds = 1000
    server_ms: Milliseconds = 30_000
    client_ms: Milliseconds = 30_000


class HttpLoadBalancerSpec(Value):
    """Listeners, and which requests go to which servers. `droplets`: where instances may be; none: anywhere.

    `connections` and `threads` are of one instance.
    """

    network: fields.Name
    addresses: fields.Addresses = ()
    instances: Annotated[int, Field(strict=True, ge=1, le=32)] = 2
    droplets: tuple[fields.Name, ...] = ()
    listeners: Annotated[tuple[HttpListenerSpec, ...], Field(min_length=1, max_length=16)]
    certificates: Annotated[tuple[CertificateSpec, ...], Field(max_length=256)] = ()
    routes: Annotated[tuple[HttpRouteSpec, ...], Field(min_length=1, max_length=256)]
    backends: Annotated[tuple[HttpBackendSpec, ...], Field(min_length=1, max_length=128)]
    retries: Annotated[int, Field(strict=True, ge=0, le=10)] = 3
    timeouts: HttpTimeoutsSpec = HttpTimeoutsSpec()
    connections: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 4000
    threads: Annotated[int, Field(strict=True, ge=1, le=64)] = 2

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _once((one.port for one in self.listeners), "listeners", "port")
        _once((one.name for one in self.certificates), "certificates", "name")
        _once((one.name for one in self.backends), "backends", "name")
        _once(((host, one.path, one.match) for one in self.routes for host in one.hosts or ("",)), "routes", "path")
        names = {one.name for one in self.backends}
        for place, route in enumerate(self.routes):
            if route.backend not in names:
                _refuse(f"expected one of {', '.join(sorted(names))}, found {route.backend!r}",
                        f"routes[{place}].backend")  # fmt: skip
        for place, listener in enumerate(self.listeners):
            if listener.tls and listener.redirect is not None:
                _refuse("unexpected for a listener with tls", f"listeners[{place}].redirect")
            if listener.tls and not self.certificates:
                _refuse("true, and there are no certificates", f"listeners[{place}].tls")
        if sum(len(one.hosts) or 1 for one in self.routes) > 1024:
            _refuse("expected at most 1024 hosts in all", "routes")
        if too_much := self.too_much_pem():
            _refuse(too_much, "certificates")
        self._check_certificates()
        return self

    def too_much_pem(self) -> str:
        """What is wrong with the size of certificates and of the keys that are known; empty when nothing is."""
        size = sum(len(one.chain) + (len(one.key.reveal()) if one.key.known else 0) for one in self.certificates)
        if size <= MOST_PEM:
            return ""
        return f"expected at most {MOST_PEM} characters of certificates and keys in all, found {size}"

    def _check_certificates(self) -> None:
        """Each is its key's and some route's, and each host of a route has one."""
        made_out: list[tuple[str, ...]] = []
        for place, one in enumerate(self.certificates):
            try:
                made_out.append(certificates.hosts_of(one.chain))
                if one.key.known:
                    certificates.check_key(one.chain, one.key.reveal())
            except certificates.CertificateError as error:
                _refuse(str(error), f"certificates[{place}].{error.field}")
            hosts = [host for route in self.routes for host in route.hosts]
            if all(route.hosts for route in self.routes) and not any(map(_covered_by(made_out[-1]), hosts)):
                named = ", ".join(made_out[-1]) or "no host"
                _refuse(f"it is made out for {named}, and no route has such a host", f"certificates[{place}].chain")
        if not any(one.tls for one in self.listeners):
            return
        for place, route in enumerate(self.routes):
            for number, host in enumerate(route.hosts):
                if not any(_covered_by(names)(host) for names in made_out):
                    _refuse(f"no certificate is made out for {host}", f"routes[{place}].hosts[{number}]")


class _Covered:
    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)  # a certificate can have thousands

    def __call__(self, host: str) -> bool:
        return certificates.covers(self._names, host)


def _covered_by(names: Iterable[str]) -> _Covered:
    return _Covered(names)


def _once(values: Iterable[Hashable], where: str, field: str) -> None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            shown = " ".join(filter(None, value)) if isinstance(value, tuple) else value
            _refuse(f"two have the {field} {shown}", where)
        seen.add(value)


def _refuse(message: str, field: str) -> None:
    raise PydanticCustomError("fit", "{message}", {"message": message, "field": field})


class HttpLoadBalancerStatus(Status):
    """What is kept of it is nothing: addresses are those of its scaled endpoint."""


class HttpLoadBalancer(Resource):
    """A scaled endpoint of the same name whose members are processes that the droplets run."""

    scope = Scope.TENANT
    IMMUTABLE = ("network", "addresses")
    kind: Literal["HttpLoadBalancer"] = "HttpLoadBalancer"
    spec: HttpLoadBalancerSpec
    status: HttpLoadBalancerStatus = HttpLoadBalancerStatus()

    def backends_of(self, name: str) -> Iterator[HttpBackendSpec]:
        """The backends that name an endpoint."""
        return (one for one in self.spec.backends if name in one.endpoints)
