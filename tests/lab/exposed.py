# SPDX-License-Identifier: Apache-2.0
"""Where on this machine a lab shows a secret to somebody who is not to have it: beside what is printed, for tests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mizar.lab import processes
from mizar.lab.names import LabName
from mizar.transit.options import LOG_FOLDER, RUN_FOLDER

_CORE = re.compile(r"Max core file size +0 ")


def exposed(lab: LabName, secrets: Iterable[str | bytes], holders: Iterable[int] = ()) -> list[str]:
    """Arguments and environments of all processes that have one of these, files of the lab that have one and that
    others may read, and processes, of the lab's own and `holders`, whose memory would be dumped."""
    marks = _bytes(secrets)
    found = []
    for file in (file for what in ("cmdline", "environ") for file in Path("/proc").glob(f"[0-9]*/{what}")):
        if _has(file, marks):
            found.append(str(file))
    found += [f"{file} is open to others" for file in holding(lab, marks) if file.stat().st_mode & 0o077]
    for pid in {*holders, *(one.pid for one in processes.marked(lab.name))}:
        if _dumps(Path(f"/proc/{pid}/limits")):
            found.append(f"process {pid} would leave its memory in a file")
    return found


def holding(lab: LabName, secrets: Iterable[str | bytes]) -> list[Path]:
    """Files that a lab has written, its own and those of its daemons and what they run, with one of these in them."""
    marks = _bytes(secrets)
    folders = [lab.folder, *(one for top in (RUN_FOLDER, LOG_FOLDER) for one in top.glob(f"{lab.instance_prefix}*"))]
    return [file for folder in folders for file in folder.rglob("*") if file.is_file() and _has(file, marks)]


def _bytes(secrets: Iterable[str | bytes]) -> list[bytes]:
    return [secret.encode() if isinstance(secret, str) else secret for secret in secrets]


def _dumps(limits: Path) -> bool:
    try:
        return not _CORE.search(limits.read_text())
    except OSError:  # it has ended meanwhile
        return False


def _has(file: Path, marks: Iterable[bytes]) -> bool:
    try:
        content = file.read_bytes()
    except OSError:  # it has ended meanwhile
        return False
    return any(mark in content for mark in marks)
