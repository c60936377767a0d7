# SPDX-License-Identifier: Apache-2.0
"""Pipelines in Python: one function for each word of the YAML form, with the caller's file and line kept.

    gateway = pipeline(
        "small",
        group("In", parse(case("eth / vlan != 2", set_meta("vlan", add=0x2000000), pop_vlan(), goto("Out")))),
        group("Out", stop()),
    )

`pipeline` validates and raises InvalidError with every problem; a word that is wrong by itself raises InvalidError at
once. Nothing here keeps state.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal, TypeVar

from mizar.model.errors import InvalidError, Problem
from mizar.pipeline import description, nat_text, steps
from mizar.pipeline.description import Block, Case, Group, On, Pipeline, Switch, TunnelEnd
from mizar.pipeline.fields import address, mac
from mizar.pipeline.nat import (
    PROTOCOLS,
    Filtering,
    Forward,
    Mapping,
    Masquerade,
    NatRules,
    Quota,
    Static,
    Timeouts,
)
from mizar.pipeline.steps import Note, Step, Style, Table, Where
from mizar.pipeline.validation import check
from mizar.pipeline.whens import parse_when

T = TypeVar("T")
Entries = dict[int, int] | None
_HERE = __file__


def pipeline(
    name: str, *parts: Group | TunnelEnd | Masquerade | Static | Forward | Quota | Timeouts, title: str = ""
) -> Pipeline:
    """A whole pipeline, validated; rules of translation, quotas and time-outs become its `nat:` section."""
    groups = tuple(part for part in parts if isinstance(part, Group))
    ends = tuple(part for part in parts if isinstance(part, TunnelEnd))
    made = _make(
        lambda where: Pipeline(name=name, groups=groups, tunnels=ends, title=title, nat=_nat_rules(parts), where=where)
    )
    check(made)
    return made


def tunnel(
    name: str,
    source: str,
    destination: str,
    source_mac: str,
    destination_mac: str,
    vid: int | None = None,
    source_port: int = 49152,
) -> TunnelEnd:
    """Where encapsulated frames go."""
    return _make(
        lambda where: TunnelEnd(
            name=name,
            source=address(source),
            destination=address(destination),
            source_mac=mac(source_mac),
            destination_mac=mac(destination_mac),
            vid=vid,
            source_port=source_port,
            where=where,
        )
    )


def masquerade(
    inside: str | int | list[int],
    outside: int,
    *addresses: str,
    ports: str | int = "1024-65535",
    mapping: str = Mapping.PER_DESTINATION,
    filtering: str = Filtering.ADDRESS_AND_PORT,
) -> Masquerade:
    """Tenants leave behind a pool: addresses, `first-last`, prefixes."""
    return _make(
        lambda where: Masquerade(
            inside=nat_text.metas(inside),
            outside=outside,
            addresses=nat_text.pool(list(addresses)),
            ports=nat_text.ports(ports),
            mapping=Mapping(mapping),
            filtering=Filtering(filtering),
            where=where,
        )
    )


def static(inside: int, inside_address: str, outside: int, outside_address: str) -> Static:
    """One address inside is one address outside."""
    return _make(
        lambda where: Static(
            inside=inside,
            inside_address=nat_text.any_address(inside_address),
            outside=outside,
            outside_address=nat_text.any_address(outside_address),
            where=where,
        )
    )


def forward(
    outside: int,
    outside_address: str,
    outside_ports: str | int,
    inside: int,
    inside_address: str,
    inside_ports: str | int | None = None,
    protocols: tuple[str, ...] = PROTOCOLS,
) -> Forward:
    """Ports outside lead to ports inside; without `inside_ports` to the same."""
    return _make(
        lambda where: Forward(
            outside=outside,
            outside_address=nat_text.any_address(outside_address),
            outside_ports=nat_text.ports(outside_ports),
            inside=inside,
            inside_address=nat_text.any_address(inside_address),
            inside_ports=nat_text.ports(outside_ports if inside_ports is None else inside_ports),
            protocols=protocols,
            where=where,
        )
    )


def quota(inside: str | int, connections: int) -> Quota:
    """How many connections tenants may have at once."""
    return _make(lambda where: Quota(inside=nat_text.metas(inside), connections=connections, where=where))


def timeouts(**seconds: int) -> Timeouts:
    """Other time-outs than the RFCs'."""
    return _make(lambda where: Timeouts(**seconds, where=where))


def group(name: str, *parts: Step | Switch) -> Group:
    """A group of steps; a switch may be the last of them."""
    return _make(lambda where: Group(name=name, block=_block(parts), where=where))


def parse(*cases: Callable[[On], Case]) -> Switch:
    """A switch on the frame's headers."""
    return _switch(On.PARSE, cases)


def conntrack(*cases: Callable[[On], Case]) -> Switch:
    """A switch on the connection's state."""
    return _switch(On.CONNTRACK, cases)


def metadata(*cases: Callable[[On], Case]) -> Switch:
    """A switch on metadata."""
    return _switch(On.METADATA, cases)


