# SPDX-License-Identifier: Apache-2.0
"""The `nat:` section of the YAML form ⇄ its values. docs/nat.md is the reference.

Called by the reader and the writer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from typing import Any, TypeVar

from mizar.model.document import Path
from mizar.pipeline.fields import Notes, Taker, near, number, shown
from mizar.pipeline.nat import Filtering, Forward, Mapping, Masquerade, NatRules, Quota, Static, Timeouts
from mizar.pipeline.nat_text import any_address, metas, metas_text, pool, pool_text, ports, ports_text, protocols

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
Plain = dict[str, Any]


def _one_of(kind: type[E]) -> Callable[[Any], E]:
    def take(value: Any) -> E:
        known = [str(one) for one in kind]
        if value not in known:
            raise ValueError(f"expected {' or '.join(known)}, found {shown(value)}{near(value, known)}")
        return kind(value)

    return take


_MASQUERADE: dict[str, Taker] = {
    "inside": metas,
    "outside": number,
    "addresses": pool,
    "ports": ports,
    "mapping": _one_of(Mapping),
    "filtering": _one_of(Filtering),
}
_STATIC: dict[str, Taker] = {
    "inside": number,
    "inside_address": any_address,
    "outside": number,
    "outside_address": any_address,
}
_FORWARD: dict[str, Taker] = _STATIC | {"outside_ports": ports, "inside_ports": ports, "protocol": protocols}
_QUOTA: dict[str, Taker] = {"inside": metas, "connections": number}
_TIMEOUTS: dict[str, Taker] = {one.name: number for one in fields(Timeouts) if one.name != "where"}


def read_nat(notes: Notes, path: Path, value: Any) -> NatRules | None:
    """The section, or None with everything that is wrong in it noted."""
    before = len(notes.problems)
    known = ("masquerade", "static", "forward", "quotas", "timeouts")
    found = notes.mapping(path, value, known)
    made: Plain = {
        "masquerade": _rules(
            notes, (*path, "masquerade"), found, _MASQUERADE, ("inside", "outside", "addresses"), Masquerade
        ),
        "static": _rules(notes, (*path, "static"), found, _STATIC, tuple(_STATIC), Static),
        "forward": _rules(notes, (*path, "forward"), found, _FORWARD, (*_STATIC, "outside_ports"), _forward),
        "quotas": _rules(notes, (*path, "quotas"), found, _QUOTA, tuple(_QUOTA), Quota),
    }
    if "timeouts" in found:
        place = (*path, "timeouts")
        seconds = notes.fields(place, found["timeouts"], _TIMEOUTS, ())
        if seconds is not None:
            made["timeouts"] = notes.attempt(place, lambda: Timeouts(**seconds, where=notes.where(place)))
    if len(notes.problems) > before:
        return None
    return NatRules(**made, where=notes.where(path))


def _rules(
    notes: Notes, path: Path, found: Plain, takers: dict[str, Taker], needed: tuple[str, ...], make: Callable[..., T]
) -> tuple[T, ...]:
    made = []
    for place, entry in notes.items(path, found.get(str(path[-1]), []), str(path[-1])):
        taken = notes.fields(place, entry, takers, needed)
        if taken is not None:
            where = notes.where(place)
            made.append(notes.attempt(place, lambda taken=taken, where=where: make(**taken, where=where)))  # type: ignore[misc]
    return tuple(one for one in made if one is not None)


def _forward(**taken: Any) -> Forward:
    """Without ports inside they are those outside; without a protocol both are meant."""
    if "protocol" in taken:
        taken["protocols"] = taken.pop("protocol")
    return Forward(**({"inside_ports": taken["outside_ports"]} | taken))


def plain_nat(nat: NatRules) -> Plain:
    """The section as what JSON and YAML are made of; `read_nat` reads it back to an equal value."""
    found: Plain = {
        "masquerade": [_plain_masquerade(rule) for rule in nat.masquerade],
        "static": [_plain_ends(rule) for rule in nat.static],
        "forward": [
            _plain_ends(rule)
            | {
                "outside_ports": ports_text(rule.outside_ports),
                "inside_ports": ports_text(rule.inside_ports),
                "protocol": list(rule.protocols),
            }
            for rule in nat.forward
        ],
        "quotas": [{"inside": metas_text(one.inside), "connections": one.connections} for one in nat.quotas],
        "timeouts": {name: getattr(nat.timeouts, name) for name in _TIMEOUTS if _differs(nat.timeouts, name)},
    }
    return {key: value for key, value in found.items() if value}


def _differs(timeouts: Timeouts, name: str) -> bool:
    return bool(getattr(timeouts, name) != getattr(Timeouts(), name))


def _plain_masquerade(rule: Masquerade) -> Plain:
    return {
        "inside": metas_text(rule.inside),
        "outside": f"{rule.outside:#x}",
        "addresses": pool_text(rule.addresses),
        "ports": ports_text(rule.ports),
        "mapping": str(rule.mapping),
        "filtering": str(rule.filtering),
    }


def _plain_ends(rule: Static | Forward) -> Plain:
    return {
        "inside": f"{rule.inside:#x}",
        "inside_address": str(rule.inside_address),
        "outside": f"{rule.outside:#x}",
        "outside_address": str(rule.outside_address),
    }
