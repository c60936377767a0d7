# SPDX-License-Identifier: Apache-2.0
"""Which objects a change makes, changes and takes away, field by field. Called by preview.py. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mizar.manager.intake import Result
from mizar.manager.rehearsal import Rehearsal
from mizar.model.resources import Ref, Resource, dump
from mizar.model.secret import MASK, secrets_of

_PLACED = ("dividers", "bouncers", "host", "groups", "target", "sourceAddresses")
"""Fields of a status that follow from other objects."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field; None where it was not, or will not be. Of lists, what comes and what goes."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One object. `change`: created, changed, deleted or unchanged; `asked`: it is among the manifests."""

    ref: Ref
    change: str
    fields: tuple[FieldChange, ...]
    asked: bool


def object_changes(rehearsal: Rehearsal, results: Sequence[Result]) -> Iterator[ObjectChange]:
    """What was asked for, in the order of the request, and what follows from it."""
    asked = {result.ref for result in results}
    for result in results:
        before, after = rehearsal.before.get(result.ref), rehearsal.find(result.ref)
        fields = tuple(_fields(before, after)) if result.change == "changed" and before and after else ()
        yield ObjectChange(result.ref, result.change, fields, asked=True)
    for ref in rehearsal.touched:
        if ref in asked:
            continue
        before, after = rehearsal.before.get(ref), rehearsal.find(ref)
        change = "created" if before is None else "deleted" if after is None else "changed"
        fields = tuple(_placed(before, after)) if before and after else ()
        if fields or change != "changed":
            yield ObjectChange(ref, change, fields, asked=False)


def _fields(before: Resource, after: Resource) -> Iterator[FieldChange]:
    old, new = dump(before), dump(after)
    yield from _compared("labels", old["metadata"].get("labels") or {}, new["metadata"].get("labels") or {})
    yield from _compared("spec", old["spec"], new["spec"])
    held = dict(secrets_of(before.spec, ("spec",)))
    for path, secret in secrets_of(after.spec, ("spec",)):
        if path in held and held[path] != secret:
            yield FieldChange(".".join(map(str, path)), MASK, f"{MASK} (another)")


def _placed(before: Resource, after: Resource) -> Iterator[FieldChange]:
    old, new = (one.status.model_dump(mode="json", by_alias=True, exclude_none=True) for one in (before, after))
    for name in _PLACED:
        yield from _compared(f"status.{name}", old.get(name), new.get(name))


def _compared(field: str, old: Any, new: Any) -> Iterator[FieldChange]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            yield from _compared(f"{field}.{name}", old.get(name), new.get(name))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        goes, comes = [one for one in old if one not in new], [one for one in new if one not in old]
        for one in goes:
            yield FieldChange(f"{field}[]", one, None)
        for one in comes:
            yield FieldChange(f"{field}[]", None, one)
        if not goes and not comes:
            yield FieldChange(field, old, new)
    else:
        yield FieldChange(field, old, new)
