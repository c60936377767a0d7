#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what a gateway's connections cost: nanoseconds, new connections a second, bytes.

    python bench/gateway_cost.py [--rounds N] [--flows N] [--cpu N]          (as root; needs clang, like the build)

Two programs run in the kernel over BPF_PROG_TEST_RUN, pinned to one CPU: each run writes another of many flows into the
frame, in an order that no cache foresees, and redirects it; one of them looks up and translates in between
(bench/gateway_cost/cost.c). They take turns; of several rounds the fastest of each is shown, and the median difference.
New connections are the first pass over the flows: rule, port, and both entries. The kernel's conntrack is asked for
flows of its own, and nothing else is done (bpf_xdp_ct_lookup, a kfunc). Bytes are what the system has less afterwards,
for as many connections as are asked for, both directions and all that the map needs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mizar.gateway import rules  # noqa: E402
from mizar.gateway.options import Sizes  # noqa: E402
from mizar.kernel import libbpf, programs  # noqa: E402
from mizar.kernel.gateway_tables import GatewayTables  # noqa: E402
from mizar.kernel.layout import U32  # noqa: E402
from mizar.kernel.libbpf import lib  # noqa: E402
from mizar.kernel.namespaces import anonymous  # noqa: E402
from mizar.kernel.test_run import run_xdp  # noqa: E402
from mizar.pipeline.nat import Masquerade, NatRules  # noqa: E402
from mizar.pipeline.ranges import Ranges  # noqa: E402
from tests.dataplane.gateway_nat import compiled  # noqa: E402

SOURCE = ROOT / "bench" / "gateway_cost" / "cost.c"
TCP, UDP = 6, 17
FAMILY = 4
"""Of cost.c's flows."""
META, WORLD = 5, 0x02FF0064
SYN, ACK = 2, 16
ROUND = 1 << 20
CONFIG = struct.pack("II", 0, 0)
"""Of the gateway's programs: neither watched nor with a given clock."""
SMALL = {"connections4": 1, "connections6": 1}


def frame(protocol: int, flags: int = ACK) -> bytes:
    """Ethernet, IPv4, and a header whose places the program fills in."""
    l4 = struct.pack("!HHIIBBHHH", 0, 0, 1, 1, 0x50, flags, 8192, 0, 0) if protocol == TCP else b""
    l4 = l4 or struct.pack("!HHHH", 0, 0, 20, 0) + bytes(12)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), 0, 0, 64, protocol, 0) + bytes(8)
    return bytes(12) + b"\x08\x00" + ip + l4


@dataclass
class Bench:
    """Both programs and the maps of the one that translates."""

    bare: programs.Programs
    nat: programs.Programs
    protocol: int

    def point(self, flows: int, *, first: int = 0, few: bool = False) -> None:
        """Both begin with the first of so many flows."""
        value = struct.pack("QIIQII", 0, flows - 1, first, 0, self.protocol, few)
        for loaded in (self.bare, self.nat):
            fd = loaded.maps["bench_flows"]
            libbpf.check(lib().bpf_map_update_elem(fd, U32.pack(0), value, 0), "begin again")

    def bare_ns(self, runs: int) -> float:
        """Of one run without translation."""
        return run_xdp(self.bare.programs["cost"].fd, frame(self.protocol), repeat=runs).duration_ns

    def nat_ns(self, runs: int, flags: int = ACK) -> float:
        """Of one run with."""
        return run_xdp(self.nat.programs["cost"].fd, frame(self.protocol, flags), repeat=runs).duration_ns

    def refused(self) -> int:
        """How many runs found no translation since point()."""
        value = libbpf.ffi.new("char[]", 32)
        fd = self.nat.maps["bench_flows"]
        libbpf.check(lib().bpf_map_lookup_elem(fd, U32.pack(0), value), "read what was refused")
        return int(struct.unpack("QIIQII", bytes(libbpf.ffi.buffer(value)))[3])


@contextmanager
def bench(protocol: int, connections: int, *more: str) -> Iterator[Bench]:
    """Programs with room for so many connections; `more`: how else cost.c is compiled."""
    addresses = tuple(ip_address(f"203.0.113.{number}") for number in range(1, 129))
    nat = NatRules(masquerade=(Masquerade(inside=Ranges.of(32, [META]), outside=WORLD, addresses=addresses),))
    sizes = Sizes(connections, 1, lines_mib=1 << 20).by_map()
    with (
        programs.load(CONFIG, objects={"cost": compiled(SOURCE, *more)}, max_entries=SMALL) as bare,
        programs.load(CONFIG, objects={"cost": compiled(SOURCE, "-DTRANSLATE", *more)}, max_entries=sizes) as loaded,
    ):
        rules.write(GatewayTables.of(loaded.maps), nat)
        yield Bench(bare, loaded, protocol)


