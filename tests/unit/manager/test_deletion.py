# SPDX-License-Identifier: Apache-2.0
"""Deletion: what holds it up, what goes with it, and that nothing is left anywhere."""

from __future__ import annotations

import pytest

from mizar.model.errors import ConflictError, InvalidError, NotFoundError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, network, until

TENANT = Ref("Tenant", "", "red")
E1 = Ref("Endpoint", "red", "e1")


async def test_children_hold_up_a_deletion_and_are_named(world: World) -> None:
    """Without cascade a parent stays, and the conflict names what is inside of it."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    with pytest.raises(ConflictError, match=r"still holds Endpoint red/e1, .*Network red/front"):
        world.manager.delete(Ref("VPC", "red", "main"))
    with pytest.raises(ConflictError, match="Endpoint red/e1"):
        world.manager.delete(Ref("Droplet", "", "d1"))
    with pytest.raises(NotFoundError):
        world.manager.delete(Ref("VPC", "red", "nothing"))
    with pytest.raises(InvalidError, match="force"):
        world.manager.delete(TENANT, force=True, cascade=True)
    await world.settled()


async def test_a_cascade_leaves_nothing_behind(world: World) -> None:
    """A tenant goes with all that is its own: objects, allocations, and entries on every droplet."""
    world.apply(*world.base("red", "blue"), *(endpoint("red", f"e{n}", f"d{n % 4 + 1}") for n in range(9)))
    await world.settled()
    shown = world.manager.delete(TENANT, cascade=True)
    assert shown["status"]["phase"] == "Deleting"
    assert shown["metadata"]["deletedAt"]
    await until(lambda: not world.exists("Tenant", "red"))
    assert not any("red" in name for name in world.phases())
    assert all(len(daemon.tables.locals) == 0 for daemon in world.daemons.values())
    assert {record.tenant for record in world.store.load() if record.tenant} == {"blue"}
    held = {a.scope for record in world.store.load() for a in record.allocations if a.scope.startswith("address/")}
    assert held == set()
    vni = world.status("VPC", "main", "blue")["vni"]
    assert all(set(daemon.tables.vpcs) <= {vni} for daemon in world.daemons.values())


async def test_an_object_stays_deleting_until_every_droplet_has_forgotten_it(world: World) -> None:
    """Its address is not free before, so that nobody else can get it while a droplet still knows it."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1", addresses=["10.0.1.9"]))
    await world.settled()
    await world.daemons["d1"].stop()
    await until(lambda: not world.status("Droplet", "d1")["connected"])
    world.manager.delete(E1)
    with pytest.raises(ConflictError, match="being deleted"):
        world.apply(endpoint("red", "e1", "d2"))
    with pytest.raises(ConflictError, match=r"10\.0\.1\.9 belongs to"):
        world.apply(endpoint("red", "e2", "d2", addresses=["10.0.1.9"]))
    status = world.status("Endpoint", "e1", "red")
    assert (status["phase"], status["reason"]) == ("Deleting", "Unreachable")
    await world.restart()  # nor does a restart of the manager make it forget whom it waits for
    await until(lambda: world.status("Droplet", "d2")["connected"])
    assert world.phase("Endpoint", "e1", "red") == "Deleting"
    await world.daemons["d1"].start()
    await until(lambda: not world.exists("Endpoint", "e1", "red"))
    assert not world.daemons["d1"].tables.locals
    world.apply(endpoint("red", "e2", "d2", addresses=["10.0.1.9"]))
    await world.settled()


