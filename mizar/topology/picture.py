# SPDX-License-Identifier: Apache-2.0
"""A HostTopology as a picture: boxes in rows, ports in them, wires between ports, remarks. Pure.

Called by `mizar topology draw`; written by plantuml and svg. The rows go from the outside world down to the workloads:
eswitches; what hangs on them; bridges; the other ends of their ports on the host; namespaces of workloads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from mizar.kernel.topology_facts import HOST
from mizar.topology.compare import Row, State
from mizar.topology.description import EndSpec, EswitchSpec, HostTopology, VtepSpec
from mizar.topology.steps import Key

ELSEWHERE = "elsewhere"
"""The id of the cloud above everything."""

MISSING = (State.ABSENT, State.TAKEN, State.DIFFERS)
"""What is marked."""


@dataclass(frozen=True)
class Shape:
    """A box or a port."""

    id: str
    """Letters, digits and underscores; unique in the picture."""
    label: str
    style: str
    """namespace, bridge, eswitch, box, process; or of a port vtep, veth, physical, rep, sriov."""
    state: State | None = None
    """None for what nobody makes, and when nobody looked."""
    rows: tuple[tuple[Shape, ...], ...] = ()
    """What is in a box, from top to bottom; none of them empty."""

    @property
    def absent(self) -> bool:
        """Whether it is not on the host as it should be."""
        return self.state in MISSING


@dataclass(frozen=True)
class Picture:
    """What is drawn."""

    title: str
    rows: tuple[tuple[Shape, ...], ...]
    """Inside of the host, from top to bottom; none of them empty."""
    wires: tuple[tuple[str, str], ...]
    """Ids, the upper one first."""
    notes: tuple[tuple[str, str], ...]
    """Id of what it is about, and text."""


def picture(topology: HostTopology, rows: Sequence[Row] | None) -> Picture:
    """The picture of a description; `rows` (of compare) say what is absent, None that nobody looked."""
    return _Drawing(topology, rows).picture()


class _Drawing:
    """Builds the shapes of one description."""

    def __init__(self, topology: HostTopology, rows: Sequence[Row] | None) -> None:
        self._topology = topology
        self._spec = topology.spec
        self._interfaces: Mapping[Key, State] = {(r.namespace, r.interface): r.state for r in rows or () if r.interface}
        self._objects: Mapping[str, State] = {row.object: row.state for row in rows or () if not row.interface}
        self._ids: dict[tuple[str, ...], str] = {}
        self._bridges = {bridge.name: bridge.namespace or HOST for bridge in self._spec.bridges}

    def picture(self) -> Picture:
        spec = self._spec
        with_eswitch = {e.namespace for e in spec.eswitches if e.namespace}
        with_bridge = {namespace for namespace in self._bridges.values() if namespace} - with_eswitch
        upper: list[Shape] = []
        lower: list[Shape] = []
        for veth in spec.veths:
            for end, other in zip(veth.ends, reversed(veth.ends), strict=True):
                if self._place(end.bridge, end.namespace) == HOST and end.bridge is None:
                    (upper if other.namespace in with_eswitch else lower).append(self._end(end))
        functions = [
            self._function(f.interface, f.namespace) for e in spec.eswitches for f in e.functions if not f.namespace
        ]
        names = [part.name for part in spec.namespaces]
        rows = _filled(
            (
                *(self._eswitch(e) for e in spec.eswitches if e.namespace is None),
                *(self._namespace(name) for name in names if name in with_eswitch),
            ),
            (*functions, *upper),
            (
                *(self._vtep(v) for v in spec.vteps if v.bridge is None and v.namespace is None),
                *(self._bridge(b.name) for b in spec.bridges if b.namespace is None),
                *(self._namespace(name) for name in names if name in with_bridge),
            ),
            tuple(lower),
            (
                *(self._namespace(name) for name in names if name not in with_bridge | with_eswitch),
                *(Shape(self._id("box", b.name), b.name, "box") for b in spec.boxes if b.namespace is None),
            ),
        )
        return Picture(self._topology.name, rows, self._wires(rows), self._notes())

    def _id(self, *words: str) -> str:
        """The same for the same words, and for no others."""
        if words not in self._ids:
            text = "_".join(word for word in words if word)
            base = "".join(c if c.isascii() and c.isalnum() else "_" for c in text)
            taken = {ELSEWHERE, *self._ids.values()}
            self._ids[words] = next(name for n in count() if (name := f"{base}_{n}" if n else base) not in taken)
        return self._ids[words]

    def _place(self, bridge: str | None, namespace: str | None) -> str:
        return self._bridges[bridge] if bridge is not None else namespace or HOST

    def _port(self, key: Key, label: str, style: str) -> Shape:
        return Shape(self._id("port", *key), label, style, self._interfaces.get(key))

    def _end(self, end: EndSpec) -> Shape:
        label = "\n".join((end.interface, *end.addresses, *([f"VLAN {end.vlan}"] if end.vlan is not None else [])))
        return self._port((self._place(end.bridge, end.namespace), end.interface), label, "veth")

    def _vtep(self, vtep: VtepSpec) -> Shape:
        facts = ["external" if vtep.external else f"VNI {vtep.id}"]
        if vtep.vnifilter:
            ranges = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in vtep.vnis)
            facts.append(f"vnifilter {ranges}")
        facts += [f"VLAN {pair.vlan} is VNI {pair.vni}" for pair in vtep.vlans]
        key = self._place(vtep.bridge, vtep.namespace), vtep.name
        return self._port(key, "\n".join((vtep.name, *facts)), "vtep")

    def _function(self, interface: str, namespace: str | None) -> Shape:
        return self._port((namespace or HOST, interface), interface, "sriov")

    def _bridge(self, name: str) -> Shape:
        bridge = next(bridge for bridge in self._spec.bridges if bridge.name == name)
        ports = [self._vtep(vtep) for vtep in self._spec.vteps if vtep.bridge == name]
        ports += [self._end(end) for veth in self._spec.veths for end in veth.ends if end.bridge == name]
        key = self._bridges[name], name
        label = ", ".join((name, *(["VLAN filtering"] if bridge.vlan_filtering else []), *bridge.addresses))
        return Shape(self._id("bridge", name), label, "bridge", self._interfaces.get(key), _filled(ports))

    def _eswitch(self, eswitch: EswitchSpec) -> Shape:
        ports = []
        for port in eswitch.ports:
            label = port.name if port.interface is None else f"{port.name}\n{port.interface}"
            state = self._interfaces.get((eswitch.namespace or HOST, port.interface or ""))
            ports.append(Shape(self._id("physical", eswitch.name, port.name), label, "physical", state))
        representors = [self._port((HOST, f.representor), f.representor, "rep") for f in eswitch.functions]
        label = eswitch.name if eswitch.device is None else f"{eswitch.name}, {eswitch.device}"
        state = self._objects.get(f"eswitch {eswitch.name}")
        return Shape(self._id("eswitch", eswitch.name), label, "eswitch", state, _filled(ports, representors))

    def _namespace(self, name: str) -> Shape:
        spec = self._spec
        part = next(part for part in spec.namespaces if part.name == name)
        ports = [self._function(f.interface, name) for e in spec.eswitches for f in e.functions if f.namespace == name]
        ports += [self._vtep(vtep) for vtep in spec.vteps if vtep.namespace == name]
        ports += [self._end(end) for veth in spec.veths for end in veth.ends if end.namespace == name]
        eswitches = [self._eswitch(e) for e in spec.eswitches if e.namespace == name]
        bridges = [self._bridge(b.name) for b in spec.bridges if b.namespace == name]
        boxes = [Shape(self._id("process", name, process), process, "process") for process in part.processes]
        boxes += [Shape(self._id("box", b.name), b.name, "box") for b in spec.boxes if b.namespace == name]
        state = self._objects.get(f"namespace {name}")
        rows = _filled(eswitches, boxes, ports, bridges) if eswitches else _filled(ports, bridges, boxes)
        return Shape(self._id("namespace", name), f"netns {name}", "namespace", state, rows)

    def _wires(self, rows: Sequence[Sequence[Shape]]) -> tuple[tuple[str, str], ...]:
        order = {shape.id: place for place, row in enumerate(rows) for top in row for shape in shapes(top)}
        wires = []
        for eswitch in self._spec.eswitches:
            wires += [(ELSEWHERE, self._id("physical", eswitch.name, port.name)) for port in eswitch.ports]
            for function in eswitch.functions:
                ends = (
                    self._id("port", HOST, function.representor),
                    self._id("port", function.namespace or HOST, function.interface),
                )
                wires.append(ends)
        for veth in self._spec.veths:
            first, second = (
                self._id("port", self._place(end.bridge, end.namespace), end.interface) for end in veth.ends
            )
            wires.append((first, second) if order[first] <= order[second] else (second, first))
        return tuple(wires)

    def _notes(self) -> tuple[tuple[str, str], ...]:
        spec = self._spec
        known = {part.name: self._id("namespace", part.name) for part in spec.namespaces}
        known |= {box.name: self._id("box", box.name) for box in spec.boxes}
        known |= {eswitch.name: self._id("eswitch", eswitch.name) for eswitch in spec.eswitches}
        for veth in spec.veths:
            end = veth.ends[0]
            known[veth.name] = self._id("port", self._place(end.bridge, end.namespace), end.interface)
        known |= {v.name: self._id("port", self._place(v.bridge, v.namespace), v.name) for v in spec.vteps}
        known |= {bridge.name: self._id("bridge", bridge.name) for bridge in spec.bridges}
        return tuple((known[note.about], note.text) for note in spec.notes)


def shapes(top: Shape) -> list[Shape]:
    """A shape and everything in it."""
    return [top, *(inner for row in top.rows for shape in row for inner in shapes(shape))]


def _filled(*rows: Iterable[Shape]) -> tuple[tuple[Shape, ...], ...]:
    """Rows without the empty ones."""
    return tuple(row for row in map(tuple, rows) if row)
