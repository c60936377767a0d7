# SPDX-License-Identifier: Apache-2.0
"""Groups: who is in which, what droplets are told of it, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.model.errors import InvalidError
from mizar.model.resources import Ref
from tests.unit.manager.world import World, endpoint, manifest, network, tenant, vpc

WEB = {"matchLabels": {"app": "web"}}


def group(name: str, owner: str = "red", **spec: Any) -> dict[str, Any]:
    return manifest("Network", name, owner, **{"vpc": "main", "type": "group", **spec})


def labelled(name: str, droplet: str, **labels: str) -> dict[str, Any]:
    made = endpoint("red", name, droplet)
    made["metadata"]["labels"] = labels
    return made


def option(world: World, name: str, droplet: str) -> tuple[int, bytes]:
    """Number of the set and options that a droplet was told for an endpoint."""
    uid = world.manager.get(Ref("Endpoint", "red", name))["metadata"]["uid"]
    held = world.daemons[droplet].tables.locals[uid]
    return held.group_set, held.options


def sets(world: World, droplet: str) -> dict[int, list[int]]:
    return {number: list(found.groups) for (_, number), found in world.daemons[droplet].tables.group_sets.items()}


async def test_endpoints_join_and_leave_by_their_labels(world: World) -> None:
    """Ids and sets are allotted; whoever hosts an endpoint of the VPC knows what a set means, before it is used."""
    world.apply(*world.base("red"), labelled("e1", "d1", app="web"), labelled("e2", "d2"))
    world.apply(
        group("web", selector=WEB),
        group("tagged", selector={"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
    )
    await world.settled()
    web, tagged = (world.status("Network", name, "red") for name in ("web", "tagged"))
    assert (web["members"], tagged["members"], web["reason"]) == (1, 1, "")
    status = world.status("Endpoint", "e1", "red")
    assert (status["groups"], status["groupIds"]) == (["web", "tagged"], [web["id"], tagged["id"]])
    number = status["groupSet"]
    ids = web["id"].to_bytes(4, "big") + tagged["id"].to_bytes(4, "big")
    assert option(world, "e1", "d1") == (number, b"\xff\x01\x02\x03" + number.to_bytes(4, "big") + ids)
    assert option(world, "e2", "d2") == (0, b"")
    assert sets(world, "d1") == sets(world, "d2") == {number: [web["id"], tagged["id"]]}
    assert sets(world, "d3") == {}
    world.apply(labelled("e1", "d1", app="db"), labelled("e2", "d2", app="web"))
    await world.settled()
    assert world.status("Endpoint", "e1", "red")["groups"] == ["tagged"]
    assert world.status("Endpoint", "e2", "red")["groups"] == ["web", "tagged"]
    assert world.status("Endpoint", "e2", "red")["groupSet"] == number
    assert len(sets(world, "d1")) == 2
    world.apply(labelled("e1", "d1"), labelled("e2", "d2"))
    await world.settled()
    assert sets(world, "d1") == sets(world, "d2") == {}
    assert world.status("Network", "web", "red")["members"] == 0


async def test_members_can_be_named(world: World) -> None:
    """Also before they are there; a name that is nobody's counts for nothing."""
    world.apply(*world.base("red"), group("chosen", members=["e1", "nobody"]))
    await world.settled()
    empty = world.status("Network", "chosen", "red")
    assert (empty["phase"], empty["members"], empty["reason"]) == ("Provisioned", 0, "Empty")
    world.apply(endpoint("red", "e1", "d1"))
    assert world.status("Network", "chosen", "red")["members"] == 1
    world.manager.delete(Ref("Endpoint", "red", "e1"))
    assert world.status("Network", "chosen", "red")["members"] == 0


async def test_a_group_that_goes_takes_its_label_along(world: World) -> None:
    """Its endpoints stay, and their packets bear it no more."""
    world.apply(
        *world.base("red"), labelled("e1", "d1", app="web"), group("web", selector=WEB), group("all", selector={})
    )
    await world.settled()
    world.manager.delete(Ref("Network", "red", "web"))
    await world.settled()
    assert not world.exists("Network", "web", "red")
    assert world.status("Endpoint", "e1", "red")["groups"] == ["all"]
    assert [len(groups) for groups in sets(world, "d1").values()] == [1]
    world.manager.delete(Ref("VPC", "red", "main"), cascade=True)
    await world.settled()
    assert sets(world, "d1") == {}


async def test_a_restart_keeps_ids_sets_and_members(world: World) -> None:
    """Packets under way keep their meaning."""
    world.apply(*world.base("red"), labelled("e1", "d1", app="web"), group("web", selector=WEB))
    await world.settled()
    before, told = world.status("Endpoint", "e1", "red"), sets(world, "d1")
    await world.restart()
    await world.settled()
    assert world.status("Endpoint", "e1", "red") == before
    assert sets(world, "d1") == told
    assert world.status("Network", "web", "red")["members"] == 1
    world.apply(labelled("e2", "d1", app="web"), group("more", members=["e2"]))
    assert world.status("Endpoint", "e2", "red")["groupSet"] != before["groupSet"]


async def test_groups_of_two_vpcs_do_not_mix(world: World) -> None:
    """Labels select within the VPC; ids and numbers are its own."""
    world.apply(*world.base("red"), vpc("red", "other"), network("red", "there", vpc="other"))
    world.apply(labelled("e1", "d1", app="web"), group("web", selector=WEB, vpc="other"))
    assert world.status("Network", "web", "red")["members"] == 0
    assert world.status("Endpoint", "e1", "red")["groupSet"] == 0


async def test_what_a_group_cannot_be(world: World) -> None:
    """Refused with the field, and nothing changed."""
    world.apply(*world.base("red"), tenant("blue"), group("web", label="www", selector=WEB))
    refused = (
        (group("two", label="www"), "spec.label"),
        (endpoint("red", "e1", "d1", inside="web"), "spec.network"),
        (group("web", label="www", vpc="main", type="subnet", cidrs=["10.0.9.0/24"]), ""),
    )
    for made, field in refused:
        with pytest.raises(InvalidError) as caught:
            world.apply(made)
        assert not field or caught.value.problems[0].field == field
    many = [group(f"g{number}", selector={}) for number in range(17)]
    with pytest.raises(InvalidError, match="would be in 17 groups"):
        world.apply(endpoint("red", "e1", "d1"), *many)
    assert not world.exists("Endpoint", "e1", "red")
