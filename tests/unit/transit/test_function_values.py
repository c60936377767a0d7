# SPDX-License-Identifier: Apache-2.0
"""How many functions a droplet takes at a stage, and at those that one packet meets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mizar.model.errors import ExhaustedError
from mizar.transit.function_values import chains_of


def functions(**counts: int) -> Any:
    """So many at each stage, each at one."""
    found = []
    for stage, count in counts.items():
        for number in range(count):
            name = f"{stage.lower()}-{number}"
            member = SimpleNamespace(function=SimpleNamespace(name=name))
            found.append(SimpleNamespace(name=name, message=SimpleNamespace(order=1), stages=(stage,), member=member))
    return cast(Any, found)


@pytest.mark.parametrize(
    "counts",
    [
        {"ENDPOINT_EGRESS": 16},
        {"ON_XDP_TX": 16, "ON_XDP_DROP": 16, "ENDPOINT_INGRESS": 16},
        {"ENDPOINT_EGRESS": 8, "ON_XDP_SCALED_EP": 8, "ENDPOINT_INGRESS": 8, "ON_XDP_PASS": 8},
    ],
)
def test_there_is_room_for_sixteen_that_a_packet_meets(counts: dict[str, int]) -> None:
    chains = chains_of(functions(**counts))
    assert {place.stage: len(members) for place, members in chains.items() if members} == counts


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"ON_XDP_TX": 17}, "ON_XDP_TX has room for 16 functions"),
        ({"ENDPOINT_EGRESS": 9, "ENDPOINT_INGRESS": 8}, "not 9 at ENDPOINT_EGRESS and 8 at ENDPOINT_INGRESS"),
        ({"ON_XDP_SCALED_EP": 1, "ON_XDP_DROP": 16}, "not 1 at ON_XDP_SCALED_EP and 16 at ON_XDP_DROP"),
    ],
)
def test_what_the_kernel_would_not_enter_is_refused(counts: dict[str, int], words: str) -> None:
    """Or else a packet would pass functions that never see it."""
    with pytest.raises(ExhaustedError, match=words):
        chains_of(functions(**counts))
