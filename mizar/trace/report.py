# SPDX-License-Identifier: Apache-2.0
"""What a trace tells: values that become JSON, a table and a picture. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class HopReport:
    """One program on one droplet. `room`: bytes that were left on the way to the next droplet; None: not known.

    `next`: the droplet that it is sent to. `notes`: what contradicts the desired state, and causes.
    """

    droplet: str
    program: str
    verdict: str
    vpc: str = ""
    number: int = 0
    leads: int = 0
    """Number of the VPC in which it goes on."""
    step: str = ""
    table: str = ""
    rewrite: tuple[str, ...] = ()
    room: int | None = None
    reason: str = ""
    sentence: str = ""
    next: str = ""
    notes: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    """What policies said, each with the rule that did."""
    functions: tuple[str, ...] = ()
    """Network functions that see it there, each with the stage: for operators."""
    hidden: bool = False
    """In a VPC of another tenant: nothing of it is told."""
    seen: str = ""
    """What the data plane reported of it; empty where nothing was asked or heard."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a way ends. `number`: VPC in which it was delivered; `endpoint`: to whom, where that is known."""

    arrives: bool
    sentence: str
    number: int = 0
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole answer. `live`: whether a packet was sent; `divergence`: the first difference to what was predicted."""

    source: str
    destination: str
    packet: str
    hops: tuple[HopReport, ...]
    ending: Ending
    live: bool = False
    divergence: str = ""
    findings: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the packet arrives, as predicted and, where it was sent, really."""
        return self.ending.arrives and not self.divergence

    def as_json(self) -> dict[str, Any]:
        """For the API: camelCase, and only what means something to people."""
        hops = []
        for hop in self.hops:
            found = {name: value for name, value in asdict(hop).items() if name not in ("number", "leads")}
            found["rewrite"], found["notes"] = list(hop.rewrite), list(hop.notes)
            found["policy"], found["functions"] = list(hop.policy), list(hop.functions)
            hops.append(found)
        return {
            "source": self.source,
            "destination": self.destination,
            "packet": self.packet,
            "ok": self.ok,
            "hops": hops,
            "ending": self.ending.sentence,
            "arrives": self.ending.arrives,
            "live": self.live,
            "divergence": self.divergence,
            "findings": list(self.findings),
        }


OUTER = "outer "
"""Begins what `rewrite` says of addresses of the substrate."""


def without_substrate(trace: Trace) -> Trace:
    """The same without addresses of the substrate, which are the operator's."""
    hops = (replace(hop, rewrite=tuple(x for x in hop.rewrite if not x.startswith(OUTER))) for hop in trace.hops)
    return replace(trace, hops=tuple(hops))


def for_tenant(trace: Trace, foreign: frozenset[int]) -> Trace:
    """The same without what happens in VPCs of others (by their numbers)."""
    hops = tuple(_told(hop, foreign) for hop in trace.hops)
    if not any(hop.hidden for hop in hops):
        return trace
    last, ending = trace.hops[-1], trace.ending
    if last.number in foreign or last.leads in foreign:
        sentence = "delivered, in a VPC of another tenant" if ending.arrives else "lost in a VPC of another tenant"
        ending = replace(ending, sentence=sentence, endpoint="")
    divergence = "the packet did not go as predicted" if trace.divergence else ""
    return replace(trace, hops=hops, ending=ending, divergence=divergence, findings=())


def _told(hop: HopReport, foreign: frozenset[int]) -> HopReport:
    if hop.number in foreign:
        return HopReport("", "", "in a VPC of another tenant", hidden=True)
    if hop.leads in foreign:
        notes = ("from here on in a VPC of another tenant",)
        kept = HopReport(hop.droplet, hop.program, "sent into a VPC of another tenant", hop.vpc, hop.number, hop.leads)
        return replace(kept, notes=notes, hidden=True)
    return hop
