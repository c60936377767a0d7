# SPDX-License-Identifier: Apache-2.0
"""Plans on a host of values: whole, repeatable, repairing, and never at the cost of others."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.kernel.topology_facts import GROUP, VLAN_FILTERING, VNI_FILTER, Link, Mark, Vxlan, ranges
from mizar.topology.compare import State, compare
from mizar.topology.plan import plan, plan_removal
from mizar.topology.steps import GivePort, MakeLink, RemoveLink, SetLink, TakePort
from mizar.topology.wishes import wishes
from tests.unit.topology.world import HEAD, SMALL, World, described

WISHES = wishes(described())
KEYS = [("", "br0"), ("", "vx0"), ("", "v0-br"), ("a", "eth0")]


@pytest.fixture
def made() -> World:
    """The small topology, made."""
    world = World()
    world.do(plan(WISHES, world.present()).steps)
    return world


def repaired(world: World) -> list[str]:
    """Does what the plan says and returns it in words; afterwards everything is as wanted."""
    found = plan(WISHES, world.present())
    assert not found.conflicts
    assert not found.refusals
    world.do(found.steps)
    assert plan(WISHES, world.present()).steps == []
    assert {row.state for row in compare(WISHES, world.present())} == {State.AS_WANTED}
    return [str(step) for step in found.steps]


def test_nothing_becomes_everything_and_then_there_is_nothing_to_do() -> None:
    """Namespaces before what is in them, bridges before their ports."""
    world = World()
    assert repaired(world) == [
        "make namespace a",
        "make bridge br0 (MTU 1450)",
        "make vxlan vx0 (external, VNIs 7, 100-103, local 192.0.2.1, port 4789, at br0)",
        "make veth v0-br (at br0) and eth0 in a (10.0.0.1/24)",
    ]
    assert sorted(world.links) == sorted(KEYS)


@pytest.mark.parametrize(
    ("key", "fields", "words"),
    [
        (("", "br0"), {"mtu": 1400}, "set MTU of br0: 1400 -> 1450"),
        (("", "br0"), {"up": False}, "set state of br0: down -> up"),
        (("", "v0-br"), {"master": ""}, "set bridge of v0-br: none -> br0"),
        (("", "vx0"), {"vnis": frozenset({7})}, "set VNIs of vx0: 7 -> 7, 100-103"),
        (("a", "eth0"), {"addresses": frozenset()}, "set addresses of eth0 in a: none -> 10.0.0.1/24"),
    ],
)
def test_drift_is_repaired_in_place(made: World, key: tuple[str, str], fields: dict[str, Any], words: str) -> None:
    """One step for what was changed, and none for the rest."""
    made.change(key, **fields)
    assert repaired(made) == [words]


def test_what_cannot_change_is_made_anew(made: World) -> None:
    """A VXLAN device on another port; a veth whose other end is elsewhere."""
    made.change(("", "vx0"), vxlan=Vxlan(0, True, True, "192.0.2.1", 4790, False))
    made.change(("", "v0-br"), peer=None)
    made.change(("a", "eth0"), peer=None)
    words = repaired(made)
    assert [word.split(" ")[0] for word in words] == ["remove", "remove", "remove", "make", "make"]


def test_a_removed_bridge_takes_its_ports_back(made: World) -> None:
    """Whoever deletes a bridge releases its ports; they are ports again afterwards."""
    made.do([RemoveLink("bridge br0", (made.links["", "br0"].link,), "somebody")])
    assert repaired(made) == [
        "make bridge br0 (MTU 1450)",
        "set bridge of vx0: none -> br0",
        "set bridge of v0-br: none -> br0",
    ]


def test_a_bridge_that_is_something_else_is_made_anew_with_its_ports(made: World) -> None:
    """Its ports are planned as if they had none: they lose it while it is made."""
    found = made.links["", "br0"]
    made.links["", "br0"] = replace(found, link=replace(found.link, kind="dummy"))
    words = repaired(made)
    assert words[:2] == ["remove br0: it is not as wanted", "make bridge br0 (MTU 1450)"]
    assert "set bridge of v0-br: none -> br0" in words


def test_a_half_made_link_is_finished(made: World) -> None:
    """Group without alias: somebody was interrupted between making and marking."""
    made.links["", "br0"] = replace(made.links["", "br0"], alias="")
    made.links["a", "eth0"] = replace(made.links["a", "eth0"], alias="")
    found = plan(WISHES, made.present())
    made.do(found.steps)
    assert plan(WISHES, made.present()).steps == []
    assert made.links["", "br0"].mark == Mark("gw", "bridge br0")


def test_things_of_others_are_conflicts() -> None:
    """A stranger's interface, another topology's namespace, a stranger's namespace: all are named."""
    world = World()
    world.put(Link("", "br0", "bridge"))
    world.put(Link("", "vx0", "vxlan"), Mark("other", "vtep vx0"))
    world.namespaces["a"] = None
    found = plan(WISHES, world.present())
    assert found.conflicts == [
        "namespace a is there, and somebody else made it: it is left alone",
        "br0 is there, and somebody else made it, not gw: it is left alone",
        "vx0 is there, and topology other made it, not gw: it is left alone",
    ]
    assert not [step for step in found.steps if isinstance(step, RemoveLink | SetLink)]
    states = {row.object: row.state for row in compare(WISHES, world.present())}
    assert states["bridge br0"] is states["vtep vx0"] is states["namespace a"] is State.TAKEN


def test_our_group_with_another_s_alias_is_another_s() -> None:
    """The group alone proves nothing when somebody has written an alias of his own."""
    world = World()
    world.put(Link("", "br0", "bridge"), group=GROUP, alias="uplink of rack 7")
    assert plan(WISHES, world.present()).conflicts


