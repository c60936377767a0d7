# SPDX-License-Identifier: Apache-2.0
"""Sends between two namespaces, and tells what came over: iperf3, and traffic.c for what it leaves out."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.suite.machine import busy_s, found

SOURCE = Path(__file__).with_name("traffic.c")
PROGRAM = Path(__file__).parents[2] / ".cache" / "bench" / "traffic"
IPERF_PORT, OWN_PORT = "5201", "5202"
POLITELY = ("nice", "-n", "10")
"""More is sent than gets through: the way on the same CPU goes first, or most of the time is spent on what is lost."""
LIMIT_S = 10.0


@dataclass(frozen=True)
class Way:
    """From one namespace to an address of another, and the CPUs of sender and receiver."""

    source: str
    target: str
    address: str
    cpus: tuple[int, int]

    def here(self, *command: str, cpu: int | None = None) -> list[str]:
        """A command on the sender's side."""
        return inside(self.source, *command, cpus=(self.cpus[0],) if cpu is None else (cpu,))

    def there(self, *command: str, cpu: int | None = None) -> list[str]:
        """A command on the receiver's side."""
        return inside(self.target, *command, cpus=(self.cpus[1],) if cpu is None else (cpu,))


def inside(namespace: str, *command: str, cpus: Sequence[int]) -> list[str]:
    """A command in a namespace and on some CPUs only."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "taskset", "-c", ",".join(map(str, cpus)), *command]


def build() -> None:
    """traffic.c, if what is there is older."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([found("clang") or "cc", "-O2", "-Wall", "-o", str(PROGRAM), str(SOURCE)], check=True)  # noqa: S603


@contextmanager
def serving(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A server for the length of a block."""
    server = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
    )
    try:
        yield server
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def output(command: list[str], limit_s: float) -> tuple[int, str]:
    """Exit code, and what a command said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)  # noqa: S603
    return done.returncode, done.stdout + done.stderr


def again(attempt: Callable[[], tuple[int, str]]) -> str:
    """Until a client finds its server."""
    end = time.monotonic() + LIMIT_S
    while True:
        code, said = attempt()
        if code == 0:
            return said
        if time.monotonic() > end:
            raise RuntimeError(f"no answer in {LIMIT_S:.0f} s: {said.strip()[-200:]}")
        time.sleep(0.05)


def tcp(way: Way, streams: int, seconds: int) -> tuple[float, float]:
    """Gb/s that arrived, and nanoseconds of all CPUs for each KB. One stream has a CPU at each end, more have both."""
    cpus = way.cpus if streams > 1 else None
    client = ["iperf3", "-c", way.address, "-p", IPERF_PORT, "-J", "-t", str(seconds), "-P", str(streams)]
    server = ["iperf3", "-s", "-1", "-p", IPERF_PORT]
    with serving(inside(way.target, *server, cpus=cpus) if cpus else way.there(*server)):
        busy = [0.0]

        def attempt() -> tuple[int, str]:
            busy[0] = busy_s()
            command = inside(way.source, *client, cpus=cpus) if cpus else way.here(*client)
            code, said = output(command, seconds + LIMIT_S)
            return code or int('"error"' in said), said

        report = json.loads(again(attempt))
        used_s = busy_s() - busy[0]
    received = report["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, used_s * 1e9 / (received["bytes"] / 1000)


def request_response(way: Way, seconds: float) -> tuple[float, float]:
    """Microseconds of a byte there and back over TCP, p50 and p99; both ends on one CPU."""
    p50, p99 = _asked(way, "ask", seconds).split()
    return float(p50), float(p99)


def datagrams(way: Way, seconds: float) -> float:
    """Datagrams of 18 bytes that arrived in a second; each end has a CPU."""
    arguments = [way.address, OWN_PORT]
    with serving(way.there(str(PROGRAM), "count", *arguments, str(seconds))) as count:
        while count.poll() is None:
            output(way.here(*POLITELY, str(PROGRAM), "send", *arguments, str(seconds)), seconds + LIMIT_S)
        assert count.stdout is not None
        return float(count.stdout.read())


def connections(way: Way, seconds: float) -> float:
    """Connections in a second, one after the other, with a byte each way; both ends on one CPU."""
    return float(_asked(way, "connect", seconds))


def _asked(way: Way, what: str, seconds: float) -> str:
    cpu, arguments = way.cpus[1], [way.address, OWN_PORT]

    def attempt() -> tuple[int, str]:
        code, said = output(way.here(str(PROGRAM), what, *arguments, str(seconds), cpu=cpu), seconds + LIMIT_S)
        return code or int(said.strip() == "0"), said

    with serving(way.there(str(PROGRAM), "accept", *arguments, str(seconds + LIMIT_S), cpu=cpu)):
        return again(attempt)
