#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what each step of a pipeline costs in its XDP program, and what the shipped gateway costs per packet.

    python bench/pipeline_cost.py [--repeat N] [--rounds N]          (as root; needs clang)

Each figure is the difference of two generated programs, one with the step and one without, over BPF_PROG_TEST_RUN with
warm caches and few entries; of several rounds the fastest. As a program rewrites its frame, bench/program_cost's small
program restores it each time; where the frame's beginning moves, half of a pair of moves is taken off. Not included:
the driver, and what happens after the verdict. mizar/pipeline/costs.py has these figures, rounded.
"""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scapy.all import Raw  # noqa: E402

from bench.program_cost import SOURCES, compiled  # noqa: E402
from bench.template import TEMPLATE_BYTES, Template  # noqa: E402
from mizar.gateway import rules  # noqa: E402
from mizar.kernel.clang import compile_program  # noqa: E402
from mizar.kernel.gateway_program import load_gateway  # noqa: E402
from mizar.kernel.gateway_tables import GatewayTables  # noqa: E402
from mizar.kernel.layout import U32  # noqa: E402
from mizar.kernel.libbpf import check, lib  # noqa: E402
from mizar.kernel.test_run import run_xdp  # noqa: E402
from mizar.pipeline.reader import read_pipeline  # noqa: E402
from mizar.pipeline.xdp.generate import generate  # noqa: E402
from tests.unit.pipeline import frames as f  # noqa: E402

TUNNELS = """
tunnels:
  near: {vid: 2, source: 192.0.2.1, destination: 192.0.2.2,
         source_mac: "02:00:00:00:02:01", destination_mac: "02:00:00:00:02:02"}
"""
NAT = """
nat:
  masquerade: [{inside: 0x01000064, outside: 0x01000065, addresses: 203.0.113.1}]
"""
XDP_DROP, XDP_TX = 1, 3
INNER = f.udp() / Raw(bytes(80))
VLAN, VXLAN = f.in_vlan(INNER, 100), f.in_vxlan(INNER)
META = "set_meta: {from: vlan, add: 0x01000000}"
LONG = ", ".join(f"[{number}, {number + 1}]" for number in range(60, 160))


def program(steps: str, when: str = "eth / vlan", more: str = "") -> str:
    """A pipeline of one case with these steps (YAML flow items) and a stop."""
    used = TUNNELS if "to: near" in steps + more else ""
    items = f"{steps}, " if steps else ""
    case = f"{{when: {when}, steps: [{items}{more or 'stop'}]}}"
    return f"pipeline: cost\n{used}groups: [{{name: G, steps: [{{switch: parse, cases: [{case}]}}]}}]\n"


def inner(when: str, steps: str = "stop", on: str = "parse") -> str:
    """A switch within the case."""
    return f"{{switch: {on}, cases: [{{when: {when}, steps: [{steps}]}}]}}"


@dataclass(frozen=True)
class Cost:
    """A step: the program with it, the one without it, how far each moves the frame's beginning, the frame."""

    name: str
    text: str
    without: str
    moves: int = 0
    moved_before: int = 0
    frame: bytes = VLAN


