# SPDX-License-Identifier: Apache-2.0
"""What an HTTP load balancer costs. See bench/http_balancer.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench import http_balancer
from bench.suite.figure import Figure, Plan, Turn
from bench.suite.leftovers import lab_name
from bench.suite.machine import found

NAMES = {"straight to the server": "direct", "through the load balancer": "balanced"}


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """One lab; the ways take turns."""
    if found("wrk") is None:
        yield dict.fromkeys(NAMES, "wrk is not installed")
        return
    seconds = plan.pick(1, 3)
    with http_balancer.opened(lab_name()) as shop:

        def turn(way: str) -> dict[str, float]:
            told = {}
            for connections in (1, 32):
                rate, p50_us = shop.asked(way, connections, seconds)
                told[f"{connections} connections"] = rate
                told[f"{connections} connections, p50"] = p50_us
            return told

        yield {name: lambda way=way: turn(way) for name, way in NAMES.items()}  # type: ignore[misc]


FIGURES = (
    Figure(
        "http-balancer",
        "Requests of an HTTP load balancer, beside the same requests straight to the server",
        "requests/s",
        opened,
        "machines of their own: client, instance and server share the CPUs, so the instance takes from both. The "
        "server is HAProxy itself, and answers 'hello'.",
        units={f"{number} connections, p50": "µs" for number in (1, 32)},
        rounds=3,
        packages={"wrk": "wrk", "haproxy": "haproxy"},
    ),
)
