# SPDX-License-Identifier: Apache-2.0
"""From an object and its parents to the planner's fact about it. Called by mizar.manager.fleet. Pure."""

from __future__ import annotations

from dataclasses import replace

from mizar.manager.appliances import appliance_of
from mizar.manager.function_routes import routed as routed_by_functions
from mizar.manager.peering import other_half
from mizar.manager.registry import Item, Registry, target_of
from mizar.manager.substrate import allowance
from mizar.model.peering import VPCPeering
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref
from mizar.planner.entries import NO_QOS
from mizar.planner.facts import (
    EndpointFact,
    Fact,
    ProxyFact,
    droplet_fact,
    endpoint_fact,
    network_fact,
    peering_fact,
    proxy_fact,
    vpc_fact,
)
from mizar.planner.qos import entry_of


def fact_of(registry: Registry, item: Item) -> Fact | None:
    """The fact, or None for a kind that droplets are not told of. Its parents must be in the registry."""
    resource = item.resource
    if isinstance(resource, Endpoint):
        return _endpoint(registry, item, resource)
    match resource:
        case Droplet():
            return droplet_fact(resource)
        case VPC():
            return vpc_fact(resource)
        case Network() if resource.is_group:
            return None  # what endpoints bear tells of it
        case Network():
            routed = routed_by_functions(registry, resource)
            return network_fact(
                routed, _vpc(registry, resource), allowance(registry, resource), appliance_of(registry, resource)
            )
        case VPCPeering():
            return _peering(registry, item, resource)
    return None


def _endpoint(registry: Registry, item: Item, resource: Endpoint) -> EndpointFact | None:
    found = registry.find(Ref("Network", resource.tenant, resource.spec.network))
    assert found is not None
    assert isinstance(found.resource, Network)
    vpc = _vpc(registry, found.resource)
    qos = NO_QOS
    if resource.spec.workload is not None:
        qos = entry_of(resource.spec.qos, found.resource.spec.qos, vpc.spec.qos)
    fact = endpoint_fact(resource, found.resource, vpc, qos)
    if fact.carried and not fact.host:
        return None  # no droplet can carry it
    return replace(fact, proxy=_proxy(registry, item)) if resource.status.target else fact


def _proxy(registry: Registry, item: Item) -> ProxyFact | None:
    source, target = registry.source_of(item.uid), registry.find(target_of(item.resource) or item.ref)
    if source is None or target is None or not isinstance(target.resource, Endpoint):
        return None
    fact = fact_of(registry, source)
    return proxy_fact(fact, target.resource) if isinstance(fact, EndpointFact) else None


def _peering(registry: Registry, item: Item, half: VPCPeering) -> Fact | None:
    """None while the other half is not there: then droplets have nothing to know. One that goes may have had it."""
    one, other = registry.find(half.own), registry.find(half.other)
    if one is None or other is None or not (item.deleting or other_half(registry, half)):
        return None
    assert isinstance(one.resource, VPC)
    assert isinstance(other.resource, VPC)
    return peering_fact(one.resource, other.resource)


def _vpc(registry: Registry, network: Network) -> VPC:
    found = registry.find(Ref("VPC", network.tenant, network.spec.vpc))
    assert found is not None
    assert isinstance(found.resource, VPC)
    return found.resource
