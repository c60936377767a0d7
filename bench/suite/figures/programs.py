# SPDX-License-Identifier: Apache-2.0
"""What each program costs per packet, of its own, and what the verifier makes of it. See bench/program_cost.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.program_cost import WORK, Bench, Work
from bench.suite.figure import Figure, Goal, Plan, Turn
from bench.suite.machine import calmest, on_cpu

FAMILIES = (4, 6)
DELIVERY, AGENT = "local delivery", "agent, direct path"


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """Both families take turns."""
    bench = Bench(plan.pick(30_000, 300_000), 1)

    def turn(family: int) -> dict[str, float]:
        with on_cpu(calmest(plan.cpus)):
            costs = {work.name: bench.cost_ns(work, family) for work in WORK}
        return costs | sums(costs)

    try:
        yield {f"mizar IPv{family}": lambda family=family: turn(family) for family in FAMILIES}  # type: ignore[misc]
    finally:
        bench.testbed.close()


def sums(costs: Mapping[str, float]) -> dict[str, float]:
    """Ways that are the work of several programs."""
    delivery = sum(cost for name, cost in costs.items() if name.startswith(DELIVERY))
    return {DELIVERY: delivery, "direct path: agent and delivery": costs[AGENT] + delivery}


@contextmanager
def functions(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """Each stage with no function, with one for others, and with one that continues."""
    bench = Bench(plan.pick(30_000, 300_000), 1)
    stages = [work for work in WORK if work.stage]

    def turn(droplet: int) -> dict[str, float]:
        with on_cpu(calmest(plan.cpus)):
            return {work.stage + ", " + work.name: _difference(bench, work, droplet) for work in stages}

    try:
        yield {"for others": lambda: turn(0), "continues": lambda: turn(1)}
    finally:
        bench.testbed.close()


def _difference(bench: Bench, work: Work, droplet: int) -> float:
    without, with_one = bench.added_ns(work, droplet)
    return with_one - without


def _goal(work: str, reference: str, metric: str, limit: float) -> Goal:
    return Goal(work, reference, metric, limit, contender="mizar IPv4", best=True)


NOT_SHOWN = (
    "the driver, the kernel's way from hook to hook and what happens after the verdict; caches are warm, one flow, "
    "tables of few entries. The program that restores the frame, and the moves of the frame's beginning, are measured "
    "and subtracted."
)
FIGURES = (
    Figure(
        "programs",
        "Each program's own cost per packet, hot",
        "ns",
        opened,
        NOT_SHOWN,
        floor="returns from helpers and lookups, 8 to 9 ns each on this kind of processor: "
        "[costs](decisions/costs.md) has them one by one, what was tried, and what is left of each path",
        goals=(
            _goal("local delivery, program's own cost", "318-455 ns (the original Mizar)", DELIVERY, 90),
            _goal("direct path, agent + delivery", "792 ns", "direct path: agent and delivery", 200),
            _goal("bouncer", "313 ns", "bounce", 60),
            _goal("divider", "514 ns", "divide", 100),
            _goal("scaled endpoint", "355 ns; Katran 96 ns", "scaled", 100),
        ),
        rounds=15,
    ),
    Figure(
        "functions",
        "What a network function adds at its stage, for others or one that looks at nothing",
        "ns",
        functions,
        "what a function does that does something.",
        rounds=3,
    ),
)
