# SPDX-License-Identifier: Apache-2.0
"""NAT gateways and their public addresses, as the manager sees them: claims, places, routes, what is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.manager.nat_trace import Carrier, Translation, told_by
from mizar.model.addresses import ROUTER_MAC
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError, MizarError
from mizar.model.resources import Ref
from mizar.trace.packet import Asked, build
from mizar.trace.report import Ending
from tests.unit.manager.test_address_pools import pool
from tests.unit.manager.world import World, endpoint, manifest, until

RED = Ref("NatGateway", "red", "out")


def gateway(owner: str = "red", name: str = "out", **spec: Any) -> dict[str, Any]:
    return manifest("NatGateway", name, owner, **{"network": "front", "pool": "edge", **spec})


def forward(to: str = "e", port: int = 80, **more: Any) -> dict[str, Any]:
    return {"protocol": "tcp", "port": port, "endpoint": to, **more}


def instances(world: World) -> dict[str, pb.NatGateway]:
    """What droplets are told to run, by droplet."""
    return {
        name: local.engine.nat
        for name, daemon in world.daemons.items()
        for local in daemon.tables.locals.values()
        if local.engine.HasField("nat")
    }


def hops(world: World) -> set[tuple[str, bytes]]:
    """Where the networks' tables lead the world: prefix and host."""
    return {
        (str(ip_network((route.address, route.length))), route.next_hop.host)
        for daemon in world.daemons.values()
        for network in daemon.tables.networks.values()
        for route in network.routes
        if not route.length
    }


async def test_a_gateway_has_addresses_a_place_and_routes(world: World) -> None:
    """One of each family, of those that are free; the droplets of the pool alone carry it."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), pool(droplets=["d2"]), gateway(connections=100))
    await world.settled()
    assert world.status("NatGateway", "out", "red")["addresses"] == ["203.0.113.1", "2001:db8:1::1"]
    assert world.status("NatGateway", "out", "red")["droplet"] == "d2"
    told = instances(world)
    assert list(told) == ["d2"]
    found = told["d2"]
    assert [str(ip_address(one)) for one in found.public] == ["203.0.113.1", "2001:db8:1::1"]
    assert [one.length for one in found.inside] == [16, 48]
    assert (found.tenant, found.name, found.instance, found.connections) == ("red", "out", "out-1", 100)
    there = ip_address(world.daemons["d2"].address).packed
    assert hops(world) == {("0.0.0.0/0", there), ("::/0", there)}
    world.apply(pool(droplets=["d1"]))
    await until(lambda: list(instances(world)) == ["d1"])
    here = ip_address(world.daemons["d1"].address).packed
    await until(lambda: hops(world) == {("0.0.0.0/0", here), ("::/0", here)})
    world.manager.delete(RED)
    await until(lambda: not world.exists("NatGateway", "out", "red"))
    assert (instances(world), hops(world)) == ({}, set())
    assert world.status("AddressPool", "edge")["claims"] == []


async def test_another_droplet_stands_by(world: World) -> None:
    """It attracts nothing and no route leads there; it is the one that has the addresses when the first one is gone,
    and another stands by then. What both know of one another is nobody else's."""
    world.apply(*world.base("red"), pool(droplets=["d1", "d2"]), gateway())
    await until(lambda: len(instances(world)) == 2 and all(one.HasField("pair") for one in instances(world).values()))
    await world.settled()
    told = instances(world)
    (first,) = [name for name, one in told.items() if not one.standby]
    (second,) = [name for name, one in told.items() if one.standby]
    assert told[first].pair.own == told[second].pair.other
    assert told[first].pair.other == told[second].pair.own
    assert told[first].pair.key == told[second].pair.key
    assert told[first].pair.key not in str(world.manager.get(RED))
    status = world.status("NatGateway", "out", "red")
    assert (status["droplet"], status["standby"]) == (first, second)
    assert {host for _, host in hops(world)} == {ip_address(world.daemons[first].address).packed}
    world.apply(pool(droplets=[second]))
    await until(lambda: list(instances(world)) == [second] and not instances(world)[second].standby)
    assert not instances(world)[second].HasField("pair")
    await until(lambda: {host for _, host in hops(world)} == {ip_address(world.daemons[second].address).packed})
    world.apply(pool(droplets=["d1", "d2"]))
    await until(lambda: instances(world).get(first, pb.NatGateway()).HasField("pair"))
    assert instances(world)[first].standby
    assert instances(world)[second].instance == told[second].instance
    assert not instances(world)[second].standby
    await world.restart()
    await until(lambda: instances(world).get(first, pb.NatGateway()).pair.key == told[first].pair.key)
    world.apply(gateway(standby=False))
    await until(lambda: list(instances(world)) == [second])


