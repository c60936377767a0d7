# SPDX-License-Identifier: Apache-2.0
"""Pipeline → YAML, in the form that the reader reads back to an equal value. Pure."""

from __future__ import annotations

from typing import Any

import yaml

from mizar.pipeline.description import Block, Case, Pipeline, TunnelEnd
from mizar.pipeline.kernel_reader import plain_kernel
from mizar.pipeline.labels import when_text
from mizar.pipeline.nat_reader import plain_nat
from mizar.pipeline.steps import (
    Count,
    Decap,
    Encap,
    Goto,
    Limit,
    Nat,
    Note,
    PopVlan,
    PushVlan,
    Queue,
    SetMeta,
    SetVid,
    SetVni,
    Step,
    Stop,
    Style,
    Table,
    Trap,
)

Plain = dict[str, Any]


def write_pipeline(pipeline: Pipeline) -> str:
    """The YAML text of a pipeline."""
    return yaml.safe_dump(plain(pipeline), sort_keys=False, allow_unicode=True, width=120)


def plain(pipeline: Pipeline) -> Plain:
    """The pipeline as what JSON and YAML are made of."""
    found: Plain = {"pipeline": pipeline.name}
    if pipeline.title:
        found["title"] = pipeline.title
    if pipeline.tunnels:
        found["tunnels"] = {end.name: _tunnel(end) for end in pipeline.tunnels}
    if pipeline.nat is not None:
        found["nat"] = plain_nat(pipeline.nat)
    if pipeline.kernel is not None:
        found["kernel"] = plain_kernel(pipeline.kernel)
    found["groups"] = [{"name": group.name, "steps": _block(group.block)} for group in pipeline.groups]
    return found


def _tunnel(end: TunnelEnd) -> Plain:
    found: Plain = {} if end.vid is None else {"vid": end.vid}
    return found | {
        "source": str(end.source),
        "destination": str(end.destination),
        "source_mac": end.source_mac.to_bytes(6, "big").hex(":"),
        "destination_mac": end.destination_mac.to_bytes(6, "big").hex(":"),
        "source_port": end.source_port,
    }


def _block(block: Block) -> list[Any]:
    found: list[Any] = [_step(step) for step in block.steps]
    if block.switch is not None:
        found.append({"switch": str(block.switch.on), "cases": [_case(case) for case in block.switch.cases]})
    return found


def _case(case: Case) -> Plain:
    found: Plain = {"when": when_text(case)}
    if case.label:
        found["label"] = case.label
    if case.note:
        found["note"] = _note(case.note)
    return found | {"steps": _block(case.block)}


def _note(note: Note) -> Plain:
    return {"text": note.text, "side": note.side, "attention": note.attention}


def _step(step: Step) -> Any:
    name, value = _action(step)
    decorated: Plain = {"label": step.label} if step.label else {}
    if step.style is not Style.ACTION:
        decorated["style"] = str(step.style)
    if step.note:
        decorated["note"] = _note(step.note)
    return name if value is None and not decorated else {name: value} | decorated


def _action(step: Step) -> tuple[str, Any]:
    """The word of a step in YAML, and what stands behind it."""
    match step:
        case Goto():
            return "goto", step.group
        case SetMeta():
            return "set_meta", {"from": step.source} | ({"add": step.add} if step.add else {}) | _table(step.table)
        case PopVlan():
            return "pop_vlan", None
        case PushVlan():
            return "push_vlan", None
        case Decap():
            return "decap", _headers(step)
        case Encap():
            return "encap", {"headers": _headers(step), "to": step.to}
        case SetVni():
            return "set_vni", {"from": "meta"} | _table(step.table)
        case SetVid():
            return "set_vid", {"from": "meta"} | _table(step.table)
        case Nat():
            return "nat", {"allocate": True} if step.allocate else None
        case Count():
            return "count", {"name": step.name} | _per(step)
        case Limit():
            return "limit", {"name": step.name, "packets_per_s": step.packets_per_s, "burst": step.burst} | _per(step)
        case Trap():
            return "trap", "kernel"
        case Queue():
            return "queue", step.number
        case Stop():
            return "stop", None
    return "drop", None


def _per(step: Count | Limit) -> Plain:
    return {"per": "meta"} if step.per_meta else {}


def _headers(step: Decap | Encap) -> str | list[str]:
    return ["vlan", step.tunnel] if step.vlan else step.tunnel


def _table(table: Table | None) -> Plain:
    return {} if table is None else {"table": [list(entry) for entry in table.entries]}
