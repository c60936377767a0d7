# SPDX-License-Identifier: Apache-2.0
"""Network functions at the stages of a droplet: whom they see, and what those that are known here do.

A function is a program of somebody else: the oracle knows what one does only where it has a twin in Python, by the
function's name. One without a twin continues here, and whoever asks is told by `Outcome.met` that it was there. Called
by the entry functions of transit.py and agent.py. Twins of what is shipped as examples: function_examples.py. Not here:
frames of networks and groups while they are in tunnels, and what is rewritten before a member is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from mizar.oracle.outcome import Met, Outcome, Packet, RefusedError, Verdict
from mizar.oracle.tables import Agent, Droplet
from mizar.oracle.tunnel import parse_outer

REFUSED, SCALED = "FUNCTION_REFUSED", "ON_XDP_SCALED_EP"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a twin looks at: the frame as it is at that stage, and of which VPC (0: of none)."""

    stage: str
    frame: bytes
    inner: bytes
    vni: int


class Decision(Enum):
    """enum function_verdict."""

    CONTINUE = "continue"
    DROP = "drop"
    PASS = "pass"  # noqa: S105
    REDIRECT = "redirect"
    TRANSMIT = "transmit"


@dataclass(frozen=True, slots=True)
class Says:
    """How a function ends, and with which frame, where that is another one."""

    decision: Decision = Decision.CONTINUE
    frame: bytes | None = None


Twin = Callable[[Seen], bool | Says]
"""What it says; of one that only judges, whether it drops."""
TWINS: dict[str, Twin] = {}
"""By the function's name: to be filled by whoever knows them."""


def at_transit(here: Droplet, came: bytes, outcome: Outcome) -> Outcome:
    """A frame that came in at the droplet's interface, when the pipeline is done with it."""
    stage = _stage(outcome)
    if not here.functions or not stage:
        return outcome
    vni = outcome.handover.vni if outcome.handover else _vni(outcome.counted)
    uid = outcome.handover.uid if outcome.handover else ""
    if outcome.verdict is Verdict.DELIVER:  # whole, where its endpoint wants it so
        tunnelled = len(outcome.frame) == len(came)
    else:
        tunnelled = outcome.verdict is Verdict.SEND or _is_tunnelled(here, came)
    inner = behind_tunnel(outcome.frame) if tunnelled else outcome.frame
    return _ask(here, outcome, Seen(stage, outcome.frame, inner, vni), uid, came, by_xdp=True)


def at_egress(here: Droplet, packet: Packet, sender: Agent) -> Outcome | None:
    """What an endpoint sends, before anybody looks at it: goes on as the packet's frame, or is at its end. Raises
    RefusedError."""
    seen = Seen("ENDPOINT_EGRESS", packet.frame, packet.frame, packet.vni)
    decision, seen = _run(here, seen, sender.uid, packet.met)
    packet.frame = seen.frame
    match decision:
        case Decision.DROP:
            raise RefusedError(REFUSED)
        case Decision.TRANSMIT:
            return packet.served(Verdict.ANSWER, seen.frame)
        case Decision.REDIRECT:
            return packet.served(Verdict.SEND, seen.frame)
        case Decision.CONTINUE | Decision.PASS:
            return None


def at_scaled(here: Droplet, packet: Packet, uid: str = "") -> None:
    """What is for a scaled endpoint, before a member is chosen: of an endpoint of this droplet (`uid`), or in its
    tunnel. Raises RefusedError."""
    inner = packet.frame if uid else behind_tunnel(packet.frame)
    seen = Seen(SCALED, packet.frame, inner, packet.vni)
    decision, _ = _run(here, seen, uid, packet.met)
    if decision is Decision.DROP:
        raise RefusedError(REFUSED)


def of_sender(packet: Packet, uid: str) -> str:
    """Whose counters tell of a refusal at an agent: of its sender, but where a function has seen that it is for a
    scaled endpoint."""
    return "" if packet.met and packet.met[-1].stage == SCALED and packet.met[-1].dropped else uid


def at_delivery(here: Droplet, came: bytes, outcome: Outcome, segments: int) -> Outcome:
    """What stays on the droplet, before it is handed over."""
    if not here.functions or outcome.verdict is not Verdict.DELIVER or outcome.handover is None:
        return outcome
    seen = Seen("ENDPOINT_INGRESS", outcome.frame, outcome.frame, outcome.handover.vni)
    return _ask(here, outcome, seen, outcome.handover.uid, came, by_xdp=False, segments=segments)


