# SPDX-License-Identifier: Apache-2.0
"""What steps and switches cost, estimated: nanoseconds of one core for one packet. Called by the report.

No figure here is measured on a gateway. The XDP column adds up what single operations cost inside a program on the
machine that Mizar is tested on (lookup of a hash map about 30 ns, adjust_head 18, reading the clock 34, a per-CPU
counter under 10); tc and the interpreter are rough. rte_flow costs the core nothing where the NIC takes a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds in XDP, in tc and in the interpreter."""

    xdp: int
    tc: int
    interpreter: int


TABLE_LOOKUP = Cost(30, 0, 500)
"""More, for a step with a table; tc has a filter for each entry instead."""
PER_META = Cost(30, 0, 500)
"""More, for a counter or limit of each metadata value; tc has a filter for each instead."""

SWITCHES: Mapping[str, Cost] = {
    "parse": Cost(12, 60, 70_000),
    "conntrack": Cost(40, 180, 25_000),
    "metadata": Cost(2, 40, 500),
}

STEPS: Mapping[type[Step], Cost] = {
    Goto: Cost(0, 20, 500),
    SetMeta: Cost(1, 20, 15_000),
    PopVlan: Cost(22, 30, 500),
    PushVlan: Cost(22, 30, 500),
    Decap: Cost(20, 120, 15_000),
    Encap: Cost(30, 150, 8_000),
    SetVni: Cost(2, 0, 20_000),
    SetVid: Cost(2, 0, 10_000),
    Nat: Cost(25, 60, 60_000),
    Count: Cost(6, 5, 1_000),
    Limit: Cost(42, 45, 2_000),
    Trap: Cost(5, 20, 500),
    Queue: Cost(30, 0, 500),
    Drop: Cost(2, 10, 500),
    Stop: Cost(30, 40, 500),
}


def step_cost(step: Step) -> Cost:
    """What a step costs for one packet."""
    found = STEPS[type(step)]
    if isinstance(step, SetMeta | SetVni | SetVid) and step.table is not None:
        found = _sum(found, TABLE_LOOKUP)
    if isinstance(step, Count | Limit) and step.per_meta:
        found = _sum(found, PER_META)
    return found


def _sum(one: Cost, other: Cost) -> Cost:
    return Cost(one.xdp + other.xdp, one.tc + other.tc, one.interpreter + other.interpreter)
