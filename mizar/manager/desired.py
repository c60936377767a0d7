# SPDX-License-Identifier: Apache-2.0
"""What every droplet should hold, fed with objects as they come, change and go.

Owned by mizar.manager.fleet, which tells droplets of it, and by mizar.manager.rehearsal, which tells nobody. It must
never touch a droplet or the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

from mizar.manager.appliances import Appliances
from mizar.manager.balancers import Balancers
from mizar.manager.facts import fact_of
from mizar.manager.instances import instances_of, owner_of
from mizar.manager.load_balancers import public_of
from mizar.manager.nat_gateways import entry_of as nat_entry
from mizar.manager.nat_gateways import forwarding_to, may_reach
from mizar.manager.network_acls import NetworkAcls
from mizar.manager.policies import Moved, Policies
from mizar.manager.public_nat import entry_of as public_entry
from mizar.manager.public_nat import is_nat
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.manager.scaled import Services
from mizar.manager.vpns import entry_of
from mizar.model.address_pool import AddressPool
from mizar.model.errors import NotFoundError
from mizar.model.http_balancer import HttpLoadBalancer
from mizar.model.load_balancer import LoadBalancer
from mizar.model.nat_gateway import NatGateway
from mizar.model.peering import VPCPeering
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref, VpnConnection
from mizar.planner.entries import NOT_POLICED, RouteEntry
from mizar.planner.facts import DropletFact, EndpointFact, NetworkFact, PeeringFact, VpcFact
from mizar.planner.plan import Change
from mizar.planner.records import AclEntry
from mizar.planner.topology import Topology

log = logging.getLogger(__name__)
_ALLOWED = 1  # enum route_action of contracts/dataplane.h: ROUTE_VPC


class Desired:
    """The topology, and the scaled endpoints whose members follow from other objects."""

    def __init__(
        self,
        registry: Registry,
        mtu_of: Callable[[str], int] = lambda _: 0,
        changed: Callable[[Item], None] = lambda _: None,
    ) -> None:
        """`mtu_of`: what a droplet told of its interface; `changed` is told of services whose members change."""
        self._registry = registry
        self._mtu_of = mtu_of
        self._changed = changed
        self.topology = Topology()
        self.services = Services(registry, partial(public_of, registry))
        self.appliances = Appliances(registry)
        self.policies = Policies(registry)
        self.balancers = Balancers(registry)
        self.acls = NetworkAcls(registry)
        self._unused: list[tuple[int, int]] = []

    def put(self, item: Item, inside: Iterable[Item] = ()) -> list[Change]:
        """Takes an object, or its next state.

        `inside` are objects whose tables follow from it (endpoints take their network's tunnel protocol).
        """
        changes = self._put(item)
        for child in inside:
            changes += self._put(child)
        self._let_go()
        return changes + self._put_public(item)

    def remove(self, item: Item, inside: Iterable[Item] = ()) -> list[Change]:
        """Takes an object out of what is desired; `inside` are objects whose tables follow from it."""
        changes: list[Change] = []
        if isinstance(item.resource, HttpLoadBalancer):
            self.balancers.remove(item)
            return []
        if isinstance(item.resource, LoadBalancer):  # all of it is its scaled endpoint
            return []
        if isinstance(item.resource, NatGateway):
            return self._put_networks(self._vpc_of(item))
        if isinstance(item.resource, VpnConnection):
            return self.topology.put_vpn(item.uid, None) + self._put_networks(_vpc_ref(item.resource))
        if _is_scaled(item):
            changes = self._put_balancers(item)
            return changes + self._remove_service(item) + self._follow(self.policies.remove(item))
        if isinstance(item.resource, Endpoint):
            changes = self._put_services(item) + self._put_balancers(item) + self._put_forwards(item)
        fact = fact_of(self._registry, item)
        try:
            match fact:
                case EndpointFact():
                    gone = self.policies.remove(item)
                    changes += self.topology.remove_endpoint(fact.uid) + self._put_routes(item) + self._follow(gone)
                    changes += self._vpn_that_brought(item) + self._nat_that_brought(item)
                case NetworkFact():
                    changes = self.topology.remove_network(fact.vni, fact.id)
                    changes += self._put_sources(self.appliances.put(item))
                    changes += self._follow(self.policies.remove(item)) + self._rule(self.acls.remove(item))
                case VpcFact():
                    changes = self.topology.remove_vpc(fact.vni)
                case PeeringFact():
                    changes = self.topology.remove_peering(fact.vnis) + self._put_peers(item)
                case DropletFact():
                    changes = self.topology.remove_droplet(fact.name)
                case None:
                    changes += self._follow(self.policies.remove(item)) + self._rule(self.acls.remove(item))
        except NotFoundError:
            log.debug("removed_twice object=%s", item.ref)
        for child in inside:
            changes += self._put(child)
        self._let_go()
        return changes + self._put_public(item)

    def settle(self) -> Iterator[tuple[list[Change], list[Item]]]:
        """What follows from all that was put and removed since the last time, together; and for which objects."""
        for entry, causes in self.policies.settle():
            items = (self._registry.by_uid(uid) for uid in causes)
            yield self.topology.put_policy_set(entry), [item for item in items if item is not None]

    def refresh(self, service: Item) -> list[Change]:
        """Something is known of a scaled endpoint's members that was not."""
        fact = self.services.fact(service)
        changes = self.topology.put_service(fact) if fact else []
        if (owner := self._owner(service)) is not None and is_nat(owner.resource) and not owner.deleting:
            changes += self._put_instances(owner)
        return changes + self._put_answering(service)

    def _put_answering(self, service: Item) -> list[Change]:
        """Members that answer for a scaled endpoint by themselves: what they may send from."""
        changes: list[Change] = []
        for item in self.services.bypassing(service):
            fact = fact_of(self._registry, item) if self.topology.knows(item.uid) and not item.deleting else None
            if isinstance(fact, EndpointFact):
                changes += self.topology.put_endpoint(self._complete(fact, item))
        return changes

    def _put(self, item: Item) -> list[Change]:
        if isinstance(item.resource, Endpoint) and item.resource.spec.type != "scaled":
            fact = fact_of(self._registry, item)
            return self._put_endpoint(item, fact) if isinstance(fact, EndpointFact) else self._put_uncarried(item)
        if isinstance(item.resource, HttpLoadBalancer):
            self.balancers.put(item)
            return self._put_instances(item)
        if isinstance(item.resource, LoadBalancer):
            return self._put_instances(item)
        if isinstance(item.resource, NatGateway):
            return self._put_instances(item) + self._put_networks(self._vpc_of(item))
        if isinstance(item.resource, AddressPool):
            users = [one for one in self._registry.children(item) if isinstance(one.resource, NatGateway)]
            return [change for one in users for change in self._put_instances(one)]
        if isinstance(item.resource, VpnConnection):
            return [] if item.deleting else self._put_vpn(item)
        if _is_scaled(item):
            self.services.put(item)
            changes = self._put_balancers(item)
            return changes if item.deleting else changes + self.refresh(item) + self._follow(self.policies.put(item))
        match fact_of(self._registry, item):
            case NetworkFact() as fact:
                named = self.appliances.put(item)
                changes = self.topology.put_network(fact) + self._put_sources(named)
                return changes + self._follow(self.policies.put(item)) + self._rule(self.acls.put(item))
            case VpcFact() as fact:
                return self.topology.put_vpc(fact)
            case DropletFact() as fact:
                changes = self.topology.put_droplet(replace(fact, mtu=self._mtu_of(fact.name)))
                return changes + self._put_refused(item)
            case PeeringFact() as fact:
                return self.topology.put_peering(fact) + self._put_peers(item)
        return self._follow(self.policies.put(item)) + self._rule(self.acls.put(item))

    def _put_endpoint(self, item: Item, fact: EndpointFact) -> list[Change]:
        """The endpoint itself, and whatever names it: for most nothing does."""
        changes = self._follow(self.policies.put(item), but=item)
        changes += self.topology.put_endpoint(self._complete(fact, item))
        changes += self._put_services(item) + self._put_routes(item) + self._put_balancers(item)
        changes += self._put_forwards(item)
        if (owner := self._owner(item)) is not None:
            changes += self._vpn_that_brought(item)
            if isinstance(owner.resource, NatGateway):
                changes += self._put_networks(self._vpc_of(owner)) + self._put_instances(owner)
        if self._registry.has_children(item):
            changes += [change for vpn in self._vpns_of(item) for change in self._put_tunnel(vpn)]
        return changes

    def _put_uncarried(self, item: Item) -> list[Change]:
        """An endpoint that nobody can carry any more."""
        if self.topology.knows(item.uid):
            return self.topology.remove_endpoint(item.uid)
        return self._follow(self.policies.put(item))

    def _put_vpn(self, item: Item) -> list[Change]:
        """A connection, and the routes that lead to it."""
        assert isinstance(item.resource, VpnConnection)
        return self._put_tunnel(item) + self._put_networks(_vpc_ref(item.resource))

    def _put_tunnel(self, item: Item) -> list[Change]:
        return self.topology.put_vpn(item.uid, entry_of(self._registry, item))

    def _vpn_that_brought(self, endpoint: Item) -> list[Change]:
        """A connection whose endpoint comes or goes is carried by another one."""
        owner = self._owner(endpoint)
        if owner is None or owner.deleting or not isinstance(owner.resource, VpnConnection):
            return []
        return self._put_vpn(owner)

    def _nat_that_brought(self, endpoint: Item) -> list[Change]:
        """A NAT gateway of which an instance goes: another one attracts its addresses."""
        owner = self._owner(endpoint)
        if owner is None or owner.deleting or not isinstance(owner.resource, NatGateway):
            return []
        return self._put_networks(self._vpc_of(owner)) + self._put_instances(owner)

    def _vpns_of(self, endpoint: Item) -> list[Item]:
        found = self._registry.children(endpoint)
        return [item for item in found if isinstance(item.resource, VpnConnection) and not item.deleting]

    def _put_networks(self, ref: Ref) -> list[Change]:
        """The tables of a VPC's subnets follow from its VPN connections and NAT gateways."""
        vpc = self._registry.find(ref)
        changes: list[Change] = []
        for item in list(self._registry.children(vpc)) if vpc else ():
            if isinstance(item.resource, Network) and not item.resource.is_group and not item.deleting:
                changes += self._put(item)
        return changes

    def _complete(self, fact: EndpointFact, item: Item) -> EndpointFact:
        """With what follows from other objects."""
        sources, policy = self.appliances.sources(item), self.policies.binding(item)
        if sources or policy != NOT_POLICED:
            fact = replace(fact, sources=sources, policy=policy)
        if fact.bypass and (answers := self.services.answers(item)):
            own = {RouteEntry(address, len(address) * 8, _ALLOWED) for address in answers}
            fact = replace(fact, forwarding=True, sources=tuple(sorted({*fact.sources, *own})))
        owner = self._owner(item)
        if owner is not None and isinstance(owner.resource, NatGateway):
            return replace(fact, engine=nat_entry(self._registry, owner, item))
        if owner is not None and is_nat(owner.resource):
            return replace(fact, engine=public_entry(self._registry, self.services, owner, item))
        if owner is None or not isinstance(owner.resource, HttpLoadBalancer):
            return fact
        return replace(fact, engine=self.balancers.entry(owner, item))

    def _owner(self, item: Item) -> Item | None:
        """The function that has brought an endpoint."""
        ref = owner_of(item.resource) if isinstance(item.resource, Endpoint) else None
        return self._registry.find(ref) if ref else None

    def _vpc_of(self, gateway: Item) -> Ref:
        network = self._registry.find(Ref("Network", gateway.resource.tenant, gateway.resource.spec.network))
        assert network is not None
        assert isinstance(network.resource, Network)
        return vpc_of(network.resource)

    def _follow(self, moved: Moved | None, but: Item | None = None) -> list[Change]:
        """What policies ask for: sets are there before endpoints are bound to them. `but`: one that is put anyway."""
        if moved is None:
            return []
        changes = [one for entry in moved.effects.sets.values() for one in self.topology.put_policy_set(entry)]
        for uid in moved.effects.endpoints:
            item = self._registry.by_uid(uid)
            fact = fact_of(self._registry, item) if item and item is not but and self.topology.knows(uid) else None
            if item is not None and isinstance(fact, EndpointFact):
                changes += self.topology.put_endpoint(self._complete(fact, item))
        self._unused += [(moved.vni, number) for number in moved.effects.unused]
        return changes

    def _rule(self, asked: tuple[int, list[AclEntry]] | None) -> list[Change]:
        """What network ACLs ask for."""
        return self.topology.put_acls(*asked) if asked else []

    def _let_go(self) -> None:
        """Sets that nobody is bound to any more."""
        for vni, number in self._unused:
            self.topology.remove_policy_set(vni, number)
        self._unused.clear()

    def _put_services(self, item: Item) -> list[Change]:
        """The scaled endpoints whose members change with an endpoint."""
        changes: list[Change] = []
        for service in self.services.touched_by(item):
            changes += self.refresh(service)
            self._changed(service)
        return changes

    def _put_public(self, cause: Item) -> list[Change]:
        """A pool, peering, VPC or droplet changed, or routes of a VPC: who attracts public addresses, and from whom
        nothing is taken."""
        changes: list[Change] = []
        if isinstance(cause.resource, Endpoint):
            return changes
        match cause.resource:
            case AddressPool() | VPCPeering() | VPC() | Droplet():
                services = self.services.all()
            case Network():
                services = self.services.all(vpc_of(cause.resource))
            case VpnConnection():
                services = self.services.all(_vpc_ref(cause.resource))
            case _:
                return []
        for item in services:
            if not item.deleting and isinstance(item.resource, Endpoint) and public_of(self._registry, item.resource):
                changes += self.refresh(item)
        return changes

    def _put_balancers(self, item: Item) -> list[Change]:
        """The instances of load balancers whose servers change with an endpoint."""
        changes: list[Change] = []
        for balancer in self.balancers.touched_by(item):
            changes += self._put_instances(balancer)
            self._changed(balancer)
        return changes

    def _put_instances(self, owner: Item) -> list[Change]:
        """The instances of a function, as they should be now."""
        changes: list[Change] = []
        for item in instances_of(self._registry, owner):
            fact = fact_of(self._registry, item) if self.topology.knows(item.uid) else None
            if isinstance(fact, EndpointFact):
                changes += self.topology.put_endpoint(self._complete(fact, item))
        return changes

    def _put_refused(self, item: Item) -> list[Change]:
        """A droplet comes: nobody behind a NAT gateway may speak with it."""
        droplet = item.resource
        assert isinstance(droplet, Droplet)
        gateways = [one for one in self._registry.of_kind("NatGateway") if not one.deleting]
        if not gateways or not any(may_reach(self._registry, one, droplet) for one in gateways):
            return []
        return [change for one in gateways for change in self._put_instances(one)]

    def _put_forwards(self, item: Item) -> list[Change]:
        """The NAT gateways with forwards to an endpoint."""
        return [change for one in forwarding_to(self._registry, item) for change in self._put_instances(one)]

    def _put_routes(self, item: Item) -> list[Change]:
        """The networks whose routes lead to an endpoint, where it is now."""
        changes: list[Change] = []
        for network in self.appliances.networks(item):
            fact = fact_of(self._registry, network)
            changes += self.topology.put_network(fact) if isinstance(fact, NetworkFact) else []
            self._changed(network)
        return changes

    def _put_sources(self, items: Iterable[Item]) -> list[Change]:
        """Endpoints that routes lead to, or led to: what they may send from."""
        changes: list[Change] = []
        for item in items:
            fact = fact_of(self._registry, item) if self.topology.knows(item.uid) else None
            if isinstance(fact, EndpointFact) and fact.forwarding:
                changes += self.topology.put_endpoint(self._complete(fact, item))
        return changes

    def _put_peers(self, item: Item) -> list[Change]:
        """A peering comes or goes: appliances of both VPCs may send from nothing of the other."""
        half = item.resource
        vpcs = (half.own, half.other) if isinstance(half, VPCPeering) else ()
        return [change for vpc in vpcs for change in self._put_sources(self.appliances.of_vpc(vpc))]

    def _remove_service(self, item: Item) -> list[Change]:
        fact = self.services.fact(item)
        changes = self._put_answering(item)
        self.services.remove(item)
        try:
            return changes + (self.topology.remove_service(fact.vni, fact.uid) if fact else [])
        except NotFoundError:
            return []


def _vpc_ref(vpn: VpnConnection) -> Ref:
    return Ref("VPC", vpn.tenant, vpn.spec.vpc)


def _is_scaled(item: Item) -> bool:
    return isinstance(item.resource, Endpoint) and item.resource.spec.type == "scaled"
