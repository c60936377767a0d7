# SPDX-License-Identifier: Apache-2.0
"""What a packet costs where the next one is of another of very many flows: tables that no cache holds."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bench.program_cost import OVERHEAD, TC, WORK, Bench, as_bouncer_of_service
from bench.suite.figure import Figure, Plan, Turn
from bench.suite.machine import calmest, on_cpu
from mizar.kernel import layout
from tests.dataplane.plan import FAMILIES, FRONT, HOST, RED, A, mapped
from tests.dataplane.policies import Row, police, rules
from tests.dataplane.testbed import Testbed

BATCH = 1 << 16
FIRST = 0x0A100000
"""The last word of the first of the many addresses (of IPv4: 10.16.0.0)."""
FEW, MANY = 1 << 12, 1 << 20
SIZES = dict.fromkeys(("endpoints", "flows", "policy_flows"), 1 << 22)
ETHERNET, GENEVE = 14, 42
"""Lengths: of an Ethernet header, of what is in front of Geneve's."""
SOURCE, DESTINATION = {4: 12, 6: 20}, {4: 16, 6: 36}
"""Offsets of the addresses' last words in an IP header."""


@dataclass(frozen=True)
class Path:
    """A work of bench/program_cost.py, and which address of its packets is another one each time."""

    name: str
    work: str
    word: Mapping[int, int]
    setup: Callable[[Testbed], None]


def policed(testbed: Testbed) -> None:
    """a may be sent everything, by a rule, and every flow has room."""
    testbed.as_host()
    police(testbed, A, ingress=rules(testbed, 1, Row()), room=SIZES["policy_flows"])


def serving(testbed: Testbed) -> None:
    """A scaled endpoint of one member, and every flow has room."""
    as_bouncer_of_service(testbed)
    testbed.tables.flow_budgets.put(RED.slot, {"until": SIZES["flows"]})


PATHS = (
    Path("agent, to as many endpoints", "agent, into the tunnel", DESTINATION, Testbed.as_host),
    Path("local delivery, from as many endpoints", "local delivery: transit", SOURCE, Testbed.as_host),
    Path("local delivery, as many flows known to a policy", "local delivery: transit", SOURCE, policed),
    Path("bounce, to as many endpoints", "bounce", DESTINATION, Testbed.as_bouncer),
    Path("divide, from as many endpoints", "divide", SOURCE, Testbed.as_divider),
    Path("scaled, as many known flows", "scaled", SOURCE, serving),
)


class Many:
    """The programs over tables of very many endpoints of each family, on HOST."""

    def __init__(self, repeat: int, endpoints: int) -> None:
        self.bench = Bench(repeat, 1, SIZES)
        self.testbed = self.bench.testbed
        self.works = {work.name: work for work in WORK}
        for family in FAMILIES:
            self._fill(endpoints, mapped(FRONT.address(family, 0))[:12])

    def _fill(self, number: int, prefix: bytes) -> None:
        fields = {"droplet": HOST.slot, "vpc_slot": RED.slot, "network": FRONT.slot, "tunnel": 1}
        value = layout.struct("endpoint", mac=bytes((2, 0, 0, 0, 0, 9)), **fields)
        head = struct.pack("=I", RED.vni) + prefix
        for begin in range(FIRST, FIRST + number, BATCH):
            words = range(begin, min(FIRST + number, begin + BATCH))
            self.testbed.tables.endpoints.put_raw([(head + struct.pack(">I", word), value) for word in words])

    def cost_ns(self, path: Path, family: int, flows: int) -> float:
        """Own cost of a path's program, after a run in which every flow came by."""
        path.setup(self.testbed)
        work = self.works[path.work]
        frame, tc = work.frame(family), work.program in TC
        inner = 0 if tc else OVERHEAD + (frame[GENEVE] & 63) * 4
        self.bench.vary = inner + ETHERNET + path.word[family], flows - 1, FIRST
        before, self.bench.repeat = self.bench.repeat, max(flows, self.bench.repeat)
        self.bench.run_ns(work.program, frame, work.room, work.verdict)
        self.bench.repeat = before
        baseline = "baseline_tc" if tc else "baseline_xdp"
        whole = self.bench.run_ns(work.program, frame, work.room, work.verdict)
        empty = self.bench.run_ns(baseline, frame, 0, 0)
        moves = self.bench.run_ns(baseline, frame, work.room, 0) - empty if work.room else 0
        return whole - empty - moves / 2


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """All take turns over the same tables."""
    made = Many(plan.pick(50_000, 300_000), plan.pick(BATCH, MANY))

    def turn(flows: int) -> dict[str, float]:
        with on_cpu(calmest(plan.cpus)):
            return {
                f"{path.name}, IPv{family}": made.cost_ns(path, family, flows) for path in PATHS for family in FAMILIES
            }

    turns: dict[str, Turn | str] = {}
    for flows in (1, FEW, MANY):
        name = f"{flows:,} flow{'s' if flows > 1 else ''}"
        turns[name] = "left out of a quick run" if plan.quick and flows == MANY else partial(turn, flows)
    try:
        yield turns
    finally:
        made.testbed.close()


FIGURES = (
    Figure(
        "flows",
        "Own cost of the programs as flows get many",
        "ns",
        opened,
        "network cards, and flows that begin. Each packet is of another flow than the one before, in an order that no "
        "cache foresees; the traffic of a real host repeats itself more. The table of endpoints has a million of each "
        "family throughout. Of a local delivery it is Transit XDP's part: `deliver` knows no flows. The gateway's "
        "translation of a million flows is in `nat`.",
        floor="lines of tables that come from memory: with a million flows every packet waits for at least one. The "
        "gateway's tables have one such line for each flow ([lines](decisions/lines.md)); these have two to three",
        rounds=2,
    ),
)