BASE = program(f"{{{META}}}")
BARE = program(f"{{{META}}}, pop_vlan")
TUNNELLED = "eth / vlan / ipv4 / udp / vxlan"
COSTS = (
    Cost("switch: parse, 3 headers", program("", more=inner("eth / vlan / ipv4 / udp")), program("")),
    Cost("switch: metadata", program(f"{{{META}}}", more=inner("0x01000000-0x01ffffff", on="metadata")), BASE),
    Cost("set_meta", BASE, program("")),
    Cost("set_meta, long table", program(f"{{set_meta: {{from: vlan, table: [{LONG}]}}}}"), BASE),
    Cost("pop_vlan", BARE, BASE, 4),
    Cost("push_vlan", program(f"{{{META}}}, push_vlan, {{set_vid: {{from: meta}}}}"), BASE, -4),
    Cost("pop_vlan, push_vlan", program(f"{{{META}}}, pop_vlan, push_vlan, {{set_vid: {{from: meta}}}}"), BASE),
    Cost("set_vid", program(f"{{{META}}}, {{set_vid: {{from: meta}}}}"), BASE),
    Cost(
        "decap",
        program("{decap: [vlan, vxlan]}", TUNNELLED),
        program("", TUNNELLED),
        54,
        frame=VXLAN,
    ),
    Cost(
        "encap",
        program(f"{{{META}}}, pop_vlan, {{encap: {{headers: vxlan, to: near}}}}, {{set_vni: {{from: meta}}}}"),
        BASE,
        -46,
    ),
    Cost(
        "decap, encap of the same size",
        program(
            "{set_meta: {from: vni, add: 0x01000000}}, {decap: [vlan, vxlan]}, "
            "{encap: {headers: [vlan, vxlan], to: near}}, {set_vni: {from: meta}}",
            TUNNELLED,
        ),
        program("{set_meta: {from: vni, add: 0x01000000}}", TUNNELLED),
        frame=VXLAN,
    ),
    Cost("count", program(f"{{{META}}}, {{count: c}}"), BASE),
    Cost("count, per meta", program(f"{{{META}}}, {{count: {{name: c, per: meta}}}}"), BASE),
    Cost("limit", program(f"{{{META}}}, {{limit: {{name: l, packets_per_s: 1000000000, burst: 1000000}}}}"), BASE),
    Cost(
        "limit, in ticks",
        program(f"{{{META}}}, {{limit: {{name: l, packets_per_s: 50000000, burst: 1000000}}}}"),
        BASE,
    ),
    Cost(
        "limit, in ticks, per meta",
        program(f"{{{META}}}, {{limit: {{name: l, packets_per_s: 50000000, burst: 1000000, per: meta}}}}"),
        BASE,
    ),
    Cost("drop", program("", more="drop"), program("")),
    Cost(
        "conntrack and nat, established",
        NAT
        + program(
            f"{{{META}}}, pop_vlan",
            more=inner(
                "eth / ip / (tcp | udp | icmp)",
                "{switch: conntrack, cases: [{when: new | established, steps: [nat: {allocate: true}, stop]}]}",
            ),
        ),
        program(f"{{{META}}}, pop_vlan", more=inner("eth / ip / (tcp | udp | icmp)")),
        4,
        4,
    ),
)


@functools.cache
def compiled_once(text: str) -> bytes:
    """The object of a program: most are measured more than once."""
    return compile_program(text, "cost")


class Bench:
    """Programs, and the small one that restores their frame."""

    def __init__(self, repeat: int, rounds: int) -> None:
        self.repeat, self.rounds = repeat, rounds
        self.restore = {name: compiled(SOURCES / f"{name}_xdp.c") for name in ("restore", "baseline")}
        self.empty_ns = self._run("", VLAN, 0)
        self.move_ns = (self._run("", VLAN, 4) - self.empty_ns) / 2

    def ns(self, text: str, frame: bytes, moves: int) -> float:
        """What a program costs by itself."""
        return self._run(text, frame, 0) - self.empty_ns - (self.move_ns if moves else 0)

    def _run(self, text: str, frame: bytes, room: int) -> float:
        pipeline = read_pipeline(text, "cost.yaml") if text else None
        shown = generate(pipeline) if pipeline else generate(read_pipeline(program(""), "cost.yaml"))
        data = compiled_once(shown.text)
        beside = {"restore_xdp": self.restore["restore"], "baseline_xdp": self.restore["baseline"]}
        loaded = load_gateway(data, "cost", beside=beside)
        try:
            loaded.fill_tables((number, dict(table.entries)) for number, table in shown.tables)
            maps, programs = loaded.programs.maps, loaded.programs.programs
            if pipeline is not None and pipeline.nat is not None:
                rules.write(GatewayTables.of(maps), pipeline.nat)
            padded = frame.ljust(TEMPLATE_BYTES, b"\0")
            template = Template(padded, room, verdict=XDP_TX).packed()
            entry = loaded.fd if pipeline else programs["baseline_xdp"].fd
            for name, value in (("template", template), ("jump_xdp", U32.pack(entry))):
                check(lib().bpf_map_update_elem(maps[name], U32.pack(0), value, 0), f"fill {name}")
            fd = programs["restore_xdp"].fd
            assert run_xdp(fd, padded, repeat=1000).retval in (XDP_DROP, XDP_TX)
            return min(run_xdp(fd, padded, repeat=self.repeat).duration_ns for _ in range(self.rounds))
        finally:
            loaded.close()


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    bench = Bench(given.repeat, given.rounds)
    print(f"{'(empty program, not counted)':34} {bench.empty_ns:6.0f} ns")
    print(f"{'a move of the beginning':34} {bench.move_ns:6.0f} ns")
    print(f"{'enter, parse eth / vlan, stop':34} {bench.ns(program(''), VLAN, 0):6.0f} ns")
    for cost in COSTS:
        added = bench.ns(cost.text, cost.frame, cost.moves) - bench.ns(cost.without, cost.frame, cost.moved_before)
        print(f"{cost.name:34} {added:6.0f} ns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
