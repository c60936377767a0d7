# SPDX-License-Identifier: Apache-2.0
"""Steps: differences of one droplet, their order, and how waiting steps make one another superfluous."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mizar.planner.entries import DropletEntry, Entry, LocalEntry, NetworkEntry, VpcEntry
from mizar.planner.facts import VpcFact
from mizar.planner.plan import Action, Plan, Step, Wave, diff, in_order
from tests.unit.planner.budget import examples
from tests.unit.planner.fabric import Droplet
from tests.unit.planner.test_waves import worlds
from tests.unit.planner.world import World, droplet, endpoint, network

D1, D2 = (DropletEntry(droplet(name).address, name) for name in ("d1", "d2"))


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
    local = world.topology.put_endpoint(endpoint(1, 1, 0, "d1"))[-1].entry
    assert isinstance(local, LocalEntry)
    chosen = replace(local, mtu=1450)
    assert diff("d1", [local], [chosen]) == []
    assert [step.action for step in diff("d1", [chosen], [local])] == [Action.CHANGE]


def test_a_delete_is_forgotten_when_the_entry_is_wanted_again() -> None:
    plan = Plan([Step("d1", Wave.FORGET, D2, Action.DELETE)])
    plan.add([Step("d1", Wave.LEARN, D2)])
    assert plan.waves() == [(Wave.LEARN, {"d1": [Step("d1", Wave.LEARN, D2)]})]


def test_a_change_of_what_is_still_new_stays_new() -> None:
    """An endpoint that waits to be added must not come after what refers to it, only because it changed."""
    old, new = VpcEntry(1, ()), VpcEntry(1, (D1.address,))
    plan = Plan([Step("d1", Wave.LEARN, old)])
    plan.add([Step("d1", Wave.LEARN, new, Action.CHANGE)])
    assert plan.waves() == [(Wave.LEARN, {"d1": [Step("d1", Wave.LEARN, new)]})]


def test_an_add_and_its_delete_both_stay_because_the_add_may_be_under_way() -> None:
    plan = Plan([Step("d1", Wave.LEARN, D2)])
    plan.add([Step("d1", Wave.FORGET, D2, Action.DELETE)])
    assert [(wave, [step.delete for step in droplets["d1"]]) for wave, droplets in plan.waves()] == [
        (Wave.LEARN, [False]),
        (Wave.FORGET, [True]),
    ]


def test_a_plan_does_not_grow_with_changes_that_replace_one_another() -> None:
    plan = Plan()
    assert not plan
    for _ in range(100):
        plan.add([Step("d1", Wave.POINT, VpcEntry(1, (D1.address,)), Action.CHANGE)])
        plan.add([Step("d1", Wave.POINT, VpcEntry(1, (D2.address,)), Action.CHANGE)])
    assert plan
    assert [len(steps) for _, droplets in plan.waves() for steps in droplets.values()] == [1]


def test_steps_are_ordered_by_wave_then_action_then_dependence() -> None:
    steps = [
        Step("d1", Wave.FORGET, D1, Action.DELETE),
        Step("d1", Wave.FORGET, VpcEntry(1, ()), Action.DELETE),
        Step("d1", Wave.JOIN, VpcEntry(2, ()), Action.CHANGE),
        Step("d1", Wave.LEARN, VpcEntry(3, ())),
        Step("d1", Wave.LEARN, D2),
    ]
    assert in_order(steps) == [steps[4], steps[3], steps[2], steps[1], steps[0]]
