# SPDX-License-Identifier: Apache-2.0
"""Network ACLs: which droplets are told what, who may have which, and what is left when they go."""

from __future__ import annotations

from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, manifest

OPEN = [{"ports": [{"protocol": "tcp", "port": 80}]}]


def acl(name: str, *networks: str, **spec: Any) -> dict[str, Any]:
    return manifest("NetworkAcl", name, "red", **{"vpc": "main", "networks": list(networks), "ingress": OPEN, **spec})


def bound(world: World, droplet: str) -> dict[int, pb.NetworkAcl]:
    """What a droplet holds, by id of the network."""
    return {number: one for (_, number), one in world.daemons[droplet].tables.network_acls.items()}


async def test_whoever_knows_the_vpc_holds_its_acls_and_nobody_else(world: World) -> None:
    """Also who gets to know it later, and a new server finds what it told before."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    (network,) = (one for one in world.base("red") if one["kind"] == "Network")
    await world.settled()
    holders = {name for name, daemon in world.daemons.items() if daemon.tables.vpcs}
    world.apply(acl("edge", network["metadata"]["name"]))
    await world.settled()
    assert world.status("NetworkAcl", "edge", "red")["phase"] == "Provisioned"
    assert {name for name in world.daemons if bound(world, name)} == holders
    world.apply(endpoint("red", "e2", "d2"), endpoint("red", "e3", "d3"))
    await world.settled()
    assert all(bound(world, name) for name, daemon in world.daemons.items() if daemon.tables.vpcs)
    (one,) = bound(world, "d1").values()
    assert (bool(one.ingress), bool(one.ingress_later), one.egress, len(one.prefixes)) == (True, True, 0, 2)
    before = [bound(world, name) for name in world.daemons]
    await world.restart()
    await world.settled()
    assert [bound(world, name) for name in world.daemons] == before
    world.manager.delete(Ref("NetworkAcl", "red", "edge"))
    await world.settled()
    assert not world.exists("NetworkAcl", "edge", "red")
    assert not any(daemon.tables.network_acls or daemon.tables.policy_sets for daemon in world.daemons.values())


async def test_a_network_has_one_acl_and_others_are_refused_or_warned_of(world: World) -> None:
    world.apply(*world.base("red"))
    (network,) = (one["metadata"]["name"] for one in world.base("red") if one["kind"] == "Network")
    world.apply(acl("edge", network))
    with pytest.raises(InvalidError, match=f"network {network} has network ACL edge already"):
        world.apply(acl("other", network))
    world.apply(acl("ghost", "nowhere"))
    await world.settled()
    assert world.status("NetworkAcl", "ghost", "red")["warnings"] == ["there is no network nowhere"]
    world.apply(acl("edge", network, ingress=[{"cidrs": ["10.0.0.0/8"]}, {"cidrs": ["10.1.0.0/16"], "action": "deny"}]))
    (warning,) = world.status("NetworkAcl", "edge", "red")["warnings"]
    assert "ingress rule 2 never decides: network ACL edge ingress rule 1 stands before it" in warning


async def test_a_network_inside_of_another_is_not_judged_by_its_rules(world: World) -> None:
    world.apply(*world.base("red"))
    (network,) = (one for one in world.base("red") if one["kind"] == "Network")
    world.apply(acl("edge", network["metadata"]["name"]))
    cidr = network["spec"]["cidrs"][0].split("/")[0]
    world.apply(manifest("Network", "inner", "red", vpc="main", cidrs=[f"{cidr}/28"]))
    await world.settled()
    held = next(found for name in world.daemons if len(found := bound(world, name)) == 2)
    assert sorted(bool(one.ingress) for one in held.values()) == [False, True]
