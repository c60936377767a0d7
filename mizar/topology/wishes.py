# SPDX-License-Identifier: Apache-2.0
"""What the kernel should have for a HostTopology: its namespaces, links and functions, each with its object. Pure.

Called by plan, compare and look. Everything here is valid: it comes from a description that reading let through.
"""

from __future__ import annotations

from dataclasses import dataclass

from mizar.kernel.topology_facts import EXTERNAL, HOST, VLAN_FILTERING, VNI_FILTER, Link, Mark, Vxlan
from mizar.topology.description import BridgeSpec, EndSpec, EswitchSpec, HostTopology, VethSpec, VtepSpec


@dataclass(frozen=True)
class LinkWish:
    """One bridge or VXLAN device, or a veth pair (two links)."""

    object: str
    """As in marks: kind and name."""
    links: tuple[Link, ...]


@dataclass(frozen=True)
class PortWish:
    """An interface that is there, and that is taken to a namespace."""

    object: str
    interface: str
    namespace: str


@dataclass(frozen=True)
class EswitchWish:
    """An eswitch in switchdev mode with so many functions."""

    object: str
    spec: EswitchSpec


@dataclass(frozen=True)
class Wishes:
    """All of it, each list in the order in which it is made."""

    topology: str
    namespaces: tuple[str, ...]
    existing: tuple[str, ...]
    """Namespaces that somebody else makes."""
    eswitches: tuple[EswitchWish, ...]
    ports: tuple[PortWish, ...]
    links: tuple[LinkWish, ...]

    @property
    def features(self) -> set[str]:
        """What the kernel must be able to do."""
        links = [link for wish in self.links for link in wish.links]
        asked = {VLAN_FILTERING: any(link.vlan_filtering for link in links)}
        asked[EXTERNAL] = any(link.vxlan.external for link in links if link.vxlan)
        asked[VNI_FILTER] = any(link.vxlan.vnifilter for link in links if link.vxlan)
        return {feature for feature, needed in asked.items() if needed}

    def mark(self, subject: str) -> Mark:
        """What stands on an interface of an object."""
        return Mark(self.topology, subject)


def wishes(topology: HostTopology) -> Wishes:
    """What a description asks for."""
    spec = topology.spec
    places = {bridge.name: bridge.namespace or HOST for bridge in spec.bridges}
    switched = [e for e in spec.eswitches if e.functions]
    return Wishes(
        topology=topology.name,
        namespaces=tuple(part.name for part in spec.namespaces if not part.existing),
        existing=tuple(part.name for part in spec.namespaces if part.existing),
        eswitches=tuple(EswitchWish(f"eswitch {e.name}", e) for e in switched),
        ports=tuple(
            PortWish(f"port {port.name}", port.interface, eswitch.namespace)
            for eswitch in spec.eswitches
            for port in eswitch.ports
            if port.interface is not None and eswitch.namespace is not None
        ),
        links=(
            *(LinkWish(f"bridge {bridge.name}", (_bridge(bridge),)) for bridge in spec.bridges),
            *(LinkWish(f"vtep {vtep.name}", (_vtep(vtep, places),)) for vtep in spec.vteps),
            *(LinkWish(f"veth {veth.name}", _veth(veth, places)) for veth in spec.veths),
        ),
    )


def _bridge(bridge: BridgeSpec) -> Link:
    return Link(
        namespace=bridge.namespace or HOST,
        name=bridge.name,
        kind="bridge",
        mtu=bridge.mtu,
        addresses=frozenset(bridge.addresses),
        vlan_filtering=bridge.vlan_filtering,
    )


def _vtep(vtep: VtepSpec, places: dict[str, str]) -> Link:
    learning = vtep.learning if vtep.learning is not None else not vtep.external
    vlans = {(pair.vlan, pair.vni) for pair in vtep.vlans} | ({(vtep.vlan, 0)} if vtep.vlan is not None else set())
    return Link(
        namespace=places[vtep.bridge] if vtep.bridge is not None else vtep.namespace or HOST,
        name=vtep.name,
        kind="vxlan",
        mtu=vtep.mtu,
        master=vtep.bridge or "",
        vxlan=Vxlan(vtep.id or 0, vtep.external, vtep.vnifilter, vtep.local or "", vtep.port, learning),
        vnis=frozenset(vni for first, last in vtep.vnis for vni in range(first, last + 1)),
        vlans=frozenset(vlans) or None,
    )


def _veth(veth: VethSpec, places: dict[str, str]) -> tuple[Link, ...]:
    keys = [(_place(end, places), end.interface) for end in veth.ends]
    return tuple(
        Link(
            namespace=key[0],
            name=key[1],
            kind="veth",
            mtu=veth.mtu,
            master=end.bridge or "",
            addresses=frozenset(end.addresses),
            vlans=frozenset({(end.vlan, 0)}) if end.vlan is not None else None,
            peer=other,
        )
        for end, key, other in zip(veth.ends, keys, reversed(keys), strict=True)
    )


def _place(end: EndSpec, places: dict[str, str]) -> str:
    return places[end.bridge] if end.bridge is not None else end.namespace or HOST
