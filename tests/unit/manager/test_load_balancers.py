# SPDX-License-Identifier: Apache-2.0
"""Load balancers: the scaled endpoint that one makes, what speaks against it, and who is told of public addresses."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from mizar.manager.outside_trace import Entrance, entrance
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError
from mizar.model.resources import Ref
from mizar.trace.packet import Asked
from mizar.trace.question import Question
from tests.unit.manager.test_peering import half, space
from tests.unit.manager.test_vpns import start, vpn
from tests.unit.manager.world import World, endpoint, manifest, network, until


def balancer(name: str, owner: str = "red", **spec: Any) -> dict[str, Any]:
    found = {"network": "front", "listeners": [{"port": 80}], "members": [{"endpoint": "e"}]}
    return manifest("LoadBalancer", name, owner, **{**found, **spec})


def pool(name: str = "edge", **spec: Any) -> dict[str, Any]:
    found = {"prefixes": ["203.0.113.0/30"], "tenants": ["red"], "droplets": ["d2"]}
    return manifest("AddressPool", name, "", **{**found, **spec})


def shown(world: World, name: str) -> Any:
    """An endpoint of red as people see it."""
    return world.manager.get(Ref("Endpoint", "red", name))


async def test_it_makes_a_scaled_endpoint_that_ends_with_it(world: World) -> None:
    """Nobody changes or deletes that one by itself."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), balancer("shop"))
    made = shown(world, "shop")
    assert made["spec"]["instanceOf"] == {"kind": "LoadBalancer", "name": "shop"}
    assert world.status("LoadBalancer", "shop", "red")["addresses"] == made["status"]["addresses"]
    with pytest.raises(InvalidError, match="change that instead"):
        world.apply(manifest("Endpoint", "shop", "red", network="front", type="scaled"))
    world.apply(balancer("shop", listeners=[{"port": 81, "targetPort": 8080}]))
    assert shown(world, "shop")["spec"]["listeners"][0]["port"] == 81


