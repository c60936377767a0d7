# SPDX-License-Identifier: Apache-2.0
"""What is told outlives a power cut: answers and droplets wait for the disk, many changes for one turn of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mizar.manager.durable import Durable
from mizar.model.errors import TemporaryError
from mizar.planner.plan import Step
from tests.unit.manager.world import World, endpoint, network, tenant, until, vpc


async def test_those_that_commit_meanwhile_share_the_next_turn() -> None:
    """A turn that began before a commit says nothing of it; one turn is enough for all that came during another."""
    free, turns = threading.Semaphore(0), []

    def sync() -> None:
        turns.append(1)
        free.acquire()

    durable = Durable(sync)
    await durable.kept()  # nothing to wait for
    durable.committed()
    first = asyncio.create_task(durable.kept())
    await until(lambda: turns)
    later = []
    for _ in range(5):
        durable.committed()
        later.append(asyncio.create_task(durable.kept()))
    free.release()
    await first
    await until(lambda: len(turns) == 2)
    assert not any(task.done() for task in later)
    free.release()
    await asyncio.gather(*later)
    assert len(turns) == 2


async def test_a_disk_that_has_refused_is_never_believed_again() -> None:
    """The kernel forgets what it could not write: the next turn that goes well would say nothing of it."""
    answers: list[Callable[[], None]] = [lambda: None, _refuse, lambda: None]
    durable = Durable(lambda: answers.pop(0)())
    durable.committed()
    await durable.kept()
    durable.committed()
    for _ in range(2):
        with pytest.raises(TemporaryError, match="worn out"):
            await durable.kept()


async def test_the_disk_is_asked_while_all_other_threads_are_busy() -> None:
    """Long requests of one tenant hold up nobody's change."""
    free = threading.Event()
    loop = asyncio.get_running_loop()
    others = [loop.run_in_executor(None, free.wait) for _ in range(64)]
    durable = Durable(lambda: None)
    durable.committed()
    try:
        async with asyncio.timeout(30):
            await durable.kept()
    finally:
        free.set()
        await asyncio.gather(*others)


async def test_a_disk_that_refuses_what_no_droplet_hears_of_ends_the_server(tmp_path: Path) -> None:
    """A tenant is for the store alone; who stays up would refuse every request from then on."""
    world = World(tmp_path, 0)
    await world.start()
    try:
        world.manager._durable._sync = _refuse
        world.apply(tenant("red"))
        with pytest.raises(TemporaryError, match="worn out"):
            await world.manager.kept()
        with pytest.raises(TemporaryError, match="worn out"):
            async with asyncio.timeout(10):
                await world.manager.broken()
    finally:
        await world.stop()


async def test_a_comparison_during_the_turn_of_the_disk_is_not_undone(tmp_path: Path) -> None:
    """A round that waits for the disk knows less than a droplet that compares meanwhile: it is told nothing of it."""
    world, free, waiting = World(tmp_path, 1), asyncio.Event(), asyncio.Event()
    await world.start()
    fleet = world.manager._fleet
    kept = fleet._kept

    async def slow() -> None:
        waiting.set()
        await free.wait()
        await kept()

    try:
        world.apply(world.droplet("d1"), tenant("red"), vpc("red"), network("red"))
        await world.settled()
        link = fleet.link("d1")
        assert link is not None
        epochs: list[int] = []
        submit = link.submit

        async def submitted(steps: Sequence[Step], serial: int, epoch: int) -> bool:
            epochs.append(epoch)
            return await submit(steps, serial, epoch)

        link.submit = submitted  # type: ignore[method-assign]
        fleet._kept = slow
        planned_in = link.epoch
        world.apply(network("red", "back", 2))
        world.apply(endpoint("red", "one", "d1"))
        await waiting.wait()
        link.epoch += 1  # as a comparison does
        free.set()
        await until(lambda: bool(epochs))
        assert epochs[0] == planned_in
    finally:
        free.set()
        await world.stop()


def _refuse() -> None:
    raise TemporaryError("worn out")


async def test_a_droplet_is_told_of_what_is_kept_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change reaches the disk before a daemon hears of it; a disk that refuses ends the manager's work."""
    world, told_when_kept = World(tmp_path, 1), []
    await world.start()
    sync, daemon = world.store.sync, world.daemons["d1"]

    def kept() -> None:
        sync()
        told_when_kept.append(daemon.calls.count("Apply"))

    try:
        world.apply(world.droplet("d1"))
        await world.settled()
        told = daemon.calls.count("Apply")
        monkeypatch.setattr(world.manager._durable, "_sync", kept)
        world.apply(tenant("red"), vpc("red"), network("red"))
        await until(lambda: daemon.calls.count("Apply") > told)
        assert told_when_kept[0] == told
        monkeypatch.setattr(world.manager._durable, "_sync", _refuse)
        world.apply(network("red", "back", 2))
        with pytest.raises(TemporaryError, match="worn out"):
            await world.manager.broken()
    finally:
        await world.stop()