def behind_tunnel(frame: bytes) -> bytes:
    """The inner frame of a tunnel packet."""
    at = 54 if frame[12:14] == b"\x86\xdd" else 34
    if len(frame) < at + 16:
        return frame
    options = (frame[at + 8] & 0x3F) * 4 if frame[at + 2 : at + 4] == (6081).to_bytes(2, "big") else 0
    return frame[at + 16 + options :]


def _is_tunnelled(here: Droplet, frame: bytes) -> bool:
    try:
        return parse_outer(frame, here) is not None
    except RefusedError:
        return False


def _stage(outcome: Outcome) -> str:
    match outcome.verdict:
        case Verdict.SEND:
            return "ON_XDP_TX"
        case Verdict.PASS:
            return "ON_XDP_PASS"
        case Verdict.DELIVER:
            return "ENDPOINT_INGRESS"
        case Verdict.DROP:
            # Without a reason: a control packet that has said what it had to. What a function refuses is at its end.
            return "ON_XDP_DROP" if outcome.reason not in ("", REFUSED) else ""
        case _:
            return ""


def _ask(
    here: Droplet, outcome: Outcome, seen: Seen, uid: str, came: bytes, *, by_xdp: bool, segments: int = 1
) -> Outcome:
    met = list(outcome.met)
    decision, after = _run(here, seen, uid, met)
    if len(met) == len(outcome.met):
        return outcome
    at = seen.stage
    if decision is Decision.REDIRECT and by_xdp:  # those of that stage have the last word: none of them redirects anew
        at = "ON_XDP_REDIRECT"
        last, after = _run(here, replace(after, stage=at), uid, met)
        decision = last if last in (Decision.DROP, Decision.TRANSMIT) else decision
    ends = decision is Decision.DROP or (decision is Decision.TRANSMIT and by_xdp)
    if ends and at == "ENDPOINT_INGRESS":  # by function_end; tc's transmit goes its way without
        here.policy_flows.take_back(seen.vni, uid)
    if decision is Decision.DROP:
        counted = {key: dict(fields) for key, fields in outcome.counted.items()}
        counted["drop", REFUSED] = {"packets": segments, "bytes": len(came)}
        if seen.vni:
            fields = counted.setdefault(("vpc", seen.vni), {})
            fields["dropped_packets"] = fields.get("dropped_packets", 0) + segments
        return replace(
            outcome, verdict=Verdict.DROP, frame=came, reason=REFUSED, counted=counted, next_hop=None,
            handover=None, met=tuple(met),
        )  # fmt: skip
    verdict, next_hop, handover = outcome.verdict, outcome.next_hop, outcome.handover
    if decision in (Decision.REDIRECT, Decision.TRANSMIT):
        verdict, next_hop, handover = Verdict.SEND, None, None
    elif decision is Decision.PASS and seen.stage == "ON_XDP_DROP":
        verdict = Verdict.PASS
    return replace(outcome, verdict=verdict, frame=after.frame, next_hop=next_hop, handover=handover, met=tuple(met))


def _run(here: Droplet, seen: Seen, uid: str, met: list[Met]) -> tuple[Decision, Seen]:
    """The chain of a stage: how it ends, and with which frame."""
    for name in _chain(here, seen, uid):
        twin = TWINS.get(name)
        said = twin(seen) if twin else None
        if isinstance(said, bool):
            said = Says(Decision.DROP if said else Decision.CONTINUE)
        met.append(Met(name, seen.stage, None if said is None else said.decision is Decision.DROP))
        if said is not None and said.frame is not None:
            whole = seen.inner == seen.frame
            seen = replace(seen, frame=said.frame, inner=said.frame if whole else behind_tunnel(said.frame))
        if said is not None and said.decision is not Decision.CONTINUE:
            return said.decision, seen
    return Decision.CONTINUE, seen


def _chain(here: Droplet, seen: Seen, uid: str) -> list[str]:
    """Names of those that the frame is for, in their order."""
    found = [
        one
        for one in here.functions
        if seen.stage in one.stages and (one.droplet or seen.vni in one.vnis or uid in one.uids)
    ]
    return [one.name for one in sorted(found, key=lambda one: (one.order, one.name))]


def _vni(counted: Mapping[tuple[str, str | int], object]) -> int:
    return next((int(key) for kind, key in counted if kind == "vpc"), 0)
