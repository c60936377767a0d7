# SPDX-License-Identifier: Apache-2.0
"""Execution of planned operations on the maps: all of them, or none.

Called by `core` and `local`, under their lock. Before an entry is written its old value is read, so that an error in
the middle is undone, the last step first. It must never leave the maps between two states without saying so.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

from mizar.model.errors import MizarError
from mizar.transit.entries import Op, Rows, Step
from mizar.transit.errors import DamagedError

COUNTERS = frozenset({"endpoint_counters", "vpc_counters", "public_counters", "drop_counters"})


class Maps(Protocol):
    """What is needed of `kernel.tables.Tables`: its tables as attributes, by the names of contracts/dataplane.h."""

    def __getattribute__(self, name: str, /) -> Any:
        """A table, with get, put, put_many, delete, items, or zero."""


def execute(maps: Maps, ops: Sequence[Step]) -> None:
    """Execute in order. Raises what the kernel room raised, with everything undone, or DamagedError."""
    undo: list[Step] = []
    try:
        for table, value_is_none, run in _runs(ops):
            target: Any = getattr(maps, table)
            if isinstance(run, Rows):
                undo.append(run)
                _write(target, run)
                continue
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


def _write(target: Any, rows: Rows) -> None:
    puts = [(key, after) for key, _, after in rows.changes if after is not None]
    if puts:
        target.put_raw(puts)
    gone = [key for key, _, after in rows.changes if after is None]
    if gone:
        target.delete_raw(gone)


def _undo(maps: Maps, undo: list[Step], cause: MizarError) -> None:
    try:
        for op in reversed(undo):
            target: Any = getattr(maps, op.table)
            if isinstance(op, Rows):
                _write(target, op.reverse)
            elif op.value is None:
                target.delete(op.key)
            else:
                target.put(op.key, op.value)
    except MizarError as error:
        raise DamagedError(f"{cause}; and taking back what was done before failed as well: {error}") from error


def _runs(ops: Sequence[Step]) -> Iterator[tuple[str, bool, list[Op] | Rows]]:
    """Neighbouring operations of one kind on one table, which go to the kernel together."""
    for (table, value_is_none), run in groupby(ops, key=lambda op: (op.table, isinstance(op, Op) and op.value is None)):
        single: list[Op] = []
        for op in run:
            if isinstance(op, Op):
                single.append(op)
                continue
            if single:
                yield table, value_is_none, single
                single = []
            yield table, False, op
        if single:
            yield table, value_is_none, single