async def test_it_is_provisioned_when_droplets_have_what_it_is_made_of(world: World) -> None:
    """Who waits for a change of members, or for the end, would else go on before any droplet has heard of it."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), endpoint("red", "f", "d2"), balancer("shop"))
    for members in ([], [{"endpoint": "f"}]):
        if members:
            world.apply(balancer("shop", members=members))
        assert world.status("LoadBalancer", "shop", "red")["phase"] == "Init"
        await world.settled()
        assert world.status("LoadBalancer", "shop", "red")["phase"] == "Provisioned"
    world.manager.delete(Ref("LoadBalancer", "red", "shop"))
    await until(lambda: not world.exists("LoadBalancer", "shop", "red"))


async def test_it_waits_for_no_dead_droplet(world: World) -> None:
    """Neither with a change from before it was known to be dead, nor with one after: else it would wait for ever."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), endpoint("red", "f", "d2"), balancer("shop"))
    await world.settled()
    await world.daemons["d2"].stop()
    await until(lambda: world.status("Droplet", "d2")["health"] == "unreachable")
    world.apply(balancer("shop", members=[{"endpoint": "f"}]))
    assert world.status("LoadBalancer", "shop", "red")["reason"] == "Unreachable"
    world.daemons["d1"].call_down(world.daemons["d2"].address)
    for members in ([{"endpoint": "f"}], [{"endpoint": "e"}]):
        world.apply(balancer("shop", members=members))
        await until(lambda: world.status("LoadBalancer", "shop", "red")["phase"] == "Provisioned")
        assert world.status("Droplet", "d2")["health"] == "dead"
        assert world.status("Endpoint", "shop", "red")["reason"] == "Unreachable"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"members": [{"endpoint": "nobody"}]}, "there is no Endpoint red/nobody"),
        ({"members": [{"endpoint": "e"}, {"endpoint": "e"}]}, "e is a member already"),
        ({"addresses": ["192.0.2.1"]}, "192.0.2.1"),
        ({"public": {"pool": "other"}}, "there is no AddressPool other"),
        ({"public": {"pool": "edge", "addresses": ["198.51.100.1"]}}, "expected an address of AddressPool edge"),
    ],
)
async def test_what_is_refused(world: World, spec: dict[str, Any], message: str) -> None:
    """With the object that it names, and nothing is left of it."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), pool())
    with pytest.raises(InvalidError, match=message):
        world.apply(balancer("shop", **spec))
    assert not world.exists("LoadBalancer", "shop", "red")
    assert not world.exists("Endpoint", "shop", "red")


async def test_members_that_cannot_answer_straight(world: World) -> None:
    """One behind a droplet without a daemon is refused by name, and takes nothing by a selector; in mode nat it is a
    member like others, and the load balancer has an instance on a droplet of the pool."""
    far = manifest("Droplet", "far", "", address="192.0.2.99", daemon="none")
    legacy = endpoint("red", "legacy", "far", workload=None)
    legacy["spec"].pop("workload")
    legacy["metadata"]["labels"] = {"app": "web"}
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), pool(), far, legacy)
    named = [{"endpoint": "e"}, {"endpoint": "legacy"}]
    with pytest.raises(InvalidError, match="no daemon, which would answer"):
        world.apply(balancer("shop", members=named, public={"pool": "edge"}))
    world.apply(balancer("shop", selector={"app": "web"}, public={"pool": "edge"}))
    rows = world.status("LoadBalancer", "shop", "red")["members"]
    assert [(row["endpoint"], row["state"]) for row in rows] == [("e", "healthy"), ("legacy", "unknown")]
    assert "no daemon" in rows[1]["reason"]
    world.apply(balancer("both", members=named, public={"pool": "edge", "mode": "nat"}))
    status = world.status("LoadBalancer", "both", "red")
    assert (status["mode"], status["droplet"], status["ready"]) == ("nat", "d2", "2/2")
    made = shown(world, "both-1")
    assert made["spec"]["instanceOf"] == {"kind": "LoadBalancer", "name": "both"}


async def test_a_member_that_learns_the_address_from_an_option(world: World) -> None:
    """One behind a droplet without a daemon may be named where the option is asked for; one in VXLAN may not, and takes
    nothing by a selector; nor is there an option in mode nat."""
    far = manifest("Droplet", "far", "", address="192.0.2.99", daemon="none")
    legacy, old = endpoint("red", "legacy", "far", workload=None), endpoint("red", "old", "d1", tunnelProtocol="vxlan")
    legacy["spec"].pop("workload")
    legacy["metadata"]["labels"] = old["metadata"]["labels"] = {"app": "web"}
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), pool(), far, legacy, old)
    public = {"pool": "edge", "vip": "option"}
    with pytest.raises(InvalidError, match="its tunnels are VXLAN, which has no options"):
        world.apply(balancer("shop", members=[{"endpoint": "old"}], public=public))
    with pytest.raises(InvalidError, match="it is for mode direct"):
        world.apply(balancer("shop", public=public | {"mode": "nat"}))
    world.apply(balancer("shop", members=[{"endpoint": "e"}, {"endpoint": "legacy"}], public=public))
    status = world.status("LoadBalancer", "shop", "red")
    assert (status["mode"], status["vip"], status["ready"]) == ("direct", "option", "2/2")
    world.apply(balancer("more", selector={"app": "web"}, public={"pool": "edge", "vip": "option"}))
    rows = {row["endpoint"]: row for row in world.status("LoadBalancer", "more", "red")["members"]}
    assert (rows["legacy"]["state"], rows["old"]["state"]) == ("healthy", "unknown")
    assert "VXLAN" in rows["old"]["reason"]


async def test_a_tenant_has_so_many_connections_at_most(world: World) -> None:
    """Of all its load balancers in mode nat; in mode direct there is nothing to count."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), pool(prefixes=["203.0.113.0/28"]))
    for number in range(4):
        world.apply(balancer(f"b{number}", public={"pool": "edge", "mode": "nat", "connections": 1 << 17}))
    with pytest.raises(ExhaustedError, match="524288"):
        world.apply(balancer("more", public={"pool": "edge", "mode": "nat"}))
    with pytest.raises(InvalidError, match="mode nat"):
        world.apply(balancer("more", public={"pool": "edge", "connections": 100}))


