# SPDX-License-Identifier: Apache-2.0
"""Execution of planned operations on the maps: all of them, or none.

Called by `core` and `local`, under their lock. Before an entry is written its old value is read, so that an error in
the middle is undone, the last step first. It must never leave the maps between two states without saying so.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

from mizar.model.errors import MizarError
from mizar.transit.entries import Op
from mizar.transit.errors import DamagedError

COUNTERS = frozenset({"endpoint_counters", "vpc_counters", "drop_counters"})


class Maps(Protocol):
    """What is needed of `kernel.tables.Tables`: its tables as attributes, by the names of contracts/dataplane.h."""

    def __getattribute__(self, name: str, /) -> Any:
        """A table, with get, put, put_many, delete, items, or zero."""


def execute(maps: Maps, ops: Sequence[Op]) -> None:
    """Execute in order. Raises what the kernel room raised, with everything undone, or DamagedError."""
    undo: list[Op] = []
    try:
        for table, value_is_none, run in _runs(ops):
            target: Any = getattr(maps, table)
            if table in COUNTERS:
                target.zero([op.key for op in run])
                continue
            undo += [Op(table, op.key, target.get(op.key)) for op in run]
            if value_is_none:
                for op in run:
                    target.delete(op.key)
            else:
                target.put_many([(op.key, op.value) for op in run])
    except MizarError as error:
        _undo(maps, undo, error)
        raise


def _undo(maps: Maps, undo: list[Op], cause: MizarError) -> None:
    try:
        for op in reversed(undo):
            target: Any = getattr(maps, op.table)
            if op.value is None:
                target.delete(op.key)
            else:
                target.put(op.key, op.value)
    except MizarError as error:
        raise DamagedError(f"{cause}; and taking back what was done before failed as well: {error}") from error


def _runs(ops: Sequence[Op]) -> Iterator[tuple[str, bool, list[Op]]]:
    """Neighbouring operations of one kind on one table, which go to the kernel together."""
    for (table, value_is_none), run in groupby(ops, key=lambda op: (op.table, op.value is None)):
        yield table, value_is_none, list(run)
