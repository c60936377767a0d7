# SPDX-License-Identifier: Apache-2.0
"""Processes in namespaces of endpoints: what they get and what not, how they come back, and that the next daemon finds
them. The processes are real ones."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mizar.model.errors import TemporaryError
from mizar.transit import processes
from mizar.transit.processes import Process, Program, program_at, running

HERE = "path:/proc/self/ns/net"
USER = 1_899_999_999
SLEEPER = "trap '' HUP; echo ready; while :; do sleep 1000; done"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def may_set_limits() -> bool:
    """Of other processes: CAP_SYS_RESOURCE is 24."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> 24 & 1)


def shell(text: str, user: int = USER) -> Program:
    return Program(("/bin/sh", "-c", text), HERE, user=user, memory_bytes=64 << 20, files=64)


def test_it_gets_nothing_of_the_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No privilege, no group, no open file, no variable; and within its limits."""
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "1")
    said: list[str] = []

    async def work() -> None:
        with (tmp_path / "open").open("w") as kept:
            os.set_inheritable(kept.fileno(), True)
            process = Process(tmp_path / "p", said.append)
            text = "id -u; id -G; grep -h CapEff /proc/self/status; ulimit -n; env; ls -l /proc/self/fd; echo end"
            await process.run(shell(text))
            await until(lambda: "end" in said)
            await process.stop()
            process.close()

    asyncio.run(work())
    assert said[:4] == [str(USER), str(USER), "CapEff:\t0000000000000000", "64"]
    assert not [line for line in said if "SECRET" in line or line.endswith("/open")]


def test_it_comes_back_until_it_is_stopped(tmp_path: Path) -> None:
    """Killed, it is started again, and what it had started is gone; its standing tells why and how often."""

    async def work() -> None:
        told: list[processes.Standing] = []
        process = Process(tmp_path / "p", lambda _: None, lambda: told.append(process.standing))
        await process.run(shell(SLEEPER))
        first = process.standing.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: process.standing.restarts == 1)
        assert process.standing.pid not in (0, first)
        assert "signal 9" in next(one.reason for one in told if not one.running)
        last = process.standing.pid
        await process.stop()
        process.close()
        assert running(tmp_path / "p") == 0
        assert not Path(f"/proc/{last}").exists()

    asyncio.run(work())


def test_the_next_daemon_finds_it_again(tmp_path: Path) -> None:
    """The same program goes on as the same process, and what it said in between is heard; limits change while it runs;
    another program takes its place; a process that only has its number is left alone."""
    said: list[str] = []

    async def work() -> None:
        before = Process(tmp_path / "p", lambda _: None)
        await before.run(shell("while read -t 1 x; do :; done; sleep 0.2; echo later; sleep 1000"))
        pid = before.standing.pid
        before.close()
        after = Process(tmp_path / "p", said.append)
        assert await after.run(shell("while read -t 1 x; do :; done; sleep 0.2; echo later; sleep 1000"))
        assert after.standing.pid == pid
        await until(lambda: "later" in said)
        await after.run(replace(shell("while read -t 1 x; do :; done; sleep 0.2; echo later; sleep 1000"), files=33))
        assert after.standing.pid == pid
        limits = [line.split() for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line]
        assert (limits[0][3] == "33") is may_set_limits()
        assert not await after.run(shell(SLEEPER))
        assert after.standing.pid != pid
        assert not Path(f"/proc/{pid}/stat").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
        await after.stop()
        after.close()
        record = tmp_path / "p" / "process.json"
        record.write_text(f'{{"pid": {os.getpid()}, "began": "long ago", "program": {{}}}}')
        assert running(tmp_path / "p") == 0
        assert not processes.end_recorded(tmp_path / "p")

    asyncio.run(work())


def test_a_missing_program_is_named_with_its_package() -> None:
    """So that whoever reads it knows what to do."""
    with pytest.raises(TemporaryError, match="Debian package haproxy"):
        program_at("no-such-program", "haproxy", ())


def test_no_call_of_the_system_that_nothing_in_a_namespace_needs(tmp_path: Path) -> None:
    """Not even for root: other namespaces, mounts, BPF, other processes' memory are out of reach. An ioctl of those
    that are pretended says that it did, and did nothing; others of them are asked for in earnest."""
    asked = """
import ctypes, errno, fcntl, os, socket, struct
call = ctypes.CDLL(None, use_errno=True)
def said(result): return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
print("unshare", said(call.unshare(0x40000000)))
print("ptrace", said(call.ptrace(16, os.getppid(), 0, 0)))
print("setns", said(call.setns(os.open("/proc/self/ns/net", os.O_RDONLY), 0)))
print("mount", said(call.mount(b"none", b"/mnt", b"tmpfs", 0, None)))
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def ioctl(number):
    try:
        fcntl.ioctl(one, number, struct.pack("16si20x", b"lo", 1234))
        return "ok"
    except OSError as error: return errno.errorcode[error.errno]
print("mtu", ioctl(0x8922), open("/sys/class/net/lo/mtu").read().strip() != "1234")
print("flags", ioctl(0x8914), "end")
"""
    said: list[str] = []

    async def work() -> None:
        process = Process(tmp_path / "p", said.append)
        argv = (program_at("python3", "python3"), "-c", asked)
        await process.run(Program(argv, HERE, user=USER, pretended=(0x8922,)))
        await until(lambda: any("end" in line for line in said))
        await process.stop()
        process.close()

    asyncio.run(work())
    found = said[: next(place for place, line in enumerate(said) if "end" in line) + 1]
    assert found == [
        "unshare EPERM", "ptrace EPERM", "setns EPERM", "mount EPERM", "mtu ok True", "flags EPERM end",
    ]  # fmt: skip


def test_what_is_handed_over_arrives(tmp_path: Path) -> None:
    """By the variable that names it, at each start anew."""
    said: list[str] = []
    given: list[int] = []

    def hand() -> dict[str, int]:
        path = tmp_path / "handed"
        path.write_text(f"number {len(given)}\n")
        given.append(os.open(path, os.O_RDONLY))
        return {"GIVEN_FD": given[-1]}

    async def work() -> None:
        process = Process(tmp_path / "p", said.append, hand=hand)
        await process.run(shell("cat /proc/self/fd/$GIVEN_FD; exec sleep 1000"))
        await until(lambda: "number 0" in said)
        os.kill(process.standing.pid, signal.SIGKILL)
        await until(lambda: "number 1" in said)
        await process.stop()
        process.close()

    asyncio.run(work())