def case(when: str, *parts: Step | Switch, label: str = "", note: Note | None = None) -> Callable[[On], Case]:
    """A case; `when` as in the YAML form. The switch around it says how to read that."""
    where = _where()

    def made(on: On) -> Case:
        return _at(
            where, lambda: Case(when=parse_when(on, when), block=_block(parts), label=label, note=note, where=where)
        )

    return made


def shown(step: T, label: str = "", style: Style = Style.ACTION, note: Note | None = None) -> T:
    """The same step, drawn with another text or colour, or with a note."""
    made: T = type(step)(**(vars(step) | {"label": label, "style": style, "note": note}))
    return made


def goto(name: str) -> steps.Goto:
    """Go on in a later group."""
    return _make(lambda where: steps.Goto(group=name, where=where))


def set_meta(source: Literal["vni", "vlan"], add: int = 0, table: Entries = None) -> steps.SetMeta:
    """Metadata from the VNI or the VLAN id."""
    return _make(lambda where: steps.SetMeta(source=source, add=add, table=_table(table), where=where))


def set_vni(table: Entries = None) -> steps.SetVni:
    """The VNI from metadata."""
    return _make(lambda where: steps.SetVni(table=_table(table), where=where))


def set_vid(table: Entries = None) -> steps.SetVid:
    """The VLAN id from metadata."""
    return _make(lambda where: steps.SetVid(table=_table(table), where=where))


def pop_vlan() -> steps.PopVlan:
    """Take the outermost tag off."""
    return _make(lambda where: steps.PopVlan(where=where))


def push_vlan() -> steps.PushVlan:
    """Put a tag on."""
    return _make(lambda where: steps.PushVlan(where=where))


def decap(tunnel_kind: str, vlan: bool = False) -> steps.Decap:
    """Take the tunnel off."""
    return _make(lambda where: steps.Decap(tunnel=tunnel_kind, vlan=vlan, where=where))


def encap(tunnel_kind: str, to: str, vlan: bool = False) -> steps.Encap:
    """Put the headers of a tunnel end in front."""
    return _make(lambda where: steps.Encap(tunnel=tunnel_kind, to=to, vlan=vlan, where=where))


def nat(allocate: bool = False) -> steps.Nat:
    """Translate."""
    return _make(lambda where: steps.Nat(allocate=allocate, where=where))


def count(name: str, per_meta: bool = False) -> steps.Count:
    """Count packets and bytes."""
    return _make(lambda where: steps.Count(name=name, per_meta=per_meta, where=where))


def limit(name: str, packets_per_s: int, burst: int, per_meta: bool = False) -> steps.Limit:
    """Drop what exceeds a rate."""
    return _make(
        lambda where: steps.Limit(name=name, packets_per_s=packets_per_s, burst=burst, per_meta=per_meta, where=where)
    )


def trap() -> steps.Trap:
    """Hand over to the kernel."""
    return _make(lambda where: steps.Trap(where=where))


def queue(number: int) -> steps.Queue:
    """Hand over to a user-space queue."""
    return _make(lambda where: steps.Queue(number=number, where=where))


def drop() -> steps.Drop:
    """End here."""
    return _make(lambda where: steps.Drop(where=where))


def stop() -> steps.Stop:
    """Leave at the egress."""
    return _make(lambda where: steps.Stop(where=where))


def _nat_rules(parts: tuple[object, ...]) -> NatRules | None:
    times = [part for part in parts if isinstance(part, Timeouts)]
    if len(times) > 1:
        raise ValueError("expected time-outs once")
    found = NatRules(
        masquerade=tuple(part for part in parts if isinstance(part, Masquerade)),
        static=tuple(part for part in parts if isinstance(part, Static)),
        forward=tuple(part for part in parts if isinstance(part, Forward)),
        quotas=tuple(part for part in parts if isinstance(part, Quota)),
        timeouts=times[0] if times else Timeouts(),
    )
    return None if found == NatRules() and not times else found


def _table(entries: Entries) -> Table | None:
    return None if entries is None else Table(tuple(entries.items()))


def _switch(on: On, cases: tuple[Callable[[On], Case], ...]) -> Switch:
    return _make(lambda where: description.Switch(on=on, cases=tuple(made(on) for made in cases), where=where))


def _block(parts: tuple[Step | Switch, ...]) -> Block:
    last = parts[-1] if parts else None
    found = tuple(part for part in parts if isinstance(part, Step))
    switch = last if isinstance(last, Switch) else None
    if len(found) + (switch is not None) < len(parts):
        raise ValueError("a switch stands before other steps: put them into the next group")
    return Block(found, switch)


def _where() -> Where:
    """The first frame outside of this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == _HERE:
        frame = frame.f_back
    return Where(frame.f_code.co_filename, frame.f_lineno)


def _make(make: Callable[[Where], T]) -> T:
    where = _where()
    return _at(where, lambda: make(where))


def _at(where: Where, make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise InvalidError(Problem(str(error), file=where.file, line=where.line)) from error
