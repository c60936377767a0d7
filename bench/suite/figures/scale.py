# SPDX-License-Identifier: Apache-2.0
"""How the planner grows with the fleet. See bench/suite/fleet_plan.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.suite.figure import Figure, Plan, Turn

QUICK = (1_000, 10_000)
SIZES = {
    "1,000 droplets, 50,000 endpoints": (1_000, 50_000),
    "10,000 droplets, 100,000 endpoints": (10_000, 100_000),
    "100,000 droplets, 1,000,000 endpoints": (100_000, 1_000_000),
}
UNITS = {
    "memory": "MB", "memory, each endpoint": "bytes", "whole fleet": "s", "placing a network": "ms",
    "an endpoint": "µs", "changes, an endpoint": "changes", "a droplet joins": "ms",
    "changes, a droplet joins": "changes", "bouncers that move to one that joins": "%",
    "bouncers that move when the busiest leaves": "%",
}  # fmt: skip


def planned(droplets: int, endpoints: int) -> dict[str, float]:
    """A fleet in a process of its own."""
    command = [sys.executable, "-m", "bench.suite.fleet_plan", str(droplets), str(endpoints)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextmanager
def most(_plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """The largest fleet."""
    yield {"100,000 droplets, 10,000,000 endpoints": lambda: planned(100_000, 10_000_000)}


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """The sizes, one process after the other."""
    turns: dict[str, Turn | str] = {}
    for name, size in SIZES.items():
        if plan.quick:
            turns["1,000 droplets, 10,000 endpoints"] = lambda: planned(*QUICK)
        else:
            turns[name] = lambda size=size: planned(*size)  # type: ignore[misc]
    yield turns


NOT_SHOWN = (
    "sending what is planned, and the server's own memory of its objects (`control-plane`). Every droplet is told of "
    "every other, so what changes when one joins grows with the fleet: two changes for each droplet that is there."
)
FIGURES = (
    Figure(
        "scale",
        "Fleets planned by the real planner, with simulated daemons",
        "places",
        opened,
        NOT_SHOWN + " Ten million endpoints are `scale-most`.",
        units=UNITS,
        rounds=1,
        limit_s=400,
    ),
    Figure(
        "scale-most",
        "Ten million endpoints on 100,000 droplets, planned by the real planner",
        "places",
        most,
        NOT_SHOWN,
        units=UNITS,
        rounds=1,
        alone=True,
        limit_s=3600,
    ),
)
