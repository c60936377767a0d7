# SPDX-License-Identifier: Apache-2.0
"""HTTP load balancers: what a manifest may ask for, which endpoints are their servers now, what their instances run.

The checks are called by intake, the rest is owned by mizar.manager.desired. A change of one endpoint looks at the load
balancers of its VPC, never at all endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from mizar.manager.instances import Wish
from mizar.manager.registry import Item, Registry
from mizar.model import certificates
from mizar.model.errors import ExhaustedError, Problem
from mizar.model.http_balancer import Algorithm, HttpBackendSpec, HttpHealthSpec, HttpLoadBalancer
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref, Resource
from mizar.model.scaled import HealthSpec, HealthType, matches
from mizar.planner.engines import (
    Balance,
    EngineEntry,
    HttpBackendEntry,
    HttpBalancerEntry,
    HttpCertificateEntry,
    HttpCheckEntry,
    HttpListenerEntry,
    HttpRouteEntry,
    HttpServerEntry,
)

MOST_SERVERS, MOST_SERVERS_IN_ALL = 1024, 4096
"""Of a backend, and of all backends of a load balancer: droplets are told each, and ask each whether it is well."""
MOST_INSTANCES, MOST_THREADS, MOST_CONNECTIONS = 128, 256, 400_000
"""Of all load balancers of a tenant: their instances may all be on one droplet, beside those of others."""
MOST_NAME = 50
"""Characters of a name: instances have it with a number behind, which grows."""
Find = Callable[[Ref], Resource | None]
_BALANCE = {
    Algorithm.ROUND_ROBIN: Balance.ROUND_ROBIN,
    Algorithm.LEAST_CONNECTIONS: Balance.LEAST_CONNECTIONS,
    Algorithm.SOURCE: Balance.SOURCE,
}


def wish_of(balancer: HttpLoadBalancer) -> Wish:
    """The endpoints that a load balancer needs. An instance is well when its first listener takes connections."""
    spec = balancer.spec
    health = HealthSpec(type=HealthType.TCP, port=spec.listeners[0].port)
    return Wish(spec.network, spec.instances, spec.droplets, spec.addresses, health)


def problems_of(find: Find, balancer: HttpLoadBalancer, network: Network) -> Iterator[Problem]:
    """What speaks against the objects that a load balancer names, and against certificates whose keys it had before."""
    ref, vpc = str(balancer.ref), Ref("VPC", network.tenant, network.spec.vpc)
    if network.is_group:
        yield Problem(f"{network.ref} is a group, and has no addresses", "spec.network", ref)
    for place, name in enumerate(balancer.spec.droplets):
        droplet = find(Ref("Droplet", "", name))
        if not isinstance(droplet, Droplet) or not droplet.spec.has_daemon:
            yield Problem(f"there is no droplet {name} with a daemon", f"spec.droplets[{place}]", ref)
    plain = {one.port for one in balancer.spec.listeners if not one.tls}
    for place, listener in enumerate(balancer.spec.listeners):
        if listener.redirect in plain:
            message = f"expected the port of a listener with tls: that at port {listener.redirect} is one without tls"
            yield Problem(message, f"spec.listeners[{place}].redirect", ref)
    for place, backend in enumerate(balancer.spec.backends):
        for number, name in enumerate(backend.endpoints):
            message = _refused(find, balancer, network, vpc, Ref("Endpoint", balancer.tenant, name))
            if message:
                yield Problem(message, f"spec.backends[{place}].endpoints[{number}]", ref)
        for name in sorted(backend.weights.keys() - set(backend.endpoints)) if not backend.selector else ():
            message = f"{name} is none of the endpoints of backend {backend.name}"
            yield Problem(message, f"spec.backends[{place}].weights.{name}", ref)
    if len(balancer.name) > MOST_NAME:
        message = f"expected at most {MOST_NAME} characters, because instances have a number behind it"
        yield Problem(message, "metadata.name", ref)
    if too_much := balancer.spec.too_much_pem():
        yield Problem(too_much, "spec.certificates", ref)
    for place, one in enumerate(balancer.spec.certificates):
        try:
            if one.key.known:
                certificates.check_key(one.chain, one.key.reveal())
        except certificates.CertificateError as error:
            yield Problem(str(error), f"spec.certificates[{place}].{error.field}", ref)


def refuse_excess(balancer: HttpLoadBalancer, others: Iterable[HttpLoadBalancer]) -> None:
    """Raises ExhaustedError where a tenant would have too much with this one. `others`: load balancers of anybody."""
    own = [balancer.spec, *(one.spec for one in others if one.tenant == balancer.tenant and one.ref != balancer.ref)]
    for field_, limit, used in (
        ("instances", MOST_INSTANCES, sum(one.instances for one in own)),
        ("threads", MOST_THREADS, sum(one.instances * one.threads for one in own)),
        ("connections", MOST_CONNECTIONS, sum(one.instances * one.connections for one in own)),
    ):
        if used > limit:
            message = f"all instances of load balancers of tenant {balancer.tenant} would have {used}; expected at most"
            unit = field_ if field_ != "instances" else "in all"
            raise ExhaustedError(Problem(f"{message} {limit} {unit}", f"spec.{field_}", str(balancer.ref)))


def _refused(find: Find, balancer: HttpLoadBalancer, network: Network, vpc: Ref, server: Ref) -> str:
    other = find(server)
    made = other.spec.instance_of if isinstance(other, Endpoint) else None
    if (made and (made.kind, made.name) == (balancer.kind, balancer.name)) or server.name == balancer.name:
        return "a load balancer cannot be its own server"
    if not isinstance(other, Endpoint):
        return f"there is no {server}"
    if other.spec.type not in ("simple", "scaled"):
        return f"{server} is of type {other.spec.type}; expected a simple or a scaled endpoint"
    beside = find(Ref("Network", other.tenant, other.spec.network))
    if not isinstance(beside, Network) or Ref("VPC", beside.tenant, beside.spec.vpc) != vpc:
        return f"{server} is in another VPC"
    if not _families(other.status.addresses) & _families(network.spec.cidrs):
        return f"{server} has no address of a family that network {network.name} has"
    return ""


@dataclass(slots=True, eq=False)
class _Known:
    """A load balancer, the endpoints that selectors of its may match, and what its instances run."""

    item: Item
    vpc: Ref
    matched: dict[str, Item] = field(default_factory=dict)
    content: HttpBalancerEntry | None = None


class Balancers:
    """The load balancers of all VPCs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, _Known] = {}
        self._of_vpc: dict[Ref, dict[str, _Known]] = {}

    def put(self, item: Item) -> None:
        """A load balancer comes or changes."""
        network = self._find(Ref("Network", item.resource.tenant, item.resource.spec.network))
        if not isinstance(network, Network):
            return
        vpc = Ref("VPC", network.tenant, network.spec.vpc)
        known = self._known[item.uid] = _Known(item, vpc)
        self._of_vpc.setdefault(vpc, {})[item.uid] = known
        if any(backend.selector for backend in _spec(item).spec.backends):
            for other in self._endpoints_of(vpc):
                if _selects(_spec(item), other):
                    known.matched[other.uid] = other

    def remove(self, item: Item) -> None:
        """A load balancer goes."""
        known = self._known.pop(item.uid, None)
        if known is not None:
            self._of_vpc[known.vpc].pop(item.uid, None)

    def touched_by(self, item: Item) -> list[Item]:
        """The load balancers whose servers change with an endpoint: it came, changed or goes."""
        if not self._of_vpc:
            return []
        endpoint = item.resource
        assert isinstance(endpoint, Endpoint)
        network = self._find(Ref("Network", endpoint.tenant, endpoint.spec.network))
        vpc = Ref("VPC", network.tenant, network.spec.vpc) if isinstance(network, Network) else None
        found = []
        for known in self._of_vpc.get(vpc, {}).values() if vpc else ():
            was = known.matched.pop(item.uid, None) is not None
            balancer = _spec(known.item)
            if not item.deleting and _selects(balancer, item):
                known.matched[item.uid] = item
            named = any(True for _ in balancer.backends_of(endpoint.name))
            if (was or named or item.uid in known.matched) and not known.item.deleting:
                known.content = None
                found.append(known.item)
        return found

    def entry(self, owner: Item, instance: Item) -> EngineEntry | None:
        """What an instance runs."""
        known = self._known.get(owner.uid)
        if known is None:
            return None
        if known.content is None:
            known.content = self._content(known)
        return EngineEntry.of(replace(known.content, instance=instance.resource.name))

    def servers(self, owner: Item) -> dict[str, int]:
        """How many servers each backend has."""
        known = self._known.get(owner.uid)
        if known is None:
            return {}
        return {name: len(found) for name, found in self._all_servers(known).items()}

    def _content(self, known: _Known) -> HttpBalancerEntry:
        balancer = _spec(known.item)
        spec = balancer.spec
        servers = self._all_servers(known)
        routes = [
            HttpRouteEntry(host, route.path, route.match == "exact", route.backend)
            for route in spec.routes
            for host in route.hosts or ("",)
        ]
        return HttpBalancerEntry(
            tenant=balancer.tenant,
            name=balancer.name,
            instance="",
            listeners=tuple(HttpListenerEntry(one.port, one.tls, one.redirect or 0) for one in spec.listeners),
            certificates=tuple(
                HttpCertificateEntry(one.name, one.chain, one.key.reveal())
                for one in spec.certificates
                if one.key.known
            ),
            routes=tuple(routes),
            backends=tuple(self._backend(one, servers[one.name]) for one in spec.backends),
            retries=spec.retries,
            connect_ms=spec.timeouts.connect_ms,
            client_ms=spec.timeouts.client_ms,
            server_ms=spec.timeouts.server_ms,
            connections=spec.connections,
            threads=spec.threads,
        )

    def _backend(self, spec: HttpBackendSpec, servers: list[HttpServerEntry]) -> HttpBackendEntry:
        balance, limit = _BALANCE[spec.algorithm], spec.connections_per_server
        return HttpBackendEntry(spec.name, spec.port, balance, tuple(servers), _check(spec.health), limit)

    def _all_servers(self, known: _Known) -> dict[str, list[HttpServerEntry]]:
        """Of each backend, as many as there is room for."""
        found: dict[str, list[HttpServerEntry]] = {}
        room = MOST_SERVERS_IN_ALL
        for one in _spec(known.item).spec.backends:
            found[one.name] = self._servers(known, one)[:room]
            room -= len(found[one.name])
        return found

    def _servers(self, known: _Known, backend: HttpBackendSpec) -> list[HttpServerEntry]:
        """By name, each at one address: of the first family that the load balancer's network has too."""
        balancer = _spec(known.item)
        network = self._find(Ref("Network", balancer.tenant, balancer.spec.network))
        usable = _families(network.spec.cidrs) if isinstance(network, Network) else set()
        found: dict[str, HttpServerEntry] = {}
        named = [self._registry.find(Ref("Endpoint", balancer.tenant, name)) for name in backend.endpoints]
        matched = [one for one in known.matched.values() if matches(backend.selector, one.resource.metadata.labels)]
        for item in (*named, *matched):
            if item is None or item.deleting or not isinstance(item.resource, Endpoint):
                continue
            address = next((text for text in item.resource.status.addresses if (":" in text) in usable), None)
            if address is not None and len(found) < MOST_SERVERS:
                name = item.resource.name
                found[name] = HttpServerEntry(name, ip_address(address).packed, backend.weights.get(name, 1))
        return [found[name] for name in sorted(found)]

    def _endpoints_of(self, vpc: Ref) -> Iterator[Item]:
        item = self._registry.find(vpc)
        for network in self._registry.children(item) if item else ():
            for endpoint in self._registry.children(network):
                if isinstance(endpoint.resource, Endpoint) and not endpoint.deleting:
                    yield endpoint

    def _find(self, ref: Ref) -> Resource | None:
        item = self._registry.find(ref)
        return item.resource if item else None


