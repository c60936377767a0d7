# SPDX-License-Identifier: Apache-2.0
"""An instance of an HTTP load balancer: HAProxy in the namespace of its endpoint.

A kind of function. HAProxy runs as a user of its own without any privilege, in master-worker mode. Servers and
certificates change in the worker that runs; anything else is a new worker that is handed the listening sockets, while
the one before finishes its connections. A configuration that HAProxy would refuse never replaces one that works, and
what is on disk is always the whole of what runs. Keys of certificates are in files that this user alone reads.
"""

import asyncio
import contextlib
import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mizar._built import transit_pb2 as pb
from mizar.kernel.namespaces import Namespace
from mizar.model.errors import InvalidError, TemporaryError
from mizar.transit.engines import http_certificates, http_config, http_servers, http_stats
from mizar.transit.engines.bounded_log import BoundedLog
from mizar.transit.engines.engine import Kind, Place, Sample
from mizar.transit.engines.http_values import checked
from mizar.transit.engines.turns import Turns
from mizar.transit.processes import Process, Program, program_at, user_of
from mizar.transit.told import PROCESS, own_file, own_folder

READY_S, LOOK_S, CHECK_S = 15.0, 2.0, 20.0
_POLL_S, _BETWEEN_RELOADS_S = 0.05, 0.5
_MEMORY_BYTES, _MEMORY_PER_CONNECTION = 192 << 20, 96 << 10
_FILES = 2 * 100_000 + 8192
"""Two for each connection that it can have, and some for listeners and checks."""
_WORKERS = 66
"""With those that finish their connections (mworker-max-reloads)."""
_LOADED = "loaded"
_ACCESS = '{"time":'


class HttpBalancer:
    """One instance."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._user = user_of(place.uid)
        self._home = place.folder / "haproxy"
        self._process = Process(place.folder / PROCESS, self._say, self._process_changed, groups=place.groups)
        self._logs: tuple[BoundedLog, BoundedLog] | None = None
        self._servers: list[pb.ServerReport] = []
        self._ready = False
        self._looking: asyncio.Task[None] | None = None
        self._http = pb.HttpBalancer()
        self._turn = asyncio.Lock()
        self._files = Turns()
        self._leaving = False
        self._changes = {"live": 0, "reload": 0}

    async def put(self, function: pb.Engine) -> None:
        """Starts it, or changes it without a break. Raises TemporaryError or InvalidError; then what ran runs on."""
        http = checked(function.http)
        program = self._program(http)
        self._open_logs(http)
        await asyncio.to_thread(self._files.take, partial(self._write, http, program))
        kept = await self._process.run(program)
        worker = await self._until_other(0)
        async with self._turn:
            self._http = http
            if kept and not await asyncio.to_thread(self._change, http, worker):
                self._process.signal(signal.SIGUSR2)
                worker = await self._until_other(worker)
                self._changes["reload"] += 1
                await asyncio.sleep(_BETWEEN_RELOADS_S)
            self._record(http, worker)
        self._ready = True
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name=f"look at {self._place.uid}")

    async def end(self) -> None:
        """Ends it with its files: no key of a certificate is on the disk afterwards."""
        self._stop_looking()
        await self._process.stop()
        self._process.close()
        await asyncio.to_thread(self._files.end, partial(shutil.rmtree, self._home, ignore_errors=True))
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
        for how, count in self._changes.items():
            yield Sample("http_balancer_changes", count, (("how", how),), counter=True)
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
            pids=_WORKERS * (http.threads + 2),
            folder=str(self._sockets),
        )

    def _change(self, http: pb.HttpBalancer, worker: int) -> bool:
        """In the worker that runs; False: it has to read its configuration."""
        try:
            loaded = json.loads((self._home / _LOADED).read_text())
            if (loaded["worker"], loaded["rest"]) != (worker, self._rest(http)):
                return False
            # Until it is whole nobody knows what the worker has, this daemon and the next included.
            (self._home / _LOADED).unlink()
            wanted, listens = http_certificates.contents(http), any(one.tls for one in http.listeners)
            folder, before = self._certificates, loaded["certificates"]
            if not http_certificates.put(self._stats, folder, wanted, before, listens=listens):
                return False
            if not http_servers.put(self._stats, http):
                return False
            self._leaving = http_servers.sweep(self._stats, http)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # nothing is known of what it has read, or it does not answer
            return False
        self._changes["live"] += 1
        return True

    def _record(self, http: pb.HttpBalancer, worker: int) -> None:
        """What the worker has read or was told last: in a file, for a daemon may end in between."""
        certificates = http_certificates.digests(http_certificates.contents(http))
        loaded = {"worker": worker, "rest": self._rest(http), "certificates": certificates}
        written = self._home / f"{_LOADED}.new"
        written.write_text(json.dumps(loaded))
        written.replace(self._home / _LOADED)

    def _rest(self, http: pb.HttpBalancer) -> str:
        """A digest of all that only a new worker can change."""
        bare = pb.HttpBalancer()
        bare.CopyFrom(http)
        for backend in bare.backends:
            del backend.servers[:]
        return hashlib.sha256(http_config.text(bare, self._stats.name, "").encode()).hexdigest()

    def _write(self, http: pb.HttpBalancer, program: Program) -> None:
        """Writes what it reads, in which HAProxy has found no fault."""
        # What it may write to is the folder of its sockets alone, where nobody else does anything but connect.
        own_folder(self._home, 0o711)
        own_folder(self._sockets, 0o700, self._user, self._user)
        with Namespace.open_spec(self._place.namespace) as namespace:
            namespace.run(_open_low_ports)
        config, tried = self._home / "haproxy.cfg", self._home / "certificates.new"
        content = http_config.text(http, self._stats.name, str(self._certificates))
        certificates = http_certificates.contents(http)
        if config.exists() and config.read_text() == content and self._held() == certificates:
            return
        http_certificates.write(tried, certificates, self._user)
        fresh = self._home / "haproxy.cfg.new"
        own_file(fresh, http_config.text(http, self._stats.name, str(tried)), self._user)
        self._try(fresh, program)
        http_certificates.settle(self._certificates, tried, self._user)
        own_file(fresh, content, self._user)
        fresh.replace(config)

    @property
    def _certificates(self) -> Path:
        return self._home / "certificates"

    def _held(self) -> dict[str, str]:
        return {one.name: one.read_text() for one in self._certificates.glob("*.pem")}

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

    async def _until_other(self, before: int) -> int:
        """Waits for a worker that is not the one before."""
        deadline = asyncio.get_running_loop().time() + READY_S
        while (found := await http_stats.worker(self._stats)) in (0, before):
            if asyncio.get_running_loop().time() > deadline:
                reason = self._process.standing.reason or "it did not answer in time"
                raise TemporaryError(f"HAProxy did not take its configuration: {reason}")
            await asyncio.sleep(_POLL_S)
        return found

    async def _look(self) -> None:
        while True:
            try:
                found = http_stats.unwell(await asyncio.to_thread(http_stats.rows, self._stats))
            except OSError:
                found = self._servers
            if found != self._servers:
                self._servers = found
                self._place.changed()
            async with self._turn:
                if self._leaving:
                    with contextlib.suppress(OSError):
                        self._leaving = await asyncio.to_thread(http_servers.sweep, self._stats, self._http)
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
