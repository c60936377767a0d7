# SPDX-License-Identifier: Apache-2.0
"""What a lab should consist of, from its manifests: droplets with addresses, namespaces, objects for the server.

Called by mizar.lab.lab. Pure: it reads no file and touches no kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from mizar.lab.names import LabName
from mizar.model.errors import InvalidError, Problem
from mizar.model.resources import Droplet, DropletSpec, Endpoint, Lab, Metadata, Resource, SubstrateSpec
from mizar.model.workloads import WorkloadSpec


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One droplet of the lab: a namespace with an interface `eth0` on the substrate, and a daemon."""

    name: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    namespace: str


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A whole lab. `objects` is what the server is given: droplets first, endpoints with their namespaces filled in."""

    lab: LabName
    substrate: SubstrateSpec
    hosts: tuple[HostPlan, ...]
    endpoint_namespaces: tuple[str, ...]
    objects: tuple[Resource, ...]
    forwarding: frozenset[str] = frozenset()
    """Those of the namespaces whose endpoint forwards: they are told to."""
    daemon_arguments: tuple[str, ...] = ()


def plan(resources: Sequence[Resource]) -> LabPlan:
    """The lab of the manifests. Raises InvalidError when they hold not exactly one Lab, or one that does not fit."""
    found = [resource for resource in resources if isinstance(resource, Lab)]
    if len(found) != 1:
        raise InvalidError(f"a lab's manifests hold exactly one object of kind Lab, found {len(found)}")
    lab, name = found[0], LabName(found[0].name)
    hosts = _hosts(lab, name)
    own = {host.name for host in hosts}
    problems = [
        Problem(f"a lab of {len(hosts)} droplets makes {resource.name} itself", resource=str(resource.ref))
        for resource in resources
        if isinstance(resource, Droplet) and resource.name in own
    ]
    if problems:
        raise InvalidError(problems)
    objects: list[Resource] = [_droplet(host, name) for host in hosts]
    namespaces: list[str] = []
    forwarding: set[str] = set()
    for resource in resources:
        if isinstance(resource, Lab):
            continue
        if isinstance(resource, Endpoint) and resource.spec.droplet in own:
            namespace, asked = name.endpoint_namespace(resource.tenant, resource.name), resource.spec.workload
            pool = asked is not None and asked.pool
            if asked is None or pool or asked.namespace == namespace:
                if not pool:  # that one the daemon makes; here it gets a name that `down` knows
                    namespaces.append(namespace)
                    forwarding |= {namespace} if resource.spec.forwarding else set()
                workload = (asked or WorkloadSpec(namespace=namespace)).model_copy(update={"namespace": namespace})
                resource = resource.model_copy(update={"spec": resource.spec.model_copy(update={"workload": workload})})
        objects.append(resource)
    return LabPlan(
        name,
        lab.spec.substrate,
        hosts,
        tuple(namespaces),
        tuple(objects),
        frozenset(forwarding),
        lab.spec.daemon_arguments,
    )


def _hosts(lab: Lab, name: LabName) -> tuple[HostPlan, ...]:
    substrate, numbers = lab.spec.substrate, range(1, lab.spec.droplets + 1)
    prefixes = [ipaddress.ip_network(cidr) for cidr in substrate.cidrs]
    problems = [
        Problem(f"{prefix} has no room for {lab.spec.droplets} droplets", f"spec.substrate.{field}", str(lab.ref))
        for field, prefix in zip(("cidr", "secondCidr"), prefixes, strict=False)
        if lab.spec.droplets + 3 > prefix.num_addresses  # network, broadcast, and the first, which no droplet has
    ]
    problems += [
        Problem(f"expected a droplet of d1 to d{lab.spec.droplets}", f"spec.substrate.only.{droplet}", str(lab.ref))
        for droplet in substrate.only
        if droplet not in [f"d{number}" for number in numbers]
    ]
    if problems:
        raise InvalidError(problems)
    return tuple(
        HostPlan(
            f"d{number}",
            tuple(
                ipaddress.ip_interface(f"{prefix[number + 1]}/{prefix.prefixlen}")
                for prefix in prefixes
                if substrate.only.get(f"d{number}", f"ipv{prefix.version}") == f"ipv{prefix.version}"
            ),
            name.droplet_namespace(f"d{number}"),
        )
        for number in numbers
    )


def _droplet(host: HostPlan, lab: LabName) -> Droplet:
    address, *more = (str(one.ip) for one in host.addresses)
    spec = DropletSpec(address=address, second_address=more[0] if more else None, daemon=lab.droplet_url(host.name))
    return Droplet(metadata=Metadata(name=host.name), spec=spec)
