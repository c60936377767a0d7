# SPDX-License-Identifier: Apache-2.0
"""The rows of sets of rules as the kernel holds them: read back, and compared with what the daemon was told.

Called by `readback` at the start and by `policy_audit`. It only reads.
"""

from collections.abc import Iterator
from typing import Any

from mizar.transit.entries import Rows
from mizar.transit.policy_values import TABLES, Raw, raw_rows, rows_from, set_of
from mizar.transit.state import State

_ORDER = ("policy_peers", "policy_groups", "policy_verdicts")


def read_rows(maps: Any) -> dict[int, tuple[bytes, bytes, bytes]]:
    """Peers, groups and verdicts of every set, by its number."""
    found: dict[int, dict[str, Raw]] = {}
    for table in _ORDER:
        for key, value in getattr(maps, table).raw_items():
            found.setdefault(set_of(table, key), {}).setdefault(table, {})[key] = value
    return {
        number: (
            rows_from(_ORDER[0], parts.get(_ORDER[0], {})),
            rows_from(_ORDER[1], parts.get(_ORDER[1], {})),
            rows_from(_ORDER[2], parts.get(_ORDER[2], {})),
        )
        for number, parts in found.items()
    }


def differences(maps: Any, state: State) -> Iterator[tuple[str, bytes, bytes | None, bytes | None]]:
    """Table, key, what is there and what should be, where both differ."""
    wanted: dict[str, Raw] = {table: {} for table in TABLES}
    for rules in state.policy_sets.values():
        for table, rows in raw_rows(rules).items():
            wanted[table].update(rows)
    for table in TABLES:
        rest = wanted[table]
        for key, value in getattr(maps, table).raw_items():
            should = rest.pop(key, None)
            if should != value:
                yield table, key, value, should
        yield from ((table, key, None, should) for key, should in rest.items())


def strays(maps: Any, state: State) -> list[Rows]:
    """What takes away rows that are of no set."""
    found: dict[str, list[tuple[bytes, bytes | None, bytes | None]]] = {}
    for table, key, value, should in differences(maps, state):
        found.setdefault(table, []).append((key, value, should))
    return [Rows(table, tuple(found[table])) for table in TABLES if table in found]
