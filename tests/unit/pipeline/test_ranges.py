# SPDX-License-Identifier: Apache-2.0
"""Sets of numbers behave like sets, whatever the spans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.pipeline.ranges import Ranges

WIDTH = 6
NUMBERS = range(1 << WIDTH)


def members(ranges: Ranges) -> set[int]:
    return {number for number in NUMBERS if number in ranges}


@st.composite
def some_ranges(draw: st.DrawFn) -> Ranges:
    pairs = draw(st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)), max_size=5))
    return Ranges(WIDTH, tuple((min(pair), max(pair)) for pair in pairs))


@given(some_ranges(), some_ranges())
def test_ranges_are_sets(one: Ranges, other: Ranges) -> None:
    """Union, intersection, difference and complement are those of the sets of numbers."""
    assert members(one & other) == members(one) & members(other)
    assert members(one | other) == members(one) | members(other)
    assert members(one - other) == members(one) - members(other)
    assert members(~one) == set(NUMBERS) - members(one)


@given(some_ranges())
def test_equal_sets_are_equal_values(ranges: Ranges) -> None:
    """There is one way to write a set."""
    assert Ranges.of(WIDTH, members(ranges)) == ranges
    assert ranges.is_empty == (not members(ranges))


@given(some_ranges())
def test_values_with_masks_cover_exactly_the_set(ranges: Ranges) -> None:
    """Each number of the set is matched by one value with its mask, each other number by none."""
    prefixes = list(ranges.prefixes())
    for number in NUMBERS:
        matched = sum(number & mask == value for value, mask in prefixes)
        assert matched == (number in ranges)


@given(some_ranges(), st.integers(1, WIDTH))
def test_low_bits(ranges: Ranges, width: int) -> None:
    """The low bits of a set are those of its numbers."""
    mask = (1 << width) - 1
    low = ranges.low(width)
    assert {number for number in range(1 << width) if number in low} == {n & mask for n in members(ranges)}


def test_out_of_range_is_refused() -> None:
    """A number that does not fit the width is no value."""
    with pytest.raises(ValueError, match="expected numbers from 0 to 63"):
        Ranges(WIDTH, ((60, 64),))
