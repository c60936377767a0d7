# SPDX-License-Identifier: Apache-2.0
"""The first difference between what was predicted and what was reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mizar.model import drop_reasons
from mizar.oracle.fleet import End, Hop, Way
from mizar.oracle.outcome import Handover, Outcome, Verdict
from mizar.trace.compare import Did, Seen, compare

A, B, C = (bytes([192, 0, 2, number]) for number in (1, 2, 3))
NAMES = {A: "d1", B: "d2", C: "d3"}
WAY = Way(
    (
        Hop(A, "agent", b"", Outcome(Verdict.SEND, b"", next_hop=B)),
        Hop(B, "transit", b"", Outcome(Verdict.DELIVER, b"", handover=Handover(9, 7, "u"))),
        Hop(B, "deliver", b"", Outcome(Verdict.DELIVER, b"", handover=Handover(9, 7, "u"))),
    ),
    End.DELIVERED,
)
SEEN = [
    Seen(A, "agent", Did.SENT, to=B),
    Seen(B, "transit", Did.DELIVERED, ifindex=9),
    Seen(B, "deliver", Did.DELIVERED, ifindex=9),
]
TTL = drop_reasons.by_name()["TTL_EXPIRED"].number


def told(seen: list[Seen]) -> str:
    return compare(WAY, seen, NAMES.__getitem__).divergence


def test_reports_that_agree_are_shown_at_their_hops() -> None:
    """In whatever order they come."""
    found = compare(WAY, list(reversed(SEEN)), NAMES.__getitem__)
    assert found.divergence == ""
    assert found.lost is None
    assert found.seen == ("sent to d2", "handed over", "handed over")


@pytest.mark.parametrize(
    ("place", "change", "sentence"),
    [
        (0, {"to": C}, "d1, agent: sent to d3; predicted was: sent to d2"),
        (1, {"did": Did.REFUSED, "reason": TTL}, "d2, transit: dropped, TTL_EXPIRED; predicted was: handed over to"),
        (2, {"ifindex": 8}, "d2, deliver: handed over to interface 8; predicted was: handed over to interface 9"),
        (0, {"problem": "the host did not take it"}, "d1, agent: the host did not take it; predicted"),
    ],
)
def test_the_first_difference_is_named(place: int, change: dict[str, object], sentence: str) -> None:
    """Another way, another end, another interface, and a host that could not."""
    seen = list(SEEN)
    seen[place] = replace(seen[place], **change)  # type: ignore[arg-type]
    assert told(seen).startswith(sentence)


def test_a_packet_that_never_arrives_is_lost_between_two_droplets() -> None:
    """The place tells who sent it last; reports from elsewhere are told beside it."""
    stray = Seen(C, "transit", Did.PASSED)
    found = compare(WAY, [SEEN[0], stray], NAMES.__getitem__)
    assert found.lost == 1
    assert found.divergence.startswith("lost between d1 and d2")
    assert found.others == ("d3, transit: left to the host's own stack, which nothing predicted",)


def test_a_refusal_that_was_predicted_agrees_by_its_reason() -> None:
    """With another reason it does not."""
    way = Way((Hop(A, "agent", b"", Outcome(Verdict.ANSWER, b"", "TTL_EXPIRED")),), End.ANSWERED)
    seen = Seen(A, "agent", Did.ANSWERED, reason=TTL)
    assert not compare(way, [seen], NAMES.__getitem__).divergence
    assert compare(way, [replace(seen, reason=1)], NAMES.__getitem__).divergence


@pytest.mark.parametrize(("function", "by"), [("blocklist", " by function blocklist: SOURCE_BLOCKED"), ("", "")])
def test_a_function_behind_a_program_has_the_last_word(function: str, by: str) -> None:
    """The program has handed it on, the stage behind it has not: one report for that hop, with the name if known."""
    number = drop_reasons.by_name()["FUNCTION_REFUSED"].number
    refused = Seen(B, "transit", Did.REFUSED, number, function=function, function_reason="SOURCE_BLOCKED")
    found = compare(WAY, [*SEEN[:2], refused], NAMES.__getitem__)
    assert found.divergence.startswith(f"d2, transit: dropped, FUNCTION_REFUSED{by}; predicted was: handed over")
    assert found.others == ()
