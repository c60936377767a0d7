# SPDX-License-Identifier: Apache-2.0
"""Where instances of functions are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mizar.planner.instances import seats

DROPLETS = ("d1", "d2", "d3", "d4")
some = st.sets(st.sampled_from(DROPLETS))


@given(
    st.integers(1, 6),
    st.dictionaries(st.sampled_from(["a-1", "a-2", "a-3", "a-4"]), st.sampled_from(DROPLETS)),
    some,
    some,
    st.dictionaries(st.sampled_from(DROPLETS), st.integers(0, 5)),
)
def test_instances_are_as_many_as_wanted_and_only_where_they_can_be(
    count: int, held: dict[str, str], usable: set[str], gone: set[str], load: dict[str, int]
) -> None:
    """Those that are well stay; one whose droplet is gone goes exactly when another can take its place."""
    going, new = seats(count, held, usable, gone, load)
    well = {name for name, droplet in held.items() if droplet not in gone}
    assert set(new) <= usable - gone
    assert set(going) <= set(held)
    left = [held[name] for name in held if name not in going] + new
    if usable - gone:
        assert len(left) == count
        assert not set(held) - set(going) - well
    else:
        assert new == []
        assert len(left) == (min(count, len(held)) if len(well) < count else count)


def test_those_that_are_apart_are_rather_fewer() -> None:
    """One on each droplet; what is well lets those go that are gone; the newest one goes first."""
    assert seats(2, {}, ("d1",), (), {}, apart=True) == ([], ["d1"])
    assert seats(2, {"a-1": "d1", "a-2": "d2"}, ("d2",), ("d1",), {}, apart=True) == (["a-1"], [])
    assert seats(2, {"a-1": "d1", "a-2": "d2"}, ("d3",), ("d1", "d2"), {}, apart=True) == (["a-1", "a-2"], ["d3"])
    assert seats(2, {"a-1": "d1"}, (), ("d1",), {}, apart=True) == ([], [])
    assert seats(1, {"a-9": "d1", "a-10": "d2"}, DROPLETS, (), {}, apart=True) == (["a-10"], [])


def test_they_are_spread() -> None:
    """Each droplet gets one before any gets two; among equals the one with the fewest of others' instances."""
    assert seats(3, {}, DROPLETS, (), {"d1": 2, "d2": 1}) == ([], ["d3", "d4", "d2"])
    assert seats(2, {"a-1": "d1"}, DROPLETS, (), {}) == ([], ["d2"])
    assert seats(2, {"a-1": "d1", "a-2": "d2"}, ("d1",), ("d2",), {}) == (["a-2"], ["d1"])
    assert seats(2, {"a-1": "d1", "a-2": "d2", "a-3": "d2"}, DROPLETS, (), {}) == (["a-3"], [])
