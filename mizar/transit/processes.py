# SPDX-License-Identifier: Apache-2.0
"""Processes that serve in the namespaces of endpoints: started, watched, started again, ended.

Called by functions that have a process. A process belongs to the droplet, not to the daemon: it goes on when the daemon
ends, and the next daemon finds it again by its number and the moment at which it began, which no other process shares.
What it says goes into a pipe that is a file, so that nothing breaks while nobody reads. It must never get a file
descriptor, a variable of the environment or a privilege of the daemon's that it was not given here.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mizar.model.errors import InvalidError, TemporaryError
from mizar.transit import cgroups
from mizar.transit.cgroups import NONE, Cgroups
from mizar.transit.logs import event

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 15.0
"""Before a process that ended by itself is started again; doubled each time."""
CPU_WEIGHT = 100
"""Of each in its control group: equal shares, whatever they have of threads."""
STEADY_S = 10.0
"""After this long, an end is a first one again."""
END_S = 5.0
"""How long a process may take to end when it is told to, before it is killed."""
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_RECORD, _GROUP, _PIPE, _LINE = "process.json", "cgroup", "said", 8192
_REST_S = 0.05
"""Between two pieces of at most 64 KiB of what a process says: 1.3 MB/s."""
_log = logging.getLogger(__name__)

FIRST_USER, USERS = 1_900_000_000, 1 << 24
"""User ids that no host gives to people or services."""
_CONFINE = Path(__file__).with_name("confine.py")

Say = Callable[[str], None]
"""Is told each line that a process writes, without its end."""
Hand = Callable[[], Mapping[str, int]]
"""Opens what a process is given as it starts: variables of its environment that hold numbers of descriptors."""


def user_of(uid: str) -> int:
    """The user, and group, that what bears this uid runs as."""
    return FIRST_USER + zlib.crc32(uid.encode()) % USERS


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and within which limits.

    `namespace`: as `Namespace.open_spec` takes it. `user`: user and group id, without any other group. `capabilities`:
    what it may keep, such as `net_admin`. `memory_bytes` limits data of each of its processes, and in a control group
    twice that all of them; `files` open files; 0: as the daemon's. `pids`: how many processes and threads it may have.
    `pretended`: see mizar.transit.confine. `confined`: by that; a process of Mizar's own, which loads programs, is not.
    """

    argv: tuple[str, ...]
    namespace: str
    user: int = 0
    capabilities: tuple[str, ...] = ()
    memory_bytes: int = 0
    files: int = 0
    pids: int = 512
    folder: str = ""
    """Where it works; empty: in the folder that it is recorded in."""
    pretended: tuple[int, ...] = ()
    confined: bool = True

    @property
    def limits(self) -> dict[int, int]:
        """Of resources (getrlimit(2)); they can change while it runs."""
        found = {resource.RLIMIT_DATA: self.memory_bytes, resource.RLIMIT_NOFILE: self.files}
        found |= {resource.RLIMIT_NPROC: self.pids} if self.user else {}
        return {what: limit for what, limit in found.items() if limit}

    @property
    def group_limits(self) -> dict[str, int]:
        """Of its control group, by their files (Documentation/admin-guide/cgroup-v2.rst); they can change. 0: none."""
        return {"memory.max": 2 * self.memory_bytes, "pids.max": self.pids, "cpu.weight": CPU_WEIGHT}

    def differs(self, other: "Program") -> bool:
        """Whether it takes another process to be the other one."""
        same: dict[str, Any] = {"memory_bytes": 0, "files": 0, "pids": 0}
        return replace(self, **same) != replace(other, **same)

    def command(self) -> list[str]:
        """The whole command line: each part becomes the next one, so that the number of the process stays."""
        limits = ["--core=0:0"]
        limits += [f"--data={self.memory_bytes}:{self.memory_bytes}"] if self.memory_bytes else []
        files = min(self.files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        limits += [f"--nofile={files}:{files}"] if files else []
        limits += [f"--nproc={self.pids}:{self.pids}"] if self.user and self.pids else []
        kept = "".join(f",+{one}" for one in self.capabilities)
        drop = [f"--bounding-set=-all{kept}", f"--inh-caps=-all{kept}", "--no-new-privs"]
        drop += [f"--ambient-caps=-all{kept}"] if kept else []
        drop += [f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        enter = ["nsenter", f"--net={path_of(self.namespace)}", "--"]
        confined = [sys.executable, "-I", "-S", str(_CONFINE)]
        confined += [word for one in self.pretended for word in ("--pretend", str(one))]
        confined = [*confined, "--"] if self.confined else []
        return [*enter, *confined, "prlimit", *limits, "--", "setpriv", *drop, "--", *self.argv]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a process is: `pid` 0 while it does not run, then `reason` says why. `restarts`: how often it began again."""

    pid: int = 0
    reason: str = ""
    restarts: int = 0

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self.pid != 0


class Process:
    """One process. `folder` is its own; `say` gets its lines, `changed` is called when its standing is another.

    `hand` is called before each start.
    """

    def __init__(
        self,
        folder: Path,
        say: Say,
        changed: Callable[[], None] = lambda: None,
        hand: Hand = dict,
        groups: Cgroups = NONE,
    ) -> None:
        self.standing = Standing()
        self._folder = folder
        self._say = say
        self._changed = changed
        self._hand = hand
        self._groups = groups
        self._group = "-".join(folder.parts[-3:])
        self._program: Program | None = None
        self._task: asyncio.Task[None] | None = None
        self._pipe = -1
        self._rest = b""
        self._last = ""
        self._child: subprocess.Popen[bytes] | None = None

    async def run(self, program: Program) -> bool:
        """Have it run: the one that runs this already is kept, another one ends first. Whether it was there already.

        Raises TemporaryError or InvalidError when it cannot be started at all; one that ends is started again.
        """
        if self._task is not None and self._program == program and not self._task.done():
            return self.standing.running
        await self._leave()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._listen()
        alive = found = self._recorded(program)
        if alive is None:
            await asyncio.to_thread(end_recorded, self._folder)
            alive = self._start(program)
        else:
            self._record(alive, program)
            self._record_group()
            for what, limit in program.limits.items():
                try:
                    resource.prlimit(alive, what, (limit, limit))
                except OSError as error:  # it has just ended, or this takes a privilege that the daemon lacks
                    event(_log, logging.WARNING, "limit_not_set", pid=alive, error=error.strerror)
            with contextlib.suppress(OSError):
                self._groups.limit(self._group, program.group_limits)
        self._program = program
        self._stand(Standing(alive, "", self.standing.restarts))
        self._task = asyncio.create_task(self._keep(program, alive), name=f"process in {program.namespace}")
        return found is not None

    def signal(self, number: int) -> bool:
        """Tell the process; False when it does not run."""
        return _signal(self._folder, number)

    async def stop(self) -> None:
        """End it for good, and forget it."""
        await self._leave()
        await asyncio.to_thread(end_recorded, self._folder)
        self._reap()
        self._stand(Standing())
        self._program = None

    def close(self) -> None:
        """Let go of it: it runs on."""
        if self._task is not None:
            self._task.cancel()
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    async def _leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep(self, program: Program, pid: int) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            begun = time.monotonic()
            await _ended(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # what it started goes with it
                os.killpg(pid, signal.SIGKILL)
            code = self._reap()
            self._drain()
            reason = f"it ended{code}" + (f": {self._last}" if self._last else "")
            (self._folder / _RECORD).unlink(missing_ok=True)
            pause_s = FIRST_PAUSE_S if time.monotonic() - begun > STEADY_S else pause_s
            event(_log, logging.WARNING, "process_ended", folder=self._folder.name, reason=reason, pause_s=pause_s)
            self._stand(Standing(0, reason, self.standing.restarts))
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                try:
                    pid = self._start(program)
                    break
                except (TemporaryError, InvalidError) as error:
                    self._stand(Standing(0, str(error), self.standing.restarts))
            self._stand(Standing(pid, "", self.standing.restarts + 1))

    def _start(self, program: Program) -> int:
        handed = self._hand()
        out = os.open(self._folder / _PIPE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._record_group()
            joined = self._groups.joined(self._group, program.group_limits)
            child = subprocess.Popen(  # noqa: S603 - the arguments are the daemon's own
                [*joined, *program.command()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=_ENVIRONMENT | {name: str(number) for name, number in handed.items()},
                cwd=program.folder or self._folder,
                start_new_session=True,
                close_fds=True,
                pass_fds=tuple(handed.values()),
            )
        except OSError as error:
            raise TemporaryError(f"{program.argv[0]} cannot be started: {error.strerror}") from error
        finally:
            for number in (out, *handed.values()):
                os.close(number)
        self._child, self._last = child, ""
        self._record(child.pid, program)
        event(_log, logging.INFO, "process_started", folder=self._folder.name, pid=child.pid, program=program.argv[0])
        return child.pid

    def _record(self, pid: int, program: Program) -> None:
        record = {"pid": pid, "began": _began(pid), "program": asdict(program)}
        written = self._folder / f"{_RECORD}.new"
        written.write_text(json.dumps(record))
        written.replace(self._folder / _RECORD)

    def _record_group(self) -> None:
        """Before there is a group, and for as long as there may be: one outlives its process, and who made it."""
        if place := self._groups.place(self._group):
            (self._folder / _GROUP).write_text(place)

    def _recorded(self, program: Program) -> int | None:
        """The process that runs, be it an earlier daemon's, if it runs just this; its limits may be others."""
        pid, what = _read(self._folder)
        try:
            found = Program(**{name: _frozen(value) for name, value in what.items()})
        except (TypeError, ValueError):  # there is none, or it is another version's
            return None
        return pid if pid and not found.differs(program) else None

    def _reap(self) -> str:
        """How a child of ours ended; of others nobody can tell."""
        if self._child is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._child.wait(1.0)
            self._child = None
            return f" by signal {-code}" if code < 0 else f" with exit code {code}"
        return ""

    def _stand(self, standing: Standing) -> None:
        if standing != self.standing:
            self.standing = standing
            self._changed()

    # ---- what it says

    def _listen(self) -> None:
        if self._pipe >= 0:
            return
        path = self._folder / _PIPE
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, 1 << 20)  # what is said while no daemon runs
        self._hear()

    def _hear(self) -> None:
        if self._pipe >= 0:
            asyncio.get_running_loop().add_reader(self._pipe, self._take)

    def _take(self) -> None:
        """A piece, and a rest: one that says more than this loses lines, and holds up nobody else's."""
        if self._read_once():
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._pipe)
            loop.call_later(_REST_S, self._hear)

    def _read_once(self) -> bool:
        try:
            got = os.read(self._pipe, 1 << 16)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
            return False
        *lines, self._rest = (self._rest + got).split(b"\n")
        if len(self._rest) > _LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = line[:_LINE].decode(errors="replace")
            if text.strip():
                self._last = text.strip()[:256]
                self._say(text)
        return bool(got)

    def _drain(self) -> None:
        while self._pipe >= 0 and self._read_once():
            pass


