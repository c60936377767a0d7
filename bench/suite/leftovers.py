# SPDX-License-Identifier: Apache-2.0
"""What a killed run has left: namespaces that bear the number of a process that is gone, and what runs in them."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from mizar.kernel import namespaces
from mizar.lab import lab as labs
from mizar.lab.names import LabName

PREFIX = "mzbench"
LAB = "bench"
LABS = Path("/run/mizar-lab")
NAMESPACES = Path("/run/netns")


def prefix() -> str:
    """The beginning of names of this run."""
    return f"{PREFIX}{os.getpid()}"


def lab_name() -> str:
    """Of this run's lab."""
    return f"{LAB}{os.getpid()}"


def clear() -> None:
    """Ends what no living run owns."""
    for path in LABS.glob(f"{LAB}*"):
        owner = path.name.removeprefix(LAB)
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            labs.down(LabName(path.name))
    if not NAMESPACES.is_dir():
        return
    for path in NAMESPACES.glob(f"{PREFIX}*"):
        match = re.match(rf"{PREFIX}(\d+)", path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            for process in inside(path):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            namespaces.remove(path.name)


def inside(namespace: Path) -> list[int]:
    """The processes in a network namespace."""
    wanted, found = namespace.stat().st_ino, []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "ns" / "net").stat().st_ino == wanted:
                found.append(int(process.name))
    return found