async def test_a_name_is_free_again_when_its_object_is_gone(world: World) -> None:
    """The same manifest makes a new object, with a new uid."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    await world.settled()
    first = world.manager.get(E1)["metadata"]["uid"]
    world.manager.delete(E1)
    await until(lambda: not world.exists("Endpoint", "e1", "red"))
    world.apply(endpoint("red", "e1", "d1"))
    await world.settled()
    assert world.manager.get(E1)["metadata"]["uid"] != first


async def test_a_deleted_droplet_hands_its_roles_over_and_is_emptied(world: World) -> None:
    """Bouncers and dividers move; the droplet's own tables and everybody's entry for it go."""
    world.apply(*world.base("red"), *(network("red", f"n{n}", n + 10, bouncers=2) for n in range(6)))
    await world.settled()
    gone = world.status("Network", "front", "red")["bouncers"][0]
    world.manager.delete(Ref("Droplet", "", gone))
    await until(lambda: not world.exists("Droplet", gone))
    await world.settled()
    for n in range(6):
        bouncers = world.status("Network", f"n{n}", "red")["bouncers"]
        assert gone not in bouncers
        assert len(bouncers) == 2
    assert world.daemons[gone].tables.empty
    address = world.daemons[gone].address
    others = [daemon for name, daemon in world.daemons.items() if name != gone]
    assert all(address not in str(daemon.tables.droplets) and len(daemon.tables.droplets) == 3 for daemon in others)


async def test_a_dead_droplet_can_be_forced_out(world: World) -> None:
    """A droplet that never answers again holds up its deletion, until it is forced: then nobody waits for it."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"), endpoint("red", "e2", "d2"))
    await world.settled()
    await world.daemons["d1"].stop()
    await until(lambda: not world.status("Droplet", "d1")["connected"])
    world.manager.delete(Ref("Droplet", "", "d1"), cascade=True)
    assert world.phase("Droplet", "d1") == "Deleting"
    assert world.phase("Endpoint", "e1", "red") == "Deleting"
    await world.restart()
    await until(lambda: world.status("Droplet", "d2")["connected"])
    assert world.phase("Droplet", "d1") == "Deleting"
    assert "delete it with force" in world.status("Droplet", "d1")["message"]
    world.manager.delete(Ref("Droplet", "", "d1"), force=True)
    await until(lambda: not world.exists("Droplet", "d1") and not world.exists("Endpoint", "e1", "red"))
    await world.settled()


async def test_a_forced_deletion_survives_a_restart(world: World) -> None:
    """That nobody waits for the droplet is kept with it."""
    world.apply(*world.base("red"))
    await world.settled()
    await world.daemons["d1"].stop()
    await world.daemons["d2"].stop()
    await until(lambda: not any(world.status("Droplet", name)["connected"] for name in ("d1", "d2")))
    world.manager.delete(Ref("Droplet", "", "d1"), force=True)
    assert world.exists("Droplet", "d1")  # d2 has not forgotten it
    await world.restart()
    await world.daemons["d2"].start()
    await until(lambda: not world.exists("Droplet", "d1"))
    await world.settled()


async def test_a_former_bouncer_must_forget_before_a_number_is_free(world: World) -> None:
    """A droplet that lost its role while it was away still holds the network: a deletion waits, also over restarts."""
    world.apply(*world.base("red"), network("red", "wide", 2, bouncers=4))
    await world.settled()
    before = world.status("Network", "wide", "red")["bouncers"]  # the first one stays longest
    spare = {*world.status("VPC", "main", "red")["dividers"], *world.status("Network", "front", "red")["bouncers"]}
    away = next(name for name in reversed(before[1:]) if name not in spare)
    await world.daemons[away].stop()
    await until(lambda: not world.status("Droplet", away)["connected"])
    for count in (3, 2, 1):
        world.apply(network("red", "wide", 2, bouncers=count))
        if away not in world.status("Network", "wide", "red")["bouncers"]:
            break
    assert away not in world.status("Network", "wide", "red")["bouncers"]
    await world.restart()
    world.manager.delete(Ref("Network", "red", "wide"))
    await until(lambda: all(world.status("Droplet", n)["connected"] for n in world.daemons if n != away))
    assert world.exists("Network", "wide", "red")
    await world.daemons[away].start()
    await until(lambda: not world.exists("Network", "wide", "red"))
    assert not world.daemons[away].tables.networks
