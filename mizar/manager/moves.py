# SPDX-License-Identifier: Apache-2.0
"""An endpoint's way from one droplet to another: when it may begin, and what comes after what.

Called by mizar.manager.manager, which keeps each stage in the store before anybody is told of it: a manager that dies
in between goes on from there, or gives up, as the droplets then turn out to be. Pure: looks at the item and the links.

    Preparing   the next host makes an interface for the workload; the endpoint lives where it was
    Switching   `spec.droplet` is the next host: it takes the addresses over, then everybody is told, then the former
                host lets go (mizar/planner/plan.py has the order)
    Done, Failed
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mizar.manager.droplet_link import Link
from mizar.manager.registry import Item
from mizar.manager.status import Links
from mizar.model.errors import ConflictError, InvalidError, Problem
from mizar.model.resources import Droplet, Endpoint, Move, MoveStage


def begin(item: Item, droplet: Item | None, target: str, link: Link | None) -> Endpoint:
    """The endpoint when its move has begun. `droplet` is what is called `target`, and `link` leads to it."""
    endpoint = item.resource
    if not isinstance(endpoint, Endpoint):
        raise InvalidError(_problem(item, f"a {endpoint.kind} cannot move, an Endpoint can"))
    if item.deleting:
        raise ConflictError(_problem(item, "it is being deleted"))
    if endpoint.spec.workload is None or endpoint.spec.droplet is None:
        raise InvalidError(_problem(item, "it has no workload that a daemon could give another interface"))
    if endpoint.spec.workload.pool:
        raise InvalidError(_problem(item, "a function does not move: its namespace is the daemon's; make another"))
    if endpoint.status.move is not None and endpoint.status.move.under_way:
        raise ConflictError(_problem(item, f"it is moving to droplet {endpoint.status.move.target} already"))
    if droplet is None or droplet.deleting or not isinstance(droplet.resource, Droplet):
        raise InvalidError(_problem(item, f"there is no droplet {target} to move it to"))
    if target == endpoint.spec.droplet:
        raise ConflictError(_problem(item, f"it is on droplet {target} already"))
    if link is None:
        raise InvalidError(_problem(item, f"droplet {target} has no daemon that could host it"))
    if not link.connected:
        raise ConflictError(_problem(item, f"droplet {target} is unreachable: {link.reason}"))
    move = Move(source=endpoint.spec.droplet, target=target, started_at=datetime.now(UTC))
    return _with_move(endpoint, move)


def next_stage(item: Item, links: Links) -> Endpoint | None:
    """The endpoint at the next stage of its move; None when it stays as it is."""
    endpoint = item.resource
    if not isinstance(endpoint, Endpoint) or item.deleting:
        return None
    move = endpoint.status.move
    if move is None or not move.under_way:
        return None
    if move.stage is MoveStage.PREPARING:
        if reason := _obstacle(item, move.target, links):
            return _with_move(endpoint, move.model_copy(update={"stage": MoveStage.FAILED, "reason": reason}))
        if move.target in item.waiting:
            return None
        metadata = endpoint.metadata.model_copy(update={"generation": endpoint.metadata.generation + 1})
        spec = endpoint.spec.model_copy(update={"droplet": move.target})
        moved = endpoint.model_copy(update={"metadata": metadata, "spec": spec})
        return _with_move(moved, move.model_copy(update={"stage": MoveStage.SWITCHING}), host=move.target)
    reachable = [name for name in item.waiting if (link := links(name)) is not None and link.connected]
    if reachable or move.target in item.waiting or move.target in item.troubles:
        return None
    return _with_move(endpoint, move.model_copy(update={"stage": MoveStage.DONE, "elapsed_ms": _elapsed_ms(move)}))


def with_blackout(item: Item, blackout_us: int) -> Endpoint | None:
    """The endpoint when its next host has measured; None when it has not moved."""
    endpoint = item.resource
    if not isinstance(endpoint, Endpoint) or endpoint.status.move is None or not blackout_us:
        return None
    return _with_move(endpoint, endpoint.status.move.model_copy(update={"blackout_ms": blackout_us / 1000}))


def _obstacle(item: Item, target: str, links: Links) -> str:
    if target in item.troubles:
        return f"droplet {target}: {item.troubles[target].message}"
    link = links(target)
    if link is None or link.away:
        return f"droplet {target} is unreachable: {link.reason if link else 'it has no connection'}"
    return ""


def _with_move(endpoint: Endpoint, move: Move, **status: Any) -> Endpoint:
    return endpoint.model_copy(update={"status": endpoint.status.model_copy(update={"move": move, **status})})


def _elapsed_ms(move: Move) -> float | None:
    return round((datetime.now(UTC) - move.started_at).total_seconds() * 1000, 1) if move.started_at else None


def _problem(item: Item, message: str) -> Problem:
    return Problem(message, resource=str(item.ref))
