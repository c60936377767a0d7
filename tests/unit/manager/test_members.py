# SPDX-License-Identifier: Apache-2.0
"""Places are given to droplets that can be told of them: traffic is never sent to one that has not learnt its part."""

from __future__ import annotations

from mizar.model.resources import Ref
from tests.unit.manager.world import World, network, until, vpc


def members(world: World) -> set[str]:
    """Who bounces and divides red's traffic."""
    return {*world.status("Network", "front", "red")["bouncers"], *world.status("VPC", "main", "red")["dividers"]}


def told(world: World) -> set[str]:
    """Members as the other droplets know them."""
    known = {droplet["metadata"]["name"]: droplet["spec"]["address"] for droplet in world.manager.all("Droplet", None)}
    names = {address: name for name, address in known.items()}
    daemon = world.daemons["d1"]
    hops = [hop for network in daemon.tables.networks.values() for hop in network.bouncers]
    return {names[".".join(map(str, hop))] for hop in hops}


async def test_a_new_droplet_gets_no_place_before_its_daemon_answers(world: World) -> None:
    """The others go on as they are; when the daemon comes, the droplet takes the places that lack somebody."""
    await world.daemons["d3"].stop()
    base = [found for found in world.base("red") if found["metadata"]["name"] not in ("d3", "d4")]
    world.apply(*base)
    world.apply(network("red", bouncers=3), vpc("red", dividers=3))
    await world.settled()
    assert members(world) == {"d1", "d2"}
    world.apply(world.droplet("d3"))
    await until(lambda: "unreachable" in world.status("Droplet", "d3")["message"])
    world.apply(network("red", bouncers=4), vpc("red", dividers=4))
    assert members(world) == told(world) == {"d1", "d2"}
    await world.daemons["d3"].start()
    await world.settled()
    assert members(world) == told(world) == {"d1", "d2", "d3"}


async def test_a_droplet_that_is_away_keeps_its_places_and_gets_no_other(world: World) -> None:
    """Its programs forward without a daemon; but what it would have to learn for another place it cannot learn."""
    world.apply(*world.base("red"))
    await world.settled()
    before = members(world)
    (bouncer,) = world.status("Network", "front", "red")["bouncers"]
    away = next(name for name in world.daemons if name not in before)
    for name in (away, bouncer):
        await world.daemons[name].stop()
        await until(lambda name=name: not world.status("Droplet", name)["connected"])  # type: ignore[misc]
    world.apply(network("red", bouncers=4))
    assert bouncer in members(world)
    assert away not in members(world)
    for name in (away, bouncer):
        await world.daemons[name].start()
    await world.settled()
    assert set(world.status("Network", "front", "red")["bouncers"]) == set(world.daemons)


async def test_who_is_away_is_found_out_again_after_a_restart(world: World) -> None:
    """A restarted manager does not take a dead droplet's word for what it was."""
    world.apply(*world.base("red"))
    await world.settled()
    away = next(name for name in world.daemons if name not in members(world))
    await world.daemons[away].stop()
    await world.restart()
    await until(lambda: sum(d["status"]["connected"] for d in world.manager.all("Droplet", None)) == 3)
    world.apply(network("red", bouncers=4))
    assert away not in world.status("Network", "front", "red")["bouncers"]
    await world.daemons[away].start()
    await world.settled()
    assert away in world.status("Network", "front", "red")["bouncers"]


async def test_a_network_that_lost_all_its_bouncers_gets_whoever_there_is(world: World) -> None:
    """Where nobody answers a place is given all the same: the first daemon to come back can take it up."""
    world.apply(*world.base("red"))
    await world.settled()
    for daemon in world.daemons.values():
        await daemon.stop()
    await until(lambda: not any(d["status"]["connected"] for d in world.manager.all("Droplet", None)))
    (bouncer,) = world.status("Network", "front", "red")["bouncers"]
    world.manager.delete(Ref("Droplet", "", bouncer), force=True)
    (other,) = world.status("Network", "front", "red")["bouncers"]
    assert other != bouncer
    for name, daemon in world.daemons.items():
        if name != bouncer:
            await daemon.start()
    await world.settled()


async def test_a_dead_droplet_gives_its_places_to_others(world: World) -> None:
    """Two witnesses: a peer that calls it down, and the manager. What a peer says alone moves nothing."""
    world.apply(*world.base("red"))
    await world.settled()
    (bouncer,) = world.status("Network", "front", "red")["bouncers"]
    witness = next(name for name in world.daemons if name != bouncer)
    address = world.daemons[bouncer].address
    world.daemons[witness].call_down(address)
    await until(lambda: world.status("Droplet", bouncer)["health"] == "down")
    assert world.status("Droplet", bouncer)["downBy"] == [witness]
    assert world.status("Network", "front", "red")["bouncers"] == [bouncer]
    await world.daemons[bouncer].stop()
    await until(lambda: world.status("Droplet", bouncer)["health"] == "dead")
    await until(lambda: bouncer not in members(world))
    heir = world.status("Network", "front", "red")["bouncers"]
    assert len(heir) == 1
    world.daemons[witness].call_down(address, down=False)
    await until(lambda: world.status("Droplet", bouncer)["health"] == "unreachable")
    await world.daemons[bouncer].start()
    await world.settled()
    assert world.status("Droplet", bouncer)["health"] == "up"
    assert bouncer not in told(world) or world.status("Network", "front", "red")["bouncers"] == [bouncer]


async def test_places_are_not_left_long_to_one_that_cannot_be_told(world: World) -> None:
    """Its programs go on by tables that no change reaches: after a while others bounce; no peer called it down."""
    world.apply(*world.base("red"))
    await world.settled()
    (bouncer,) = world.status("Network", "front", "red")["bouncers"]
    await world.daemons[bouncer].stop()
    await until(lambda: bouncer not in members(world))
    assert world.status("Droplet", bouncer)["health"] == "unreachable"
    assert len(world.status("Network", "front", "red")["bouncers"]) == 1
    await world.daemons[bouncer].start()
    await world.settled()


async def test_what_peers_said_before_a_restart_is_asked_again(world: World) -> None:
    """A daemon tells with its state whom it calls down; one that is gone says nothing any more."""
    world.apply(*world.base("red"))
    await world.settled()
    world.daemons["d1"].call_down(world.daemons["d2"].address)
    await until(lambda: world.status("Droplet", "d2")["health"] == "down")
    await world.restart()
    await until(lambda: world.status("Droplet", "d2")["downBy"] == ["d1"])
    await world.daemons["d1"].stop()
    await until(lambda: world.status("Droplet", "d2")["health"] == "up")


async def test_where_nobody_else_is_the_dead_keeps_its_place(world: World) -> None:
    """Nobody can take it; the place waits."""
    world.apply(*world.base("red"))
    world.apply(network("red", bouncers=4))
    await world.settled()
    dead = "d2"
    await world.daemons[dead].stop()
    world.daemons["d1"].call_down(world.daemons[dead].address)
    await until(lambda: world.status("Droplet", dead)["health"] == "dead")
    assert dead in world.status("Network", "front", "red")["bouncers"]
