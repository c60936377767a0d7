# SPDX-License-Identifier: Apache-2.0
"""What a lab should consist of, from its manifests: droplets with addresses, namespaces, objects for the server.

Called by mizar.lab.lab. Pure: it reads no file and touches no kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from mizar.lab.names import LabName
from mizar.model.errors import InvalidError, Problem
from mizar.model.resources import Droplet, DropletSpec, Endpoint, Lab, Metadata, Resource, SubstrateSpec
from mizar.model.workloads import WorkloadSpec


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One droplet of the lab: a namespace with an interface `eth0` on the substrate, and a daemon."""

    name: str
    address: str
    prefix_length: int
    namespace: str


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A whole lab. `objects` is what the server is given: droplets first, endpoints with their namespaces filled in."""

    lab: LabName
    substrate: SubstrateSpec
    hosts: tuple[HostPlan, ...]
    endpoint_namespaces: tuple[str, ...]
    objects: tuple[Resource, ...]


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
    for resource in resources:
        if isinstance(resource, Lab):
            continue
        if isinstance(resource, Endpoint) and resource.spec.droplet in own:
            namespace, workload = name.endpoint_namespace(resource.tenant, resource.name), resource.spec.workload
            if workload is None or workload.namespace == namespace:
                namespaces.append(namespace)
                workload = workload or WorkloadSpec(namespace=namespace)
                resource = resource.model_copy(update={"spec": resource.spec.model_copy(update={"workload": workload})})
        objects.append(resource)
    return LabPlan(name, lab.spec.substrate, hosts, tuple(namespaces), tuple(objects))


def _hosts(lab: Lab, name: LabName) -> tuple[HostPlan, ...]:
    prefix = ipaddress.ip_network(lab.spec.substrate.cidr)
    if lab.spec.droplets + 3 > prefix.num_addresses:  # network, broadcast, and the first, which no droplet has
        raise InvalidError(
            Problem(f"{prefix} has no room for {lab.spec.droplets} droplets", "spec.substrate.cidr", str(lab.ref))
        )
    return tuple(
        HostPlan(f"d{number}", str(prefix[number + 1]), prefix.prefixlen, name.droplet_namespace(f"d{number}"))
        for number in range(1, lab.spec.droplets + 1)
    )


def _droplet(host: HostPlan, lab: LabName) -> Droplet:
    spec = DropletSpec(address=host.address, daemon=lab.droplet_url(host.name))
    return Droplet(metadata=Metadata(name=host.name), spec=spec)
