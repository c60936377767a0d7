# SPDX-License-Identifier: Apache-2.0
"""While changes are rolled out, packets between endpoints that stay arrive, whichever droplet is faster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mizar.model.errors import ConflictError
from mizar.planner.facts import ServiceFact, VpcFact
from mizar.planner.plan import Change, Plan, Step
from tests.unit.planner.budget import examples
from tests.unit.planner.fabric import Fabric
from tests.unit.planner.test_topology import members_of
from tests.unit.planner.world import World, droplet, endpoint, network, service

DROPLETS = ["d1", "d2", "d3", "d4", "d5"]
members = st.lists(st.sampled_from(DROPLETS), min_size=1, max_size=3, unique=True).map(tuple)
hosts = st.sampled_from([*DROPLETS, "f1"])


@st.composite
def worlds(draw: Any) -> tuple[World, Fabric]:
    """Two VPCs with equal addresses, two networks each, endpoints anywhere; everything is rolled out."""
    world, fabric, plan = World(), Fabric(), Plan()
    for name in [*DROPLETS, "f1"]:
        world.droplets[name] = droplet(name)
        fabric.know(name, world.droplets[name].address)
        plan.add(world.topology.put_droplet(world.droplets[name]))
    for vni in (1, 2):
        world.vpcs[vni] = VpcFact(vni, draw(members))
        plan.add(world.topology.put_vpc(world.vpcs[vni]))
        for number in (1, 2):
            world.networks[vni, number] = network(vni, number, draw(members))
            plan.add(world.topology.put_network(world.networks[vni, number]))
            for place, host in enumerate(draw(st.lists(hosts, max_size=3))):
                fact = endpoint(vni, number, place, host)
                world.endpoints[fact.uid] = fact
                plan.add(world.topology.put_endpoint(fact))
        if draw(st.booleans()):
            plan.add(put_service(world, service(vni, 1, members_for(draw, world, vni))))
    fabric.run(plan)
    settle(world)
    return world, fabric


def members_for(draw: Any, world: World, vni: int) -> tuple[tuple[str, int], ...]:
    """Some endpoints of a VPC, all of which take new flows."""
    able = sorted(uid for uid, fact in world.endpoints.items() if fact.vni == vni)
    return tuple((uid, 1) for uid in draw(st.lists(st.sampled_from(able), unique=True, max_size=3))) if able else ()


def put_service(world: World, fact: ServiceFact) -> list[Change]:
    """Until all is rolled out, members of before and of now may be met."""
    world.services[fact.uid] = fact
    world.met.setdefault(fact.uid, set()).update(members_of(world, fact) or {"SERVICE_WITHOUT_MEMBER"})
    return world.topology.put_service(fact)


def settle(world: World) -> None:
    """All is rolled out: members of now are met."""
    world.met = {uid: members_of(world, fact) or {"SERVICE_WITHOUT_MEMBER"} for uid, fact in world.services.items()}


def with_services(world: World, uid: str, changes: list[Change], *, gone: bool) -> list[Change]:
    """What a change of an endpoint means for scaled endpoints that it is a member of; who goes leaves them first."""
    told: list[Change] = []
    for fact in list(world.services.values()):
        if any(member.uid == uid for member in fact.members):
            left = tuple(member for member in fact.members if member.uid != uid or not gone)
            told += put_service(world, replace(fact, members=left))
    return told + changes if gone else changes + told


def change(draw: Any, world: World) -> list[Change]:
    """One change of one object. The endpoints that it adds or removes are not in world.endpoints afterwards."""
    what = draw(st.sampled_from(["vpc", "network", "add", "remove", "tunnel", "service"]))
    vni, number = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    if what == "vpc":
        return world.topology.put_vpc(VpcFact(vni, draw(members)))
    if what == "network":
        return world.topology.put_network(replace(world.networks[vni, number], bouncers=draw(members)))
    if what == "service":
        fact = service(vni, 1, members_for(draw, world, vni))
        return put_service(world, fact) if fact.uid in world.services else []
    if what == "add":
        world.added += 1
        return world.topology.put_endpoint(endpoint(vni, number, world.added, draw(hosts)))
    if not world.endpoints:
        return []
    uid = draw(st.sampled_from(sorted(world.endpoints)))
    if what == "tunnel":
        world.endpoints[uid] = replace(world.endpoints[uid], tunnel=2)
        changes = world.topology.put_endpoint(world.endpoints[uid])
        return with_services(world, uid, changes, gone=False)
    told = with_services(world, uid, [], gone=True)
    del world.endpoints[uid]
    return told + world.topology.remove_endpoint(uid)


def any_order(draw: Any, plan: Plan) -> Iterator[Step]:
    """Wave after wave; within one, each droplet keeps its order and any droplet may be next."""
    for _, droplets in plan.waves():
        waiting = {name: list(steps) for name, steps in droplets.items()}
        while waiting:
            name = draw(st.sampled_from(sorted(waiting)))
            yield waiting[name].pop(0)
            if not waiting[name]:
                del waiting[name]


def all_arrive(world: World, fabric: Fabric) -> None:
    for source in world.endpoints.values():
        for target in world.endpoints.values():
            if source.vni == target.vni and source.workload:
                goal = {f"to {target.uid}"} if target.workload else {f"at {target.host}"}
                assert fabric.send(source.uid, source.host, target.addresses[0]) == goal, f"{source} → {target}"
        for fact in world.services.values():
            if source.vni == fact.vni and source.workload:
                found = fabric.send(source.uid, source.host, fact.addresses[0])
                assert found <= world.met[fact.uid], f"{source} → {fact}: {found}"


def roll_out(draw: Any, plan: Plan, world: World, fabric: Fabric) -> None:
    """Every packet arrives after every step, and at the end every droplet holds what it should."""
    for step in any_order(draw, plan):
        fabric.droplets[step.droplet].take(step)
        all_arrive(world, fabric)
    desired = {name: {entry.key: entry for entry in world.topology.desired_for(name)} for name in world.droplets}
    assert fabric.tables() == {name: table for name, table in desired.items() if table}


@examples(150)
@given(worlds(), st.data())
def test_no_packet_is_lost_while_one_change_is_rolled_out(built: tuple[World, Fabric], data: Any) -> None:
    world, fabric = built
    all_arrive(world, fabric)
    plan = Plan(change(data.draw, world))
    for step in any_order(data.draw, plan):
        fabric.droplets[step.droplet].take(step)
        all_arrive(world, fabric)


@examples(150)
@given(worlds(), st.integers(2, 5), st.data())
def test_no_packet_is_lost_while_several_changes_are_rolled_out_as_one(
    built: tuple[World, Fabric], changes: int, data: Any
) -> None:
    world, fabric = built
    plan = Plan()
    for _ in range(changes):
        plan.add(change(data.draw, world))
    roll_out(data.draw, plan, world, fabric)


@examples(150)
@given(worlds(), st.integers(0, 3), st.booleans(), st.data())
def test_no_packet_is_lost_while_an_endpoint_moves(
    built: tuple[World, Fabric], changes: int, gives_up: bool, data: Any
) -> None:
    """It is prepared at its next droplet; then it moves, or does not, beside other changes."""
    world, fabric = built
    members_ = {member.uid for fact in world.services.values() for member in fact.members}
    able = sorted(uid for uid, fact in world.endpoints.items() if fact.workload and uid not in members_)
    assume(able)
    fact = world.endpoints[data.draw(st.sampled_from(able))]
    target = data.draw(st.sampled_from([name for name in DROPLETS if name != fact.host]))
    world.endpoints[fact.uid] = prepared = replace(fact, standby=target)
    roll_out(data.draw, Plan(world.topology.put_endpoint(prepared)), world, fabric)
    assert {name: world.expected(name) for name in world.droplets} == {
        name: {entry.key: entry for entry in world.topology.desired_for(name)} for name in world.droplets
    }
    world.endpoints[fact.uid] = fact if gives_up else replace(fact, host=target)
    plan = Plan(world.topology.put_endpoint(world.endpoints[fact.uid]))
    for _ in range(changes):
        plan.add(change(data.draw, world))
    roll_out(data.draw, plan, world, fabric)


def test_an_endpoint_moves_only_to_where_it_is_prepared() -> None:
    world = World()
    for name in ("d1", "d2", "d3"):
        world.topology.put_droplet(droplet(name))
    world.topology.put_vpc(VpcFact(1, ("d1",)))
    world.topology.put_network(network(1, 1, ("d1",)))
    fact = endpoint(1, 1, 0, "d1")
    world.topology.put_endpoint(fact)
    with pytest.raises(ConflictError, match="not prepared"):
        world.topology.put_endpoint(replace(fact, host="d2"))
    world.topology.put_endpoint(replace(fact, standby="d2"))
    with pytest.raises(ConflictError, match="not prepared"):
        world.topology.put_endpoint(replace(fact, host="d3"))
    with pytest.raises(ConflictError, match="in use"):
        world.topology.remove_droplet("d2")
