# SPDX-License-Identifier: Apache-2.0
"""The manager may end at any moment: the next one converges, and nothing that was promised is lost."""

from __future__ import annotations

import contextlib
import random

import pytest

from mizar.model.errors import ConflictError, MizarError
from mizar.model.resources import Ref
from mizar.planner.entries import Entry
from mizar.store.protocol import Commit
from tests.fake_daemon import FakeDaemon
from tests.unit.manager.world import World, endpoint, network, until


def held(daemon: FakeDaemon) -> int:
    return sum(len(table) for table in vars(daemon.tables).values())


def wanted(world: World, name: str) -> list[Entry]:
    return list(world.manager._fleet._desired.topology.desired_for(name))


async def test_a_restart_in_the_middle_of_provisioning_goes_on(world: World) -> None:
    """Half the droplets have acknowledged when the manager dies; the next one finishes the rest."""
    world.apply(*world.base("red"))
    await world.settled()
    world.daemons["d1"].paused.clear()
    world.apply(*(endpoint("red", f"e{n}", f"d{n % 4 + 1}") for n in range(40)))
    await until(lambda: any(call in ("Attach", "Apply") for call in world.daemons["d1"].calls))
    await world.restart()
    assert "Init" in world.phases().values()
    world.daemons["d1"].paused.set()
    await world.settled()
    assert sum(len(daemon.tables.locals) for daemon in world.daemons.values()) == 40


async def test_what_was_applied_while_no_daemon_was_there_is_not_lost(world: World) -> None:
    """Desired state waits for droplets, over any number of restarts."""
    for daemon in world.daemons.values():
        await daemon.stop()
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    await world.restart()
    await world.restart()
    for daemon in world.daemons.values():
        await daemon.start()
    await world.settled()


async def test_a_provisioned_object_stays_so_over_a_restart(world: World) -> None:
    """Status is kept: a restart of the manager is no news to anybody."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    await world.settled()
    world.manager._progress.stop()  # as time would: what is told is written within a moment
    await world.restart()
    assert world.phase("Endpoint", "e1", "red") == "Provisioned"
    assert world.status("Endpoint", "e1", "red")["hostInterface"].startswith("mz")


async def test_a_commit_that_fails_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the store refuses, neither the registry nor placement nor droplets have moved."""
    world.apply(*world.base("red"))
    await world.settled()
    before = {name: held(daemon) for name, daemon in world.daemons.items()}

    def refuse(_commit: Commit) -> None:
        raise ConflictError("the disk says no")

    monkeypatch.setattr(world.store, "commit", refuse)
    with pytest.raises(ConflictError):
        world.apply(network("red", "n2", 2), endpoint("red", "e1", "d1"))
    with pytest.raises(ConflictError):
        world.manager.delete(Ref("Droplet", "", "d1"))
    monkeypatch.undo()
    assert not world.exists("Network", "n2", "red")
    assert world.phase("Droplet", "d1") == "Provisioned"
    assert {name: held(daemon) for name, daemon in world.daemons.items()} == before
    world.apply(network("red", "n2", 2), endpoint("red", "e1", "d1"))
    await world.settled()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_all_droplets_end_as_desired(world: World, seed: int) -> None:
    """Changes, deaths of daemons, lost tables and restarts of the manager in any order: in the end all agree."""
    dice = random.Random(seed)
    names = list(world.daemons)
    world.apply(*world.base("red", "blue"))
    for number in range(60):
        owner, name = dice.choice(("red", "blue")), dice.choice(names)
        daemon = world.daemons[name]
        try:
            match dice.randrange(9):
                case 0 | 1 | 2:
                    world.apply(endpoint(owner, f"e{dice.randrange(12)}", name))
                case 3:
                    world.manager.delete(Ref("Endpoint", owner, f"e{dice.randrange(12)}"))
                case 4:
                    world.apply(network(owner, f"n{number % 3}", 20 + number % 3, bouncers=dice.randrange(1, 5)))
                case 5:
                    world.manager.delete(Ref("Network", owner, f"n{number % 3}"), cascade=True)
                case 6:
                    await daemon.stop()
                    if dice.random() < 0.3:
                        daemon.tables = type(daemon.tables)()
                    if dice.random() < 0.7:
                        await daemon.start()
                case 7 if dice.random() < 0.4:
                    await world.restart()
                case 8:
                    world.apply(world.droplet(name))
                    if dice.random() < 0.3:
                        world.manager.delete(Ref("Droplet", "", name), cascade=True)
        except MizarError:
            pass  # refused: something is being deleted, or not there
        if dice.random() < 0.4:
            done = held(daemon)
            with contextlib.suppress(TimeoutError):
                await until(lambda: held(daemon) != done, 0.02)  # noqa: B023 - used before the next turn
    for daemon in world.daemons.values():
        await daemon.stop()
        await daemon.start()
    await until(lambda: "Deleting" not in world.phases().values())
    world.apply(*world.base("red", "blue"))
    await world.settled()
    for name, daemon in world.daemons.items():
        entries = wanted(world, name)
        assert held(daemon) == len(entries), name
        uids = {entry.uid for entry in entries if hasattr(entry, "uid")}
        assert set(daemon.tables.locals) == uids
    known = {record.uid for record in world.store.load()}
    assert known == {
        item.uid
        for kind in ("Droplet", "Tenant", "VPC", "Network", "Endpoint")
        for item in world.manager._registry.of_kind(kind)
    }
