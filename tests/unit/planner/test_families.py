# SPDX-License-Identifier: Apache-2.0
"""Which droplets may stand between others, by the families that all have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mizar.planner.families import BOTH, FleetFamilies

kinds = st.sampled_from([frozenset({4}), frozenset({6}), BOTH])
fleets = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(kinds, st.booleans()), min_size=1)


def fleet(droplets: dict[str, tuple[frozenset[int], bool]]) -> FleetFamilies:
    found = FleetFamilies()
    for name, (families, daemon) in droplets.items():
        found.put(name, families, daemon=daemon)
    return found


@given(fleets)
def test_a_member_shares_a_family_with_every_droplet(droplets: dict[str, tuple[frozenset[int], bool]]) -> None:
    """Unless there is no such droplet with a daemon: then all are members, and those of one family are cut off."""
    found = fleet(droplets)
    daemons = {name for name, (_, daemon) in droplets.items() if daemon}
    able = {name for name in daemons if all(droplets[name][0] & families for families, _ in droplets.values())}
    assert found.members() == (able or daemons)
    if able:
        assert not any(map(found.cut_off, droplets))


@given(fleets, st.sampled_from("abcdefgh"))
def test_a_droplet_that_went_counts_no_more(droplets: dict[str, tuple[frozenset[int], bool]], name: str) -> None:
    """It is as if it had never been there; one that is put twice counts once."""
    found = fleet(droplets)
    for again, (families, daemon) in droplets.items():
        found.put(again, families, daemon=daemon)
    found.remove(name)
    rest = fleet({other: row for other, row in droplets.items() if other != name})
    assert (found.members(), found.mixed, found.split) == (rest.members(), rest.mixed, rest.split)


def test_two_families_and_nobody_with_both() -> None:
    """Each is cut off from the other; a droplet that has no daemon joins nothing."""
    found = fleet({"a": (frozenset({4}), True), "b": (frozenset({6}), True), "c": (BOTH, False)})
    assert found.cut_off("a")
    assert found.cut_off("b")
    assert not found.cut_off("c")
    found.put("c", BOTH, daemon=True)
    assert found.members() == {"c"}
    assert not found.cut_off("a")