def vpc_of(find: Find, balancer: HttpLoadBalancer) -> VPC | None:
    """The VPC that a load balancer is in."""
    network = find(Ref("Network", balancer.tenant, balancer.spec.network))
    vpc = find(Ref("VPC", network.tenant, network.spec.vpc)) if isinstance(network, Network) else None
    return vpc if isinstance(vpc, VPC) else None


def _selects(balancer: HttpLoadBalancer, item: Item) -> bool:
    endpoint = item.resource
    if not isinstance(endpoint, Endpoint) or endpoint.spec.type != "simple" or endpoint.tenant != balancer.tenant:
        return False
    if endpoint.spec.instance_of is not None:  # its own instances may bear the labels that it asks for
        return False
    return any(matches(backend.selector, endpoint.metadata.labels) for backend in balancer.spec.backends)


def _check(spec: HttpHealthSpec | None) -> HttpCheckEntry:
    if spec is None:
        return HttpCheckEntry()
    return HttpCheckEntry(spec.path or "", spec.interval_ms, spec.timeout_ms, spec.healthy_after, spec.unhealthy_after)


def _families(texts: tuple[str, ...]) -> set[bool]:
    return {":" in text for text in texts}


def _spec(item: Item) -> HttpLoadBalancer:
    assert isinstance(item.resource, HttpLoadBalancer)
    return item.resource
