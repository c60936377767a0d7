# SPDX-License-Identifier: Apache-2.0
"""Makes the kernel's slow path on this host: links as a topology, the vtep's program, routes, rules, nftables.

Called by the gateway's process, in the network namespace where trapped frames come in. Everything is made again or left
alone as it is needed: a second call with the same description changes nothing, and connections outlive each. It must
never touch what it did not make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from mizar.gateway.kernel_plan import KernelPlan, Names, inner, known_zones, planned
from mizar.gateway.ruleset import ruleset
from mizar.kernel import interfaces, nftables, policy_routes, vtep
from mizar.kernel.bpffs import Pins
from mizar.kernel.interfaces import RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.kernel.vtep import VtepPort
from mizar.model.base import Metadata
from mizar.model.errors import NotFoundError
from mizar.pipeline.description import TunnelEnd
from mizar.pipeline.kernel_path import KernelPath
from mizar.pipeline.nat import NatRules
from mizar.topology import host
from mizar.topology.description import (
    EndSpec,
    HostTopology,
    HostTopologySpec,
    NamespaceSpec,
    VethSpec,
    VtepSpec,
)

_SWITCHES = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/arp_ignore": "1",  # a tenant asks for its own port's address only
    "ipv4/conf/all/arp_announce": "2",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/fwmark_reflect": "1",  # errors go back to the tenant that they are for
    "ipv6/fwmark_reflect": "1",
    "ipv6/conf/all/forwarding": "1",
    "netfilter/nf_conntrack_tcp_be_liberal": "1",  # the hot path takes segments that are not seen here
}


def topology(names: Names, plan: KernelPlan) -> HostTopology:
    """The links of a slow path: the external device with its filter, and a pair for each port."""
    ports = plan.path.ports
    wanted = {"external": True, "vnifilter": True, "vnis": [port.vni for port in ports], "learning": False}
    veths = tuple(
        VethSpec(
            name=f"port {port.meta:#x}",
            mtu=plan.path.mtu,
            ends=(
                EndSpec(interface=names.near(port)),
                EndSpec(
                    interface=inner(port),
                    namespace=plan.path.namespace,
                    addresses=tuple(plan.addresses(port)),
                ),
            ),
        )
        for port in ports
    )
    return HostTopology(
        metadata=Metadata(name=names.topology),
        spec=HostTopologySpec(
            namespaces=(NamespaceSpec(name=plan.path.namespace, processes=("nftables",)),),
            vteps=(VtepSpec.model_validate({"name": names.vtep, **wanted}),) if ports else (),
            veths=veths,
        ),
    )


def settle(gateway: str, path: KernelPath, nat: NatRules, tunnels: Mapping[str, TunnelEnd]) -> KernelPlan:
    """Makes the slow path as described; what was there before and is wanted no more goes.

    Raises MizarError, as the topology does before anything is changed, or InvalidError from nftables.
    """
    names = Names(gateway)
    plan = planned(path, nat, tunnels, _zones(path.namespace))
    host.apply(topology(names, plan))
    with Namespace.by_name(path.namespace) as namespace, Netlink() as here, Netlink(namespace) as inside:
        namespace.run(_switch)
        nftables.apply(ruleset(plan), namespace)  # before anything is routed
        inside.tell(
            [
                (
                    set_link(inner(port), mac=port.mac.to_bytes(6, "big")),
                    RTM_SETLINK,
                    0,
                    f"set the MAC of {inner(port)}",
                )
                for port in path.ports
                if interfaces.get(inside, inner(port)).mac != port.mac.to_bytes(6, "big")
            ]
        )
        policy_routes.settle(inside, plan.rules(), plan.routes())
        ports = [
            VtepPort(port.vni, interfaces.get(here, names.near(port)).index, tunnels[port.to].destination)
            for port in path.ports
        ]
        vtep.settle(pins(gateway), interfaces.get(here, names.vtep).index, ports)
    return plan


def remove(gateway: str, plan: KernelPlan) -> None:
    """Takes away all that settle() made, connections included."""
    vtep.remove(pins(gateway))
    host.delete(topology(Names(gateway), plan))


def forget(gateway: str, path: KernelPath, nat: NatRules, tunnels: Mapping[str, TunnelEnd]) -> None:
    """As remove(), of what an earlier process left."""
    remove(gateway, planned(path, nat, tunnels, {}))


def pins(gateway: str) -> Pins:
    """Where the program of the vtep is pinned."""
    return Pins.of(f"gateway-{gateway}-vtep")


def _zones(namespace: str) -> dict[int, int]:
    with contextlib.suppress(NotFoundError), Namespace.by_name(namespace) as inside, Netlink(inside) as netlink:
        return known_zones(policy_routes.rules(netlink))
    return {}


def _switch() -> None:
    for switch, value in _SWITCHES.items():
        path = Path("/proc/sys/net", switch)
        if path.exists():  # netfilter's come with the first ruleset that tracks connections
            path.write_text(value)
