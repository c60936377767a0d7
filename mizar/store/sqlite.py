# SPDX-License-Identifier: Apache-2.0
"""The embedded store: one SQLite file in write-ahead mode, held by one process.

Called by mizar.manager (made by mizar.cli.server and tests). A commit has reached the disk when `commit` returns. It
must never let a second process in (the file is locked exclusively: two managers would allocate the same addresses), and
never leave the file readable for other users.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mizar.model.errors import ConflictError, InvalidError, MizarError, TemporaryError
from mizar.store.protocol import Allocation, Commit, Record
from mizar.store.schema import migrate

_PUT = """
INSERT INTO objects (uid, kind, tenant, name, generation, manifest, status, created_at, deleted_at, forced)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (uid) DO UPDATE SET generation = excluded.generation, manifest = excluded.manifest,
    status = excluded.status, deleted_at = excluded.deleted_at, forced = excluded.forced
"""


class SqliteStore:
    """A Store in one file. Not for use by several threads at once."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file (mode 0600); ConflictError when another process holds it."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite gives the write-ahead log the mode of the file itself.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise InvalidError(f"the database {path} cannot be opened: {error.strerror}") from error
        self._path = path
        self._connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute("BEGIN IMMEDIATE")  # takes the lock, which is kept until close
            self._connection.execute("COMMIT")
            migrate(self._connection)
        except sqlite3.OperationalError as error:
            self._connection.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise ConflictError(f"another process uses the database {path}; end it first") from error
            raise TemporaryError(f"the database {path} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise InvalidError(f"{path} is no database of Mizar's: {error}") from error
        except MizarError:
            self._connection.close()
            raise

    def load(self) -> Iterator[Record]:
        """Every object, in the order of creation; see Store."""
        allocations: dict[str, list[Allocation]] = {}
        for scope, value, uid in self._connection.execute("SELECT scope, value, uid FROM allocations"):
            allocations.setdefault(uid, []).append(Allocation(scope, value))
        placements: dict[tuple[str, int], list[str]] = {}
        for uid, droplet, former in self._connection.execute(
            "SELECT uid, droplet, former FROM placements ORDER BY uid, position"
        ):
            placements.setdefault((uid, former), []).append(droplet)
        for row in self._connection.execute(
            "SELECT uid, kind, tenant, name, generation, manifest, created_at, deleted_at, forced, status"
            " FROM objects ORDER BY rowid"
        ):
            uid, kind, tenant, name, generation, manifest, created_at, deleted_at, forced, status = row
            yield Record(
                uid, kind, tenant, name, generation, json.loads(manifest), created_at, deleted_at, bool(forced),
                json.loads(status), tuple(allocations.get(uid, ())), tuple(placements.get((uid, 0), ())),
                tuple(placements.get((uid, 1), ())),
            )  # fmt: skip

    def commit(self, commit: Commit) -> None:
        """Keeps all of it, or raises and keeps nothing; see Store."""
        # What is replaced goes first, so that a value freed and taken in one commit is no conflict.
        replaced = [(record.uid,) for record in commit.put]
        with self._transaction() as write:
            write.executemany("DELETE FROM allocations WHERE uid = ?", replaced)
            write.executemany("DELETE FROM placements WHERE uid = ?", replaced)
            write.executemany("DELETE FROM objects WHERE uid = ?", [(uid,) for uid in commit.remove])
            write.executemany(_PUT, map(_row, commit.put))
            write.executemany(
                "INSERT INTO allocations (scope, value, uid) VALUES (?, ?, ?)",
                [(scope, value, record.uid) for record in commit.put for scope, value in record.allocations],
            )
            write.executemany(
                "INSERT INTO placements (uid, position, droplet, former) VALUES (?, ?, ?, ?)",
                [row for record in commit.put for row in _placement_rows(record)],
            )

    def write_status(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Keeps what was last told of objects; see Store."""
        with self._transaction() as write:
            write.executemany(
                "UPDATE objects SET status = ? WHERE uid = ?", [(_json(status), uid) for uid, status in rows]
            )

    def close(self) -> None:
        """Ends the use of the file and frees it for others."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"the database refused a value that is taken or still in use: {error}") from error
        except sqlite3.OperationalError as error:  # for example: the disk is full
            raise TemporaryError(f"the database {self._path} could not be written: {error}") from error


def _placement_rows(record: Record) -> list[tuple[str, int, str, bool]]:
    count = len(record.placement)
    return [
        (record.uid, position, droplet, position >= count)
        for position, droplet in enumerate((*record.placement, *record.former))
    ]


def _row(record: Record) -> tuple[str | int | None, ...]:
    return (
        record.uid, record.kind, record.tenant, record.name, record.generation, _json(record.manifest),
        _json(record.status), record.created_at, record.deleted_at, int(record.forced),
    )  # fmt: skip


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
