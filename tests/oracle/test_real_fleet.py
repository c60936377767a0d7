# SPDX-License-Identifier: Apache-2.0
"""Whole ways, hop by hop in the kernel: what the planner plans, what the oracle says and what the programs do agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given

from mizar.oracle.fleet import End
from tests.oracle.real_fleet import Journey, RealFleet, journeys
from tests.unit.planner.budget import examples

pytestmark = [pytest.mark.root, pytest.mark.long]  # test_whole.py is the short one


@pytest.fixture(scope="module")
def fleet() -> Iterator[RealFleet]:
    loaded = RealFleet()
    yield loaded
    loaded.close()


def test_every_hop_does_what_the_oracle_says(fleet: RealFleet) -> None:
    """The same ways every time; they end in every way but in circles."""
    ends: Counter[End] = Counter()

    @examples(150)
    @given(journeys())
    def each(journey: Journey) -> None:
        ends.update(way.end for way in fleet.check(journey))

    each()
    assert ends[End.CIRCLED] == 0
    assert min(ends[end] for end in (End.DELIVERED, End.DROPPED, End.LEFT)) > 10
