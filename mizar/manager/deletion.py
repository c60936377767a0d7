# SPDX-License-Identifier: Apache-2.0
"""What goes when one object goes: its children with it, or a refusal that names them.

Called by mizar.manager.manager. It must never write; a deletion that has begun is carried out by the fleet, and ends
when every droplet that held the object has acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from mizar.manager.registry import Item, Registry
from mizar.model.errors import ConflictError, Problem
from mizar.model.resources import Ref

_NAMED = 10


def doomed(
    registry: Registry, item: Item, *, cascade: bool, visible: Callable[[Ref], bool] = lambda _: True
) -> list[Item]:
    """The objects whose deletion begins, children before their parents; without `cascade` children are a conflict.

    Children whose deletion has begun already are no conflict, but the parent outlives them. What the caller may not
    see is counted but not named.
    """
    found: dict[str, Item] = {}
    _descend(registry, item, found)
    others = [child for child in found.values() if child is not item]
    if others and not cascade:
        names = [str(child.ref) for child in islice((c for c in others if visible(c.ref)), _NAMED)]
        more = len(others) - len(names)
        text = ", ".join(names) + (f"{' and ' if names else ''}{more} more" if more else "")
        message = f"still holds {text}; delete them first, or all together with cascade"
        raise ConflictError(Problem(message, resource=str(item.ref)))
    return list(found.values())


def _descend(registry: Registry, item: Item, found: dict[str, Item]) -> None:
    for child in registry.children(item):
        if child.uid not in found:
            _descend(registry, child, found)
    if not item.deleting:
        found[item.uid] = item
