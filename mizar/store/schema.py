# SPDX-License-Identifier: Apache-2.0
"""The shape of the SQLite file and how an older one becomes today's.

Called by mizar.store.sqlite when it opens a file. A step, once released, is never edited: what must change becomes a
new step at the end. The number of steps that a file has had is in its `user_version`.
"""

from __future__ import annotations

import sqlite3

from mizar.model.errors import InvalidError

STEPS: tuple[str, ...] = (
    """
    CREATE TABLE objects (
        uid TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        generation INTEGER NOT NULL,
        manifest TEXT NOT NULL,
        status TEXT NOT NULL,
        created_at TEXT NOT NULL,
        deleted_at TEXT,
        forced INTEGER NOT NULL,
        UNIQUE (kind, tenant, name)
    ) STRICT;
    CREATE TABLE allocations (
        scope TEXT NOT NULL,
        value TEXT NOT NULL,
        uid TEXT NOT NULL REFERENCES objects (uid) ON DELETE CASCADE,
        PRIMARY KEY (scope, value)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX allocations_by_uid ON allocations (uid);
    CREATE TABLE placements (
        uid TEXT NOT NULL REFERENCES objects (uid) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        droplet TEXT NOT NULL,
        former INTEGER NOT NULL,
        PRIMARY KEY (uid, position)
    ) STRICT, WITHOUT ROWID;
    """,
)


def migrate(connection: sqlite3.Connection, steps: tuple[str, ...] = STEPS) -> None:
    """Brings the file to the newest shape, each step in its own transaction; InvalidError for a file of the future."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(steps):
        raise InvalidError(
            f"the database has schema {version}, this version of Mizar knows {len(steps)}; run a newer version"
        )
    for number in range(version, len(steps)):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {steps[number]} PRAGMA user_version = {number + 1}; COMMIT;")
        except sqlite3.Error:
            connection.rollback()
            raise
