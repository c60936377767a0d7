# SPDX-License-Identifier: Apache-2.0
"""What a host topology is made of, as values: links wished and found, devices with an eswitch, marks of ownership.

Owns the format of the mark (interface group and alias), which is the only record of what a topology made. Used by
topology_links, devlink and mizar.topology, whose plan is pure. It must never do
anything, nor import what does.
"""

from __future__ import annotations

from dataclasses import dataclass

GROUP = 0x4D54
"""Interface group ("MT") of everything that a host topology made or took in; not the one of endpoints' links."""

_WORD = "mizar-topology"
VLAN_FILTERING = "bridge VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)"
EXTERNAL = "VXLAN devices that take the VNI from metadata (external)"
VNI_FILTER = "the VNI filter of VXLAN devices (vnifilter, Linux 5.18)"
"""Features of the kernel that a topology may need, by the names under which they are refused."""

HOST = ""
"""The namespace in which the command runs, in the place of a name."""


@dataclass(frozen=True, order=True)
class Mark:
    """Whose an interface is: stands in its alias. A namespace is marked on its `lo`."""

    topology: str
    object: str
    """Kind and name in the description: "bridge br0", "veth v1", "namespace a"."""

    def __str__(self) -> str:
        return f"{_WORD} {self.topology} {self.object}"

    @classmethod
    def of(cls, group: int, alias: str) -> Mark | None:
        """None for an interface that no topology made; empty when it was interrupted between making and marking."""
        if group != GROUP:
            return None
        word, _, rest = alias.partition(" ")
        topology, _, subject = rest.partition(" ")
        return cls(topology, subject) if word == _WORD and subject else None if alias else cls("", "")


VniRange = tuple[int, int]
"""First and last VNI, both included."""


@dataclass(frozen=True)
class Vxlan:
    """What cannot change while a VXLAN device lives."""

    id: int
    """The VNI; 0 for an external device, which takes it from each packet's metadata."""
    external: bool
    vnifilter: bool
    """External, and only for the VNIs that it is told of."""
    local: str
    """Its address on the wire, "" for whatever the route says."""
    port: int
    learning: bool


@dataclass(frozen=True)
class Link:
    """An interface, wished or found. A wish says nothing of what is None."""

    namespace: str
    name: str
    kind: str
    """bridge, vxlan, veth; "" for one that no topology makes (hardware)."""
    mtu: int | None = None
    up: bool = True
    master: str = ""
    """The bridge that it is a port of."""
    addresses: frozenset[str] = frozenset()
    """With prefix lengths; link-local ones of IPv6, which the kernel gives, do not count."""
    vlan_filtering: bool | None = None
    """Of a bridge."""
    vxlan: Vxlan | None = None
    vnis: frozenset[int] = frozenset()
    """That a device with a VNI filter passes."""
    vlans: frozenset[tuple[int, int]] | None = None
    """Of a port of a VLAN-filtering bridge: (VLAN, its VNI), the VNI 0 for a port where that VLAN is untagged."""
    peer: tuple[str, str] | None = None
    """Namespace and name of a veth's other end; None when it is in no namespace that was looked at."""

    @property
    def key(self) -> tuple[str, str]:
        """What names it on this host."""
        return self.namespace, self.name


@dataclass(frozen=True)
class Found:
    """An interface as it was read."""

    link: Link
    index: int
    group: int
    alias: str

    @property
    def mark(self) -> Mark | None:
        """Whose it is."""
        return Mark.of(self.group, self.alias)


@dataclass(frozen=True)
class EswitchPort:
    """A port of an eswitch."""

    flavour: str
    """physical, pf, vf, sf; "" for another."""
    interface: str
    """Of the host's namespace; "" when the port has none there."""
    function: int
    """Number of the virtual function behind a representor."""


@dataclass(frozen=True)
class Device:
    """A device that devlink knows."""

    handle: str
    """As devlink(8) writes it: `pci/0000:03:00.0`."""
    mode: str
    """legacy or switchdev; "" when it has no eswitch."""
    functions: int
    """Virtual functions that are on."""
    limit: int
    """How many it can have."""
    ports: tuple[EswitchPort, ...] = ()


def ranges(vnis: frozenset[int]) -> list[VniRange]:
    """The fewest ranges that hold exactly these."""
    found: list[VniRange] = []
    for vni in sorted(vnis):
        if found and found[-1][1] == vni - 1:
            found[-1] = (found[-1][0], vni)
        else:
            found.append((vni, vni))
    return found


def ranges_text(vnis: frozenset[int]) -> str:
    """`100, 200-210`; "none" for none."""
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges(vnis)]
    return ", ".join(texts) or "none"
