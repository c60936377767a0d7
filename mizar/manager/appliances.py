# SPDX-License-Identifier: Apache-2.0
"""Appliances: endpoints that forward, the routes of networks that lead to them, and what they may send from.

Owned by mizar.manager.fleet, which asks here whose tables change with an endpoint, a network or a peering; facts and
manager ask where a route leads. A route to what is not there, or does not forward, is no fault of a manifest: it leads
nowhere until there is such an endpoint, and the network's status says so. It must never write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address

from mizar.manager.function_routes import routed
from mizar.manager.peering import peers_of
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.model.addresses import Prefix, parse_mac, parse_prefix, within
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref
from mizar.model.routes import Route
from mizar.planner.entries import NextHopEntry, RouteEntry
from mizar.planner.facts import TUNNELS

_ALLOWED, _REFUSED = 1, 2  # enum route_action of contracts/dataplane.h: ROUTE_VPC, ROUTE_BLACKHOLE


def next_hop(registry: Registry, network: Network, route: Route) -> NextHopEntry | str:
    """Where a route to an endpoint leads; or why it leads nowhere."""
    name, family = route.appliance, parse_prefix(route.to).version
    item = registry.find(Ref("Endpoint", network.tenant, name))
    endpoint = item.resource if item is not None and not item.deleting else None
    if not isinstance(endpoint, Endpoint):
        return f"there is no endpoint {name}"
    if not endpoint.spec.forwarding:
        return f"endpoint {name} does not forward (spec.forwarding)"
    if endpoint.spec.workload is None:
        return f"endpoint {name} has no workload on a droplet with a daemon"
    home = registry.find(Ref("Network", endpoint.tenant, endpoint.spec.network))
    host = registry.find_droplet(endpoint.spec.droplet or "")
    if home is None or not isinstance(home.resource, Network) or vpc_of(home.resource) != vpc_of(network):
        return f"endpoint {name} is in another VPC"
    if family not in {ip_address(text).version for text in endpoint.status.addresses}:
        return f"endpoint {name} has no IPv{family} address"
    if host is None or not isinstance(host.resource, Droplet) or home.resource.status.id is None:
        return f"endpoint {name} has no host"
    tunnel = endpoint.spec.tunnel_protocol or home.resource.spec.tunnel_protocol
    address = ip_address(host.resource.spec.addresses[0]).packed
    return NextHopEntry(parse_mac(endpoint.status.mac), address, TUNNELS[tunnel], home.resource.status.id)


def appliance_of(registry: Registry, network: Network) -> Callable[[Route], NextHopEntry | None]:
    """Tells where routes of a network to endpoints lead; None: nowhere."""

    def hop(route: Route) -> NextHopEntry | None:
        found = next_hop(registry, network, route)
        return None if isinstance(found, str) else found

    return hop


def refused(registry: Registry, network: Network, status: dict[str, object]) -> dict[str, object]:
    """What a network's status says of its routes to endpoints; `status` as it is so far."""
    routes = routed(registry, network).spec.routes
    found = [(route.to, next_hop(registry, network, route)) for route in routes if route.appliance]
    nowhere = [(to, why) for to, why in found if isinstance(why, str)]
    if not nowhere:
        return {}
    before = status.get("routesRefused")
    listed = [*(before if isinstance(before, (list, tuple)) else ()), *(to for to, _ in nowhere)]
    reasons = "; ".join(dict.fromkeys(why for _, why in nowhere))
    message = f"{reasons}: packets to {', '.join(to for to, _ in nowhere)} are refused"
    return {"routesRefused": listed, "message": status["message"] or message}


class Appliances:
    """Which networks have routes to which endpoints. A change looks at those, never at all networks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._named: dict[str, set[Ref]] = {}  # uid of a network → endpoints that its routes name
        self._naming: dict[Ref, dict[str, Item]] = {}  # the other way

    def put(self, network: Item) -> list[Item]:
        """A network comes, changes or goes; the endpoints that its routes name now, or did."""
        resource = network.resource
        routes: Iterable[Route] = ()
        if isinstance(resource, Network) and not network.deleting:
            routes = routed(self._registry, resource).spec.routes
        now = {Ref("Endpoint", network.resource.tenant, route.appliance) for route in routes if route.appliance}
        before = self._named.pop(network.uid, set())
        if now:
            self._named[network.uid] = now
        for ref in before - now:
            self._naming[ref].pop(network.uid)
            if not self._naming[ref]:
                del self._naming[ref]
        for ref in now:
            self._naming.setdefault(ref, {})[network.uid] = network
        return [item for ref in sorted(before | now) if (item := self._registry.find(ref)) and not item.deleting]

    def networks(self, endpoint: Item) -> list[Item]:
        """The networks whose routes name an endpoint."""
        return [item for item in self._naming.get(endpoint.ref, {}).values() if not item.deleting]

    def of_vpc(self, vpc: Ref) -> list[Item]:
        """The endpoints that routes of a VPC's networks name."""
        item = self._registry.find(vpc)
        networks = self._registry.children(item) if item else ()
        named = {ref for network in networks for ref in self._named.get(network.uid, ())}
        return [found for ref in sorted(named) if (found := self._registry.find(ref)) and not found.deleting]

    def sources(self, endpoint: Item) -> tuple[RouteEntry, ...]:
        """What an appliance may send from: its VPC's addresses and what is routed by way of it, but no peer's."""
        resource = endpoint.resource
        if not isinstance(resource, Endpoint) or not resource.spec.forwarding:
            return ()
        home = self._registry.find(Ref("Network", resource.tenant, resource.spec.network))
        vpc = self._registry.find(vpc_of(home.resource)) if home and isinstance(home.resource, Network) else None
        if vpc is None or not isinstance(vpc.resource, VPC):
            return ()
        foreign = {parse_prefix(text) for peer in peers_of(self._registry, vpc.ref) for text in peer.spec.cidrs}
        allowed = {parse_prefix(text) for text in vpc.resource.spec.cidrs}
        for prefix in self._routed(endpoint, vpc.resource):
            if not any(within(prefix, other) for other in foreign):
                allowed.add(prefix)
        found = [_entry(prefix, _ALLOWED) for prefix in allowed] + [_entry(prefix, _REFUSED) for prefix in foreign]
        return tuple(sorted(found))

    def _routed(self, endpoint: Item, vpc: VPC) -> Iterator[Prefix]:
        for item in self.networks(endpoint):
            if isinstance(item.resource, Network) and vpc_of(item.resource) == vpc.ref:
                routes = routed(self._registry, item.resource).spec.routes
                mine = (route for route in routes if route.appliance == endpoint.resource.name)
                yield from (parse_prefix(route.to) for route in mine)


def _entry(prefix: Prefix, action: int) -> RouteEntry:
    return RouteEntry(prefix.network_address.packed, prefix.prefixlen, action)
