# SPDX-License-Identifier: Apache-2.0
"""An instance of an HTTP load balancer: HAProxy in the namespace of its endpoint.

A kind of function. HAProxy runs as a user of its own without any privilege, in master-worker mode: a change is a new
worker that is handed the listening sockets, while the one before finishes its connections. A configuration that HAProxy
would refuse never replaces one that works. Keys of certificates are in files that this user alone reads.
"""

import asyncio
import contextlib
import hashlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mizar._built import transit_pb2 as pb
from mizar.kernel.namespaces import Namespace
from mizar.model.errors import InvalidError, TemporaryError
from mizar.transit.engines import http_config, http_stats
from mizar.transit.engines.bounded_log import BoundedLog
from mizar.transit.engines.engine import Kind, Place, Sample
from mizar.transit.engines.http_values import checked
from mizar.transit.processes import Process, Program, program_at, user_of
from mizar.transit.told import own_file, own_folder

READY_S, LOOK_S, CHECK_S = 15.0, 2.0, 20.0
_POLL_S, _BETWEEN_RELOADS_S = 0.05, 0.5
_MEMORY_BYTES, _MEMORY_PER_CONNECTION = 192 << 20, 96 << 10
_FILES = 2 * 100_000 + 8192
"""Two for each connection that it can have, and some for listeners and checks."""
_LOADED = "loaded"
_ACCESS = '{"time":'


