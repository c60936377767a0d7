# SPDX-License-Identifier: Apache-2.0
"""A function and its twin in Python, at each stage: the oracle and the kernel say the same of the golden frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from mizar.oracle import functions
from mizar.oracle.agent import agent
from mizar.oracle.functions import Seen
from mizar.oracle.outcome import Outcome, Verdict
from mizar.oracle.tables import Function
from mizar.oracle.transit import transit
from tests.dataplane.chained import Chained, from_text, member
from tests.oracle import golden
from tests.oracle.differential import Case, cases, check_case
from tests.oracle.golden import Golden
from tests.oracle.real import RealDroplet
from tests.oracle.seeds import seeds
from tests.oracle.test_golden import droplet

STAGES = ("ON_XDP_TX", "ON_XDP_PASS", "ON_XDP_DROP", "ENDPOINT_INGRESS", "ENDPOINT_EGRESS")
FRAMES = [one for one in vars(golden).values() if isinstance(one, Golden)]
TEXT = """
    return call->frame->family == FAMILY_IPV4 && call->frame->src[15] & 1 ? mizar_drop(call, 1) : FUNCTION_CONTINUE;"""


def twin(seen: Seen) -> bool:
    """Drops IPv4 packets whose sender's address has that bit."""
    return seen.inner[12:14] == b"\x08\x00" and len(seen.inner) >= 34 and bool(seen.inner[29] & 1)


@pytest.fixture
def attached(real: RealDroplet) -> Iterator[Chained]:
    functions.TWINS["picky"] = twin
    chained = Chained(real)
    yield chained
    chained.close()
    del functions.TWINS["picky"]


def said(outcome: Outcome) -> tuple[object, ...]:
    """As a test run shows it: what leaves, leaves."""
    verdict = Verdict.SEND if outcome.verdict is Verdict.ANSWER else outcome.verdict
    return verdict, {key: dict(fields) for key, fields in outcome.counted.items()}


@pytest.mark.root
@pytest.mark.parametrize("stage", STAGES)
def test_a_twin_says_what_the_function_does(real: RealDroplet, attached: Chained, stage: str) -> None:
    """Verdicts and all counters, those of the function's drop included."""
    attached.put({stage: [member(from_text(TEXT, 'MIZAR_REASONS({ 1, "ODD", "Odd." });', name="picky"))]}, droplet=1)
    here = replace(droplet(), functions=(Function("picky", (stage,), droplet=True),))
    met = 0
    for one in FRAMES:
        real.fill(droplet())
        by_oracle = transit(here, one.comes) if one.door == "transit" else agent(here, 1, one.comes)
        by_kernel = real.transit(one.comes) if one.door == "transit" else real.agent(1, one.comes)
        assert said(by_oracle) == said(by_kernel), one.name
        met += len(by_oracle.met)
    assert met or stage in ("ON_XDP_PASS", "ON_XDP_DROP")


@pytest.mark.root
@pytest.mark.long
@pytest.mark.parametrize("stage", [*(one for one in STAGES if one != "ON_XDP_DROP"), "ON_XDP_SCALED_EP"])
def test_a_twin_in_any_droplet(real: RealDroplet, attached: Chained, stage: str) -> None:
    """Of generated droplets and packets: frames, verdicts and counters of the kernel, with a function that judges at a
    stage; and it does judge there. Not of refused frames: how long a refused message about one is, the oracle does not
    tell."""
    attached.put({stage: [member(from_text(TEXT, 'MIZAR_REASONS({ 1, "ODD", "Odd." });', name="picky"))]}, droplet=1)
    judged: Counter[bool | None] = Counter()

    @settings(
        max_examples=200 if stage == "ON_XDP_SCALED_EP" else 60,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    @given(cases())
    def each(case: Case) -> None:
        here = replace(case.here, functions=(Function("picky", (stage,), droplet=True),))
        outcomes = check_case(real, replace(case, here=here), count=2)
        judged.update(one.dropped for outcome in outcomes for one in outcome.met if one.stage == stage)

    each()
    if stage != "ON_XDP_SCALED_EP":  # a droplet that does all else, so that what was drawn need not
        here = replace(droplet(), functions=(Function("picky", (stage,), droplet=True),))
        outcomes = check_case(real, Case(here, tuple(seeds())))
        judged.update(one.dropped for outcome in outcomes for one in outcome.met if one.stage == stage)
    assert judged


def test_a_function_without_a_twin_continues_and_is_named() -> None:
    """For whom it is, is known all the same."""
    for scope, seen in ({"vnis": frozenset({9})}, 0), ({"droplet": True}, 1):
        here = replace(droplet(), functions=(Function("unknown", STAGES, **scope),))
        outcome = transit(here, golden.GENEVE_DELIVERED.comes)
        assert outcome.frame == golden.GENEVE_DELIVERED.goes
        assert [(one.function, one.dropped) for one in outcome.met] == [("unknown", None)] * seen
