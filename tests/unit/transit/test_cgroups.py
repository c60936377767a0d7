# SPDX-License-Identifier: Apache-2.0
"""Control groups of processes, with a folder that stands for one; the real ones are in tests/lab/test_cgroups.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from mizar.transit import cgroups
from mizar.transit.engines import host
from mizar.transit.processes import Process, Program, end_recorded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As an operator hands one over."""
    found = tmp_path / "mizar"
    found.mkdir()
    (found / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return found


def test_what_was_handed_over_is_used_and_told(folder: Path, tmp_path: Path) -> None:
    """Whatever else is there; without it, or without a controller, the status says why not."""
    found = cgroups.opened((tmp_path / "none", folder))
    assert (found.folder, found.told) == (folder, f"cgroup {folder}")
    assert (folder / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert cgroups.opened((tmp_path / "none",)).told == f"rlimits: there is no {tmp_path}/none (cgroup v2)"
    (folder / "cgroup.controllers").write_text("hugetlb cpu\n")
    assert cgroups.opened((folder,)).told == f"rlimits: {folder} has no controller memory, pids: enable it above"
    assert cgroups.opened((folder,)).joined("one", {"pids.max": 1}) == []


async def test_a_process_is_in_its_group_from_its_beginning(folder: Path, tmp_path: Path) -> None:
    """Its limits are there before it, change while it runs, and its end takes the group along."""
    own = tmp_path / "d1.engines" / "u1" / "process"
    argv = (sys.executable, "-c", "import time; time.sleep(60)")
    program = Program(argv, f"path:/proc/self/ns/net", memory_bytes=1 << 30, pids=64, confined=False)  # noqa: F541
    process = Process(own, lambda _: None, groups=cgroups.opened((folder,)))
    group = folder / "d1.engines-u1-process"
    try:
        await process.run(program)
        await _until(lambda: (group / "cgroup.procs").exists() and (group / "cgroup.procs").read_text() == "0")
        assert (group / "memory.max").read_text() == str(2 << 30)
        assert ((group / "pids.max").read_text(), (group / "cpu.weight").read_text()) == ("64", "100")
        pid = process.standing.pid
        await process.run(Program(argv, program.namespace, pids=32, confined=False))
        assert process.standing.pid == pid
        assert ((group / "memory.max").read_text(), (group / "pids.max").read_text()) == ("max", "32")
        for file in group.iterdir():  # what no group of the kernel's keeps from being removed
            file.unlink()
    finally:
        process.close()
        await asyncio.to_thread(end_recorded, own)
    assert not [one for one in folder.iterdir() if one.is_dir() and list(one.iterdir()) != [one / "cgroup.kill"]]


async def test_a_process_that_ended_by_itself_leaves_no_group(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded no more and waits for its next start when its endpoint goes."""
    monkeypatch.setattr(cgroups, "_REMOVE_S", 0.05)
    own, said = tmp_path / "d1.engines" / "u2" / "process", list[str]()
    program = Program((sys.executable, "-c", "print('over')"), "path:/proc/self/ns/net", confined=False)
    process, group = Process(own, said.append, groups=cgroups.opened((folder,))), folder / "d1.engines-u2-process"
    try:
        await process.run(program)
        await _until(lambda: process.standing.reason and not (own / "process.json").exists())
        for file in group.iterdir():  # what no group of the kernel's keeps from being removed
            file.unlink()
        await process.stop()
        assert not [one for one in group.glob("*") if one.name != "cgroup.kill"]
        assert (group / "cgroup.kill").exists()  # it was ended; a folder of files cannot go
    finally:
        process.close()


@pytest.mark.parametrize("killed", ["while it waits", "while it starts"])
async def test_the_next_daemon_removes_what_one_that_was_killed_has_left(
    killed: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an endpoint that is no more: a group whose process had ended by itself, and one whose process is not recorded
    yet. What a process writes into a folder of its own is no record."""
    monkeypatch.setattr(cgroups, "_REMOVE_S", 0.05)
    engines, said = tmp_path / "d1.engines", list[str]()
    own, group, other = engines / "u3" / "process", folder / "d1.engines-u3-process", tmp_path / "other"
    script = "print('over')" if killed == "while it waits" else "import time; print('up', flush=True); time.sleep(60)"
    process = Process(own, said.append, groups=cgroups.opened((folder,)))
    if killed == "while it starts":
        monkeypatch.setattr(process, "_record", lambda *_: None)
    try:
        await process.run(Program((sys.executable, "-c", script), "path:/proc/self/ns/net", confined=False))
        await _until(lambda: said and not (own / "process.json").exists())
        for file in group.iterdir():  # what no group of the kernel's keeps from being removed
            file.unlink()
    finally:
        process.close()
        if process.standing.pid:
            os.killpg(process.standing.pid, signal.SIGKILL)
            process._reap()
    for served in (engines / "u3" / "haproxy" / "sockets", engines / "u3" / "own"):
        served.mkdir(parents=True)
        (served / "cgroup").write_text(str(other))
    other.mkdir()
    after = host.Engines(engines, tmp_path / "logs", {}, lambda _: None)
    after.take_over([])
    await after.drain(30)
    assert [one.name for one in group.iterdir()] == ["cgroup.kill"]  # it was ended; a folder of files cannot go
    assert not (engines / "u3").exists()
    assert list(other.iterdir()) == []  # not even killed


async def _until(holds: object) -> None:
    assert callable(holds)
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
