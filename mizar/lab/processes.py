# SPDX-License-Identifier: Apache-2.0
"""The processes of a lab: started, found again and ended.

Called by mizar.lab.lab. Every process that a lab starts carries a mark in its environment, `lab/process`, and its
children inherit it; the process table is the only record, so nothing is lost when whoever started them was killed, and
nothing without the mark is ever ended. Needs root, as reading other processes' environment does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mizar.kernel.namespaces import Namespace

MARK = "MIZAR_LAB_PROCESS"


@dataclass(frozen=True, slots=True)
class LabProcess:
    """A process that carries a lab's mark. `name`: server, a droplet, or exec or probe."""

    name: str
    pid: int


def environment(lab: str, name: str) -> dict[str, str]:
    """The environment of a process of the lab."""
    return {**os.environ, MARK: f"{lab}/{name}"}


def start(lab: str, name: str, argv: list[str], log: Path, namespace: Namespace | None = None) -> int:
    """Starts a process in a session of its own, in a network namespace, its output appended to `log`; returns its pid.

    Only the network namespace differs from ours: mounts stay, so that bpffs pins and sockets are where they are.
    """

    def spawn() -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            argv[0],
            argv,
            environment(lab, name),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    return namespace.run(spawn) if namespace else spawn()


def marked(lab: str) -> list[LabProcess]:
    """All live processes of the lab but this one and its parents, by pid."""
    own = set(_ancestry())
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (pid := int(folder.name)) not in own and (name := _mark_of(pid, lab)):
            found.append(LabProcess(name, pid))
    return sorted(found, key=lambda process: process.pid)


def stop(lab: str, grace_s: float = 5.0) -> int:
    """Ends all processes of the lab, gently first; returns how many there were. Repeats until none is left."""
    ended: set[int] = set()
    force_at = time.monotonic() + grace_s
    while found := marked(lab):
        forced = time.monotonic() >= force_at
        with contextlib.ExitStack() as stack:
            waiting = select.poll()
            for process in found:
                if (pidfd := _signal(process, lab, signal.SIGKILL if forced else signal.SIGTERM)) is not None:
                    stack.callback(os.close, pidfd)
                    waiting.register(pidfd, select.POLLIN)
                    ended.add(process.pid)
            left = len(found)
            end = time.monotonic() + grace_s if forced else force_at
            while left > 0 and (remaining := end - time.monotonic()) > 0:
                for pidfd, _ in waiting.poll(remaining * 1000):
                    waiting.unregister(pidfd)
                    left -= 1
    return len(ended)


def _signal(process: LabProcess, lab: str, number: signal.Signals) -> int | None:
    """Signals the process through a pidfd opened before its mark is read again: a reused pid is never hit."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if _mark_of(process.pid, lab) == process.name:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        return pidfd
    os.close(pidfd)
    return None


def _mark_of(pid: int, lab: str) -> str:
    """The name that a process carries in this lab; empty: it is none of it, or is gone."""
    wanted = f"{MARK}={lab}/".encode()
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((text.removeprefix(wanted).decode() for text in variables if text.startswith(wanted)), "")


def _ancestry() -> Iterator[int]:
    """This process and those that it descends from: `mizar lab down` may run inside of `mizar lab exec`."""
    pid = os.getpid()
    while pid > 1:
        yield pid
        # Field 4 of /proc/PID/stat, counted behind the parenthesis that ends the name (proc(5)).
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
