# SPDX-License-Identifier: Apache-2.0
"""What the packets of a VPC or an endpoint have to bear, and whether the tunnel that was chosen has room for it.

Called by mizar.manager.intake, for new objects and for changes. It must never write: it looks at a draft and answers
with problems.
"""

from __future__ import annotations

from collections.abc import Iterator

from mizar.manager.draft import Draft
from mizar.model.errors import Problem
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref, Resource, TunnelProtocol


def problems(resource: Resource, draft: Draft) -> Iterator[Problem]:
    """Of a network or endpoint as it would be."""
    network, vpc = draft.parent(resource)
    if network is None or vpc is None:
        return
    if isinstance(resource, Endpoint):
        yield from _of_endpoint(resource, network, vpc, draft)
    elif isinstance(resource, Network) and resource.spec.tunnel_protocol is TunnelProtocol.VXLAN and vpc.shares_vni:
        yield Problem(_no_room(vpc), "spec.tunnelProtocol", str(resource.ref))


def _of_endpoint(endpoint: Endpoint, network: Network, vpc: VPC, draft: Draft) -> Iterator[Problem]:
    vxlan = (endpoint.spec.tunnel_protocol or network.spec.tunnel_protocol) is TunnelProtocol.VXLAN
    droplet = draft.find(Ref("Droplet", "", endpoint.spec.droplet or ""))
    if vpc.shares_vni and vxlan:
        yield Problem(_no_room(vpc), "spec.tunnelProtocol", str(endpoint.ref))
    if endpoint.spec.geneve_options and vxlan:
        message = "expected geneve: the endpoint has geneveOptions, which VXLAN has no room for"
        yield Problem(message, "spec.tunnelProtocol", str(endpoint.ref))
    if vpc.shares_vni and isinstance(droplet, Droplet) and not droplet.spec.has_daemon:
        message = (
            f"{vpc.ref} shares VNI {vpc.status.vni}; droplet {droplet.name} has no daemon that tells whose packets are"
        )
        yield Problem(message, "spec.droplet", str(endpoint.ref))


def _no_room(vpc: VPC) -> str:
    return (
        f"expected geneve: {vpc.ref} shares VNI {vpc.status.vni} with others and is told from them by its identity, "
        "which VXLAN has no room for"
    )
