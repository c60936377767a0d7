# SPDX-License-Identifier: Apache-2.0
"""What a protection's lists take of a droplet, and in which order they are replaced."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.model.prefix_list import PrefixList, listed
from mizar.transit import ddos_values as values
from tests.unit.planner.budget import examples

PAGE = 4096


@st.composite
def lists(draw: st.DrawFn) -> PrefixList:
    """Of both families, dense enough that one list is inside of the other's."""
    rows: list[list[tuple[int, int]]] = []
    for bits in (32, 128):
        shift = bits - 8
        drawn = draw(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 8)), max_size=60))
        rows.append([(first >> 8 - length << 8 - length << shift, length) for first, length in drawn])
    return listed(rows[0], rows[1])


def protection(uid: str, block: PrefixList, allow: PrefixList | None = None) -> pb.DdosProtection:
    """As a droplet is told of one."""
    found = [one.packed if one is not None and len(one) else b"" for one in (block, allow)]
    names = [sha256(one).digest() if one else b"" for one in found]
    return pb.DdosProtection(
        uid=uid, number=1, block=found[0], block_digest=names[0], allow=found[1], allow_digest=names[1]
    )


@examples()
@given(lists(), lists())
def test_lists_take_no_more_than_is_counted(block: PrefixList, allow: PrefixList) -> None:
    """Boundaries, the index in front of them, pages that are not full, and the kernel's own page of each table."""
    one = protection("a", block, allow)
    taken = sum(PAGE + -(-len(cells) * cells.itemsize // PAGE) * PAGE for cells in values.tables(one).values())
    assert taken <= values.lists_bytes(one)
    assert (taken == 0) == (values.lists_bytes(one) == 0)


@pytest.mark.parametrize(("count", "ipv4", "ipv6"), [(1000, 7, 11), (100_000, 518, 1171), (1_000_000, 4034, 11718)])
def test_an_index_is_counted(count: int, ipv4: int, ipv6: int) -> None:
    """In pages of the kernel's, beside those that every table takes."""
    of4 = protection("a", PrefixList([(place << 8, 32) for place in range(count)]))
    of6 = protection("a", PrefixList((), [(place << 8, 128) for place in range(count)]))
    assert [values.lists_bytes(one) // PAGE - 4 for one in (of4, of6)] == [ipv4, ipv6]


def test_what_becomes_shorter_comes_first() -> None:
    """So that old and new of all together are never more than the quota has room for."""
    long, short = (PrefixList([(place << 8, 32) for place in range(count)]) for count in (2000, 2))
    held = {uid: protection(uid, one) for uid, one in (("grows", short), ("shrinks", long), ("stays", long))}
    changed = [
        protection(uid, one) for uid, one in (("new", long), ("grows", long), ("stays", long), ("shrinks", short))
    ]
    assert [one.uid for one in values.in_turn(changed, held)] == ["shrinks", "stays", "grows", "new"]


def test_what_is_no_list_is_not_counted() -> None:
    """It is refused, as where it is read."""
    with pytest.raises(InvalidError, match="packed list"):
        values.lists_bytes(pb.DdosProtection(block=b"text"))