async def test_an_address_has_one_owner(world: World) -> None:
    """Whoever is second is refused, and told who has it only if it may see that; a restart changes nothing."""
    world.apply(*world.base("red", "green", "pink"), pool(prefixes=("203.0.113.0/31",)))
    world.apply(gateway(addresses=["203.0.113.1"]))
    with pytest.raises(ConflictError, match=r"the address 203\.0\.113\.1 belongs to NatGateway red/out"):
        world.apply(gateway("green", addresses=["203.0.113.1"]))
    with pytest.raises(ConflictError, match="belongs to somebody else"):
        world.apply(gateway("green", addresses=["203.0.113.1"]), visible=lambda ref: ref.tenant == "green")
    await world.settled()
    await world.restart()
    with pytest.raises(ConflictError, match=r"203\.0\.113\.1 belongs"):
        world.apply(gateway("green", addresses=["203.0.113.1"]))
    world.apply(gateway("green", addresses=["ipv4"]))
    assert world.status("NatGateway", "out", "green")["addresses"] == ["203.0.113.0"]
    with pytest.raises(ExhaustedError, match="has no free IPv4 address"):
        world.apply(gateway("pink"))
    status = world.status("AddressPool", "edge")
    assert {one["address"]: one["by"] for one in status["claims"]} == {
        "203.0.113.1": "NatGateway red/out", "203.0.113.0": "NatGateway green/out"}  # fmt: skip
    assert status["free"] == 0


async def test_what_is_in_use_is_not_taken_away(world: World) -> None:
    """Neither its prefix, nor its tenant, nor the pool."""
    world.apply(*world.base("red", "green"), pool(), gateway())
    for wrong in ({"prefixes": ["2001:db8:1::/124"]}, {"tenants": ["green"]}):
        with pytest.raises(ConflictError, match=r"NatGateway red/out has"):
            world.apply(pool(**wrong))  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match=r"still holds .*NatGateway red/out"):
        world.manager.delete(Ref("AddressPool", "", "edge"))
    world.apply(pool(tenants=["red"]))


async def test_a_pool_is_nothing_to_others(world: World) -> None:
    """A tenant that it is not for learns no more than of one that is not there."""
    world.apply(*world.base("red", "green"), pool(tenants=["red"]))
    own = lambda ref: ref.tenant == "green"  # noqa: E731
    found = []
    for name in ("edge", "other"):
        with pytest.raises(InvalidError) as refused:
            world.apply(gateway("green", pool=name), visible=own)
        found.append([one.message for one in refused.value.problems])
    assert found == [["there is no AddressPool edge"], ["there is no AddressPool other"]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"addresses": ["198.51.100.1"]}, "expected an address of AddressPool edge"),
        ({"network": "nowhere"}, "there is no Network red/nowhere"),
        ({"networks": ["nowhere"]}, "there is no subnet nowhere"),
        ({"droplets": ["d3"]}, "expected droplets of the pool, found d3"),
        ({"portForwards": [forward("nobody")]}, "there is no endpoint nobody"),
        ({"portForwards": [forward(port=40000)]}, "less than 32768"),
        ({"portForwards": [forward(), forward()]}, "expected one for tcp port 80"),
        ({"portForwards": [forward(address="203.0.113.9")]}, "expected one of the gateway's addresses"),
        ({"connections": 1}, "at least 16|greater than or equal to 16"),
    ],
)
async def test_a_wrong_gateway_is_refused(world: World, spec: dict[str, Any], message: str) -> None:
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), pool())
    with pytest.raises(MizarError, match=message):
        world.apply(gateway(**spec))
    assert not world.exists("NatGateway", "out", "red")


async def test_a_network_has_one_way_into_the_world(world: World) -> None:
    world.apply(*world.base("red"), pool(), gateway(addresses=["ipv4"]))
    with pytest.raises(ConflictError, match="NatGateway red/out is the way into the world"):
        world.apply(gateway(name="other"))
    world.apply(gateway(name="other", addresses=["ipv6"]))
    await world.settled()


