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
