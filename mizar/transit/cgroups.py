# SPDX-License-Identifier: Apache-2.0
"""Control groups (cgroup v2) for processes that serve in endpoints' namespaces: what each may use of memory and
processes, and its share of processors.

Made by the daemon, used by mizar.transit.processes. Groups are made in a folder that the operator has handed over by
making it; where there is none, processes have limits by setrlimit(2) alone, and the status says so. It must never touch
a group that is not below that folder.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (Path("/sys/fs/cgroup/mizar"), Path("/sys/fs/cgroup/unified/mizar"))
_CONTROLLERS = ("cpu", "memory", "pids")
_JOIN = Path(__file__).with_name("join_cgroup.py")
_REMOVE_S = 2.0


@dataclass(frozen=True, slots=True)
class Cgroups:
    """`folder`: where groups are made; None: nowhere, for a `reason`."""

    folder: Path | None = None
    reason: str = "nothing was handed over"

    @property
    def told(self) -> str:
        """For the status of the droplet."""
        return f"cgroup {self.folder}" if self.folder is not None else f"rlimits: {self.reason}"

    def joined(self, name: str, limits: Mapping[str, int]) -> list[str]:
        """What stands before a command line so that it runs in a group of this name, within limits by their files;
        nothing where there are no groups. Raises OSError."""
        if self.folder is None:
            return []
        group = self.folder / name
        group.mkdir(exist_ok=True)
        self.limit(name, limits)
        return [sys.executable, "-I", "-S", str(_JOIN), str(group)]

    def limit(self, name: str, limits: Mapping[str, int]) -> None:
        """Changes the limits of a group, where there is one. Raises OSError."""
        if self.folder is None or not (self.folder / name).is_dir():
            return
        for file, number in limits.items():
            (self.folder / name / file).write_text(str(number) if number else "max")

    def place(self, name: str) -> str:
        """The path of a group; empty where there are none."""
        return "" if self.folder is None else str(self.folder / name)


NONE = Cgroups()


def opened(folders: Sequence[Path] = FOLDERS) -> Cgroups:
    """Those of the first folder that is there."""
    folder = next((one for one in folders if (one / "cgroup.controllers").exists()), None)
    if folder is None:
        return Cgroups(None, f"there is no {' or '.join(map(str, folders))} (cgroup v2)")
    try:
        missing = set(_CONTROLLERS) - set((folder / "cgroup.controllers").read_text().split())
        if missing:
            return Cgroups(None, f"{folder} has no controller {', '.join(sorted(missing))}: enable it above")
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{one}" for one in _CONTROLLERS))
    except OSError as error:
        return Cgroups(None, f"{folder} cannot be used: {error.strerror}")
    return Cgroups(folder)


def remove(group: str) -> None:
    """Ends what is left in a group, and the group. Blocks, for two seconds at most."""
    folder = Path(group)
    if not group or not folder.is_dir():
        return
    with contextlib.suppress(OSError):
        (folder / "cgroup.kill").write_text("1")  # Linux 5.14
    end = time.monotonic() + _REMOVE_S
    while time.monotonic() < end:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # its processes are just ending
            time.sleep(0.02)
        else:
            return
