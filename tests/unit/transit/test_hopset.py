# SPDX-License-Identifier: Apache-2.0
"""The sixteen places: even, the same for the same members, and moved as little as possible."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.transit.hopset import PLACES, fill

members = st.sets(st.integers(1, 1 << 20), min_size=1, max_size=PLACES)


@given(members, st.lists(st.integers(0, 40), min_size=PLACES, max_size=PLACES))
def test_places_are_shared_evenly_whatever_was_there(wanted: set[int], previous: list[int]) -> None:
    """Every member has its share, rounded down or up, and nobody else has a place."""
    counts = Counter(fill(wanted, previous))
    assert set(counts) == wanted
    assert max(counts.values()) - min(counts.values()) <= 1


@given(members)
def test_order_does_not_matter_and_repetition_changes_nothing(wanted: set[int]) -> None:
    places = fill(sorted(wanted))
    assert places == fill(sorted(wanted, reverse=True))
    assert fill(wanted, places) == places


@given(members.filter(lambda found: len(found) > 1), st.data())
def test_who_goes_gives_up_its_own_places_only(wanted: set[int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(wanted)))
    before = fill(wanted)
    after = fill(wanted - {gone}, before)
    assert all(old in (gone, new) for old, new in zip(before, after, strict=True))


@given(members.filter(lambda found: len(found) < PLACES), st.integers(1 << 21, 1 << 22))
def test_who_comes_takes_its_own_share_only(wanted: set[int], new: int) -> None:
    before = fill(wanted)
    after = fill(wanted | {new}, before)
    assert all(now in (new, then) for then, now in zip(before, after, strict=True))


def test_limits() -> None:
    """No members: sixteen zeros. More than there are places: an error."""
    assert fill([], [1] * PLACES) == (0,) * PLACES
    assert sorted(fill(range(1, PLACES + 1))) == list(range(1, PLACES + 1))
    with pytest.raises(ValueError, match="16 places, not 17"):
        fill(range(1, PLACES + 2))
