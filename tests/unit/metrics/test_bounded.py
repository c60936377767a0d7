# SPDX-License-Identifier: Apache-2.0
"""Labels are bounded: whatever tenants do there are so many series, and no counter goes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mizar.metrics.bounded import OTHER, Bounded


def test_the_first_have_series_and_the_others_share_one() -> None:
    """Nobody changes places while it is there."""
    bounded: Bounded[int] = Bounded(2)
    now = {1: {"packets": 10}, 2: {"packets": 20}, 3: {"packets": 30}, 4: {"packets": 40}}
    assert bounded.take(now) == {"1": {"packets": 10}, "2": {"packets": 20}, OTHER: {"packets": 70}}
    assert bounded.take(now | {3: {"packets": 31}})[OTHER] == {"packets": 71}


def test_who_goes_takes_nothing_along() -> None:
    """`other` keeps what it has counted; a free place goes to the next newcomer, not to one of the others."""
    bounded: Bounded[int] = Bounded(1)
    bounded.take({1: {"packets": 1}, 2: {"packets": 5}})
    assert bounded.take({1: {"packets": 1}}) == {"1": {"packets": 1}, OTHER: {"packets": 5}}
    assert bounded.take({2: {"packets": 2}}) == {"2": {"packets": 2}, OTHER: {"packets": 5}}


@given(st.lists(st.dictionaries(st.integers(1, 6), st.integers(0, 9), max_size=6), max_size=12))
def test_no_counter_of_others_goes_back(steps: list[dict[int, int]]) -> None:
    """Whatever comes, goes, and begins anew."""
    bounded: Bounded[int] = Bounded(2)
    last = 0
    for step in steps:
        found = bounded.take({key: {"packets": count} for key, count in step.items()})
        assert len(found) <= 3
        other = found.get(OTHER, {"packets": 0})["packets"]
        assert other >= last
        last = other
