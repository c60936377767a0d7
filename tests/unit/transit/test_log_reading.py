# SPDX-License-Identifier: Apache-2.0
"""Reading a log while it is written: nothing twice, nothing left out, and never more than an answer holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from mizar.transit.engines import log_reading
from mizar.transit.engines.bounded_log import BoundedLog


def test_whoever_follows_misses_nothing_while_files_change(tmp_path: Path) -> None:
    """The file becomes its predecessor once between two questions; a line that has not ended waits."""
    path = tmp_path / "log"
    log = BoundedLog(path, 2000)
    found: list[str] = []
    lines, place = log_reading.read(path, "", 10)
    assert lines == []
    for number in range(300):
        log.write(f"line {number} \u2028 of one")
        if number % 7 == 0:
            lines, place = log_reading.read(path, place, 1000)
            found += lines
    log.close()
    with path.open("a") as unfinished:
        unfinished.write("unfinished")
    while True:
        lines, place = log_reading.read(path, place, 3)
        if not lines:
            break
        assert len(lines) <= 3
        found += lines
    assert found == [f"line {number} \u2028 of one" for number in range(300)]


def test_an_answer_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines, as many as fit; a place that is no more begins with the last ones; no file is no line."""
    path = tmp_path / "log"
    assert log_reading.read(path, "", 0) == ([], "none:0")
    path.write_text("".join(f"{number}\n" for number in range(5000)))
    lines, place = log_reading.read(path, "", 0)
    assert lines == [str(number) for number in range(4000, 5000)]
    assert log_reading.read(path, place, 0) == ([], place)
    assert log_reading.read(path, "1-2:3", 2)[0] == ["4998", "4999"]
    assert log_reading.read(path, "nonsense", 1)[0] == ["4999"]
    monkeypatch.setattr(log_reading, "MOST_BYTES", 12)
    assert log_reading.read(path, "", 0)[0] == ["4997", "4998", "4999"]
