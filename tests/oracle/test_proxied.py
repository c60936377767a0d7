# SPDX-License-Identifier: Apache-2.0
"""Proxied endpoints: any sequence of frames at any proxies, chains and circles among them; the programs in the kernel
do what the oracle says, and know the same flows afterwards."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.draws import steady
from tests.oracle.proxied import arrivals, carriers
from tests.oracle.real import RealDroplet
from tests.oracle.real_proxies import run

pytestmark = pytest.mark.root


def test_any_frames_at_any_proxies(real: RealDroplet) -> None:
    """Verdict, frame, counters and flows after each frame are the same."""
    seen: Counter[str] = Counter()

    @steady(400)
    @given(st.data())
    def each(data: st.DataObject) -> None:
        here = data.draw(carriers())
        run(real, here, data.draw(st.lists(arrivals(here), min_size=1, max_size=24)), seen)

    each()
    wanted = {"PROXY_NO_FLOW", "PROXY_PROTOCOL", "PROXY_FRAGMENT", "PROXY_FULL", "PROXY_GONE", "TTL_EXPIRED", "evicted"}
    missed = wanted.union({"reply", "error", "client"}) - seen.keys()
    assert not missed, f"the cases miss {missed}"
