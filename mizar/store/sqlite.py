# SPDX-License-Identifier: Apache-2.0
"""The embedded store: one SQLite file in write-ahead mode, held by one process.

Called by mizar.manager (made by mizar.cli.server and tests). What `commit` has returned for outlives the process; it
outlives a power cut once a `sync` that began after it has returned. SQLite writes the log in the order of the commits
and checks each by a sum, so a power cut takes away the last commits that nobody waited for, and none before them. It
must never let a second process in (the file is locked exclusively: two managers would allocate the same addresses), and
never leave the file readable for other users.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mizar.model.errors import ConflictError, InvalidError, MizarError, TemporaryError
from mizar.store.protocol import Allocation, Commit, Record
from mizar.store.schema import migrate

CACHE_KB = 64 << 10
"""Pages kept in memory. Uids come in no order, so each commit touches pages of the indexes all over the file."""
CHECKPOINT_PAGES = 8192
"""Of the log until it is copied into the file: 32 MB, which a start reads in a moment."""
_PRAGMAS = (
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    "synchronous = NORMAL",  # `sync` does the rest, for many commits at once
    "foreign_keys = ON",
    f"cache_size = -{CACHE_KB}",
    f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
)
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
            for pragma in _PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute("BEGIN IMMEDIATE")  # takes the lock, which is kept until close
            self._connection.execute("COMMIT")
            migrate(self._connection)
            self._log = self._open_log()
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
                uid, kind, tenant, name, generation, manifest, created_at, deleted_at, bool(forced),
                status, tuple(allocations.get(uid, ())), tuple(placements.get((uid, 0), ())),
                tuple(placements.get((uid, 1), ())),
            )  # fmt: skip

    def commit(self, commit: Commit) -> None:
        """Keeps all of it, or raises and keeps nothing; see Store."""
        # What is replaced goes first, so that a value freed and taken in one commit is no conflict.
        replaced = [(record.uid,) for record in commit.put if not record.new]
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

    def sync(self) -> None:
        """Returns when all commits before it are on the disk; see Store. May run in a thread, beside everything."""
        try:
            os.fdatasync(self._log)
        except OSError as error:
            raise TemporaryError(f"the database {self._path} could not be written: {error.strerror}") from error

    def _open_log(self) -> int:
        """The write-ahead log, which is there from the first transaction to `close`; and its name is on the disk."""
        path = self._path.resolve()
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        # No lock of SQLite's is on this file: to close a descriptor of it takes none away.
        return os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)

    def write_status(self, rows: Iterable[tuple[str, str]]) -> None:
        """Keeps what was last told of objects; see Store."""
        with self._transaction() as write:
            write.executemany("UPDATE objects SET status = ? WHERE uid = ?", [(status, uid) for uid, status in rows])

    def close(self) -> None:
        """Ends the use of the file and frees it for others."""
        self._connection.close()
        os.close(self._log)

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
        record.uid, record.kind, record.tenant, record.name, record.generation, record.manifest,
        record.status, record.created_at, record.deleted_at, int(record.forced),
    )  # fmt: skip