def test_what_is_no_longer_described_goes(made: World) -> None:
    """Links and namespaces that carry the mark, and nothing else."""
    made.put(Link("", "eth7", ""))
    fewer = wishes(described(HEAD + "  bridges: [{name: br0, mtu: 1450}]\n"))
    unwanted = [row.interface for row in compare(fewer, made.present()) if row.state is State.UNWANTED]
    assert unwanted == ["vx0", "v0-br", "eth0", ""]
    made.do(plan(fewer, made.present()).steps)
    assert sorted(made.links) == [("", "br0"), ("", "eth7")]
    assert made.namespaces == {}
    assert plan(fewer, made.present()).steps == []


def test_removal_takes_everything_that_was_made_and_nothing_else(made: World) -> None:
    """Also what the description no longer names; a second removal has nothing to do."""
    made.put(Link("", "eth7", ""))
    made.put(Link("", "br9", "bridge"), Mark("other", "bridge br9"))
    found = plan_removal(wishes(described(HEAD + "  bridges: []\n")), made.present())
    made.do(found.steps)
    assert sorted(made.links) == [("", "br9"), ("", "eth7")]
    assert made.namespaces == {}
    assert plan_removal(WISHES, made.present()).steps == []


def test_a_namespace_with_somebody_s_interface_is_not_removed(made: World) -> None:
    """It would end with the namespace; the fallback devices of the kernel do not count."""
    made.put(Link("a", "sit0", "sit"))
    assert not plan_removal(WISHES, made.present()).conflicts
    made.put(Link("a", "eth9", "veth"))
    assert "eth9" in plan_removal(WISHES, made.present()).conflicts[0]


def test_missing_features_are_refused_by_name() -> None:
    """Never something lesser: the plan is there to be read, and must not be done."""
    world = World(missing={VLAN_FILTERING: "Operation not supported"})
    text = HEAD + "  bridges: [{name: br0, vlanFiltering: true}]\n"
    found = plan(wishes(described(text)), world.present())
    assert found.refusals == [f"this kernel lacks {VLAN_FILTERING}: Operation not supported"]
    assert wishes(described(text)).features == {VLAN_FILTERING}
    assert VNI_FILTER in WISHES.features


def test_an_existing_namespace_is_used_and_never_made() -> None:
    """Somebody else makes it and removes it."""
    text = SMALL.replace("{name: a}", "{name: a, existing: true}")
    wanted, world = wishes(described(text)), World()
    assert "existing: true" in plan(wanted, world.present()).refusals[0]
    world.namespaces["a"] = None
    world.do(plan(wanted, world.present()).steps)
    assert ("a", "eth0") in world.links
    world.do(plan_removal(wanted, world.present()).steps)
    assert world.namespaces == {"a": None}


PORT = HEAD + "  namespaces: [{name: a}]\n  eswitches: [{namespace: a, ports: [{name: p, interface: eth1}]}]\n"


def test_a_port_is_taken_and_given_back() -> None:
    """It is not made, so it is not removed."""
    wanted, world = wishes(described(PORT)), World()
    assert "no interface eth1" in plan(wanted, world.present()).refusals[0]
    world.put(Link("", "eth1", ""))
    assert TakePort("port p", "eth1", "a") in plan(wanted, world.present()).steps
    del world.links["", "eth1"]
    world.namespaces["a"] = Mark("gw", "namespace")
    world.put(Link("a", "eth1", ""), Mark("gw", "port p"))
    assert plan(wanted, world.present()).steps == []
    removal = plan_removal(wanted, world.present())
    assert removal.steps[0] == GivePort("port p", "eth1", "a")
    assert not removal.conflicts


def test_a_port_with_an_alias_is_somebody_s() -> None:
    """The alias would be lost."""
    world = World()
    world.put(Link("", "eth1", ""), alias="uplink of rack 7")
    assert "uplink of rack 7" in plan(wishes(described(PORT)), world.present()).conflicts[0]


@given(st.frozensets(st.integers(1, 60)))
def test_ranges_hold_exactly_the_vnis(vnis: frozenset[int]) -> None:
    """And no two of them touch."""
    found = ranges(vnis)
    assert {vni for first, last in found for vni in range(first, last + 1)} == vnis
    assert all(b[0] > a[1] + 1 for a, b in pairwise(found))


@given(st.data())
def test_any_drift_is_repaired(data: st.DataObject) -> None:
    """Whatever part of it is removed or changed, one plan brings everything back."""
    world = World()
    world.do(plan(WISHES, world.present()).steps)
    for key in data.draw(st.lists(st.sampled_from(KEYS), unique=True)):
        if key not in world.links:
            continue
        found = world.links[key]
        what = data.draw(st.sampled_from(["remove", "down", "mtu", "alias", "kind"]))
        if what == "remove":
            ends = (found.link, *([world.links[found.link.peer].link] if found.link.peer in world.links else []))
            world.do([RemoveLink("", ends, "")])
        elif what == "alias":
            world.links[key] = replace(found, alias="")
        else:
            changes: dict[str, dict[str, Any]] = {
                "down": {"up": False},
                "mtu": {"mtu": 1300},
                "kind": {"kind": "dummy"},
            }
            world.change(key, **changes[what])
    repaired(world)


def test_steps_say_what_they_make() -> None:
    """Each link is made once."""
    made = [step for step in plan(WISHES, World().present()).steps if isinstance(step, MakeLink)]
    assert [link.name for step in made for link in step.links] == ["br0", "vx0", "v0-br", "eth0"]
