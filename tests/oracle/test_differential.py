# SPDX-License-Identifier: Apache-2.0
"""The short run of the differential tests. The long one: `./run fuzz --minutes N`."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from mizar.model import drop_reasons
from mizar.oracle.outcome import Step
from tests.oracle.differential import Case, cases, check
from tests.oracle.real import RealDroplet

pytestmark = pytest.mark.root
NOT_IN_A_TEST_RUN = {"DELIVERY_FAILED", "REWRITE_FAILED"}
"""The kernel's own refusals, and a frame whose endpoint leaves between two programs."""


def test_the_programs_do_what_the_oracle_says(real: RealDroplet) -> None:
    """The same cases every time. Also: the cases reach every step of the procedure and nearly every reason."""
    seen: Counter[object] = Counter()

    @settings(
        max_examples=1000,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(cases())
    def each(case: Case) -> None:
        for outcome in check(real, case):
            seen.update([outcome.reason, outcome.step])

    each()
    missed = {*drop_reasons.by_name(), *Step} - NOT_IN_A_TEST_RUN - seen.keys()
    assert len(missed) <= 3, f"the cases miss {missed}"