class HttpBalancer:
    """One instance."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._user = user_of(place.uid)
        self._home = place.folder / "haproxy"
        self._process = Process(place.folder / "process", self._say, self._process_changed)
        self._logs: tuple[BoundedLog, BoundedLog] | None = None
        self._servers: list[pb.ServerReport] = []
        self._ready = False
        self._looking: asyncio.Task[None] | None = None

    async def put(self, function: pb.Engine) -> None:
        """Starts it, or changes it without a break. Raises TemporaryError or InvalidError; then what ran runs on."""
        http = checked(function.http)
        program = self._program(http)
        self._open_logs(http)
        wanted = await asyncio.to_thread(self._write, http, program)
        kept = await self._process.run(program)
        await self._until_other(0)
        if kept and self._loaded() != wanted:
            before = await http_stats.worker(self._stats)
            self._process.signal(signal.SIGUSR2)
            await self._until_other(before)
            await asyncio.sleep(_BETWEEN_RELOADS_S)
        (self._home / _LOADED).write_text(wanted)
        await asyncio.to_thread(self._tidy, http)
        self._ready = True
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name=f"look at {self._place.uid}")

    async def end(self) -> None:
        """Ends it with its files."""
        self._stop_looking()
        await self._process.stop()
        self._process.close()
        await asyncio.to_thread(shutil.rmtree, self._home, True)
        for log in self._logs or ():
            log.remove()

    def close(self) -> None:
        """It goes on without this daemon."""
        self._stop_looking()
        self._process.close()
        for log in self._logs or ():
            log.close()

    def report(self) -> pb.EngineReport:
        """How it fares."""
        standing = self._process.standing
        if standing.running:
            state = pb.EngineReport.RUNNING if self._ready else pb.EngineReport.STARTING
        else:
            state = pb.EngineReport.FAILED if standing.reason else pb.EngineReport.STARTING
        return pb.EngineReport(state=state, reason=standing.reason, restarts=standing.restarts, servers=self._servers)

    def log(self) -> Path | None:
        """One line of JSON for each request."""
        return self._logs[0].path if self._logs else None

    def samples(self) -> Iterator[Sample]:
        """Requests, responses and connections."""
        yield Sample("http_balancer_restarts", self._process.standing.restarts, counter=True)
        yield from http_stats.samples(http_stats.rows(self._stats))

    @property
    def _stats(self) -> Path:
        return self._sockets / "stats.sock"

    @property
    def _sockets(self) -> Path:
        """Its working folder: from there their paths are short enough (sun_path has 108 bytes)."""
        return self._home / "sockets"

    def _program(self, http: pb.HttpBalancer) -> Program:
        argv = (program_at("haproxy", "haproxy"), "-W", "-db", "-S", "unix@master.sock,mode,600")
        return Program(
            (*argv, "-f", str(self._home / "haproxy.cfg")),
            self._place.namespace,
            user=self._user,
            memory_bytes=_MEMORY_BYTES + http.connections * _MEMORY_PER_CONNECTION,
            files=_FILES,
            folder=str(self._sockets),
        )

    def _loaded(self) -> str:
        """What the process has read last, as `_write` names it: told by a file, for a daemon may end in between."""
        with contextlib.suppress(OSError):
            return (self._home / _LOADED).read_text()
        return ""

    def _write(self, http: pb.HttpBalancer, program: Program) -> str:
        """Writes what it reads, in which HAProxy has found no fault; returns a digest of it."""
        # What it may write to is the folder of its sockets alone, where nobody else does anything but connect.
        own_folder(self._home, 0o711)
        certificates = self._certificates(http)
        own_folder(certificates, 0o750, group=self._user)
        own_folder(self._sockets, 0o700, self._user, self._user)
        for number, one in enumerate(http.certificates):
            content = f"{one.chain.rstrip()}\n{one.key.rstrip()}\n"
            own_file(certificates / f"{number:04}-{one.name}.pem", content, self._user)
        content = http_config.text(http, self._stats.name, str(certificates))
        config = self._home / "haproxy.cfg"
        with Namespace.open_spec(self._place.namespace) as namespace:
            namespace.run(_open_low_ports)
        digest = hashlib.sha256(content.encode()).hexdigest()
        if config.exists() and config.read_text() == content:
            return digest
        fresh = self._home / "haproxy.cfg.new"
        own_file(fresh, content, self._user)
        self._try(fresh, program)
        fresh.replace(config)
        return digest

    def _try(self, config: Path, program: Program) -> None:
        argv = (program.argv[0], "-c", "-f", str(config))
        trial = Program(argv, program.namespace, program.user, files=program.files)
        try:
            done = subprocess.run(  # noqa: S603 - the arguments are the daemon's own
                trial.command(), capture_output=True, timeout=CHECK_S, env={"LANG": "C"}, cwd=self._sockets, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TemporaryError(f"HAProxy did not try its configuration: {error}") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().replace(str(self._home), "").splitlines()
            raise InvalidError(f"HAProxy refuses its configuration: {' '.join(said[:3])[:512]}")

    def _certificates(self, http: pb.HttpBalancer) -> Path:
        """A folder for just these: a worker that starts reads all of them or none."""
        digest = hashlib.sha256()
        for one in http.certificates:
            digest.update(repr((one.name, one.chain, one.key)).encode())
        return self._home / f"certificates-{digest.hexdigest()[:16]}"

    def _tidy(self, http: pb.HttpBalancer) -> None:
        kept = self._certificates(http)
        for folder in self._home.glob("certificates-*"):
            if folder != kept:
                shutil.rmtree(folder, ignore_errors=True)

    async def _until_other(self, before: int) -> None:
        """Waits for a worker that is not the one before."""
        deadline = asyncio.get_running_loop().time() + READY_S
        while await http_stats.worker(self._stats) in (0, before):
            if asyncio.get_running_loop().time() > deadline:
                reason = self._process.standing.reason or "it did not answer in time"
                raise TemporaryError(f"HAProxy did not take its configuration: {reason}")
            await asyncio.sleep(_POLL_S)

    async def _look(self) -> None:
        while True:
            try:
                found = http_stats.unwell(await asyncio.to_thread(http_stats.rows, self._stats))
            except OSError:
                found = self._servers
            if found != self._servers:
                self._servers = found
                self._place.changed()
            await asyncio.sleep(LOOK_S)

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _process_changed(self) -> None:
        self._place.changed()

    def _open_logs(self, http: pb.HttpBalancer) -> None:
        if self._logs is None:
            folder = self._place.logs / http.tenant / http.name
            self._logs = (
                BoundedLog(folder / f"{http.instance}.access.jsonl"),
                BoundedLog(folder / f"{http.instance}.log", 1 << 20),
            )

    def _say(self, line: str) -> None:
        if self._logs is not None:
            access, other = self._logs
            (access if line.startswith(_ACCESS) else other).write(line)


def _check(function: pb.Engine) -> None:
    checked(function.http)


def _open_low_ports() -> None:
    """In the instance's namespace: whoever is in there may listen at any port, so that nobody needs a privilege."""
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")


HTTP = Kind(HttpBalancer, _check)
"""For the list of kinds."""
