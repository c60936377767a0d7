# SPDX-License-Identifier: Apache-2.0
"""Members of hop sets: enough of them, spread evenly, and moved only when they have to be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mizar.model.errors import NotFoundError
from mizar.planner.placement import Placement
from tests.unit.planner.budget import examples

DROPLETS = [f"d{number}" for number in range(1, 9)]
GROUPS = [f"g{number}" for number in range(12)]


class Moves(RuleBasedStateMachine):
    """Droplets and groups come and go; what the placement answers is compared with what was before."""

    def __init__(self) -> None:
        super().__init__()
        self.placement = Placement()
        self.droplets: set[str] = set()
        self.away: set[str] = set()
        self.groups: dict[str, int] = {}

    def now(self) -> dict[str, tuple[str, ...]]:
        return {group: self.placement.members(group) for group in self.groups}

    def reported(self, before: dict[str, tuple[str, ...]], changed: Any) -> dict[str, tuple[set[str], set[str]]]:
        """For each group that changed: who came and who went; the answer must name exactly these."""
        after = self.now()
        assert {group for group in after if after[group] != before[group]} == {
            group for group in changed if changed[group] != before[group]
        }
        assert all(after[group] == members for group, members in changed.items())
        return {
            group: (set(after[group]) - set(before[group]), set(before[group]) - set(after[group])) for group in changed
        }

    @rule(name=st.sampled_from(DROPLETS))
    def add_droplet(self, name: str) -> None:
        before = self.now()
        changed = self.placement.add_droplet(name)
        if name in self.droplets:
            assert not changed
        for come, gone in self.reported(before, changed).values():
            assert come == {name}
            assert len(gone) <= 1
        self.droplets.add(name)

    @rule(name=st.sampled_from(DROPLETS))
    def reserve(self, name: str) -> None:
        before = self.now()
        for come, gone in self.reported(before, self.placement.reserve(name)).values():
            assert not gone
            assert come
        assert all(self.placement.members(group) == members for group, members in before.items() if members)
        self.droplets.add(name)
        self.away.add(name)

    @rule(name=st.sampled_from(DROPLETS))
    def leave(self, name: str) -> None:
        before = self.now()
        self.placement.leave(name)
        self.away |= self.droplets & {name}
        assert self.now() == before

    @rule(name=st.sampled_from(DROPLETS))
    def come_back(self, name: str) -> None:
        """It joins where members lack, and moves others only when it has no place at all."""
        before = self.now()
        idle = not any(name in members for members in before.values())
        changed = self.placement.come_back(name)
        for come, gone in self.reported(before, changed).values():
            assert come == {name}
            assert len(gone) <= int(idle)
        self.away.discard(name)

    @rule(name=st.sampled_from(DROPLETS))
    def remove_droplet(self, name: str) -> None:
        before = self.now()
        changed = self.placement.remove_droplet(name)
        self.droplets.discard(name)
        self.away.discard(name)
        assert set(changed) == {group for group, members in before.items() if name in members}
        for come, gone in self.reported(before, changed).values():
            assert gone == {name}
            assert len(come) <= 1 or not self.droplets - self.away
        self.only_who_is_here(before, exception=name)

    @rule(group=st.sampled_from(GROUPS), count=st.integers(1, 4))
    def put(self, group: str, count: int) -> None:
        before = self.placement.members(group) if group in self.groups else ()
        others = {name: members for name, members in self.now().items() if name != group}
        after = self.placement.put(group, count)
        self.groups[group] = count
        assert set(before) <= set(after) or set(after) <= set(before)
        assert others == {name: members for name, members in self.now().items() if name != group}
        self.only_who_is_here({group: before, **others})
        assert self.placement.put(group, count) == after

    @rule(group=st.sampled_from(GROUPS))
    def remove(self, group: str) -> None:
        self.placement.remove(group)
        self.groups.pop(group, None)

    @rule()
    def restart(self) -> None:
        """A placement that is rebuilt from what was stored is the same."""
        rebuilt = Placement(self.droplets)
        for name in self.away:
            rebuilt.leave(name)
        for group, members in self.now().items():
            rebuilt.restore(group, self.groups[group], members)
        assert rebuilt.settle() == {}
        assert self.now() == {group: rebuilt.members(group) for group in self.groups}
        self.placement = rebuilt

    def only_who_is_here(self, before: dict[str, tuple[str, ...]], exception: str = "") -> None:
        """New places went to droplets that can be told of them; all others only where nobody else was."""
        for group, members in self.now().items():
            new = set(members) - set(before[group])
            assert not new & self.away or not ({*before[group], *self.droplets} - self.away - {exception})

    @invariant()
    def every_group_has_as_many_distinct_members_as_it_can(self) -> None:
        for group, count in self.groups.items():
            members = self.placement.members(group)
            assert len(members) == len(set(members)) <= count
            assert set(members) <= self.droplets
            assert len(members) == count or self.droplets - self.away <= set(members)
            assert members or not self.droplets

    @invariant()
    def load_counts_members(self) -> None:
        held = [name for members in self.now().values() for name in members]
        assert dict(self.placement.load()) == {name: held.count(name) for name in self.droplets}


TestMoves = Moves.TestCase
TestMoves.settings = examples(100, stateful_step_count=40)


@examples(40)
@given(st.integers(2, 20), st.integers(20, 200), st.integers(1, 3), st.integers(0, 1000))
def test_no_droplet_carries_far_more_than_its_share(droplets: int, groups: int, count: int, seed: int) -> None:
    """A quarter more than the mean, rounded up, whatever the names are."""
    placement = Placement([f"d{number}" for number in range(droplets)])
    for number in range(groups):
        placement.put(f"{seed}/{number}", count)
    mean = groups * min(count, droplets) / droplets
    assert max(placement.load().values()) <= mean * 1.25 + 1


@examples(40)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_a_new_droplet_takes_about_its_share(droplets: int, seed: int) -> None:
    """Of 300 groups about 300/(n+1) move, all of them to the new one, and the load stays even."""
    placement = Placement([f"d{number}" for number in range(droplets)])
    for number in range(300):
        placement.put(f"{seed}/{number}", 1)
    changed = placement.add_droplet("new")
    share = 300 / (droplets + 1)
    assert 0.5 * share <= len(changed) <= 1.25 * share + 1
    assert max(placement.load().values()) <= 1.25 * share + 2


@examples(30)
@given(st.lists(st.integers(0, 15), min_size=10, max_size=60), st.integers(0, 1000))
def test_the_load_stays_even_while_droplets_come_and_go(flips: list[int], seed: int) -> None:
    placement, here = Placement(["d0", "d1"]), {0, 1}
    for number in range(100):
        placement.put(f"{seed}/{number}", 1)
    for number in flips:
        if number not in here:
            placement.add_droplet(f"d{number}")
            here.add(number)
        elif len(here) > 1:
            placement.remove_droplet(f"d{number}")
            here.remove(number)
    assert max(placement.load().values()) <= 1.5 * 100 / len(here) + 2


def test_the_choice_depends_on_names_alone() -> None:
    one, other = Placement(DROPLETS), Placement(DROPLETS[::-1])
    assert one.put("g", 3) == other.put("g", 3)


def test_a_stored_member_that_is_gone_is_replaced_when_it_settles() -> None:
    placement = Placement(["d1", "d2"])
    placement.restore("g", 2, ["d1", "lost"])
    placement.restore("alone", 1, ["d2", "d1"])
    changed = placement.settle()
    assert set(changed["g"]) == {"d1", "d2"}
    assert len(changed["alone"]) == 1


def test_no_droplets_no_members() -> None:
    placement = Placement()
    assert placement.put("g", 2) == ()
    assert placement.add_droplet("d1") == {"g": ("d1",)}
    with pytest.raises(NotFoundError):
        placement.members("other")


def test_below_the_bound_the_choice_follows_names_and_not_who_has_least() -> None:
    """The load of a moment must not decide, or two servers would differ and a new droplet would get all new groups."""
    names = ["d1", "d2", "d3", "d4"]
    chosen = set()
    for idle in names:
        placement = Placement(names)
        for name in names:
            for number in range(8 if name == idle else 10):
                placement.restore(f"{name}/{number}", 1, [name])
        chosen.add(placement.put("another", 1))
    assert len(chosen) == 1
