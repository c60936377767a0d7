# SPDX-License-Identifier: Apache-2.0
"""From what a store kept to a manager that goes on where the one before it ended, at whatever moment that was.

Called by mizar.manager.manager when it starts. What each droplet really holds is found out by its link; here it is only
worked out whom an unfinished object has to wait for.
"""

from __future__ import annotations

from collections.abc import Iterator

from mizar.manager.draft import Cursors
from mizar.manager.fleet import Fleet
from mizar.manager.instances import instances_of
from mizar.manager.members import Members, with_members
from mizar.manager.peering import other_half
from mizar.manager.registry import Item, Registry
from mizar.manager.vpns import carrier_of
from mizar.model.http_balancer import HttpLoadBalancer
from mizar.model.load_balancer import LoadBalancer
from mizar.model.nat_gateway import NatGateway
from mizar.model.network_acl import NetworkAcl
from mizar.model.peering import VPCPeering
from mizar.model.policy import Policy
from mizar.model.resources import KINDS, VPC, Droplet, Endpoint, Network, Phase, Ref, VpnConnection


def recover(registry: Registry, cursors: Cursors, fleet: Fleet) -> Members:
    """Feeds the fleet with all objects, sets the cursors, and returns the members of all groups."""
    items = [item for kind in KINDS for item in registry.of_kind(kind)]
    seated = {name for item in items for name in item.placement}
    members = Members(items, {i.resource.name for i in registry.of_kind("Droplet") if i.resource.name not in seated})
    for item in items:
        _drop_vanished_members(registry, item)
        network, vpc = _inside_of(registry, item)
        cursors.note(item.resource, network, vpc)
    fleet.load(items)
    for item in reversed(items):
        if item.deleting:
            fleet.remove(item)
    for item in items:
        unfinished = (
            _moving(item)
            or item.phase is not Phase.PROVISIONED
            or item.observed_generation < item.resource.metadata.generation
        )
        needed = {*item.former, *(_needed_by(registry, item, fleet) if unfinished and not item.deleting else ())}
        if unfinished or item.former or isinstance(item.resource, Droplet):
            fleet.expect(item, (), [name for name in needed if _has_daemon(registry, name)])
    for item in registry.of_kind("Droplet"):
        if item.forced:
            fleet.give_up(item.resource.name)
    return members


def _needed_by(registry: Registry, item: Item, fleet: Fleet) -> Iterator[str]:
    """The droplets that must hold an object before it is provisioned."""
    network, vpc = _inside_of(registry, item)
    match item.resource:
        case Endpoint():
            yield item.resource.spec.droplet or item.resource.status.host
            if (move := item.resource.status.move) is not None and move.under_way:
                yield from (move.source, move.target)
            yield from network.status.bouncers if network else ()
        case Network() if item.resource.is_group:
            pass
        case Network():
            yield from item.resource.status.bouncers
            yield from vpc.status.dividers if vpc else ()
        case VPC():
            yield from item.resource.status.dividers
        case VPCPeering():
            for ref in (item.resource.own, item.resource.other):
                found = registry.find(ref)
                yield from found.placement if found and other_half(registry, item.resource) else ()
        case Policy():
            for endpoint in fleet.policies.endpoints(item):
                yield from _needed_by(registry, endpoint, fleet)
        case HttpLoadBalancer() | LoadBalancer() | NatGateway():
            yield from (one.resource.spec.droplet or "" for one in instances_of(registry, item))
        case VpnConnection():
            found = carrier_of(registry, item.resource)
            yield from _needed_by(registry, found, fleet) if found else ()
        case NetworkAcl():
            found = registry.find(Ref("VPC", item.resource.tenant, item.resource.spec.vpc))
            number = found.resource.number if found and isinstance(found.resource, VPC) else None
            yield from fleet.holders(number) if number is not None else ()
        case Droplet():
            yield from (other.resource.name for other in registry.of_kind("Droplet") if not other.deleting)


def _moving(item: Item) -> bool:
    move = item.resource.status.move if isinstance(item.resource, Endpoint) else None
    return move is not None and move.under_way


def _inside_of(registry: Registry, item: Item) -> tuple[Network | None, VPC | None]:
    network = item.resource if isinstance(item.resource, Network) else None
    if isinstance(item.resource, Endpoint):
        found = registry.find(Ref("Network", item.resource.tenant, item.resource.spec.network))
        network = found.resource if found and isinstance(found.resource, Network) else None
    above = registry.find(Ref("VPC", network.tenant, network.spec.vpc)) if network else None
    return network, above.resource if above and isinstance(above.resource, VPC) else None


def _drop_vanished_members(registry: Registry, item: Item) -> None:
    """An object that is being deleted keeps the members that it had; those that went since would be unknown."""
    if item.deleting and item.placement:
        item.resource = with_members(item.resource, [name for name in item.placement if _has_daemon(registry, name)])


def _has_daemon(registry: Registry, name: str) -> bool:
    item = registry.find_droplet(name)
    return item is not None and isinstance(item.resource, Droplet) and item.resource.spec.has_daemon
