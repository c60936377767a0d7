# SPDX-License-Identifier: Apache-2.0
"""What each step of a gateway's pipeline costs in its XDP program. See bench/pipeline_cost.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.pipeline_cost import COSTS, VLAN, Bench, program
from bench.suite.figure import Figure, Plan, Turn
from bench.suite.machine import calmest, on_cpu

FEW = 4
"""Steps of a quick run: each has to be compiled."""


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """One contender: a step is its own program less the one without it."""
    costs = COSTS[:FEW] if plan.quick else COSTS

    def turn() -> dict[str, float]:
        with on_cpu(calmest(plan.cpus)):
            bench = Bench(plan.pick(30_000, 200_000), 2)
            told = {"enter, parse two headers, stop": bench.ns(program(""), VLAN, 0)}
            for cost in costs:
                whole = bench.ns(cost.text, cost.frame, cost.moves)
                told[cost.name] = whole - bench.ns(cost.without, cost.frame, cost.moved_before)
        return told

    yield {"mizar": turn}


FIGURES = (
    Figure(
        "pipeline",
        "What each step of a gateway's pipeline adds",
        "ns",
        opened,
        "driver and what happens after the verdict; caches are warm, one flow, tables of few entries. A step is "
        "the difference of two generated programs, and compiling them takes most of the figure's time.",
        rounds=2,
    ),
)
