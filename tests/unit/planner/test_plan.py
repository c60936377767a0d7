# SPDX-License-Identifier: Apache-2.0
"""Steps: differences of one droplet, their order, and how waiting steps make one another superfluous."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mizar.planner.entries import DropletEntry, Entry, LocalEntry, NetworkEntry, VpcEntry
from mizar.planner.facts import VpcFact
from mizar.planner.plan import Action, Change, Plan, Step, Wave, diff, in_order
from tests.unit.planner.budget import examples
from tests.unit.planner.fabric import Droplet
from tests.unit.planner.test_waves import worlds
from tests.unit.planner.world import World, droplet, endpoint, network

D1, D2, D3, D4 = (DropletEntry(droplet(name).address, name) for name in ("d1", "d2", "d3", "d4"))


@examples(60)
@given(worlds(), worlds(), st.sampled_from(["d1", "d2", "d3"]))
def test_a_daemon_that_holds_anything_comes_to_hold_what_is_desired(
    one: tuple[World, object], other: tuple[World, object], name: str
) -> None:
    """Every step is acceptable where it stands: nothing refers to what is not there yet, or no more."""
    desired, actual = list(other[0].topology.desired_for(name)), list(one[0].topology.desired_for(name))
    holder = Droplet()
    holder.table = {entry.key: entry for entry in actual}
    for step in diff(name, desired, actual):
        holder.take(step)
    assert holder.table == {entry.key: entry for entry in desired}


@examples(20)
@given(worlds(), st.sampled_from(["d1", "f1"]), st.randoms())
def test_what_is_there_already_takes_no_step(built: tuple[World, object], name: str, shuffle: Random) -> None:
    """Neither the order of entries nor that of members, addresses or prefixes within one is a difference."""
    desired = list(built[0].topology.desired_for(name))
    actual = [reversed_within(entry) for entry in desired]
    shuffle.shuffle(actual)
    assert diff(name, desired, actual) == []


def reversed_within(entry: Entry) -> Entry:
    if isinstance(entry, VpcEntry):
        return replace(entry, dividers=entry.dividers[::-1])
    if isinstance(entry, NetworkEntry):
        return replace(entry, bouncers=entry.bouncers[::-1], prefixes=entry.prefixes[::-1])
    if isinstance(entry, DropletEntry):
        return replace(entry, name="")
    return entry


def test_an_empty_daemon_gets_all_in_the_order_of_dependence_and_gives_it_up_in_reverse() -> None:
    world = World()
    for name in ("d1", "d2"):
        world.topology.put_droplet(droplet(name))
    world.topology.put_vpc(VpcFact(1, ("d2",)))
    world.topology.put_network(network(1, 1, ("d1",)))
    world.topology.put_endpoint(endpoint(1, 1, 0, "d2"))
    world.topology.put_endpoint(endpoint(1, 1, 1, "d1"))
    everything = list(world.topology.desired_for("d1"))
    assert [step.entry.order for step in diff("d1", everything[::-1], [])] == [0, 0, 1, 2, 3, 4]
    gone = diff("d1", [], everything)
    assert [step.entry.order for step in gone] == [4, 3, 2, 1, 0, 0]
    assert all(step.delete for step in gone)


def test_a_local_endpoint_with_an_mtu_of_its_own_choice_is_as_desired() -> None:
    """MTU 0 leaves the choice to the daemon, which reports what it chose."""
    world = World()
    world.topology.put_droplet(droplet("d1"))
    world.topology.put_vpc(VpcFact(1, ()))
    world.topology.put_network(network(1, 1, ()))
    local = world.topology.put_endpoint(endpoint(1, 1, 0, "d1"))[-1].after
    assert isinstance(local, LocalEntry)
    chosen = replace(local, mtu=1450)
    assert diff("d1", [local], [chosen]) == []
    assert [step.action for step in diff("d1", [chosen], [local])] == [Action.CHANGE]


def change(before: Entry | None, after: Entry | None, droplet: DropletEntry = D1) -> Change:
    return Change(droplet.name, droplet.address, before, after)


def in_brief(plan: Plan) -> list[tuple[Wave, str, Action, Entry]]:
    return [
        (wave, name, step.action, step.entry)
        for wave, droplets in plan.waves()
        for name, steps in droplets.items()
        for step in steps
    ]


def test_changes_of_one_entry_become_one() -> None:
    one, two, three = (VpcEntry(1, members) for members in ((), (D2.address,), (D3.address,)))
    assert in_brief(Plan([change(None, one), change(one, two)])) == [(Wave.LEARN, "d1", Action.ADD, two)]
    assert in_brief(Plan([change(one, two), change(two, three)])) == [(Wave.POINT, "d1", Action.CHANGE, three)]
    assert in_brief(Plan([change(one, two), change(two, None)])) == [(Wave.FORGET, "d1", Action.DELETE, one)]


def test_changes_that_lead_back_are_none() -> None:
    plan = Plan([change(D2, None)])
    assert plan
    plan.add([change(None, D2)])
    assert not plan
    assert plan.waves() == []
    assert not Plan([change(None, D2), change(D2, None)])


def test_a_plan_does_not_grow_with_changes_that_replace_one_another() -> None:
    one, two, three = (VpcEntry(1, members) for members in ((), (D2.address,), (D3.address,)))
    plan = Plan([change(one, two)])
    for _ in range(100):
        plan.add([change(two, three)])
        plan.add([change(three, two)])
    assert len(in_brief(plan)) == 1


def test_a_new_hop_set_is_told_at_once() -> None:
    """Nobody sends to its members yet, so that the first endpoint of a network waits for one wave only."""
    vpc = VpcEntry(1, (D1.address, D2.address))
    assert [wave for wave, *_ in in_brief(Plan([change(None, vpc), change(None, vpc, D2), change(None, vpc, D3)]))] == [
        Wave.LEARN
    ] * 3


def test_members_join_before_and_leave_after_all_others_are_told() -> None:
    """d2 takes the place of d1; d3 is no member; d4, new to the VPC, uses the old member until the new one is ready."""
    old, new = VpcEntry(1, (D1.address,)), VpcEntry(1, (D2.address,))
    plan = Plan([change(old, None, D1), change(None, new, D2), change(old, new, D3), change(None, new, D4)])
    assert in_brief(plan) == [
        (Wave.LEARN, "d2", Action.ADD, old),
        (Wave.LEARN, "d4", Action.ADD, old),
        (Wave.JOIN, "d2", Action.CHANGE, new),
        (Wave.POINT, "d3", Action.CHANGE, new),
        (Wave.POINT, "d4", Action.CHANGE, new),
        (Wave.LEAVE, "d1", Action.CHANGE, new),
        (Wave.FORGET, "d1", Action.DELETE, old),
    ]


def test_a_new_droplet_is_not_told_of_members_that_it_never_knew() -> None:
    """d1 goes in the same plan in which d2 comes and takes its place: d2 never hears of d1, nor d1 of d2."""
    old, new = VpcEntry(1, (D1.address,)), VpcEntry(1, (D2.address,))
    plan = Plan([change(old, None, D1), change(None, D2, D2), change(None, new, D2), change(D1, None, D1)])
    assert in_brief(plan) == [
        (Wave.LEARN, "d2", Action.ADD, D2),
        (Wave.LEARN, "d2", Action.ADD, VpcEntry(1, ())),
        (Wave.JOIN, "d2", Action.CHANGE, new),
        (Wave.FORGET, "d1", Action.DELETE, old),
        (Wave.FORGET, "d1", Action.DELETE, D1),
    ]


def test_steps_are_ordered_by_wave_then_action_then_dependence() -> None:
    steps = [
        Step("d1", Wave.FORGET, D1, Action.DELETE),
        Step("d1", Wave.FORGET, VpcEntry(1, ()), Action.DELETE),
        Step("d1", Wave.JOIN, VpcEntry(2, ()), Action.CHANGE),
        Step("d1", Wave.LEARN, VpcEntry(3, ())),
        Step("d1", Wave.LEARN, D2),
    ]
    assert in_order(steps) == [steps[4], steps[3], steps[2], steps[1], steps[0]]
