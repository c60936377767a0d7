# SPDX-License-Identifier: Apache-2.0
"""What steps and switches cost: nanoseconds of one core for one packet. Called by the report.

The XDP column is measured step by step in generated programs (bench/pipeline_cost.py, warm caches, the machine that
Mizar is tested on, give or take 10 ns), but for queue and stop, whose redirection is estimated; tc and the interpreter
are rough. rte_flow costs the core nothing where the NIC takes a rule.
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
PER_META = Cost(35, 0, 500)
"""More, for a counter or limit of each metadata value; tc has a filter for each instead."""

SWITCHES: Mapping[str, Cost] = {
    "parse": Cost(12, 60, 70_000),
    "conntrack": Cost(35, 180, 25_000),
    "metadata": Cost(1, 40, 500),
}

STEPS: Mapping[type[Step], Cost] = {
    Goto: Cost(0, 20, 500),
    SetMeta: Cost(2, 20, 15_000),
    PopVlan: Cost(12, 30, 500),
    PushVlan: Cost(12, 30, 500),
    Decap: Cost(15, 120, 15_000),
    Encap: Cost(15, 150, 8_000),
    SetVni: Cost(2, 0, 20_000),
    SetVid: Cost(3, 0, 10_000),
    Nat: Cost(20, 60, 60_000),
    Count: Cost(4, 5, 1_000),
    Limit: Cost(30, 45, 2_000),
    Trap: Cost(2, 20, 500),
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
