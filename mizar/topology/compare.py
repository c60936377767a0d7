# SPDX-License-Identifier: Apache-2.0
"""Wished and found side by side, one row for each object. Pure. Called by host and by the picture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mizar.kernel.topology_facts import HOST, Link
from mizar.topology import eswitches
from mizar.topology.description import EswitchSpec
from mizar.topology.plan import differences, same
from mizar.topology.present import Present, foreign, ours
from mizar.topology.steps import FIELDS, described, shown, where
from mizar.topology.wishes import Wishes


class State(StrEnum):
    """How an object is."""

    AS_WANTED = "as wanted"
    ABSENT = "absent"
    DIFFERS = "differs"
    TAKEN = "taken"
    """Somebody else has the name."""
    UNWANTED = "unwanted"
    """The topology made it once, and the description does not name it any more."""


@dataclass(frozen=True)
class Row:
    """One object of a topology."""

    object: str
    namespace: str
    """Where it is, "" for the host."""
    interface: str
    """"" for a namespace and an eswitch."""
    state: State
    wanted: str
    actual: str
    detail: str = ""
    """What differs, or who has it."""


def compare(wishes: Wishes, present: Present) -> list[Row]:
    """Rows in the order of the description, then what is unwanted."""
    rows = [_namespace(name, wishes, present) for name in (*wishes.namespaces, *wishes.existing)]
    rows += [_eswitch(wish.object, wish.spec, present) for wish in wishes.eswitches]
    wanted: set[tuple[str, str]] = set()
    for wish in wishes.eswitches:
        for function in wish.spec.functions:
            place = function.namespace or HOST
            rows.append(_plain(f"representor {function.name}", HOST, function.representor, wishes, present))
            rows.append(_plain(f"function {function.name}", place, function.interface, wishes, present))
    for port in wishes.ports:
        rows.append(_plain(port.object, port.namespace, port.interface, wishes, present))
    for link_wish in wishes.links:
        rows += [_link(link_wish.object, link, wishes, present) for link in link_wish.links]
    wanted = {(row.namespace, row.interface) for row in rows}
    for item in present.of(wishes.topology):
        if item.link.key not in wanted:
            subject = item.mark.object if item.mark else ""
            rows.append(Row(subject, *item.link.key, State.UNWANTED, "", described(item.link), "no longer described"))
    for name, mark in present.namespaces.items():
        if mark and mark.topology == wishes.topology and name not in (*wishes.namespaces, *wishes.existing):
            rows.append(Row(f"namespace {name}", name, "", State.UNWANTED, "", "made", "no longer described"))
    return rows


def _namespace(name: str, wishes: Wishes, present: Present) -> Row:
    row = Row(f"namespace {name}", name, "", State.AS_WANTED, "a namespace", "a namespace")
    if name not in present.namespaces:
        return Row(row.object, name, "", State.ABSENT, "a namespace", "")
    mark = present.namespaces[name]
    if name in wishes.existing or (mark is not None and mark.topology == wishes.topology):
        return row
    whose = f"topology {mark.topology}" if mark is not None else "somebody else"
    return Row(row.object, name, "", State.TAKEN, "a namespace", "a namespace", f"{whose} made it")


def _eswitch(subject: str, spec: EswitchSpec, present: Present) -> Row:
    wanted = f"switchdev, {len(spec.functions)} functions"
    device, reason = eswitches.chosen(spec, present)
    if device is None:
        return Row(subject, HOST, "", State.ABSENT, wanted, "", reason)
    actual = f"{device.mode}, {device.functions} functions"
    state = State.AS_WANTED if actual == wanted else State.DIFFERS
    return Row(subject, HOST, "", state, wanted, actual, device.handle)


def _plain(subject: str, namespace: str, interface: str, wishes: Wishes, present: Present) -> Row:
    wanted = Link(namespace, interface, "")
    found = present.links.get(wanted.key)
    if found is None:
        return Row(subject, *wanted.key, State.ABSENT, where(wanted.key), "")
    if not ours(found, wishes.topology):
        return Row(subject, *wanted.key, State.TAKEN, where(wanted.key), "", foreign(found, wishes.topology))
    state = State.AS_WANTED if found.link.up else State.DIFFERS
    return Row(subject, *wanted.key, state, "up", "up" if found.link.up else "down")


def _link(subject: str, wanted: Link, wishes: Wishes, present: Present) -> Row:
    found = present.links.get(wanted.key)
    words = described(wanted)
    if found is None:
        return Row(subject, *wanted.key, State.ABSENT, words, "")
    actual = described(found.link)
    if not ours(found, wishes.topology):
        return Row(subject, *wanted.key, State.TAKEN, words, actual, foreign(found, wishes.topology))
    details = []
    if found.link.kind != wanted.kind:
        details.append(f"is a {found.link.kind}, wanted a {wanted.kind}")
    elif not same(found.link, wanted):
        if wanted.kind == "veth":
            other = where(found.link.peer) if found.link.peer else "in no namespace with a name"
            details.append(f"the other end is {other}, wanted {where(wanted.peer) if wanted.peer else ''}")
        else:
            details.append("a VXLAN device with other settings")
    details += [
        f"{FIELDS[name]} {shown(getattr(found.link, name), name)}, wanted {shown(getattr(wanted, name), name)}"
        for name in differences(found.link, wanted)
    ]
    if found.alias != str(wishes.mark(subject)):
        details.append("without its mark")
    state = State.DIFFERS if details else State.AS_WANTED
    return Row(subject, *wanted.key, state, words, actual, "; ".join(details))
