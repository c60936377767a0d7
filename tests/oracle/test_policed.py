# SPDX-License-Identifier: Apache-2.0
"""Policed endpoints: any sequence of packets and changes of policy; the programs in the kernel do what the oracle says,
and know the same flows after each packet."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.model import drop_reasons
from tests.oracle.draws import steady
from tests.oracle.policed import policed_droplets, run, stories
from tests.oracle.real import RealDroplet

pytestmark = pytest.mark.root


def test_any_packets_at_policed_endpoints(real: RealDroplet) -> None:
    """Verdict, frame, counters and flows; every reason of a policy is seen."""
    seen: Counter[str] = Counter()

    @steady(60)
    @given(st.data())
    def each(data: st.DataObject) -> None:
        here = data.draw(policed_droplets())
        run(real, here, data.draw(stories), seen)

    each()
    wanted = {name for name in drop_reasons.by_name() if name.startswith("POLICY_")}
    missed = wanted.union({"known", "audited", "judged", "ended", "kept"}) - seen.keys()
    assert not missed, f"the cases miss {missed}"
