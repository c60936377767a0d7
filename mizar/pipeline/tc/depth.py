# SPDX-License-Identifier: Apache-2.0
"""How many chains a frame may go through. Called by `compile`."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from mizar.pipeline.tc.rules import Filter, chains

MAX_HOPS = 16
"""What the kernel follows at one hook before it drops (max_reclassify_loop in net/sched/cls_api.c)."""


def hops(filters: tuple[Filter, ...]) -> int:
    """The longest way from the first chain; chains lead to later ones only."""
    leads: defaultdict[int, set[int]] = defaultdict(set)
    for one, other in chains(filters):
        leads[one].add(other)

    @cache
    def deep(chain: int) -> int:
        return max((1 + deep(one) for one in leads[chain]), default=0)

    return deep(0)
