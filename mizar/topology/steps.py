# SPDX-License-Identifier: Apache-2.0
"""The steps of a plan: values that say what is done, in words for people; done by execute. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mizar.kernel.topology_facts import HOST, Link, Mark, ranges_text

Key = tuple[str, str]


@dataclass(frozen=True)
class MakeNamespace:
    """A namespace with `lo` up and marked."""

    object: str
    name: str

    def __str__(self) -> str:
        return f"make namespace {self.name}"


@dataclass(frozen=True)
class RemoveNamespace:
    """A namespace that a topology made."""

    object: str
    name: str

    def __str__(self) -> str:
        return f"remove namespace {self.name}"


@dataclass(frozen=True)
class MakeLink:
    """A bridge, a VXLAN device or a veth pair, with all its settings."""

    object: str
    links: tuple[Link, ...]

    def __str__(self) -> str:
        return f"make {self.links[0].kind} {' and '.join(described(link) for link in self.links)}"


@dataclass(frozen=True)
class RemoveLink:
    """One that is not wanted, or not as it is: `links` as they were, both ends of a veth where both are known."""

    object: str
    links: tuple[Link, ...]
    why: str

    def __str__(self) -> str:
        return f"remove {' and '.join(where(link.key) for link in self.links)}: {self.why}"


@dataclass(frozen=True)
class SetLink:
    """One field of a link."""

    object: str
    before: Link
    after: Link
    field: str

    def __str__(self) -> str:
        old, new = (shown(getattr(link, self.field), self.field) for link in (self.before, self.after))
        return f"set {FIELDS[self.field]} of {where(self.after.key)}: {old} -> {new}"


@dataclass(frozen=True)
class MarkLink:
    """The alias that says whose a link is; `group` and `alias` are what it had."""

    object: str
    key: Key
    group: int
    alias: str

    def __str__(self) -> str:
        return f"mark {where(self.key)} as {self.object}"


@dataclass(frozen=True)
class TakePort:
    """An interface of the host is marked, taken to a namespace and set up."""

    object: str
    interface: str
    namespace: str

    def __str__(self) -> str:
        return f"take {self.interface} to namespace {self.namespace}"


@dataclass(frozen=True)
class GivePort:
    """An interface goes back to the host, unmarked and down."""

    object: str
    interface: str
    namespace: str

    def __str__(self) -> str:
        return f"give {self.interface} of namespace {self.namespace} back to the host"


@dataclass(frozen=True)
class SwitchMode:
    """Mode of an eswitch."""

    object: str
    handle: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"put {self.handle} into {self.after} mode"


@dataclass(frozen=True)
class SetFunctions:
    """How many virtual functions are on."""

    object: str
    handle: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"set the virtual functions of {self.handle}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class NameRepresentor:
    """The representor of a function gets its name and is set up."""

    object: str
    handle: str
    number: int
    name: str

    def __str__(self) -> str:
        return f"name the representor of virtual function {self.number} of {self.handle} {self.name}"


@dataclass(frozen=True)
class PlaceFunction:
    """The interface of a function gets its name, and goes to its namespace."""

    object: str
    handle: str
    number: int
    name: str
    namespace: str

    def __str__(self) -> str:
        return f"put virtual function {self.number} of {self.handle} as {where((self.namespace, self.name))}"


Step = (
    MakeNamespace | RemoveNamespace | MakeLink | RemoveLink | SetLink | MarkLink | TakePort | GivePort
    | SwitchMode | SetFunctions | NameRepresentor | PlaceFunction
)  # fmt: skip


def pair_or_one(links: Iterable[Link]) -> str:
    """Names of links with their places."""
    return " and ".join(where(link.key) for link in links)


def where(key: Key) -> str:
    """`br0`, or `veth0 in a`."""
    return f"{key[1]} in {key[0]}" if key[0] != HOST else key[1]


def described(link: Link) -> str:
    """A link with what is set of it."""
    facts: list[str] = []
    if link.vlan_filtering:
        facts.append("VLAN filtering")
    if link.vxlan is not None:
        facts.append("external" if link.vxlan.external else f"VNI {link.vxlan.id}")
        facts += [f"VNIs {ranges_text(link.vnis)}"] if link.vxlan.vnifilter else []
        facts += [f"local {link.vxlan.local}"] if link.vxlan.local else []
        facts.append(f"port {link.vxlan.port}")
    if link.master:
        facts.append(f"at {link.master}")
    if link.vlans:
        facts.append(shown(link.vlans, "vlans"))
    if link.mtu is not None:
        facts.append(f"MTU {link.mtu}")
    facts += sorted(link.addresses)
    return where(link.key) + (f" ({', '.join(facts)})" if facts else "")


FIELDS = {
    "mtu": "MTU",
    "up": "state",
    "master": "bridge",
    "addresses": "addresses",
    "vlan_filtering": "VLAN filtering",
    "vnis": "VNIs",
    "vlans": "VLANs",
}


def shown(value: Any, field: str) -> str:
    """A field of a Link in words."""
    if field == "up":
        return "up" if value else "down"
    if field == "vnis":
        return ranges_text(value)
    if field == "vlans":
        return (
            ", ".join(f"VLAN {vlan}" + (f" is VNI {vni}" if vni else "") for vlan, vni in sorted(value or ())) or "none"
        )
    if field == "vlan_filtering":
        return "on" if value else "off"
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "none"
    return str(value or "none")


def mark_of(topology: str, step: Step) -> Mark:
    """What a step writes on what it makes."""
    return Mark(topology, step.object)
