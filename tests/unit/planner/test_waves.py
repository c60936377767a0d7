# SPDX-License-Identifier: Apache-2.0
"""While changes are rolled out, packets between endpoints that stay arrive, whichever droplet is faster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mizar.planner.facts import VpcFact
from mizar.planner.plan import Change, Plan, Step
from tests.unit.planner.budget import examples
from tests.unit.planner.fabric import Fabric
from tests.unit.planner.world import World, droplet, endpoint, network

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
    fabric.run(plan)
    return world, fabric


def change(draw: Any, world: World) -> list[Change]:
    """One change of one object. The endpoints that it adds or removes are not in world.endpoints afterwards."""
    what = draw(st.sampled_from(["vpc", "network", "add", "remove", "tunnel"]))
    vni, number = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    if what == "vpc":
        return world.topology.put_vpc(VpcFact(vni, draw(members)))
    if what == "network":
        return world.topology.put_network(replace(world.networks[vni, number], bouncers=draw(members)))
    if what == "add":
        world.added += 1
        return world.topology.put_endpoint(endpoint(vni, number, world.added, draw(hosts)))
    if not world.endpoints:
        return []
    uid = draw(st.sampled_from(sorted(world.endpoints)))
    if what == "tunnel":
        world.endpoints[uid] = replace(world.endpoints[uid], tunnel=2)
        return world.topology.put_endpoint(world.endpoints[uid])
    del world.endpoints[uid]
    return world.topology.remove_endpoint(uid)


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
    for step in any_order(data.draw, plan):
        fabric.droplets[step.droplet].take(step)
        all_arrive(world, fabric)
    for name in world.droplets:
        table = fabric.droplets[name].table
        assert table == {entry.key: entry for entry in world.topology.desired_for(name)}
