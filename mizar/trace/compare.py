# SPDX-License-Identifier: Apache-2.0
"""What was predicted of a packet, beside what the programs reported of it: the first difference, in a sentence.

Called by the manager after a marked packet was sent. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from mizar.model import drop_reasons
from mizar.oracle.fleet import Hop, Way
from mizar.oracle.outcome import Verdict


class Did(Enum):
    """What a program did with a packet."""

    REFUSED = "dropped"
    SENT = "sent"
    DELIVERED = "handed over"
    PASSED = "left to the host's own stack"
    ANSWERED = "answered"
    TRAPPED = "left to the daemon"
    STACK = "handed to the host's own stack"


_EXPECTED = {
    Verdict.SEND: Did.SENT,
    Verdict.DELIVER: Did.DELIVERED,
    Verdict.DROP: Did.REFUSED,
    Verdict.PASS: Did.PASSED,
    Verdict.ANSWER: Did.ANSWERED,
    Verdict.TRAP: Did.TRAPPED,
    Verdict.STACK: Did.STACK,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One report. `to`: the droplet that it was sent to, by the address that names it; empty: to none."""

    droplet: bytes
    program: str
    did: Did
    reason: int = 0
    to: bytes = b""
    ifindex: int = 0
    problem: str = ""
    function: str = ""
    """Which function has refused it, and for which reason of its own."""
    function_reason: str = ""
    limit_of: str = ""
    """Whose limit it was over: `endpoint`, `network`, `vpc`; or `uplink`."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`seen`: for each predicted hop what was reported, empty where nothing was. `lost`: the place of the hop at which
    the packet never arrived; None: at all of them it did, or went another way."""

    seen: tuple[str, ...]
    divergence: str = ""
    lost: int | None = None
    others: tuple[str, ...] = ()


def compare(way: Way, reports: Sequence[Seen], name: Callable[[bytes], str]) -> Comparison:
    """The reports in the order in which they came; `name` tells a droplet's."""
    left = list(reports)
    texts: list[str] = []
    divergence, lost = "", None
    for place, hop in enumerate(way.hops):
        found = _last_word([one for one in left if (one.droplet, one.program) == (hop.droplet, hop.program)], left)
        if found is None:
            texts.append("")
            if not divergence:
                lost, divergence = place, _missing(way, place, name)
            continue
        left.remove(found)
        texts.append(_text(found, name))
        if not divergence and not _agrees(hop, found):
            where = f" to interface {found.ifindex}" if found.did is Did.DELIVERED else ""
            what = f"{_text(found, name)}{where}"
            divergence = f"{name(hop.droplet)}, {hop.program}: {what}; predicted was: {_wanted(hop, name)}"
        if hop.outcome.reason:  # what follows is the message about it
            break
    others = tuple(f"{name(one.droplet)}, {one.program}: {_text(one, name)}, which nothing predicted" for one in left)
    return Comparison(tuple(texts), divergence, lost, others)


def _last_word(reports: Sequence[Seen], left: list[Seen]) -> Seen | None:
    """The first report, but where a function of a stage behind it has refused what the program had handed on: then
    that, and the other is left out."""
    functions = [drop_reasons.by_name()[name].number for name in ("FUNCTION_REFUSED", "FUNCTION_MISSING")]
    if len(reports) > 1 and not reports[0].reason and reports[1].reason in functions:
        left.remove(reports[0])
        return reports[1]
    return reports[0] if reports else None


def _agrees(hop: Hop, found: Seen) -> bool:
    outcome = hop.outcome
    if found.problem:
        return False
    if outcome.reason:
        return found.reason == drop_reasons.by_name()[outcome.reason].number
    if found.did is not _EXPECTED[outcome.verdict] or found.reason:
        return False
    if found.did is Did.SENT:
        return found.to == outcome.next_hop
    if found.did is Did.DELIVERED and outcome.handover is not None:
        return found.ifindex == outcome.handover.ifindex
    return True


def _missing(way: Way, place: int, name: Callable[[bytes], str]) -> str:
    hop = way.hops[place]
    if not place:
        return f"{name(hop.droplet)} did not send it"
    before = way.hops[place - 1]
    if before.droplet == hop.droplet:
        return f"{name(hop.droplet)}: {before.program} handed it on, and it never came to {hop.program}"
    return (
        f"lost between {name(before.droplet)} and {name(hop.droplet)}: the first sent it, "
        f"and it never came to the other's {hop.program}"
    )


def _wanted(hop: Hop, name: Callable[[bytes], str]) -> str:
    outcome = hop.outcome
    if outcome.reason:
        return f"dropped, {outcome.reason}"
    if outcome.verdict is Verdict.SEND and outcome.next_hop:
        return f"sent to {name(outcome.next_hop)}"
    if outcome.verdict is Verdict.DELIVER and outcome.handover:
        return f"{Did.DELIVERED.value} to interface {outcome.handover.ifindex}"
    return _EXPECTED[outcome.verdict].value


_LIMITS = {
    "endpoint": " by the endpoint's own limit",
    "network": " by the limit of the endpoint's network on this droplet",
    "vpc": " by the limit of the endpoint's VPC on this droplet",
}


def _text(found: Seen, name: Callable[[bytes], str]) -> str:
    if found.problem:
        return found.problem
    if found.reason:
        reason = drop_reasons.by_number().get(found.reason)
        told = ", and its sender is told" if found.did is Did.ANSWERED else ""
        by = f" by function {found.function}: {found.function_reason or 'no reason'}" if found.function else ""
        by += _LIMITS.get(found.limit_of, "")
        return f"dropped, {reason.name if reason else found.reason}{by}{told}"
    if found.did is Did.SENT:
        return f"sent to {name(found.to)}"
    return str(found.did.value)
