# SPDX-License-Identifier: Apache-2.0
"""Maglev's promises: shares follow weights, little moves when members come and go, and order does not matter."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mizar.transit import maglev

names = st.lists(st.binary(min_size=6, max_size=6), min_size=1, max_size=24, unique=True)
quick = settings(max_examples=30, deadline=None)


def shares(members: frozenset[tuple[bytes, int]]) -> Counter[bytes | None]:
    return Counter(maglev.table(members))


def test_nobody_has_nothing() -> None:
    assert set(maglev.table(frozenset())) == {None}


@quick
@given(names)
def test_equal_members_have_equal_shares(found: list[bytes]) -> None:
    """Each takes its turn: no two differ by more than one place."""
    counted = shares(maglev.equal(found))
    assert set(counted) == set(found)
    assert max(counted.values()) - min(counted.values()) <= 1


@quick
@given(st.dictionaries(st.binary(min_size=6, max_size=6), st.integers(1, 1000), min_size=1, max_size=16))
def test_shares_follow_weights(weights: dict[bytes, int]) -> None:
    """To within a thousandth of the table."""
    counted = shares(frozenset(weights.items()))
    whole = sum(weights.values())
    for name, weight in weights.items():
        assert abs(counted[name] - maglev.PLACES * weight / whole) <= 4


@quick
@given(names.filter(lambda found: len(found) > 1))
def test_a_member_that_goes_moves_little_but_its_own_share(found: list[bytes]) -> None:
    """Of the places of the others, at most a quarter changes hands (Maglev's own figure is a few percent)."""
    before = maglev.table(maglev.equal(found))
    after = maglev.table(maglev.equal(found[1:]))
    moved = sum(a != b for a, b in zip(before, after, strict=True) if a != found[0])
    assert moved <= maglev.PLACES / 4


@quick
@given(names)
def test_the_order_of_members_does_not_matter(found: list[bytes]) -> None:
    """All droplets compute the same table, whatever they were told first."""
    maglev.table.cache_clear()
    one = maglev.table(maglev.equal(found))
    maglev.table.cache_clear()
    assert maglev.table(maglev.equal(reversed(found))) == one
