# SPDX-License-Identifier: Apache-2.0
"""The embedded store: whole commits, unique values, one writer, and files of other versions."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mizar.model.errors import ConflictError, InvalidError, TemporaryError
from mizar.store.protocol import Allocation, Commit, Record
from mizar.store.schema import STEPS, migrate
from mizar.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    found = SqliteStore(tmp_path / "state" / "server.db")
    yield found
    found.close()


def record(uid: str, **changes: object) -> Record:
    plain = Record(uid, "Endpoint", "red", uid, 1, '{"spec":{}}', "2026-01-01T00:00:00Z")
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_what_is_kept_comes_back(store: SqliteStore) -> None:
    """Every field survives, in the order of creation."""
    first = record(
        "a",
        manifest='{"spec":{"name":"ä"}}',
        status='{"phase":"Init"}',
        allocations=(Allocation("address", "10.0.0.1"), Allocation("mac", "02:00:00:00:00:01")),
        placement=("d2", "d1"),
        former=("d3",),
        forced=True,
        deleted_at="2026-01-02T00:00:00Z",
    )
    store.commit(Commit(put=(first, record("b"))))
    assert list(store.load()) == [first, record("b")]
    store.commit(Commit(put=(replace(first, generation=2, placement=("d1",), former=("d2", "d3"), allocations=()),)))
    assert next(store.load()).placement == ("d1",)
    assert next(store.load()).former == ("d2", "d3")
    assert next(store.load()).allocations == ()


def test_a_taken_value_keeps_nothing_of_the_commit(store: SqliteStore) -> None:
    """One conflict refuses the whole commit, what came before it included."""
    store.commit(Commit(put=(record("a", allocations=(Allocation("vni", "1"),)),)))
    with pytest.raises(ConflictError):
        store.commit(Commit(put=(record("b"), record("c", allocations=(Allocation("vni", "1"),))), remove=()))
    with pytest.raises(ConflictError):
        store.commit(Commit(put=(record("d"), record("e", name="a"))))
    assert [found.uid for found in store.load()] == ["a"]
    assert not store._connection.in_transaction


def test_a_value_may_be_freed_and_taken_in_one_commit(store: SqliteStore) -> None:
    """Removing an object frees what it held at once."""
    held = (Allocation("vni", "1"),)
    store.commit(Commit(put=(record("a", allocations=held, placement=("d1",)),)))
    store.commit(Commit(put=(record("b", allocations=held),), remove=("a",)))
    assert list(store.load()) == [record("b", allocations=held)]


def test_status_is_written_beside_the_manifest(store: SqliteStore) -> None:
    """A status of an object that is gone meanwhile is no error."""
    store.commit(Commit(put=(record("a"),)))
    store.write_status([("a", '{"phase":"Provisioned"}'), ("gone", "{}")])
    assert next(store.load()).status == '{"phase":"Provisioned"}'


def test_the_files_are_the_owners_alone(store: SqliteStore, tmp_path: Path) -> None:
    """Database and log have mode 0600, also while in use."""
    store.commit(Commit(put=(record("a"),)))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert set(modes.values()) == {0o600}
    assert "server.db-wal" in modes


def test_a_second_process_is_kept_out(store: SqliteStore, tmp_path: Path) -> None:
    """Two managers on one file would allocate the same addresses."""
    path = str(tmp_path / "state" / "server.db")
    code = f"from pathlib import Path; from mizar.store.sqlite import SqliteStore; SqliteStore(Path({path!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert "ConflictError: another process uses the database" in found.stderr


def test_a_killed_process_leaves_whole_commits(tmp_path: Path) -> None:
    """What commit returned for is on disk after SIGKILL, and the file can be used at once."""
    code = f"""
import os, signal
from pathlib import Path
from mizar.store.sqlite import SqliteStore
from mizar.store.protocol import Commit, Record
store = SqliteStore(Path({str(tmp_path)!r}) / "db")
for n in range(50):
    names = [f"{{n}}-{{k}}" for k in range(3)]
    store.commit(Commit(put=tuple(Record(name, "Endpoint", "", name, 1, "{{}}", "t") for name in names)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = SqliteStore(tmp_path / "db")
    assert len(list(store.load())) == 150
    store.close()


def test_what_is_synced_is_the_log(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits since the last checkpoint are in the log alone; a disk that refuses is not taken for one that kept."""
    store.commit(Commit(put=(record("a"),)))
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").readlink().name))
    store.sync()
    assert synced == ["server.db-wal"]

    def refuse(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    with pytest.raises(TemporaryError, match="Input/output error"):
        store.sync()


def test_an_older_file_is_brought_up_to_date() -> None:
    """Each step runs once, in order, whatever version the file has."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, STEPS)
    later = (*STEPS, "ALTER TABLE objects ADD COLUMN note TEXT NOT NULL DEFAULT '';")
    migrate(connection, later)
    migrate(connection, later)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(later),)
    assert "note" in [row[1] for row in connection.execute("PRAGMA table_info(objects)")]


def test_a_step_that_fails_leaves_the_file_as_it_was() -> None:
    """A migration is whole or not at all."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, STEPS)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, (*STEPS, "CREATE TABLE extra (x); SELECT nonsense FROM nowhere;"))
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Rather than write into a shape that is not known."""
    SqliteStore(tmp_path / "db").close()
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    connection.close()
    with pytest.raises(InvalidError, match="newer version"):
        SqliteStore(tmp_path / "db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """In a sentence that names it."""
    (tmp_path / "db").write_text("this is no database, but long enough to look like a header of one " * 20)
    with pytest.raises(InvalidError, match="is no database of"):
        SqliteStore(tmp_path / "db")


def test_a_place_that_cannot_hold_a_file_is_one_sentence(tmp_path: Path) -> None:
    """A folder, or below a file."""
    (tmp_path / "file").touch()
    for path, words in ((tmp_path, "Is a directory"), (tmp_path / "file" / "db", "Not a directory|File exists")):
        with pytest.raises(InvalidError, match=words):
            SqliteStore(path)
