# SPDX-License-Identifier: Apache-2.0
"""The offload report: every rule, every target, and a reason for whatever is not simply taken."""

from __future__ import annotations

import pytest

from mizar.pipeline import builder as b
from mizar.pipeline.costs import STEPS
from mizar.pipeline.report import Row, Verdict, report
from mizar.pipeline.steps import Ending, Step
from tests.unit.pipeline.frames import TENANT_A, shipped

TARGETS = ["xdp", "tc", "rte_flow", "interpreter"]


def row(rows: list[Row], spot: str) -> dict[str, tuple[Verdict, tuple[str, ...]]]:
    found = next(one for one in rows if one.spot == spot)
    return {one.target: (one.verdict, one.reasons) for one in found.judgements}


@pytest.mark.parametrize("name", ["gateway-trap", "gateway-queue"])
def test_every_rule_is_judged_by_every_target(name: str) -> None:
    """Eleven rules in each shipped pipeline; a reason wherever something is split or falls back, and only there."""
    rows = report(shipped(name))
    assert len(rows) == 11
    assert [one.line for one in rows] == sorted(one.line for one in rows)
    for one in rows:
        assert [judged.target for judged in one.judgements] == TARGETS
        for judged in one.judgements:
            assert bool(judged.reasons) == (judged.verdict is not Verdict.TAKEN)
            assert (judged.estimated_ns is None) == (judged.verdict is Verdict.FALLBACK)


def test_what_tc_cannot_do_is_named() -> None:
    """No queue of a user-space program; all else of the shipped pipelines it takes."""
    found = row(report(shipped("gateway-queue")), "NAT, case 1, case 1")
    why = "tc has no queue 0 of a user-space program; name the interface that it listens on"
    assert found["tc"] == (Verdict.FALLBACK, (why,))
    every = [row(report(shipped("gateway-trap")), one.spot)["tc"] for one in report(shipped("gateway-trap"))]
    assert Verdict.FALLBACK not in [verdict for verdict, _ in every]
    assert found["xdp"] == (Verdict.TAKEN, ())


def test_what_xdp_cannot_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that it does not have is that rule's matter; a program that is too large is every rule's."""
    arp, other = b.case("eth / arp", b.queue(64)), b.case("otherwise", b.drop())
    pipeline = b.pipeline("p", b.group("G", b.parse(arp, other)))
    rows = report(pipeline)
    assert row(rows, "G, case 1")["xdp"] == (Verdict.FALLBACK, ("XDP has queues up to 63, found 64",))
    assert row(rows, "G, case 2")["xdp"] == (Verdict.TAKEN, ())
    monkeypatch.setattr("mizar.pipeline.xdp.generate.MAX_QUESTIONS", 2)
    large = b.pipeline("p", b.group("G", b.parse(b.case("eth / arp", b.drop()), other)))
    for one in report(large):
        verdict, reasons = row(report(large), one.spot)["xdp"]
        assert verdict is Verdict.FALLBACK
        assert "too large for XDP" in reasons[0]


def test_hardware_says_how_many_rules_and_what_it_shares() -> None:
    """An exclusion of one value costs a rule for each bit; tenants that are named have their own counters."""
    found = row(report(shipped("gateway-trap")), "Decap, case 2")
    assert found["rte_flow"] == (Verdict.SPLIT, ("12 rules",))
    shared = row(report(shipped("gateway-trap")), "NAT, case 1, case 1")["rte_flow"][1]
    assert "new: no metadata value was named, all others share one" in shared
    named = row(report(shipped("gateway-trap"), (TENANT_A,)), "NAT, case 1, case 1")["rte_flow"][1]
    assert "new: 1 metadata values have their own, all others share one" in named


def test_what_hardware_cannot_do_is_named() -> None:
    """The report is made also when nothing can be compiled."""
    rows = report(b.pipeline("p", b.group("G", b.parse(b.case("eth / arp 1", b.drop())))))
    assert row(rows, "G, case 1")["rte_flow"] == (Verdict.FALLBACK, ("rte_flow cannot match arp op",))


def test_every_step_has_a_cost() -> None:
    """A new kind of step needs an estimate."""

    def kinds(base: type[Step]) -> set[type[Step]]:
        return {kind for sub in base.__subclasses__() for kind in ({sub} | kinds(sub))}

    assert set(STEPS) == kinds(Step) - {Ending}
