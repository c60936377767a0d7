# SPDX-License-Identifier: Apache-2.0
"""The machine that a figure was taken on, and a place of its own on it: a CPU, and its turn before others."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PRIORITY = 10
PEERS = {
    "Open vSwitch": ("ovs-vswitchd", "--version"),
    "iperf3": ("iperf3", "--version"),
    "nftables": ("nft", "--version"),
    "HAProxy": ("haproxy", "-v"),
    "clang": ("clang", "--version"),
}


def described() -> dict[str, object]:
    """What a reader needs to compare: processor, kernel, load at the start, versions of the peers."""
    return {
        "processor": _of(Path("/proc/cpuinfo"), "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in _of(Path("/proc/cpuinfo"), "flags").split(),
        "memoryGB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": platform.release(),
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or "not known",
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "peers": {name: _version(*command) for name, command in PEERS.items()},
    }


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""


def _of(path: Path, name: str) -> str:
    lines = (line.partition(":") for line in _text(path).splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "not known")


def found(program: str) -> str | None:
    """Where a program is, also in the folders of an administrator."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _version(program: str, option: str) -> str:
    path = found(program)
    if path is None:
        return "not there"
    done = subprocess.run([path, option], capture_output=True, text=True, check=False)  # noqa: S603
    return next(iter((done.stdout or done.stderr).splitlines()), "").strip()


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """This thread runs on one CPU, before anything that has no real-time priority, if it may."""
    before, policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
    os.sched_setaffinity(0, {cpu})
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, policy, os.sched_param(0))
        os.sched_setaffinity(0, before)


def calmest(cpus: Sequence[int]) -> int:
    """The CPU that does most just now. Neighbours of a virtual machine may halve one for a while, and then another."""

    def needs_s(cpu: int) -> float:
        with on_cpu(cpu):
            begun = time.perf_counter()
            sum(range(1_000_000))
            return time.perf_counter() - begun

    return min(cpus, key=needs_s)


def busy_s() -> float:
    """Seconds that the CPUs have worked, all together (proc(5): user, nice, system, irq, softirq)."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, words[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
