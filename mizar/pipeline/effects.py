# SPDX-License-Identifier: Apache-2.0
"""What each step does to what is known of a packet, or why it cannot stand there. Called by `ways` alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mizar.pipeline.box import Box
from mizar.pipeline.description import Pipeline, State
from mizar.pipeline.headers import IP, TRACKED, TUNNELS
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import (
    META_BITS,
    Count,
    Decap,
    Encap,
    Ending,
    Limit,
    Nat,
    PopVlan,
    PushVlan,
    Queue,
    SetMeta,
    SetVid,
    SetVni,
    Step,
    Stop,
    Table,
    Trap,
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a packet at one place of its way.

    `meta` is None until it is set. `connection` is what a conntrack switch found, None before one. `unfilled` are the
    fields (vni, vid) of new headers that still wait for their value.
    """

    box: Box
    meta: Ranges | None = None
    connection: frozenset[State] | None = None
    unfilled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a step cannot stand where it stands; `then` is what would be known had it done what was meant."""

    message: str
    then: Known


def apply(pipeline: Pipeline, step: Step, known: Known) -> Known | Refusal:
    """What is known behind a step; a step that ends the way leaves everything as it is."""
    match step:
        case SetMeta():
            return _set_meta(step, known)
        case PopVlan():
            if not _tagged(known):
                return _missing("pop_vlan", "a vlan right behind eth", known, known)
            return replace(known, box=known.box.without(1, 1), unfilled=known.unfilled - {"vid"})
        case PushVlan():
            box = known.box.insert(1, ("vlan",), {})
            return replace(known, box=box, unfilled=known.unfilled | {"vid"}, connection=None)
        case Decap():
            return _decap(step, known)
        case Encap():
            return _encap(pipeline, step, known)
        case SetVni():
            return _filled("vni", known.box.tunnel, 24, step.table, known)
        case SetVid():
            return _filled("vid", 1 if _tagged(known) else None, 12, step.table, known)
        case Nat():
            return _nat(step, known)
        case Count() | Limit() if step.per_meta and known.meta is None:
            message = f"{step.name!r} is per metadata, which a way leads here without setting"
            return Refusal(message, replace(known, meta=_ANY))
    return known


def leaving(step: Ending, known: Known) -> Refusal | None:
    """Why a frame cannot leave the pipeline like this, if it cannot."""
    if not known.unfilled or not isinstance(step, Trap | Queue | Stop):
        return None
    field = min(known.unfilled)
    header = "pushed VLAN tag" if field == "vid" else "new tunnel header"
    return Refusal(f"the frame leaves with a {header} whose {field} was never set: expected set_{field} before", known)


def needs_connection(what: str, known: Known) -> Refusal | None:
    """Connections are known by tenant and by addresses and ports right behind eth."""
    shape = known.box.shape
    if len(shape) < 3 or shape[1] not in IP or shape[2] not in TRACKED:
        return _missing(what, "eth / ip / (tcp | udp | icmp | fragment)", known, known)
    if known.meta is None:
        message = f"{what} needs metadata, which tells tenants apart; a way leads here without setting it"
        return Refusal(message, replace(known, meta=_ANY))
    return None


def _set_meta(step: SetMeta, known: Known) -> Known | Refusal:
    index = known.box.tunnel if step.source == "vni" else 1 if _tagged(known) else None
    meant = replace(known, meta=_ANY)
    if index is None:
        expected = "a vxlan or geneve header" if step.source == "vni" else "a vlan right behind eth"
        return _missing(f"set_meta from {step.source}", expected, known, meant)
    source = known.box.limit(index, "vni" if step.source == "vni" else "vid")
    if step.table is None:
        meta = Ranges(META_BITS, tuple((low + step.add, high + step.add) for low, high in source.spans))
    else:
        meta = step.table.image(source, META_BITS)
    if meta.is_empty:
        return Refusal(f"set_meta: no {step.source} that comes here is in the table", meant)
    return replace(known, meta=meta, connection=None)


def _decap(step: Decap, known: Known) -> Known | Refusal:
    tunnel = known.box.tunnel
    name = f"decap {'vlan + ' if step.vlan else ''}{step.tunnel}"
    meant = replace(known, box=Box(("eth",)), unfilled=frozenset(), connection=None)
    if tunnel is None or known.box.shape[tunnel] != step.tunnel:
        return _missing(name, step.tunnel, known, meant)
    tags = known.box.shape[:tunnel].count("vlan")
    if tags != int(step.vlan):
        expected = f"expected [vlan, {step.tunnel}]" if tags == 1 else f"{tags} tags stand in front of it"
        return Refusal(f"{name}: {expected}, a way leads here with {known.box}", meant)
    outer = tunnel + 1
    box = known.box.without(0, outer) if len(known.box.shape) > outer else Box(("eth",))
    return replace(meant, box=box)


def _encap(pipeline: Pipeline, step: Encap, known: Known) -> Known | Refusal:
    outer = ("eth", *(("vlan",) if step.vlan else ()), "ipv4", "udp", step.tunnel)
    last = len(outer) - 1
    limits = {(last - 1, "dst"): Ranges.of(16, [TUNNELS[step.tunnel]]), (last, "vni"): Ranges.of(24, [0])}
    end = next((one for one in pipeline.tunnels if one.name == step.to), None)
    if step.vlan and end is not None and end.vid is not None:
        limits[1, "vid"] = Ranges.of(12, [end.vid])
    done = replace(known, unfilled=known.unfilled | {"vni"}, connection=None)
    meant = replace(done, box=Box(("eth",)).insert(0, outer, limits), meta=known.meta or _ANY)
    name = f"encap {step.tunnel}"
    if known.box.tunnel is not None:
        return Refusal(f"{name}: the frame is in a tunnel already, decap it first: {known.box}", meant)
    if _tagged(known):
        return Refusal(f"{name}: the frame has a VLAN tag still, pop_vlan first: {known.box}", meant)
    if known.meta is None:
        return Refusal(f"{name}: no tenant to encapsulate for: a way leads here on which set_meta never was", meant)
    return replace(done, box=known.box.insert(0, outer, limits))


def _filled(field: str, index: int | None, width: int, table: Table | None, known: Known) -> Known | Refusal:
    """The new field of a header at an index; None: the header is not there."""
    meant = replace(known, unfilled=known.unfilled - {field})
    if index is None:
        expected = "a vxlan or geneve header" if field == "vni" else "a vlan right behind eth"
        return _missing(f"set_{field}", expected, known, meant)
    if known.meta is None:
        return Refusal(f"set_{field} needs metadata, which a way leads here without setting", meant)
    values = known.meta.low(width) if table is None else table.image(known.meta, width)
    if values.is_empty:
        return Refusal(f"set_{field}: no metadata that comes here is in the table", meant)
    return replace(meant, box=known.box.with_limit(index, field, values))


def _nat(step: Nat, known: Known) -> Known | Refusal:
    # Addresses, ports and metadata come from the translation: any value; a tunnel behind a translated port is none.
    shape = known.box.shape[:3]
    box = Box.of(shape, {place: ranges for place, ranges in known.box.limits if place[0] == 0})
    done = replace(known, box=box, meta=_ANY)
    refusal = needs_connection("nat", known)
    if refusal is not None:
        return Refusal(refusal.message, replace(known, meta=_ANY))
    if known.connection is None:
        return Refusal("nat needs the connection's state: put it into a case of a switch on conntrack", done)
    if State.INVALID in known.connection:
        return Refusal("nat cannot translate an invalid packet: take it out with a case of its own", done)
    if State.NEW in known.connection and not step.allocate:
        return Refusal("nat of a new connection has no translation yet: write {allocate: true}, or trap it", done)
    return done


def _tagged(known: Known) -> bool:
    return known.box.shape[1:2] == ("vlan",)


def _missing(what: str, expected: str, known: Known, meant: Known) -> Refusal:
    return Refusal(f"{what}: expected {expected}, a way leads here with {known.box}", meant)


_ANY = Ranges.full(META_BITS)
