# SPDX-License-Identifier: Apache-2.0
"""Who is meant by the numbers and addresses that daemons speak of.

Called by mizar.manager.monitor. Daemons know numbers of VPCs, uids and addresses; people know names. It must never
guess: what is not known has no name.
"""

from __future__ import annotations

from ipaddress import ip_address

from mizar.manager.registry import Item, Registry, vpc_of
from mizar.model.ddos import DdosProtection
from mizar.model.resources import Endpoint, Network, Ref


class Names:
    """Names of what is in a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def vpc(self, number: int) -> Item | None:
        """The VPC that has a number on droplets."""
        return self._registry.holder("vni", str(number)) if number else None

    def endpoint(self, uid: str) -> Item | None:
        """An endpoint by its uid."""
        item = self._registry.by_uid(uid) if uid else None
        return item if item is not None and isinstance(item.resource, Endpoint) else None

    def protection(self, uid: str) -> Item | None:
        """A protection by its uid."""
        item = self._registry.by_uid(uid) if uid else None
        return item if item is not None and isinstance(item.resource, DdosProtection) else None

    def endpoint_at(self, vpc: Item | None, address: bytes) -> Item | None:
        """The endpoint that has an address in a VPC."""
        if vpc is None or len(address) not in (4, 16):
            return None
        item = self._registry.holder(f"address/{vpc.uid}", str(ip_address(address)))
        return item if item is not None and isinstance(item.resource, Endpoint) else None

    def vpc_of(self, endpoint: Item | None) -> Item | None:
        """The VPC that an endpoint is in."""
        network = self.network_of(endpoint)
        inside = network.resource if network else None
        return self._registry.find(vpc_of(inside)) if isinstance(inside, Network) else None

    def network_of(self, endpoint: Item | None) -> Item | None:
        """The network that an endpoint is in."""
        if endpoint is None or not isinstance(endpoint.resource, Endpoint):
            return None
        return self._registry.find(Ref("Network", endpoint.resource.tenant, endpoint.resource.spec.network))

    def droplet_at(self, address: bytes) -> str:
        """The name of the droplet with an address of the substrate; empty when there is none."""
        item = self._registry.holder("droplet", str(ip_address(address))) if len(address) in (4, 16) else None
        return item.resource.name if item is not None else ""

    def find(self, ref: Ref) -> Item | None:
        """An object by its name."""
        return self._registry.find(ref)
