# SPDX-License-Identifier: Apache-2.0
"""How much memory a droplet needs for the endpoints that it knows.

The table `endpoints` is loaded as a daemon loads it and filled in batches, as many entries as there are addresses. What
the kernel has allocated for it is read (`memlock` in the map's fdinfo); the network, hop sets and counters of a VPC do
not grow with its endpoints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.suite.figure import Figure, Goal, Plan, Turn
from tests.dataplane.plan import BOUNCER, FRONT, HOST, ME, RED
from tests.dataplane.testbed import SIZES, Testbed

MILLION = "1,000,000 endpoints"
NUMBERS = {"65,536 endpoints": 1 << 16, MILLION: 1_000_000}


def allocated(fd: int) -> int:
    """Bytes that the kernel has allocated for a map."""
    lines = (line.split() for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == "memlock:")


def entries(number: int) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Endpoints of FRONT, on HOST, one address each."""
    for one in range(number):
        key = {"vni": RED.vni, "addr": bytes(10) + b"\xff\xff" + (0x0A000000 + one).to_bytes(4, "big")}
        mac = b"\x02\0" + one.to_bytes(4, "big")
        yield key, {"droplet": HOST.slot, "vpc_slot": RED.slot, "network": FRONT.slot, "mac": mac, "tunnel": 1}


def filled(number: int) -> dict[str, float]:
    """A droplet that bounces a network of so many endpoints."""
    before = SIZES["endpoints"]
    SIZES["endpoints"] = 1 << (number - 1).bit_length()
    testbed = Testbed()
    try:
        testbed.droplets(ME, BOUNCER, HOST)
        testbed.vpc(RED, BOUNCER)
        testbed.network(FRONT, ME)
        fd = testbed.programs.maps["endpoints"]
        begun = time.monotonic()
        written = testbed.tables.endpoints.put_many(entries(number))
        took_s = time.monotonic() - begun
        return {"memory": allocated(fd) / 1e6, "to fill": took_s, "each": allocated(fd) / written}
    finally:
        SIZES["endpoints"] = before
        testbed.close()


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """Each in a table of its own."""
    turns: dict[str, Turn | str] = {name: lambda number=number: filled(number) for name, number in NUMBERS.items()}  # type: ignore[misc]
    if plan.quick:
        turns[MILLION] = "left out of a quick run"
    yield turns


FIGURES = (
    Figure(
        "memory",
        "What a droplet needs to know the endpoints of a network",
        "MB",
        opened,
        "the daemon's own memory (`daemon`), and endpoints with more than one address, which take an entry for each.",
        floor="a bucket's element of the kernel's hash table: 128 bytes for a key, a value and their links",
        units={"to fill": "s", "each": "bytes"},
        goals=(
            Goal("memory: 1 M endpoints known to one droplet", "41 MB per 65k", "memory", 200, contender=MILLION),
        ),
        rounds=1,
    ),
)  # fmt: skip
