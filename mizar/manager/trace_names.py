# SPDX-License-Identifier: Apache-2.0
"""What the registry knows of the numbers and addresses in droplets' tables (mizar.trace.names.Names).

Made by mizar.manager.tracing. It only reads, and tells everything: what a caller may hear is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address

from mizar.manager import address_pools
from mizar.manager.droplet_link import Link
from mizar.manager.nat_gateways import way_out
from mizar.manager.policies import Policies
from mizar.manager.policy_names import PolicyNames, sentence
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.manager.vpns import carrier_name, connections
from mizar.model.address_pool import AddressPool
from mizar.model.addresses import mac_text, parse_mac, parse_prefix, text_of
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref, Resource
from mizar.trace.names import Known


class RegistryNames:
    """Names, and how things should be. `link`: the connection to a droplet. `tunnel`: how a VPN connection is."""

    def __init__(
        self,
        registry: Registry,
        link: Callable[[str], Link | None],
        policies: PolicyNames | None = None,
        tunnel: Callable[[Ref], str] = lambda _: "",
    ) -> None:
        self._registry = registry
        self._tunnel = tunnel
        self._link = link
        self._policies = policies or PolicyNames(registry, Policies(registry))

    def droplet_item(self, address: bytes) -> Droplet | None:
        """The droplet that has an address."""
        item = self._registry.holder("droplet", text_of(address))
        return item.resource if item and isinstance(item.resource, Droplet) else None

    def droplet(self, address: bytes) -> str:
        """Its name."""
        found = self.droplet_item(address)
        return found.name if found else ""

    def vpc_item(self, number: int) -> Item | None:
        """The VPC that droplets know by a number."""
        return self._registry.holder("vni", str(number)) if number else None

    def vpc(self, number: int) -> str:
        """`tenant/name`."""
        return _name(self.vpc_item(number))

    def network(self, number: int, network: int) -> str:
        """`tenant/name`."""
        return _name(self._network_item(number, network))

    def endpoint(self, number: int, address: bytes) -> Known | None:
        """Who should have an address."""
        vpc = self.vpc_item(number)
        item = (
            self._registry.holder(f"address/{vpc.uid}", text_of(address)) if vpc and len(address) in (4, 16) else None
        )
        if item is None and vpc and len(address) in (4, 16):
            item = self._balanced(vpc, text_of(address))
        if item is None or not isinstance(item.resource, Endpoint):
            return None
        status = item.resource.status
        host = self.address_of(status.host) if status.host else b""
        mac = parse_mac(status.mac) if status.mac else b""
        return Known(_name(item), item.resource.spec.type, host, mac)

    def members(self, number: int, network: int) -> frozenset[bytes]:
        """Bouncers of a network or, for id 0, dividers of a VPC."""
        item = self._network_item(number, network) if network else self.vpc_item(number)
        names: Iterable[str] = ()
        if item and isinstance(item.resource, VPC):
            names = item.resource.status.dividers
        elif item and isinstance(item.resource, Network):
            names = item.resource.status.bouncers
        return frozenset(self.address_of(name) for name in (*names, *(item.former if item else ())))

    def carrier(self, number: int, address: bytes) -> str:
        """Which endpoint carries the VPN connection to an address outside: of several that with the longest prefix.
        And whether that is up.

        Where there is none: that of the NAT gateway into the world.
        """
        vpc, registry = self.vpc_item(number), self._registry
        if vpc is None or len(address) not in (4, 16):
            return ""
        found = [
            (parse_prefix(text).prefixlen, one)
            for one in connections(registry, vpc.ref)
            for text in one.spec.remote_prefixes
            if ip_address(address) in parse_prefix(text)
        ]
        if not found:
            return way_out(self._registry, vpc.ref, ip_address(address))
        _, one = max(found, key=lambda pair: pair[0])
        state = f" ({told})" if (told := self._tunnel(one.ref)) else ""
        return f"{one.tenant}/{carrier_name(registry, one)}, which carries {one.ref}{state},"

    def _balanced(self, vpc: Item, address: str) -> Item | None:
        """The scaled endpoint of the load balancer of a VPC that has a public address."""
        owner = self._registry.holder(address_pools.SCOPE, address)
        if owner is None or owner.resource.kind != "LoadBalancer":
            return None
        found = self._registry.find(Ref("Endpoint", owner.resource.tenant, owner.resource.name))
        network = self._network_of(found.resource) if found else None
        return found if network and vpc_of(network) == vpc.ref else None

    def _network_of(self, resource: Resource) -> Network | None:
        item = (
            self._registry.find(Ref("Network", resource.tenant, resource.spec.network))
            if isinstance(resource, Endpoint)
            else None
        )
        return item.resource if item and isinstance(item.resource, Network) else None

    def member(self, number: int, mac: bytes) -> str:
        """`tenant/name` of the endpoint of a VPC that has a MAC."""
        vpc = self.vpc_item(number)
        return _name(self._registry.holder(f"mac/{vpc.uid}", mac_text(mac))) if vpc else ""

    def attracting(self, address: bytes) -> tuple[str, ...]:
        """Names of the droplets of the pool that a public address is of."""
        for item in self._registry.of_kind("AddressPool"):
            pool = item.resource
            if isinstance(pool, AddressPool) and pool.holds(ip_address(address)):
                return tuple(pool.spec.droplets)
        return ()

    def mtu(self, one: bytes, other: bytes) -> int:
        """What both interfaces have room for; 0 where either has not told."""
        links = [self._link(self.droplet(address)) for address in (one, other)]
        told = [link.info.interface_mtu if link and link.info else 0 for link in links]
        return min(told) if all(told) else 0

    def address_of(self, name: str) -> bytes:
        """By which the tables name a droplet; empty for one that is gone."""
        item = self._registry.find_droplet(name)
        if item is None or not isinstance(item.resource, Droplet):
            return b""
        return ip_address(item.resource.spec.addresses[0]).packed

    def verdict(self, number: int, address: bytes, rule: int, *, egress: bool) -> str:
        """Who decided about a packet of an endpoint: a rule, or that no rule of its policies does."""
        vpc = self.vpc_item(number)
        return sentence(self._policies, vpc, self._policies.uid_of(vpc, address), rule, egress=egress)

    def behind(self, number: int, address: bytes, rule: int, peer: bytes, protocol: int, port: int) -> str:
        """The rule that would have allowed what a rule denies; empty where none would."""
        vpc = self.vpc_item(number)
        return self._policies.behind(vpc, self._policies.uid_of(vpc, address), rule, peer, protocol, port)

    def _network_item(self, number: int, network: int) -> Item | None:
        vpc = self.vpc_item(number)
        return self._registry.holder(f"network/{vpc.uid}", str(network)) if vpc else None


def _name(item: Item | None) -> str:
    return f"{item.resource.tenant}/{item.resource.name}" if item else ""
