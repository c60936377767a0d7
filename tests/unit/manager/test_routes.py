# SPDX-License-Identifier: Apache-2.0
"""Route tables: what is refused, and that a change of one reaches the droplets that hold the network."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from mizar.model.errors import InvalidError
from tests.unit.manager.world import World, endpoint, network, until


def tables(world: World) -> set[tuple[str, ...]]:
    """The tables of all networks on all droplets that hold one: prefixes with their actions."""
    return {
        tuple(f"{ip_network((route.address, route.length))} {route.action}" for route in found.routes)
        for daemon in world.daemons.values()
        for found in daemon.tables.networks.values()
    }


async def test_a_table_comes_changes_and_goes(world: World) -> None:
    """With the network's entry, wherever that is."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"))
    await world.settled()
    assert tables(world) == {()}
    own = ("10.0.0.0/16 1", "10.0.1.0/24 1")
    six = ("fd00:10::/48 1", "fd00:10:0:1::/64 1")
    world.apply(network("red", routes=[{"to": "10.9.0.0/16", "via": "blackhole"}]))
    await until(lambda: tables(world) == {(*own, "10.9.0.0/16 2", *six)})
    world.apply(network("red", routes=[{"to": "10.0.0.0/16", "via": "blackhole"}]))
    await until(lambda: tables(world) == {("10.0.0.0/16 2", "10.0.1.0/24 1", *six)})
    world.apply(network("red"))
    await until(lambda: tables(world) == {()})
    await world.settled()


@pytest.mark.parametrize(
    ("route", "part"),
    [
        ({"to": "10.0.0.1/24", "via": "vpc"}, "expected zero host bits"),
        ({"to": "10.0.0.0/24", "via": "nowhere"}, "'vpc', 'blackhole' or 'substrate'"),
        ({"to": "10.0.0.0/24", "via": {"endpoint": "F W"}}, "spec.routes.0.*endpoint"),
        ({"to": "10.0.0.0/24", "via": {"droplet": "d1"}}, "missing"),
        ({"to": "10.0.0.0/24"}, "missing"),
    ],
)
async def test_routes_that_make_no_sense_are_refused(world: World, route: dict[str, object], part: str) -> None:
    """The field is named, and what could stand there."""
    with pytest.raises(InvalidError, match=part):
        world.apply(network("red", routes=[route]))


async def test_a_prefix_stands_once(world: World) -> None:
    """Of two, nothing could decide."""
    route = {"to": "10.0.0.0/24", "via": "vpc"}
    with pytest.raises(InvalidError, match=r"each prefix once, found 10\.0\.0\.0/24 again"):
        world.apply(network("red", routes=[route, route]))
