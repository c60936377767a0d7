# SPDX-License-Identifier: Apache-2.0
"""What a packet costs where the next one is of another of very many flows: tables that no cache holds."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.program_cost import ORIGIN, Bench, as_bouncer_of_service
from bench.suite.figure import Figure, Plan, Turn
from bench.suite.machine import calmest, on_cpu
from tests.dataplane.frames import datagram, tunnel
from tests.dataplane.plan import DIVIDER, HOST, RED, A, R, S
from tests.dataplane.test_services import service
from tests.dataplane.testbed import XDP_PASS, XDP_TX, Testbed

FIRST, BATCH = 0x0A100000, 1 << 16
NUMBERS = {"1 flow": 1, "4,096 flows": 1 << 12, "1,048,576 flows": 1 << 20}
SIZES = {"endpoints": 1 << 21, "flows": 1 << 21}
INNER_IP, SOURCE, DESTINATION = 14, 12, 16
"""Offsets: of the IPv4 header in the inner frame, of its addresses in it."""


class Many:
    """The programs over tables with room for all."""

    def __init__(self, repeat: int) -> None:
        self.bench = Bench(repeat, 1, SIZES)
        self.testbed = self.bench.testbed

    def endpoints(self, number: int, **fields: int) -> None:
        """So many more of FRONT, from FIRST on."""
        value = {
            "vpc_slot": RED.slot,
            "network": R.network.slot,
            "mac": bytes((2, 0, 0, 0, 0, 9)),
            "tunnel": 1,
        } | fields
        for begin in range(0, number, BATCH):
            numbers = range(FIRST + begin, FIRST + min(number, begin + BATCH))
            addresses = (bytes(10) + b"\xff\xff" + struct.pack(">I", one) for one in numbers)
            self.testbed.tables.endpoints.put_many(({"vni": RED.vni, "addr": one}, value) for one in addresses)

    def ns(self, number: int, inner: bytes, src: object, where: int, verdict: int) -> float:
        """Own cost of Transit XDP, for frames whose address at `where` is another one each time."""
        frame = tunnel("geneve", inner, src=src, options=ORIGIN)  # type: ignore[arg-type]
        at = frame.index(bytes(inner)) + INNER_IP + where
        self.bench.vary = at, number - 1, FIRST
        room = 50 if verdict == XDP_PASS else 0
        if number > self.bench.repeat:
            self.bench.repeat, before = number, self.bench.repeat
            self.bench.run_ns("transit", frame, room, verdict)
            self.bench.repeat = before
        self.bench.run_ns("transit", frame, room, verdict)
        whole = self.bench.run_ns("transit", frame, room, verdict)
        return whole - self.bench.run_ns("baseline_xdp", frame, 0, 0)

    def measured(self, number: int) -> dict[str, float]:
        """Each path, after a run in which every flow came by."""
        self.testbed.reset()
        Testbed.as_bouncer(self.testbed)
        self.endpoints(number, droplet=HOST.slot)
        told = {"bounce, to as many endpoints": self._to(number, datagram(4, A, "10.16.0.0"))}
        self.testbed.reset()
        Testbed.as_divider(self.testbed)
        self.endpoints(number, droplet=HOST.slot)
        inner = datagram(4, A, S.address(4))
        told["divide, from as many sources"] = self.ns(number, inner, HOST, SOURCE, XDP_TX)
        self.testbed.reset()
        as_bouncer_of_service(self.testbed)
        self.testbed.tables.flow_budgets.put(RED.slot, {"until": 1 << 21})
        inner = datagram(4, A, service(4))
        told["scaled, as many known flows"] = self.ns(number, inner, DIVIDER, SOURCE, XDP_TX)
        return told

    def _to(self, number: int, inner: bytes) -> float:
        return self.ns(number, inner, DIVIDER, DESTINATION, XDP_TX)


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """All take turns over the same tables."""
    made = Many(plan.pick(50_000, 300_000))

    def turn(number: int) -> dict[str, float]:
        with on_cpu(calmest(plan.cpus)):
            return made.measured(number)

    turns: dict[str, Turn | str] = {}
    for name, number in NUMBERS.items():
        if plan.quick and number > BATCH:
            turns[name] = "left out of a quick run"
        else:
            turns[name] = lambda number=number: turn(number)  # type: ignore[misc]
    try:
        yield turns
    finally:
        made.testbed.close()


FIGURES = (
    Figure(
        "flows",
        "Own cost of Transit XDP as flows get many, IPv4",
        "ns",
        opened,
        "network cards, and flows that begin. Each packet is of another flow than the one before, in an order that no "
        "cache foresees; the traffic of a real host repeats itself more.",
        floor="lines of tables that come from memory: with a million flows every packet waits for at least one. The "
        "gateway's tables have one such line for each flow ([lines](decisions/lines.md)); these have two to three",
        rounds=2,
    ),
)
