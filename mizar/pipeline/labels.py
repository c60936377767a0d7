# SPDX-License-Identifier: Apache-2.0
"""The words of a step and of a case: what drawings, reports and messages call them. Pure."""

from __future__ import annotations

from mizar.pipeline.description import Case, Otherwise, State
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.pattern_text import write_pattern
from mizar.pipeline.ranges import Ranges
from mizar.pipeline.steps import (
    Count,
    Decap,
    Drop,
    Encap,
    Goto,
    Limit,
    Nat,
    PopVlan,
    PushVlan,
    Queue,
    SetMeta,
    SetVid,
    SetVni,
    Step,
    Stop,
    Trap,
)

_PLAIN: dict[type[Step], str] = {
    PopVlan: "pop vlan",
    PushVlan: "push vlan",
    Drop: "drop",
    Stop: "stop",
    Trap: "trap to kernel",
    SetVni: "set vni based on meta",
    SetVid: "set vid based on meta",
}


def step_text(step: Step, group_number: int | None = None) -> str:
    """What a step does, in the words of the drawing; its own label where it has one."""
    if step.label:
        return step.label
    if isinstance(step, Goto):
        return f"goto group {step.group if group_number is None else group_number}"
    if isinstance(step, SetMeta):
        return f"set metadata f({step.source})"
    if isinstance(step, Decap):
        return f"{'pop vlan + ' if step.vlan else ''}{step.tunnel} decap (raw decap)"
    if isinstance(step, Encap):
        return f"raw encap ({'vlan + ' if step.vlan else ''}{step.tunnel})"
    if isinstance(step, Nat):
        return "NAT (allocate)" if step.allocate else "NAT"
    if isinstance(step, Count | Limit):
        return ("count" if isinstance(step, Count) else "rate limit") + (" (per ingress meta)" if step.per_meta else "")
    if isinstance(step, Queue):
        return f"send to DPDK queue **{step.number}**"
    return _PLAIN[type(step)]


def case_text(case: Case) -> str:
    """What a case asks for; its own label where it has one."""
    return case.label or when_text(case)


def when_text(case: Case) -> str:
    """What a case asks for, in the words of the YAML form."""
    when = case.when
    if isinstance(when, Pattern):
        return write_pattern(when)
    if isinstance(when, Ranges):
        return ranges_text(when)
    if isinstance(when, Otherwise):
        return "otherwise"
    return " | ".join(state for state in State if state in when)


def ranges_text(ranges: Ranges) -> str:
    """Metadata values: `0x1000000-0x1ffffff, 0x5`."""
    return ", ".join(f"{low:#x}" if low == high else f"{low:#x}-{high:#x}" for low, high in ranges.spans)
