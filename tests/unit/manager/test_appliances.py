# SPDX-License-Identifier: Apache-2.0
"""Routes by way of an endpoint: where they lead, what the endpoint may send from, and what both follow."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from mizar.model.errors import InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, manifest, network, tenant, until, vpc

OUT = [{"to": "0.0.0.0/0", "via": {"endpoint": "fw"}}, {"to": "::/0", "via": {"endpoint": "fw"}}]


def firewall(droplet: str = "d2", **spec: Any) -> dict[str, Any]:
    """An appliance in a network of its own."""
    return endpoint("red", "fw", droplet, "edge", **{"forwarding": True, **spec})


def start(world: World, *more: dict[str, Any]) -> None:
    """An endpoint on d1, whose network's table leads out by the firewall on d2."""
    edge = network("red", "edge", number=2)
    world.apply(*world.base("red"), edge, network("red", "in", number=3, routes=OUT), *more)
    world.apply(endpoint("red", "e", "d1", "in"))


def hops(world: World, droplet: str = "d1") -> list[str]:
    """Where the default routes on a droplet lead: the last octet of a host, or an action."""
    return [
        str(route.next_hop.host[-1]) if route.HasField("next_hop") else f"action {route.action}"
        for one in world.daemons[droplet].tables.networks.values()
        for route in one.routes
        if not route.length
    ]


def sources(world: World, droplet: str = "d2") -> dict[str, int]:
    """What the appliance on a droplet may send from."""
    locals_ = world.daemons[droplet].tables.locals.values()
    found = [one for one in locals_ if one.forwarding and not one.standby]
    return {str(ip_network((s.address, s.length))): s.action for one in found for s in one.sources}


ALL = {"0.0.0.0/0": 1, "10.0.0.0/16": 1, "::/0": 1, "fd00:10::/48": 1}


async def test_a_route_waits_for_its_appliance_and_outlives_it(world: World) -> None:
    """Without one it leads nowhere, which the network's status says; with one to its host; and so again."""
    start(world)
    await until(lambda: hops(world) == ["action 2"] * 2)
    await world.settled()
    status = world.status("Network", "in", "red")
    assert status["routesRefused"] == ["0.0.0.0/0", "::/0"]
    assert status["message"] == "there is no endpoint fw: packets to 0.0.0.0/0, ::/0 are refused"
    world.apply(firewall(forwarding=False))
    await world.settled()
    assert "does not forward (spec.forwarding)" in world.status("Network", "in", "red")["message"]
    world.apply(firewall())
    await until(lambda: hops(world) == ["12", "12"])
    await until(lambda: sources(world) == ALL)
    await world.settled()
    assert world.status("Network", "in", "red")["routesRefused"] == []
    await world.restart()
    await world.settled()
    assert hops(world) == ["12", "12"]
    assert sources(world) == ALL
    world.manager.delete(Ref("Endpoint", "red", "fw"))
    await until(lambda: not world.exists("Endpoint", "fw", "red"))
    assert hops(world) == ["action 2"] * 2
    await world.settled()


async def test_a_move_takes_the_routes_along(world: World) -> None:
    """Wherever there are such tables."""
    start(world, firewall())
    await world.settled()
    world.manager.move(Ref("Endpoint", "red", "fw"), "d3")
    await until(lambda: hops(world) == ["13", "13"])
    await until(lambda: sources(world, "d3") == ALL)
    await until(lambda: world.status("Endpoint", "fw", "red")["move"]["stage"] == "Done")
    await world.settled()


async def test_sources_follow_routes_and_peerings(world: World) -> None:
    """Only what is routed by way of it, and nothing of a peer's, whatever is routed there."""
    start(world, firewall())
    await until(lambda: sources(world) == ALL)
    narrow = {"to": "192.0.2.0/24", "via": {"endpoint": "fw"}}
    world.apply(network("red", "in", number=3, routes=[narrow, {"to": "10.9.1.0/24", "via": {"endpoint": "fw"}}]))
    own = {"10.0.0.0/16": 1, "fd00:10::/48": 1}
    await until(lambda: sources(world) == {**own, "192.0.2.0/24": 1, "10.9.1.0/24": 1})
    halves = [
        manifest("VPCPeering", "out", "red", vpc="main", peer={"tenant": "blue", "vpc": "main"}),
        manifest("VPCPeering", "back", "blue", vpc="main", peer={"tenant": "red", "vpc": "main"}),
    ]
    world.apply(tenant("blue"), vpc("blue", cidrs=["10.9.0.0/16"]), *halves)
    await until(lambda: sources(world) == {**own, "192.0.2.0/24": 1, "10.9.0.0/16": 2})
    world.manager.delete(Ref("VPCPeering", "blue", "back"))
    await until(lambda: sources(world) == {**own, "192.0.2.0/24": 1, "10.9.1.0/24": 1})
    world.apply(network("red", "in", number=3))
    await until(lambda: sources(world) == own)
    await world.settled()


async def test_an_appliance_serves_its_own_vpc_and_families(world: World) -> None:
    """One of another VPC of the tenant, or without an address of the route's family, is none."""
    other = [vpc("red", "other", cidrs=["10.1.0.0/16"])]
    other += [manifest("Network", "far", "red", vpc="other", cidrs=["10.1.1.0/24"])]
    start(world, *other, endpoint("red", "fw", "d2", "far", forwarding=True))
    await world.settled()
    assert hops(world) == ["action 2"] * 2
    assert "endpoint fw is in another VPC" in world.status("Network", "in", "red")["message"]
    world.apply(endpoint("red", "four", "d2", "edge", forwarding=True, addresses=["10.0.2.9"]))
    both = [{**route, "via": {"endpoint": "four"}} for route in OUT]
    world.apply(network("red", "in", number=3, routes=both))
    await until(lambda: hops(world) == ["12", "action 2"])
    await world.settled()
    assert "endpoint four has no IPv6 address" in world.status("Network", "in", "red")["message"]
    await world.settled()


async def test_only_a_simple_endpoint_forwards(world: World) -> None:
    """The others have no workload that could."""
    with pytest.raises(InvalidError, match="unexpected for an endpoint of type scaled"):
        world.apply(manifest("Endpoint", "fw", "red", network="edge", type="scaled", forwarding=True))
