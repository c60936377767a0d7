# SPDX-License-Identifier: Apache-2.0
"""Logs of functions: they never grow beyond their limit, and go on where they were."""

from __future__ import annotations

from pathlib import Path

from mizar.transit.engines.bounded_log import BoundedLog


def test_it_never_grows_beyond_its_limit(tmp_path: Path) -> None:
    """The last lines are in the file and the one before it, in order, whoever goes on with them."""
    path = tmp_path / "a" / "b" / "log"
    log = BoundedLog(path, 1000)
    for number in range(500):
        log.write(f"line {number}")
        if number == 250:
            log.close()
            log = BoundedLog(path, 1000)
        assert path.stat().st_size <= 1000
    before = path.with_name("log.1")
    assert before.stat().st_size <= 1000
    lines = before.read_text().splitlines() + path.read_text().splitlines()
    assert lines == [f"line {number}" for number in range(500 - len(lines), 500)]
    log.remove()
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """Whoever writes has better things to do."""
    (tmp_path / "file").write_text("")
    log = BoundedLog(tmp_path / "file" / "log")
    log.write("lost")
    log.remove()
