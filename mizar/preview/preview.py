# SPDX-License-Identifier: Apache-2.0
"""What an apply would do: objects, steps of each droplet, reach, flows. Nothing is kept and nobody is told.

Called by mizar.api with a snapshot of the manager's objects, off the event loop. Pure, but for what it computes with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mizar.manager.intake import Result, Submission
from mizar.manager.rehearsal import Rehearsal, Snapshot
from mizar.model.errors import Problem
from mizar.model.resources import Droplet, Ref
from mizar.preview.flows import BrokenFlows, broken_flows
from mizar.preview.objects import ObjectChange, object_changes
from mizar.preview.reach import ReachChange, merge, reach_changes
from mizar.preview.steps import DropletSteps, droplet_steps


@dataclass(frozen=True, slots=True)
class Preview:
    """All of it. `steps` is None for those who may not see droplets; `notes`: what was taken for granted."""

    objects: tuple[ObjectChange, ...]
    steps: tuple[DropletSteps, ...] | None
    reach: ReachChange
    flows: tuple[BrokenFlows, ...]
    notes: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether anything would change at all."""
        return any(one.change != "unchanged" for one in self.objects)


def preview(
    known: Snapshot,
    submissions: Sequence[Submission],
    refused: Iterable[Problem] = (),
    visible: Callable[[Ref], bool] = lambda _: True,
    counts: Mapping[tuple[int, bytes], int] | None = None,
) -> Preview:
    """Raises what an apply would raise."""
    rehearsal = Rehearsal(known)
    results = rehearsal.apply(submissions, refused, visible)
    registry, changes = rehearsal.registry, rehearsal.changes
    objects = tuple(one for one in object_changes(rehearsal, results) if visible(one.ref))
    sees_droplets = visible(Ref("Droplet", "", ""))
    merged = merge(changes)
    reached = reach_changes(registry, rehearsal.entries() if merged else {}, changes, visible)
    flows = broken_flows(registry, merged, reached.changes, visible, counts or {})
    return Preview(
        objects,
        tuple(droplet_steps(registry, changes)) if sees_droplets else None,
        reached,
        tuple(flows),
        (*_warnings(results), *_notes(known, rehearsal, objects, sees_droplets=sees_droplets)),
    )


def _warnings(results: Iterable[Result]) -> Iterable[str]:
    return (f"warning: {one.ref}: {text}" for one in results for text in one.warnings)


def _notes(
    known: Snapshot, rehearsal: Rehearsal, objects: Sequence[ObjectChange], *, sees_droplets: bool
) -> Iterable[str]:
    for one in objects:
        new = rehearsal.find(one.ref)
        if one.change == "created" and isinstance(new, Droplet) and new.spec.has_daemon:
            yield f"{one.ref.name} is new: taken for one whose daemon answers"
    away = [droplet.name for droplet in rehearsal.droplets() if droplet.name in known.away] if sees_droplets else []
    if away:
        yield f"{', '.join(away)}: the daemon does not answer now; the steps wait, and until then it does what it did"


def as_data(found: Preview) -> dict[str, Any]:
    """As JSON values."""
    return {
        "changes": found.changes,
        "objects": [
            _ref(one.ref)
            | {"change": one.change, "asked": one.asked}
            | {"fields": [{"field": f.field, "before": f.before, "after": f.after} for f in one.fields]}
            for one in found.objects
        ],
        "droplets": None
        if found.steps is None
        else [
            {"name": one.droplet, **{name: one.counts[name] for name in ("add", "change", "delete")}}
            | {"steps": [{"wave": wave, "action": action, "entry": entry} for wave, action, entry in one.steps]}
            for one in found.steps
        ],
        "reach": {
            "pairs": found.reach.pairs,
            "lookedAt": found.reach.looked_at,
            "gained": [
                {"from": _text(one.source), "to": _text(one.destination), "ways": list(one.gained)}
                for one in found.reach.changes
                if one.gained
            ],
            "lost": [
                {"from": _text(one.source), "to": _text(one.destination), "ways": list(one.lost)}
                | {"reason": one.reason, "drop": one.drop or None}
                for one in found.reach.changes
                if one.lost
            ],
        },
        "flows": [
            {"endpoint": _text(one.endpoint), "what": one.what, "certain": one.certain, "flows": one.flows}
            for one in found.flows
        ],
        "notes": list(found.notes),
    }


def _ref(ref: Ref) -> dict[str, Any]:
    return {"kind": ref.kind, "tenant": ref.tenant or None, "name": ref.name}


def _text(ref: Ref) -> str:
    return f"{ref.tenant}/{ref.name}" if ref.tenant else ref.name
