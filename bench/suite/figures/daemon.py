# SPDX-License-Identifier: Apache-2.0
"""A droplet's daemon that knows many endpoints: how long it takes to be told, to come back, and its memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.suite.figure import Figure, Plan, Turn
from bench.suite.figures.operations import rigged
from mizar._built import transit_pb2 as pb
from tests.transit.rig import FRONT, Droplet, endpoint, put_droplet, put_network, put_vpc

BATCH = 5_000
NUMBERS = {"1,000 endpoints": 1_000, "100,000 endpoints": 100_000}
FIRST = 0x0A400000


def known(droplet: Droplet, numbers: range) -> Iterator[pb.Change]:
    """Endpoints of FRONT elsewhere."""
    for number in numbers:
        one = endpoint(1, FRONT, droplet)
        one.mac = b"\x02\x09" + number.to_bytes(4, "big")
        one.addresses[:] = [(FIRST + number).to_bytes(4, "big")]
        yield pb.Change(put_endpoint=one)


def memory_mb(process: int) -> float:
    """Of a process, resident."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1000


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """A droplet for each number, that bounces a network of so many endpoints on another droplet."""
    with rigged() as made:

        def turn(one: Droplet, told_s: float) -> dict[str, float]:
            one.stop()
            begun = time.monotonic()
            one.start()
            took = time.monotonic() - begun
            assert one.process is not None
            return {"to be told of them": told_s, "restart, until it answers": took, MEMORY: memory_mb(one.process.pid)}

        turns: dict[str, Turn | str] = {}
        for name, number in NUMBERS.items():
            if plan.quick and number > BATCH:
                turns[name] = "left out of a quick run"
                continue
            one, other = made.add_droplet(), made.add_droplet()
            one.start()
            network = put_network(FRONT, one)
            network.put_network.prefixes[0].CopyFrom(
                pb.Prefix(address=bytes((10, 0, 0, 0)), length=8, gateway=bytes((10, 0, 0, 1)))
            )
            one.apply(put_droplet(one), put_droplet(other), put_vpc(one), network)
            begun = time.monotonic()
            for first in range(0, number, BATCH):
                one.apply(*known(other, range(first, min(number, first + BATCH))))
            told_s = time.monotonic() - begun
            turns[name] = lambda one=one, told_s=told_s: turn(one, told_s)  # type: ignore[misc]
        yield turns


MEMORY = "memory of the daemon"
FIGURES = (
    Figure(
        "daemon",
        "A daemon that knows many endpoints: told of them, started again, its memory",
        "s",
        opened,
        "endpoints that live on the droplet, each of which has a link that the daemon looks at. Traffic flows all the "
        "while (`restarts`).",
        floor="of a restart that has 1,000 endpoints 0.8 s of a CPU, and 1.3 s while the verifier looked at programs "
        "that had not changed: they stay (`mizar/kernel/builds.py`). Imports are 0.5 s, pyroute2 a sixth of them; "
        "without pydantic and rich, which a daemon does not need, they are 0.15 s less. Entries of other droplets' "
        "endpoints are compared as bytes (`mizar/transit/endpoint_rows.py`): 0.5 s of a CPU for 100,000, 3 s before",
        units={MEMORY: "MB"},
        rounds=3,
    ),
)