async def test_forwards_follow_their_endpoints(world: World) -> None:
    """Each to the address of its family; who carries the gateway is told of no more than it needs."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), pool())
    world.apply(gateway(portForwards=[forward(targetPort=8080), forward(port=53, protocol="udp")]))
    await world.settled()

    def seen() -> set[tuple[int, str, int, int]]:
        (found,) = instances(world).values()
        return {(one.protocol, str(ip_address(one.public)), one.port, one.target_port) for one in found.forwards}

    both = {(6, public, 80, 8080) for public in ("203.0.113.1", "2001:db8:1::1")}
    assert seen() == both | {(17, public, 53, 53) for _, public, _, _ in both}
    world.apply(gateway(portForwards=[forward(targetPort=8080)]))
    await until(lambda: seen() == both)
    world.manager.delete(Ref("Endpoint", "red", "e"))
    await until(lambda: seen() == set())


async def test_droplets_that_could_be_reached_are_named(world: World) -> None:
    """Those with addresses of the Internet, and those of ranges that the pool opens."""
    world.apply(*world.base("red"), pool(), gateway())
    await world.settled()
    (found,) = instances(world).values()
    assert not found.never
    world.apply(pool(reach=["172.31.0.0/24"]))
    await until(lambda: {str(ip_address(one.address)) for one in next(iter(instances(world).values())).never}
                == {one.address for one in world.daemons.values()})  # fmt: skip
    world.apply(manifest("Droplet", "foreign", address="198.51.100.7", daemon="none"))
    await until(lambda: b"\xc6\x33\x64\x07" in [one.address for one in next(iter(instances(world).values())).never])


class Instance:
    """Says what it is told to, in place of a droplet's daemon."""

    def __init__(self, reply: pb.TraceEngineReply) -> None:
        self.reply = reply

    def stub(self) -> Instance:
        return self

    async def TraceEngine(self, request: pb.TraceEngineRequest, timeout: float) -> pb.TraceEngineReply:  # noqa: N802
        assert (request.uid, request.outside, timeout > 0) == ("uid", False, True)
        return self.reply


def packet(source: str, destination: str) -> bytes:
    return build(Asked("tcp"), bytes(6), ip_address(source).packed, ip_address(destination).packed)


async def test_a_trace_tells_what_an_instance_makes_of_a_packet(world: World) -> None:
    """As a hop, and how it ends; from an instance that cannot be asked it ends as before."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), pool(droplets=["d2"]), gateway())
    await world.settled()
    owner = world.manager._registry.find(RED)
    assert owner is not None
    mac = bytes.fromhex("020000000009")
    there = Carrier(owner, "uid", "d2", mac, "red/main", 1)
    reply = pb.TraceEngineReply

    async def tell(**told: Any) -> Translation:
        instance: Any = Instance(reply(**told))
        return await told_by(lambda _: instance, there, packet("10.0.1.2", "198.51.100.9"), outside=False)

    out = packet("203.0.113.1", "198.51.100.9")
    found = await tell(fate=reply.TRANSLATED, frame=out, known=True)
    assert found.hop.rewrite == ("source 10.0.1.2:40000 → 203.0.113.1:40000",)
    assert found.ending == Ending(True, "leaves d2 into the world as 203.0.113.1:40000, the connection is known")
    found = await tell(fate=reply.TRANSLATED, frame=packet("203.0.113.1", "203.0.113.1"))
    assert found.ending is not None
    assert "no forward of it takes the packet" in found.ending.sentence
    found = await tell(fate=reply.TRANSLATED, frame=packet("203.0.113.1", "10.0.1.3"), inside=True)
    assert found.back == ROUTER_MAC + mac + packet("203.0.113.1", "10.0.1.3")[12:]
    for fate, verdict in ((reply.DROPPED, "dropped"), (reply.PROHIBITED, "answered")):
        found = await tell(fate=fate, reason="QUOTA_EXCEEDED", sentence="Too many.")
        assert (found.hop.verdict, found.ending and found.ending.arrives) == (verdict, False)
        assert "QUOTA_EXCEEDED: Too many." in (found.ending.sentence if found.ending else "")
    silent = await told_by(lambda _: None, there, out, outside=False)
    assert (silent.ending, silent.hop.verdict) == (None, "not known")