def path_of(namespace: str) -> str:
    """The file of a network namespace, from a text that `Namespace.open_spec` takes. Raises InvalidError."""
    kind, _, rest = namespace.partition(":")
    if kind in ("name", "pool"):
        return f"/run/netns/{rest}"
    if kind == "path":
        return rest
    if kind == "pid" and rest.isdecimal():
        return f"/proc/{rest}/ns/net"
    raise InvalidError(f"{namespace!r} is no network namespace")


def end_recorded(folder: Path, limit_s: float = END_S) -> bool:
    """Ends the process that a folder tells of, and all that it started, with its control group; False when there was no
    process. Blocks."""
    found = _end_process(folder, limit_s)
    with contextlib.suppress(OSError):
        cgroups.remove((folder / _GROUP).read_text())
        (folder / _GROUP).unlink()
    return found


def _end_process(folder: Path, limit_s: float) -> bool:
    pid, _ = _read(folder)
    began = _began(pid) if pid else ""
    (folder / _RECORD).unlink(missing_ok=True)
    if not pid or not began:
        return False
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if _began(pid) != began:  # it ended between the two, and another one has its number
                return False
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            readable = select.poll()
            readable.register(handle, select.POLLIN)
            if not readable.poll(limit_s * 1000):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                readable.poll(limit_s * 1000)
        finally:
            os.close(handle)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return True