async def test_a_public_address_is_had_by_one(world: World) -> None:
    """Another tenant never gets it, nor does the same one twice; the pool tells whose it is."""
    world.apply(*world.base("red", "blue"), endpoint("red", "e", "d1"), endpoint("blue", "e", "d1"), pool())
    wanted = {"pool": "edge", "addresses": ["203.0.113.1"]}
    world.apply(balancer("shop", public=wanted))
    assert world.status("LoadBalancer", "shop", "red")["publicAddresses"] == ["203.0.113.1"]
    claims = world.status("AddressPool", "edge")["claims"]
    assert claims == [{"address": "203.0.113.1", "by": "LoadBalancer red/shop"}]
    with pytest.raises(ConflictError, match=r"203\.0\.113\.1"):
        world.apply(balancer("other", public=wanted))
    with pytest.raises(InvalidError, match="AddressPool"):
        world.apply(balancer("shop", "blue", public=wanted))
    with pytest.raises(InvalidError, match="public"):
        world.apply(balancer("shop", public={"pool": "edge", "addresses": ["203.0.113.2"]}))


async def test_who_is_behind_a_vpn_or_an_appliance_is_inside(world: World) -> None:
    """And comes from nowhere else; what a default route leads to is the world. Their end takes it away."""
    start(world, pool(), balancer("shop", public={"pool": "edge", "addresses": ["ipv4"]}))

    def inside() -> list[str]:
        (service,) = world.daemons["d2"].tables.services.values()
        return [f"{ip_address(one.address)}/{one.length}" for one in service.inside]

    await world.settled()
    before = inside()
    assert "10.0.0.0/16" in before
    world.apply(vpn(to="192.168.50.0/24"))
    ways = [{"to": "172.20.0.0/16", "via": {"endpoint": "fw"}}, {"to": "0.0.0.0/0", "via": {"endpoint": "fw"}}]
    world.apply(network("red", "front", routes=[*ways, {"to": "0.0.0.0/1", "via": {"endpoint": "fw"}}]))
    await world.settled()
    assert set(inside()) - set(before) == {"192.168.50.0/24", "172.20.0.0/16"}
    world.manager.delete(Ref("VpnConnection", "red", "v"))
    world.apply(network("red", "front"))
    await world.settled()
    await until(lambda: inside() == before)


async def test_prefixes_of_a_peer_that_has_not_agreed_are_not_told(world: World) -> None:
    """By what is refused, or by a trace from outside, a tenant would find out the addresses of any other."""
    start(world, pool(), balancer("shop", public={"pool": "edge", "addresses": ["ipv4"]}))

    def inside() -> list[str]:
        (service,) = world.daemons["d2"].tables.services.values()
        return [f"{ip_address(one.address)}/{one.length}" for one in service.inside]

    world.apply(manifest("Tenant", "blue", ""), space("blue", 77), half("red", "blue"))
    await world.settled()
    assert "10.0.0.0/16" in inside()
    assert "10.77.0.0/16" not in inside()
    world.apply(half("blue", "red"))
    await until(lambda: "10.77.0.0/16" in inside())
    world.manager.delete(Ref("VPCPeering", "blue", "to-red"))
    await until(lambda: "10.77.0.0/16" not in inside())


async def test_a_trace_from_outside_comes_to_the_instance_and_names_the_rule(world: World) -> None:
    """Of a load balancer in mode nat; what its rules drop ends there."""
    start(world, pool(), balancer("shop", public={"pool": "edge", "addresses": ["ipv4"], "mode": "nat"}))
    (public,) = world.status("LoadBalancer", "shop", "red")["publicAddresses"]

    def come(client: str, port: int) -> Entrance:
        asked = Asked("tcp", 40000, port, 64)
        question = Question(ip_address(client).packed, ip_address(public).packed, asked)
        return entrance(world.manager._registry, lambda _: None, question, lambda _: True)

    found = come("198.51.100.7", 80)
    assert (found.droplet, found.arrives) == ("d2", True)
    assert "tcp 80 → port 80 of a member" in found.ending
    assert [one.verdict for one in found.before("red/main")] == ["translated"]
    for client, port, why in (("198.51.100.7", 81, "no listener"), ("10.0.1.9", 80, "nobody outside")):
        refused = come(client, port)
        assert why in refused.ending
        assert [one.verdict for one in refused.before("red/main")] == ["dropped"]
