# SPDX-License-Identifier: Apache-2.0
"""A host that exists only as values: what a plan's steps would make of it. Addresses are of RFC 5737 and RFC 1918."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from mizar.kernel.topology_facts import GROUP, Device, Found, Link, Mark
from mizar.topology.description import HostTopology
from mizar.topology.present import Present
from mizar.topology.reading import parse_topologies
from mizar.topology.steps import MakeLink, MakeNamespace, MarkLink, RemoveLink, RemoveNamespace, SetLink, Step

HEAD = "apiVersion: mizar/v1\nkind: HostTopology\nmetadata: {name: gw}\nspec:\n"

SMALL = (
    HEAD
    + """
  namespaces: [{name: a}]
  bridges: [{name: br0, mtu: 1450}]
  vteps: [{name: vx0, bridge: br0, external: true, vnifilter: true, vnis: [7, 100-103], local: 192.0.2.1}]
  veths:
    - {name: v0, ends: [{interface: v0-br, bridge: br0}, {interface: eth0, namespace: a, addresses: [10.0.0.1/24]}]}
"""
)


def described(text: str = SMALL) -> HostTopology:
    """One description."""
    return parse_topologies(text, "test")[0]


@dataclass
class World:
    """Does steps to values."""

    topology: str = "gw"
    namespaces: dict[str, Mark | None] = field(default_factory=dict)
    links: dict[tuple[str, str], Found] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    no_devices: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    _indexes: count[int] = field(default_factory=lambda: count(2))

    def present(self) -> Present:
        """As it would be read."""
        return Present(
            dict(self.namespaces),
            frozenset(self.namespaces),
            dict(self.links),
            self.devices,
            self.no_devices,
            dict(self.missing),
        )

    def put(self, link: Link, mark: Mark | None = None, *, group: int | None = None, alias: str | None = None) -> None:
        """An interface that is there: a topology's when it has a mark, else somebody's."""
        shown = alias if alias is not None else str(mark) if mark else ""
        self.links[link.key] = Found(
            link, next(self._indexes), group if group is not None else GROUP * bool(mark), shown
        )

    def change(self, key: tuple[str, str], **fields: Any) -> None:
        """Somebody changes an interface."""
        found = self.links[key]
        self.links[key] = replace(found, link=replace(found.link, **fields))

    def do(self, steps: Iterable[Step]) -> None:
        """Does steps of namespaces and links; anything else fails the test."""
        for step in steps:
            mark = Mark(self.topology, step.object)
            match step:
                case MakeNamespace():
                    assert step.name not in self.namespaces
                    self.namespaces[step.name] = Mark(self.topology, "namespace")
                case RemoveNamespace():
                    del self.namespaces[step.name]
                    self.links = {key: found for key, found in self.links.items() if key[0] != step.name}
                case MakeLink():
                    for link in step.links:
                        assert link.key not in self.links
                        assert link.namespace in ("", *self.namespaces)
                        assert link.master == "" or (link.namespace, link.master) in self.links
                        self.put(replace(link, mtu=link.mtu or 1500), mark)
                case RemoveLink():
                    for link in step.links:
                        del self.links[link.key]
                    gone = {(link.namespace, link.name) for link in step.links}
                    for key, found in self.links.items():
                        if (key[0], found.link.master) in gone:
                            self.links[key] = replace(found, link=replace(found.link, master="", vlans=None))
                case SetLink():
                    assert self.links[step.after.key].link == step.before or step.before.master == ""
                    self.change(step.after.key, **{step.field: getattr(step.after, step.field)})
                case MarkLink():
                    self.links[step.key] = replace(self.links[step.key], group=GROUP, alias=str(mark))
                case _:
                    raise AssertionError(step)