def _frozen(value: Any) -> Any:
    """As it was before it was JSON."""
    return tuple(value) if isinstance(value, list) else value


def running(folder: Path) -> int:
    """The number of the process that a folder tells of; 0 when it does not run."""
    return _read(folder)[0]


def _read(folder: Path) -> tuple[int, dict[str, Any]]:
    """The process that a folder tells of, if it is still the same one, and what it runs."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        pid, began, program = int(record["pid"]), record["began"], record["program"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0, {}
    return (pid, program) if began and _began(pid) == began and isinstance(program, dict) else (0, {})


def _began(pid: int) -> str:
    """When a process began, in ticks since the host did, with the host's own beginning; empty when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _signal(folder: Path, number: int) -> bool:
    pid, _ = _read(folder)
    if not pid:
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not _read(folder)[0]:  # it ended between the two, and another one has its number
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


async def _ended(pid: int) -> None:
    """Waits for the end of a process, be it our child or not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def program_at(name: str, package: str, folders: Sequence[str] = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")) -> str:
    """The path of a program of the host. Raises TemporaryError that names the Debian package when it is missing."""
    for folder in (*folders, "/usr/local/sbin", "/usr/local/bin"):
        if os.access(path := f"{folder}/{name}", os.X_OK):
            return path
    raise TemporaryError(f"{name} is not installed on the droplet's host: install the Debian package {package}")
