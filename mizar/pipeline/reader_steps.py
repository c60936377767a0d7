# SPDX-License-Identifier: Apache-2.0
"""One step of the YAML form → its value. Called by the reader; a step is a word or a mapping with one action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mizar.model.document import Path
from mizar.pipeline.fields import Notes, flag, near, number, shown, text
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.steps import (
    Count,
    Decap,
    Drop,
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

_DECORATION = ("label", "style", "note")
_PLAIN: dict[str, type[Step]] = {
    "pop_vlan": PopVlan,
    "push_vlan": PushVlan,
    "nat": Nat,
    "drop": Drop,
    "stop": Stop,
}
Arguments = dict[str, Any]


def read_step(notes: Notes, path: Path, value: Any) -> Step | None:
    """The step, or None with everything that is wrong with it noted."""
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict):
        notes.refuse(path, f"expected a step, found {shown(value)}")
        return None
    actions = [key for key in value if key in ACTIONS]
    for key in value:
        if key not in ACTIONS and key not in _DECORATION:
            known = [*ACTIONS, "switch", "detach"]
            notes.refuse((*path, key), f"unknown step{near(key, known)}; known are {', '.join(known)}")
    before = len(notes.problems)
    decoration = _decoration(notes, path, value)
    if len(actions) != 1:
        if len(actions) > 1:
            notes.refuse(path, f"expected one step, found {' and '.join(actions)}")
        elif all(key in _DECORATION for key in value):
            notes.refuse(path, "expected a step beside label, style and note")
        return None
    name = actions[0]
    place = (*path, name)
    kind, arguments = ACTIONS[name](notes, place, value[name])
    if arguments is None or len(notes.problems) > before:
        return None
    return notes.attempt(place, lambda: kind(**arguments, **decoration, where=notes.where(path)))


def read_note(notes: Notes, path: Path, value: Any) -> Note | None:
    """A note: text, or a mapping with text, side and attention."""
    if isinstance(value, str):
        value = {"text": value}
    found = notes.fields(path, value, {"text": text, "side": _side, "attention": flag}, ("text",))
    return None if found is None else Note(**(found | {"text": found["text"].strip()}))


def _side(value: Any) -> str:
    if value not in ("left", "right"):
        raise ValueError(f"expected left or right, found {shown(value)}")
    return str(value)


def _decoration(notes: Notes, path: Path, value: dict[str, Any]) -> Arguments:
    found: Arguments = {}
    if "label" in value:
        found["label"] = notes.attempt((*path, "label"), lambda: text(value["label"]))
    if "style" in value:
        styles = [str(style) for style in Style]
        if value["style"] in styles:
            found["style"] = Style(value["style"])
        else:
            notes.refuse((*path, "style"), f"expected {' or '.join(styles)}, found {shown(value['style'])}")
    if "note" in value:
        found["note"] = read_note(notes, (*path, "note"), value["note"])
    return found


Made = tuple[type[Step], Arguments | None]


def _plain(name: str) -> Callable[[Notes, Path, Any], Made]:
    def take(notes: Notes, path: Path, value: Any) -> Made:
        if name == "nat" and value is not None:
            return Nat, notes.fields(path, value, {"allocate": flag}, ())
        if value is not None:
            notes.refuse(path, f"expected nothing behind {name}, found {shown(value)}")
            return _PLAIN[name], None
        return _PLAIN[name], {}

    return take


def _goto(notes: Notes, path: Path, value: Any) -> Made:
    group = notes.attempt(path, lambda: text(value))
    return Goto, None if group is None else {"group": group}


def _trap(notes: Notes, path: Path, value: Any) -> Made:
    if value != "kernel":
        notes.refuse(path, f"expected kernel, found {shown(value)}")
        return Trap, None
    return Trap, {}


def _queue(notes: Notes, path: Path, value: Any) -> Made:
    found = notes.attempt(path, lambda: number(value))
    return Queue, None if found is None else {"number": found}


def _set_meta(notes: Notes, path: Path, value: Any) -> Made:
    found = notes.fields(path, value, {"from": text, "add": number, "table": _table}, ("from",))
    if found is None:
        return SetMeta, None
    if found["from"] not in ("vni", "vlan"):
        notes.refuse((*path, "from"), f"expected vni or vlan, found {shown(found['from'])}")
        return SetMeta, None
    return SetMeta, {"source": found.pop("from")} | found


def _from_meta(kind: type[Step]) -> Callable[[Notes, Path, Any], Made]:
    def take(notes: Notes, path: Path, value: Any) -> Made:
        found = notes.fields(path, value, {"from": text, "table": _table}, ("from",))
        if found is None:
            return kind, None
        if found["from"] != "meta":
            notes.refuse((*path, "from"), f"expected meta, found {shown(found['from'])}")
            return kind, None
        return kind, {"table": found.get("table")}

    return take


def _table(value: Any) -> Table:
    """`[[5, 0x100], [6, 0x200]]`: keys of a YAML mapping would have to be text."""
    if not isinstance(value, list):
        raise ValueError(f"expected a list of pairs of numbers, found {shown(value)}")
    pairs = []
    for entry in value:
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError(f"expected pairs of numbers, found {shown(entry)}")
        pairs.append((number(entry[0]), number(entry[1])))
    return Table(tuple(pairs))


def _tunnel_headers(notes: Notes, path: Path, value: Any) -> Arguments | None:
    """`vxlan` or `[vlan, vxlan]`, from the outside in."""
    words = value if isinstance(value, list) else [value]
    if words[:1] == ["vlan"] and len(words) == 2 and words[1] in TUNNELS:
        return {"vlan": True, "tunnel": words[1]}
    if len(words) == 1 and words[0] in TUNNELS:
        return {"tunnel": words[0]}
    names = ", ".join(TUNNELS)
    notes.refuse(path, f"expected one of {names}, or [vlan, one of them], found {value!r}"[:200])
    return None


def _decap(notes: Notes, path: Path, value: Any) -> Made:
    return Decap, _tunnel_headers(notes, path, value)


def _encap(notes: Notes, path: Path, value: Any) -> Made:
    found = notes.mapping(path, value, ("headers", "to"), ("headers", "to"))
    headers = _tunnel_headers(notes, (*path, "headers"), found["headers"]) if "headers" in found else None
    end = notes.attempt((*path, "to"), lambda: text(found["to"])) if "to" in found else None
    return Encap, None if headers is None or end is None else headers | {"to": end}


def _per_meta(value: Any) -> bool:
    if value != "meta":
        raise ValueError(f"expected meta, found {shown(value)}")
    return True


def _count(notes: Notes, path: Path, value: Any) -> Made:
    if isinstance(value, str):
        return Count, {"name": value}
    found = notes.fields(path, value, {"name": text, "per": _per_meta}, ("name",))
    return Count, None if found is None else {"name": found["name"], "per_meta": "per" in found}


def _limit(notes: Notes, path: Path, value: Any) -> Made:
    takers = {"name": text, "packets_per_s": number, "burst": number, "per": _per_meta}
    found = notes.fields(path, value, takers, ("name", "packets_per_s", "burst"))
    if found is None:
        return Limit, None
    per_meta = found.pop("per", False)
    return Limit, found | {"per_meta": per_meta}


ACTIONS: dict[str, Callable[[Notes, Path, Any], Made]] = {
    "goto": _goto,
    "set_meta": _set_meta,
    "pop_vlan": _plain("pop_vlan"),
    "push_vlan": _plain("push_vlan"),
    "decap": _decap,
    "encap": _encap,
    "set_vni": _from_meta(SetVni),
    "set_vid": _from_meta(SetVid),
    "nat": _plain("nat"),
    "count": _count,
    "limit": _limit,
    "trap": _trap,
    "queue": _queue,
    "drop": _plain("drop"),
    "stop": _plain("stop"),
}