def available_bytes() -> int:
    """What the system could still give."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def hot_path(protocol: int, flows: int, rounds: int) -> None:
    """Prints the cost of an established packet."""
    with bench(protocol, max(flows, 1024)) as made:
        made.point(flows)
        made.nat_ns(flows, SYN)
        made.nat_ns(flows)
        missing = made.refused()
        pairs = []
        for _ in range(rounds):
            pairs.append((made.bare_ns(ROUND), made.nat_ns(ROUND)))
        bare, nat = (min(pair[which] for pair in pairs) for which in (0, 1))
        middle = statistics.median(nat - bare for bare, nat in pairs)
        name = {TCP: "TCP", UDP: "UDP"}[protocol]
        print(
            f"hot path, {name}, {flows:>8} flows: {nat - bare:4.0f} ns over a bare redirect"
            f" ({nat} and {bare}; median of the difference {middle:.0f}),"
            f" {missing} without translation"
        )


def new_connections(protocol: int, flows: int, rounds: int) -> None:
    """Prints how many begin in a second on this CPU."""
    found = []
    for _ in range(rounds):
        with bench(protocol, flows) as made:
            made.point(flows)
            bare, nat = made.bare_ns(flows), made.nat_ns(flows, SYN)
            found.append((nat, bare, made.refused()))
    nat, bare, missing = min(found)
    print(
        f"new connections, {'TCP' if protocol == TCP else 'UDP'}: {1e9 / nat:,.0f} a second"
        f" ({nat} ns, of which {bare} for the bare redirect; {missing} of {flows} refused)"
    )


def kernel_conntrack(flows: int, rounds: int) -> None:
    """Prints what asking the kernel's conntrack costs, in a namespace of its own, without any translation."""
    with (
        anonymous() as namespace,
        bench(UDP, flows) as made,
        programs.load(CONFIG, objects={"cost": compiled(SOURCE, "-DKERNEL")}, max_entries=SMALL) as kernel,
    ):
        both = Bench(made.bare, kernel, UDP)
        both.point(flows)
        namespace.run(lambda: both.nat_ns(2 * flows))
        missing = both.refused()
        made.point(flows)
        made.nat_ns(2 * flows)
        rows = [
            (made.bare_ns(ROUND), made.nat_ns(ROUND), namespace.run(lambda: both.nat_ns(ROUND))) for _ in range(rounds)
        ]
        bare, own, asked = (min(row[which] for row in rows) for which in range(3))
        print(
            f"kernel's conntrack, UDP, {flows} flows: {asked - bare} ns over a bare redirect for the lookup alone,"
            f" {missing} without; lookup and translation by the own table {own - bare} ns"
        )


def memory(connections: int) -> None:
    """Prints what a connection takes."""
    before, flows, begun = available_bytes(), 1 << 20, 0
    with bench(UDP, connections) as made:
        for first in range(0, connections, flows):
            made.point(flows, first=first)
            made.nat_ns(flows)
            begun += flows - made.refused()
        used = (before - available_bytes()) / begun
        told = sum(memlock(made.nat.maps[name]) for name in ("connections4", "lines4"))
        far = sum(1 for _ in GatewayTables.of(made.nat.maps).connections4.far.raw_items())
        print(
            f"memory: {begun:,} connections, room for {connections:,}: {used:.0f} bytes each are gone"
            f" from the system, {told / begun:.0f} by the kernel's own account;"
            f" {far / begun / 2:.1%} of the entries are in no line"
        )


def memlock(fd: int) -> int:
    """Bytes of a map by the kernel's own account."""
    told = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return int(next(line.split()[1] for line in told if line.startswith("memlock")))


def main() -> int:
    """Measures everything, one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--flows", type=int, default=1 << 20, help="many flows; a power of two")
    parser.add_argument("--connections", type=int, default=4 << 20, help="for the measure of memory")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    wanted = parser.parse_args()
    os.sched_setaffinity(0, {wanted.cpu})
    for protocol in (UDP, TCP):
        hot_path(protocol, 1 << 10, wanted.rounds)
        hot_path(protocol, wanted.flows, wanted.rounds)
        new_connections(protocol, wanted.flows, 3)
    kernel_conntrack(1 << 10, wanted.rounds)
    memory(wanted.connections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
