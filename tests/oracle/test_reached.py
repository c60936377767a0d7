# SPDX-License-Identifier: Apache-2.0
"""No drop reason is beyond the differential tests: each is met by the sweep of known frames, by a case of its own here,
or it is named below with the test that provokes it instead. A new reason belongs to one of the three."""

from __future__ import annotations

from pathlib import Path

import pytest

from mizar.model import drop_reasons
from mizar.oracle.outcome import Step
from tests.oracle.differential import check, predict
from tests.oracle.provoked import CASES, Provoked
from tests.oracle.real import RealDroplet
from tests.oracle.test_differential import SWEPT, SWEPT_STEPS

TESTS = Path(__file__).parents[1]
ELSEWHERE = {
    "NETWORK_UNKNOWN": "oracle/test_differential.py",
    "NO_LISTENER": "oracle/test_public.py",
    "PUBLIC_SOURCE": "oracle/test_public.py",
    "VIP_OPTION": "oracle/test_public.py",
    "LIMIT_EGRESS": "oracle/test_limits.py",
    "UPLINK_FULL": "oracle/test_limits.py",
    "LIMIT_INGRESS": "dataplane/test_limits.py",
    "PEERING_NOT_TRANSITIVE": "oracle/test_peering.py",
    "OUTER_EXTENSION": "dataplane/test_ipv6_substrate.py",
    "NO_COMMON_FAMILY": "dataplane/test_ipv6_substrate.py",
    "FUNCTION_REFUSED": "dataplane/test_functions.py",
    "FUNCTION_MISSING": "transit/test_network_functions.py",
    # The kernel's own refusals, and a frame whose endpoint leaves between two programs.
    "DELIVERY_FAILED": "dataplane/test_live.py",
    "REWRITE_FAILED": "dataplane/test_drop_reasons.py",
    "BYPASS_SUBSTRATE": "dataplane/test_bypass.py",
    # Of doors that a generated packet does not come to.
    "SUBSTRATE_SOURCE": "dataplane/test_substrate.py",
    "SUBSTRATE_DESTINATION": "dataplane/test_substrate.py",
    "FOREIGN_SUBSTRATE": "dataplane/refused_by_agent.py",
    **{f"PROXY_{name}": "dataplane/test_proxy.py" for name in ("NO_FLOW", "PROTOCOL", "FRAGMENT", "FULL", "GONE")},
}


def test_every_reason_is_reached() -> None:
    """No name is forgotten, none is left over, and the tests that are named here know the reason."""
    own = {each.reason for each in CASES}
    assert SWEPT | own | ELSEWHERE.keys() == set(drop_reasons.by_name())
    assert len(SWEPT) + len(own) + len(ELSEWHERE) == len(drop_reasons.by_name())
    lost = {name for name, file in ELSEWHERE.items() if name.removeprefix("PROXY_") not in (TESTS / file).read_text()}
    assert not lost
    assert set(Step) - SWEPT_STEPS == {Step.SUBSTRATE}, "that one is test_stack.py's"


@pytest.mark.root
@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_programs_refuse_it_as_the_oracle_does(real: RealDroplet, each: Provoked) -> None:
    """For this reason and no other."""
    assert predict(each.here, each.arrival).reason == each.reason
    real.fill(each.here)
    check(real, each.here, [each.arrival])
