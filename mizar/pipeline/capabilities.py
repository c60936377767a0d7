# SPDX-License-Identifier: Apache-2.0
"""What XDP, tc (flower, Linux 6.1) and rte_flow (DPDK 22.11) can do with a rule, and what they lack.

Called by the report. Every sentence here names one thing that forces a rule apart (`split`) or out of the target
(`fallback`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mizar.model.errors import InvalidError
from mizar.pipeline.description import Block, Case, On, Otherwise, Pipeline, State
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.rte_flow.match import unknown_field
from mizar.pipeline.steps import (
    Count,
    Decap,
    Encap,
    Limit,
    Nat,
    Queue,
    SetMeta,
    SetVid,
    SetVni,
    Step,
)
from mizar.pipeline.structure import all_steps
from mizar.pipeline.xdp.generate import generate
from mizar.pipeline.xdp.steps import QUEUES


@dataclass(slots=True)
class Reasons:
    """Why a rule is not simply taken."""

    fallback: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)


def xdp_refusal(pipeline: Pipeline) -> str:
    """Why there is no XDP program of a whole pipeline, "" where there is one but for rules that xdp_reasons names."""
    if any(isinstance(step, Queue) and step.number >= QUEUES for _, step in all_steps(pipeline)):
        return ""
    try:
        generate(pipeline)
    except InvalidError as error:
        return str(error)
    return ""


def xdp_reasons(steps: Iterable[Step], refusal: str) -> Reasons:
    """XDP: the generated program does every step, so far as its queues go."""
    found = Reasons([refusal] if refusal else [])
    for step in steps:
        if isinstance(step, Queue) and step.number >= QUEUES:
            found.fallback.append(f"XDP has queues up to {QUEUES - 1}, found {step.number}")
    return found


def tc_reasons(block: Block, case: Case | None, refused: Iterable[str]) -> Reasons:
    """tc: chains, flower, ct, tunnel_key, vlan, police. `refused`: what its compiler said of the rule."""
    found = Reasons(fallback=list(refused))
    if block.switch is not None and block.switch.on is On.CONNTRACK:
        found.split.append("ct: a filter for each metadata value, its zone (16 bits) is fixed in the action")
    if case is not None and isinstance(case.when, Ranges):
        found.split.append("metadata is the skb mark, which fw filters match and flower does not: no NIC takes it")
    if case is not None and isinstance(case.when, Pattern) and any("fragment" in box.shape for box in case.when.boxes):
        found.split.append("ct puts datagrams together before it looks: fragments take the way of whole packets")
    if case is not None and isinstance(case.when, Pattern) and _excludes(case.when):
        found.split.append("flower has no !=: a filter of higher priority takes the excluded values out")
    for step in block.steps:
        match step:
            case Nat() if step.allocate:
                found.split.append("two commits: a tenant's own, and one in the zone of what it leaves as")
            case Decap():
                found.split.append(
                    f"a {step.tunnel} device in external mode decapsulates, before the filter sees the VNI"
                )
            case Encap():
                found.split.append(f"tunnel_key and a {step.tunnel} device in external mode instead of raw headers")
                if step.vlan:
                    found.split.append("the outer tag is pushed at the egress of the device below")
            case SetMeta() | SetVni() | SetVid():
                found.split.append(
                    f"{_word(step)}: a filter for each value, tc cannot copy a field to or from the mark"
                )
            case Count() | Limit() if step.per_meta:
                found.split.append(f"{step.name}: a filter for each metadata value")
    return found


def rte_flow_reasons(steps: Iterable[Step], case: Case | None, tenants: tuple[int, ...]) -> Reasons:
    """rte_flow in the embedded switch."""
    found = Reasons()
    if case is not None:
        _case(found, case)
    for step in steps:
        match step:
            case Nat():
                if step.allocate:
                    found.fallback.append("rte_flow cannot allocate a translation")
                found.split.append("rules for each direction of a connection, made when it is established")
                found.split.append(
                    "ICMP: no action changes its id: software translates all but IPv4 queries that keep it"
                )
            case Queue():
                found.split.append(
                    "the switch hands over to the application's port, an ingress rule there picks the queue"
                )
            case Count() | Limit() if step.per_meta:
                known = f"{len(tenants)} metadata values have their own" if tenants else "no metadata value was named"
                found.split.append(f"{step.name}: {known}, all others share one")
            case SetMeta() | SetVni() | SetVid() if step.table is not None:
                found.split.append(f"{_word(step)}: a rule for each entry of the table")
    return found


def _case(found: Reasons, case: Case) -> None:
    if isinstance(case.when, Pattern):
        unknown = next((name for name in map(unknown_field, case.when.boxes) if name), None)
        if unknown is not None:
            found.fallback.append(f"rte_flow cannot match {unknown}")
    states = frozenset(State) if isinstance(case.when, Otherwise) else case.when
    if isinstance(states, frozenset) and State.RELATED in states and not isinstance(case.when, Otherwise):
        found.split.append("related is unknown to hardware: ICMP errors take the way of new")


def _excludes(pattern: Pattern) -> bool:
    """Whether one of the fields that flower matches one by one has more than one value."""
    return any(
        ranges.single is None and place[1] in ("vid", "vni", "pcp")
        for box in pattern.boxes
        for place, ranges in box.limits
    )


def _word(step: Step) -> str:
    return {SetMeta: "set_meta", SetVni: "set_vni", SetVid: "set_vid"}[type(step)]
