# SPDX-License-Identifier: Apache-2.0
"""Numbers of VPCs and networks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.model.errors import ConflictError, ExhaustedError, InvalidError
from mizar.planner.vni import LAST_VNI, allocate_network_id, allocate_number, allocate_vni, vpc_identity
from tests.unit.planner.budget import examples


@examples()
@given(st.sets(st.integers(1, 40)), st.integers(0, 45))
def test_the_next_free_vni_after_the_cursor(taken: set[int], cursor: int) -> None:
    number = allocate_vni(taken.__contains__, cursor=cursor)
    assert number not in taken
    assert number > cursor
    assert all(between in taken for between in range(cursor + 1, number))


def test_after_the_last_vni_comes_the_first() -> None:
    assert allocate_vni(lambda _: False, cursor=LAST_VNI) == 1
    assert allocate_vni({1, 2}.__contains__, cursor=LAST_VNI) == 3
    assert allocate_vni(lambda _: False, cursor=LAST_VNI + 7) == 1


def test_a_requested_vni_is_given_taken_or_out_of_range() -> None:
    assert allocate_vni(lambda _: False, requested=LAST_VNI) == LAST_VNI
    with pytest.raises(ConflictError, match="VNI 7 is taken"):
        allocate_vni({7}.__contains__, requested=7)
    for number in (0, -1, LAST_VNI + 1):
        with pytest.raises(InvalidError, match="expected a VNI"):
            allocate_vni(lambda _: False, requested=number)


def test_exhaustion() -> None:
    with pytest.raises(ExhaustedError, match="3 to 5"):
        allocate_vni(lambda _: True, cursor=3, vnis=range(3, 6))


def test_only_some_may_be_chosen() -> None:
    """From the one after the cursor on, and then from the first; one that is asked for need not be among them."""
    some = range(3, 6)
    assert [allocate_vni(set().__contains__, cursor=cursor, vnis=some) for cursor in (0, 2, 3, 5, 99)] == [
        3,
        3,
        4,
        3,
        3,
    ]
    assert allocate_vni({5}.__contains__, cursor=4, vnis=some) == 3
    assert allocate_vni(set().__contains__, requested=7, vnis=some) == 7


def test_numbers_are_no_vnis() -> None:
    assert allocate_number(set().__contains__) == 2**24
    assert allocate_number({2**24 + 1}.__contains__, cursor=2**24) == 2**24 + 2


def test_network_ids_begin_at_one() -> None:
    assert allocate_network_id(lambda _: False) == 1
    assert allocate_network_id({2}.__contains__, cursor=1) == 3


def test_an_identity_is_two_numbers_of_64_bits() -> None:
    one, other = vpc_identity("t1", "v1"), vpc_identity("t1", "v2")
    assert [len(part) for part in one.split(":")] == [16, 16]
    assert one.split(":")[0] == other.split(":")[0]
    assert one != other
    assert one == vpc_identity("t1", "v1")
