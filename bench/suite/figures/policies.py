# SPDX-License-Identifier: Apache-2.0
"""What a policy adds to a packet, with more and more rules. See bench/policy.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench import policy_sets
from bench.policy import SIZES, added, fill, frames
from bench.program_cost import Bench
from bench.suite.figure import Figure, Goal, Plan, Turn
from bench.suite.machine import calmest, on_cpu
from tests.dataplane.plan import A
from tests.dataplane.policies import police

FAMILY = 4
MOST = "100,000 rules"
RULES = {"1 rule": 1, "1,000 rules": 1_000, MOST: 100_000}


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """The sets are written anew for each turn: there is one table for all."""
    bench = Bench(plan.pick(20_000, 200_000), 1, SIZES)

    def turn(rules: int) -> dict[str, float]:
        bench.testbed.reset()
        bench.testbed.as_host()
        police(bench.testbed, A, ingress=1, egress=2)
        for number, port in ((1, 4001), (2, 4002)):
            fill(bench.testbed, number, rules, FAMILY, (port,))
        bench.testbed.send(frames(FAMILY)[0][2])
        with on_cpu(calmest(plan.cpus)):
            return {work[0]: added(bench, plan.pick(2, 3), work) for work in frames(FAMILY)}

    try:
        turns: dict[str, Turn | str] = {name: lambda rules=rules: turn(rules) for name, rules in RULES.items()}  # type: ignore[misc]
        if plan.quick:
            turns[MOST] = "left out of a quick run"
        yield turns
    finally:
        bench.testbed.close()


@contextmanager
def sets(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """Sets of few and of many rows; the planner's time is told once."""
    sizes = {f"{rows:,} rows": rows for rows in (10_000, *((1_000_000,) if not plan.quick else ()))}

    def turn(rows: int) -> dict[str, float]:
        first, second = policy_sets.daemon_s(rows)
        told = {"daemon: a new set": first, "daemon: every row another": second}
        if rows == max(sizes.values()) and not plan.quick:
            told["planner: 100,000 rules"] = policy_sets.planner_s()
        return told

    yield {name: lambda rows=rows: turn(rows) for name, rows in sizes.items()}  # type: ignore[misc]


FIGURES = (
    Figure(
        "policy",
        "What a stateful policy adds to a packet of an endpoint that is not policed, IPv4",
        "ns",
        opened,
        "flows beyond the first-level caches. *By the rules* is a packet that is judged anew, as the first of a flow "
        "is; of the rounds within a turn the fastest counts.",
        floor="the lookup of the flow (30 ns) and one call, of the agent two: "
        "[costs](decisions/costs.md)",
        goals=tuple(
            Goal(f"stateful policy, added, any number of rules ({program})", "up to 126 ns",
                 f"{program}, known flow", 50, contender=MOST)
            for program in ("agent", "transit")
        ),
        rounds=3,
    ),
    Figure(
        "policy-sets",
        "How long it takes to change very many rows of a policy",
        "s",
        sets,
        "the way from server to droplet. The rows of a change are written beside the old ones and take their place at "
        "once; half of them are peers, half verdicts.",
        rounds=1,
    ),
)  # fmt: skip
