# SPDX-License-Identifier: Apache-2.0
"""Moves of endpoints: what the droplets hold at each stage, what is refused, and managers that die in between."""

from __future__ import annotations

from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, manifest, until

WEB = Ref("Endpoint", "red", "web")


async def provisioned(world: World) -> str:
    """One endpoint on d1; its uid."""
    world.apply(*world.base("red"), endpoint("red", "web", "d1"))
    await world.settled()
    uid: str = world.manager.get(WEB)["metadata"]["uid"]
    return uid


def move(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.status("Endpoint", "web", "red")["move"]
    return found


def hosts(world: World, uid: str) -> set[str]:
    return {name for name, daemon in world.daemons.items() if uid in daemon.tables.locals}


async def ended(world: World, stage: str = "Done") -> None:
    await until(lambda: move(world)["stage"] == stage)
    await world.settled()


@pytest.mark.parametrize("target", ["d2", "d3", "d4"])
async def test_an_endpoint_moves_with_its_address_and_everybody_is_told(world: World, target: str) -> None:
    """Whether they are bouncers or not: afterwards all tables lead to the target, and the source holds nothing."""
    uid = await provisioned(world)
    before = world.status("Endpoint", "web", "red")
    world.manager.move(WEB, target)
    await ended(world)
    after = world.status("Endpoint", "web", "red")
    assert (after["addresses"], after["mac"]) == (before["addresses"], before["mac"])
    assert world.manager.get(WEB)["spec"]["droplet"] == after["host"] == target
    assert hosts(world, uid) == {target}
    assert not world.daemons[target].tables.locals[uid].standby
    leads = {e.host for d in world.daemons.values() for e in d.tables.endpoints.values()}
    assert leads <= {world.daemons[target].tables.locals[uid].endpoint.host}
    assert move(world)["elapsedMs"] > 0


async def test_moves_there_and_back_and_tells_the_blackout(world: World) -> None:
    uid = await provisioned(world)
    world.manager.move(WEB, "d2")
    await ended(world)
    world.daemons["d2"].say_moved(uid, 1500)
    await until(lambda: move(world).get("blackoutMs") == 1.5)
    world.manager.move(WEB, "d1")
    await ended(world)
    assert hosts(world, uid) == {"d1"}
    assert move(world)["source"] == "d2"


@pytest.mark.parametrize("permanent", [True, False])
async def test_a_target_that_cannot_take_it_changes_nothing(world: World, permanent: bool) -> None:
    """A full droplet: the reason is told, and the endpoint stays where it was, whole."""
    uid = await provisioned(world)
    world.daemons["d2"].refuse_attach = lambda _: ("the table agents is full", permanent)
    world.manager.move(WEB, "d2")
    await ended(world, "Failed")
    assert "d2" in move(world)["reason"]
    assert "full" in move(world)["reason"]
    assert hosts(world, uid) == {"d1"}
    assert world.manager.get(WEB)["spec"]["droplet"] == "d1"
    world.daemons["d2"].refuse_attach = lambda _: None
    world.manager.move(WEB, "d2")
    await ended(world)


async def test_what_cannot_move_is_refused_with_the_reason(world: World) -> None:
    await provisioned(world)
    world.apply(manifest("Droplet", "f1", address="172.31.9.9", daemon="none"))
    for target, kind, words in (
        ("d9", InvalidError, "no droplet d9"),
        ("f1", InvalidError, "no daemon"),
        ("d1", ConflictError, "on droplet d1 already"),
    ):
        with pytest.raises(kind, match=words):
            world.manager.move(WEB, target)
    with pytest.raises(NotFoundError):
        world.manager.move(Ref("Endpoint", "red", "nobody"), "d2")
    with pytest.raises(InvalidError, match="cannot move"):
        world.manager.move(Ref("Network", "red", "front"), "d2")
    await world.daemons["d2"].stop()
    await until(lambda: not world.status("Droplet", "d2")["connected"])
    with pytest.raises(ConflictError, match="unreachable"):
        world.manager.move(WEB, "d2")
    assert "move" not in world.status("Endpoint", "web", "red")


async def test_one_move_at_a_time_and_the_target_stays(world: World) -> None:
    """While it is prepared the target can neither be deleted nor another be chosen."""
    await provisioned(world)
    world.daemons["d2"].paused.clear()
    world.manager.move(WEB, "d2")
    with pytest.raises(ConflictError, match="moving to droplet d2 already"):
        world.manager.move(WEB, "d3")
    with pytest.raises(ConflictError, match="web"):
        world.manager.delete(Ref("Droplet", "", "d2"))
    world.daemons["d2"].paused.set()
    await ended(world)
    with pytest.raises(ConflictError):
        world.manager.delete(Ref("Droplet", "", "d2"))


async def test_a_target_that_dies_while_it_is_prepared_ends_the_move(world: World) -> None:
    uid = await provisioned(world)
    world.daemons["d2"].paused.clear()
    world.daemons["d2"].calls.clear()
    world.manager.move(WEB, "d2")
    await until(lambda: world.daemons["d2"].calls)
    await world.daemons["d2"].stop()
    await until(lambda: move(world)["stage"] == "Failed")
    assert "unreachable" in move(world)["reason"]
    world.daemons["d2"].paused.set()
    await world.daemons["d2"].start()
    await world.settled()
    assert hosts(world, uid) == {world.manager.get(WEB)["spec"]["droplet"]} == {"d1"}


async def test_an_endpoint_that_is_deleted_while_it_moves_is_gone_everywhere(world: World) -> None:
    uid = await provisioned(world)
    world.daemons["d2"].paused.clear()
    world.manager.move(WEB, "d2")
    world.manager.delete(WEB)
    world.daemons["d2"].paused.set()
    await until(lambda: not world.exists("Endpoint", "web", "red"))
    assert hosts(world, uid) == set()
    assert not any(daemon.tables.endpoints for daemon in world.daemons.values())


@pytest.mark.parametrize("calls", range(1, 9))
async def test_a_manager_that_dies_at_any_call_of_a_move_leaves_a_whole_endpoint(world: World, calls: int) -> None:
    """After the Nth change of any droplet the manager dies; the next one ends the move, or nothing of it remains."""
    uid = await provisioned(world)
    for daemon in world.daemons.values():
        daemon.calls.clear()
    seen = 0

    def crashing(_: pb.LocalEndpoint | pb.Change) -> None:
        nonlocal seen
        seen += 1

    for daemon in world.daemons.values():
        daemon.refuse_attach = crashing
        daemon.refuse_change = crashing
    world.manager.move(WEB, "d2")
    await until(lambda: seen >= calls or move(world)["stage"] == "Done")
    await world.restart()
    await until(lambda: move(world)["stage"] in ("Done", "Failed"))
    await world.settled()
    assert move(world)["stage"] == "Done"
    assert hosts(world, uid) == {"d2"}
    leads = {e.host for d in world.daemons.values() for e in d.tables.endpoints.values()}
    assert leads <= {world.daemons["d2"].tables.locals[uid].endpoint.host}


async def test_apply_does_not_move(world: World) -> None:
    """A manifest that names another droplet is refused, and says how it is done."""
    await provisioned(world)
    with pytest.raises(MizarError, match="mizar endpoint move"):
        world.apply(endpoint("red", "web", "d2"))
    world.manager.move(WEB, "d2")
    await ended(world)
    (result,) = world.apply(endpoint("red", "web", "d2"))
    assert result.change == "unchanged"
