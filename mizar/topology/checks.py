# SPDX-License-Identifier: Apache-2.0
"""What has to fit between the parts of a HostTopology: names, references, VLANs, VNIs. Pure.

Called by reading, with every part that is valid in itself, so that a mistake in one part hides none in another. Each
rule returns every problem as (path, message).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import pairwise

from mizar.model.document import Path
from mizar.topology.description import (
    BoxSpec,
    BridgeSpec,
    EswitchSpec,
    NamespaceSpec,
    NoteSpec,
    VethSpec,
    VtepSpec,
)

Finding = tuple[Path, str]


@dataclass
class Parts:
    """The parts of a description that are valid in themselves, each with its path."""

    namespaces: list[tuple[Path, NamespaceSpec]] = field(default_factory=list)
    bridges: list[tuple[Path, BridgeSpec]] = field(default_factory=list)
    vteps: list[tuple[Path, VtepSpec]] = field(default_factory=list)
    veths: list[tuple[Path, VethSpec]] = field(default_factory=list)
    eswitches: list[tuple[Path, EswitchSpec]] = field(default_factory=list)
    boxes: list[tuple[Path, BoxSpec]] = field(default_factory=list)
    notes: list[tuple[Path, NoteSpec]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    """Names of parts that are not valid: what refers to them is not refused for that."""

    def place_of(self, bridge: str | None, namespace: str | None) -> str:
        """The namespace that something lives in, "" for the host."""
        if bridge is not None:
            unknown = f"that of {bridge}"
            return next((b.namespace or "" for _, b in self.bridges if b.name == bridge), unknown)
        return namespace or ""


def check(parts: Parts) -> list[Finding]:
    """Every problem between the parts."""
    rules = (_unique, _interfaces, _references, _vlans, _tunnels, _notes)
    return [finding for rule in rules for finding in rule(parts)]


def _unique(parts: Parts) -> Iterator[Finding]:
    named: tuple[Iterable[tuple[Path, str]], ...] = (
        [(path, part.name) for path, part in parts.namespaces],
        [(path, part.name) for path, part in parts.bridges],
        [(path, part.name) for path, part in parts.vteps],
        [(path, part.name) for path, part in parts.veths],
        [(path, part.name) for path, part in parts.eswitches],
        [(path, part.name) for path, part in parts.boxes],
        [((*path, "ports", n), port.name) for path, e in parts.eswitches for n, port in enumerate(e.ports)],
        [((*path, "functions", n), f.name) for path, e in parts.eswitches for n, f in enumerate(e.functions)],
    )
    for names in named:
        yield from _twice((((*path, "name"), name, name) for path, name in names), "each name once")
    devices = ((path, e.device or "", e.device or "no device") for path, e in parts.eswitches if e.functions)
    yield from _twice(devices, "each device once")


def _interfaces(parts: Parts) -> Iterator[Finding]:
    """An interface name is taken once in each namespace."""
    taken: list[tuple[Path, tuple[str, str]]] = []
    for path, bridge in parts.bridges:
        taken.append(((*path, "name"), (bridge.namespace or "", bridge.name)))
    for path, vtep in parts.vteps:
        taken.append(((*path, "name"), (parts.place_of(vtep.bridge, vtep.namespace), vtep.name)))
    for path, veth in parts.veths:
        for place, end in enumerate(veth.ends):
            key = parts.place_of(end.bridge, end.namespace), end.interface
            taken.append(((*path, "ends", place, "interface"), key))
    for path, eswitch in parts.eswitches:
        for place, port in enumerate(eswitch.ports):
            if port.interface is not None:
                taken.append(((*path, "ports", place, "interface"), (eswitch.namespace or "", port.interface)))
        for place, function in enumerate(eswitch.functions):
            at = (*path, "functions", place)
            taken.append(((*at, "interface"), (function.namespace or "", function.interface)))
            taken.append(((*at, "representor"), ("", function.representor)))
    shown = ((path, key, f"{key[1]} in {key[0] or 'the host'}") for path, key in taken)
    yield from _twice(shown, "each interface name once in a namespace")


def _references(parts: Parts) -> Iterator[Finding]:
    namespaces = {part.name for _, part in parts.namespaces} | parts.broken
    bridges = {part.name for _, part in parts.bridges} | parts.broken
    wanted: list[tuple[Path, str | None, set[str], str]] = []
    placed = [(path, bridge.namespace) for path, bridge in parts.bridges]
    placed += [(path, box.namespace) for path, box in parts.boxes]
    placed += [(path, vtep.namespace) for path, vtep in parts.vteps]
    placed += [(path, eswitch.namespace) for path, eswitch in parts.eswitches]
    wanted += [((*path, "namespace"), namespace, namespaces, "spec.namespaces") for path, namespace in placed]
    for path, vtep in parts.vteps:
        wanted.append(((*path, "bridge"), vtep.bridge, bridges, "spec.bridges"))
    for path, veth in parts.veths:
        for place, end in enumerate(veth.ends):
            at = (*path, "ends", place)
            wanted.append(((*at, "namespace"), end.namespace, namespaces, "spec.namespaces"))
            wanted.append(((*at, "bridge"), end.bridge, bridges, "spec.bridges"))
    for path, eswitch in parts.eswitches:
        for place, function in enumerate(eswitch.functions):
            at = (*path, "functions", place, "namespace")
            wanted.append((at, function.namespace, namespaces, "spec.namespaces"))
    for path, name, known, where in wanted:
        if name is not None and name not in known:
            yield path, f"expected a name of {where} ({', '.join(sorted(known)) or 'which is empty'}), found {name!r}"


def _vlans(parts: Parts) -> Iterator[Finding]:
    """A port of a VLAN-filtering bridge says its VLAN, other interfaces have none to say."""
    filtering = {bridge.name: bridge.vlan_filtering for _, bridge in parts.bridges}
    ports: list[tuple[Path, str | None, bool, str]] = []
    for path, veth in parts.veths:
        for place, end in enumerate(veth.ends):
            ports.append(((*path, "ends", place), end.bridge, end.vlan is not None, "vlan"))
    for path, vtep in parts.vteps:
        what = "vlans" if vtep.external else "vlan"
        ports.append((path, vtep.bridge, bool(vtep.vlans) if vtep.external else vtep.vlan is not None, what))
    for path, bridge_name, has, what in ports:
        wants = filtering.get(bridge_name) if bridge_name is not None else False
        if wants and not has:
            yield (*path, what), f"missing; bridge {bridge_name} filters VLANs, and its ports must say theirs"
        if wants is False and has:
            yield (*path, what), "unexpected: it is no port of a bridge with vlanFiltering: true"


def _tunnels(parts: Parts) -> Iterator[Finding]:
    """What the kernel says only when the second of two devices comes up: they cannot share a UDP port."""
    for path, vtep in parts.vteps:
        for place, pair in enumerate(vtep.vlans):
            if vtep.vnis and not any(first <= pair.vni <= last for first, last in vtep.vnis):
                yield (*path, "vlans", place, "vni"), f"expected one of vnis, found {pair.vni}"
        for key in ("vlan", "vni"):
            numbers = (
                ((*path, "vlans", n, key), getattr(p, key), str(getattr(p, key))) for n, p in enumerate(vtep.vlans)
            )
            yield from _twice(numbers, f"each {key} once")
        ordered = sorted(vtep.vnis)
        for before, after in pairwise(ordered):
            if after[0] <= before[1]:
                yield (*path, "vnis"), f"expected each VNI once, found {after[0]} in two ranges"
    for place, (path, vtep) in enumerate(parts.vteps):
        for _, other in parts.vteps[:place]:
            reason = _clash(parts, vtep, other)
            if reason:
                yield path, f"cannot share UDP port {vtep.port} with {other.name}: {reason}"


def _clash(parts: Parts, one: VtepSpec, other: VtepSpec) -> str:
    places = {parts.place_of(vtep.bridge, vtep.namespace) for vtep in (one, other)}
    families = {ip_address(vtep.local).version if vtep.local else 4 for vtep in (one, other)}
    if len(places) > 1 or len(families) > 1 or one.port != other.port:
        return ""
    if one.external != other.external or one.vnifilter != other.vnifilter:
        return "the kernel mixes no devices with an id, external ones and filtering ones on a port"
    if not one.external:
        return f"both have VNI {one.id}" if one.id == other.id else ""
    if not one.vnifilter:
        return "an external device without vnifilter takes every VNI"
    shared = [a for a in one.vnis for b in other.vnis if a[0] <= b[1] and b[0] <= a[1]]
    return f"both take VNI {shared[0][0]}" if shared else ""


def _notes(parts: Parts) -> Iterator[Finding]:
    lists = (parts.namespaces, parts.bridges, parts.vteps, parts.veths, parts.eswitches, parts.boxes)
    known = {part.name for items in lists for _, part in items} | parts.broken
    for path, note in parts.notes:
        if note.about not in known:
            yield (*path, "about"), f"expected the name of a part, found {note.about!r}"


def _twice(items: Iterable[tuple[Path, object, str]], rule: str) -> Iterator[Finding]:
    seen: set[object] = set()
    for path, key, shown in items:
        if key in seen:
            yield path, f"expected {rule}, found {shown} again"
        seen.add(key)
