#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what each program of the data plane costs per packet, of its own.

    python bench/program_cost.py [--repeat N] [--rounds N]          (as root; needs clang, like the build)

The compiled programs run in the kernel on one UDP packet of one flow, over BPF_PROG_TEST_RUN, a million times in a
row, with warm caches and tables of few entries. As a program rewrites its packet, a small program runs before it each
time, restores the packet, and tail-calls it. What that costs is measured with an empty program in place of ours and
subtracted. Delivery and the agent move the beginning of the frame, and the restoring program moves it back: there,
the pair of moves is measured too, and half of it is counted as ours. A local delivery is the work of two programs,
shown as a sum as well (a test run has no metadata: `deliver` finds its note at the beginning of the frame). The last
works are those above with a network function at their stage, that is for others, or that looks at nothing and
continues: what it adds is the difference, measured in turn with the work without it. Of
several rounds the fastest is shown. Not included: the driver, the kernel's path from hook to hook, and what happens
after the verdict.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scapy.packet import Raw  # noqa: E402

from bench.template import Template  # noqa: E402
from mizar.kernel import layout, test_run  # noqa: E402
from mizar.kernel.libbpf import check, lib  # noqa: E402
from mizar.kernel.programs import OBJECTS, object_bytes  # noqa: E402
from tests.dataplane.chained import Chained, from_text, member  # noqa: E402
from tests.dataplane.frames import datagram, option, tunnel  # noqa: E402
from tests.dataplane.plan import (  # noqa: E402
    BACK,
    BOUNCER,
    DIVIDER,
    FAMILIES,
    FRONT,
    HANDOVER_MAGIC,
    HOST,
    MARK,
    RED,
    A,
    B,
    P,
    R,
    S,
    V,
)
from tests.dataplane.policies import Row, rules  # noqa: E402
from tests.dataplane.test_network_acl import acl  # noqa: E402
from tests.dataplane.test_public import attracted, request  # noqa: E402
from tests.dataplane.test_services import scaled, service  # noqa: E402
from tests.dataplane.test_substrate import OUTSIDE, from_stack  # noqa: E402
from tests.dataplane.test_substrate import ready as beside_the_stack  # noqa: E402
from tests.dataplane.testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed  # noqa: E402

SOURCES = ROOT / "bench" / "program_cost"
OVERHEAD, HANDOVER_BYTES = 50, 28
ORIGIN = option(0xFF01, 1, bytes((192, 0, 2, 4)))
"""What the first hop adds."""
TC = ("agent", "deliver", "proxy", "substrate")
LEARNED, LIMITED, NETWORK_ELSEWHERE = 8, 128, 0xFFFFFFFF  # written out, as in tests/dataplane/plan.py


def note(**fields: int) -> bytes:
    """What Transit XDP leaves for `deliver`."""
    return layout.struct("handover", magic=HANDOVER_MAGIC, mark=MARK, **fields)


def knowing_s(droplet: Testbed) -> None:
    """ME hosts a and has learned that s, of another network, is on HOST."""
    droplet.as_host()
    droplet.endpoint(S, flags=LEARNED, network=NETWORK_ELSEWHERE)


@dataclass(frozen=True)
class Work:
    """One thing that a program does: the situation, a frame that meets it, and how the frame's beginning moves.

    `limit_ns` None: its cost is added to that of the following one.
    """

    name: str
    program: str
    limit_ns: int | None
    setup: Callable[[Testbed], None]
    frame: Callable[[int], bytes]
    verdict: int
    room: int = 0
    stage: str = ""
    """Where a function may be attached to see what it adds; empty: nowhere."""


def as_bouncer_of_service(testbed: Testbed) -> None:
    """ME bounces FRONT, and chooses r as the member of the service there."""
    testbed.as_bouncer()
    scaled(testbed, R)


def attracting(testbed: Testbed) -> None:
    """ME attracts the public addresses of a load balancer whose member is r, on HOST."""
    attracted(testbed, R)


def attracting_strangers(testbed: Testbed) -> None:
    """The same, where no flow is remembered: each packet is looked at as the first of one, but for keeping it."""
    attracted(testbed, R)
    testbed.tables.flow_budgets.put(RED.slot, {"until": 0})


def carrying(testbed: Testbed) -> None:
    """The droplet carries a proxied endpoint whose target is elsewhere."""
    testbed.as_host()
    testbed.proxy()


def judging_edges(testbed: Testbed) -> None:
    """ME divides RED, both of whose networks have an ACL."""
    testbed.as_divider()
    for network in (FRONT, BACK):
        acl(testbed, network, ingress=rules(testbed, 1, Row()), egress=1)


def limited(testbed: Testbed) -> None:
    """a may send and be sent very much, in bytes and in packets."""
    testbed.as_host()
    wide = {"byte_cost": 1, "packet_cost": 1, "byte_burst_ns": 10**12, "packet_burst_ns": 10**12, "vni": RED.vni}
    testbed.tables.limiters.put(2, wide)
    testbed.tables.endpoint_limits.put(A.slot, {"egress": (2, 0, 0), "ingress": (2, 0, 0)})
    testbed.endpoint(A, flags=LIMITED)
    agent = testbed.tables.agents.get(A.ifindex)
    assert agent is not None
    testbed.tables.agents.put(A.ifindex, agent | {"flags": LIMITED})


def shaped(testbed: Testbed) -> None:
    """What a sends waits in the shaper, and its agent has not looked at it yet."""
    limited(testbed)
    testbed.tables.shaper.put(0, 77)
    testbed.tables.endpoint_limits.put(A.slot, {"egress": (2, 0, 0), "egress_class": 0x10002})


WORK = (
    Work("local delivery: transit", "transit", None, Testbed.as_host,
         lambda family: tunnel("geneve", datagram(family, R, A.address(family), dst_mac=A.mac), src=BOUNCER),
         XDP_PASS, OVERHEAD, stage="ENDPOINT_INGRESS"),
    Work("local delivery: deliver", "deliver", 150, Testbed.as_host,
         lambda family: note(ifindex=A.ifindex, vni=RED.vni, slot=A.slot)
         + bytes(datagram(family, R, A.address(family), dst_mac=A.mac)), TC_REDIRECT),
    Work("bounce", "transit", 100, Testbed.as_bouncer,
         lambda family: tunnel("geneve", datagram(family, A, R.address(family)), src=DIVIDER, options=ORIGIN),
         XDP_TX, stage="ON_XDP_TX"),
    Work("bounce, first hop", "transit", 150, Testbed.as_bouncer,
         lambda family: tunnel("geneve", datagram(family, A, R.address(family)), src=HOST), XDP_TX, -len(ORIGIN)),
    Work("bounce, VXLAN", "transit", 100, lambda testbed: testbed.as_bouncer("vxlan"),
         lambda family: tunnel("vxlan", datagram(family, A, R.address(family)), src=HOST), XDP_TX),
    Work("scaled", "transit", 200, as_bouncer_of_service,
         lambda family: tunnel("geneve", datagram(family, A, service(family)), src=DIVIDER, options=ORIGIN), XDP_TX),
    Work("public address", "transit", 250, attracting,
         lambda family: bytes(request(family) / Raw(bytes(100))), XDP_TX, -OVERHEAD),
    Work("public address, unknown flow", "transit", 350, attracting_strangers,
         lambda family: bytes(request(family) / Raw(bytes(100))), XDP_TX, -OVERHEAD),
    Work("divide", "transit", 150, Testbed.as_divider,
         lambda family: tunnel("geneve", datagram(family, A, S.address(family)), src=HOST, options=ORIGIN), XDP_TX),
    Work("divide, first hop", "transit", 200, Testbed.as_divider,
         lambda family: tunnel("geneve", datagram(family, A, S.address(family)), src=HOST), XDP_TX, -len(ORIGIN)),
    Work("divide, network ACLs", "transit", 450, judging_edges,
         lambda family: tunnel("geneve", datagram(family, A, S.address(family)), src=HOST, options=ORIGIN), XDP_TX),
    Work("divide into a peered VPC", "transit", 250, lambda testbed: testbed.as_crossing(DIVIDER),
         lambda family: tunnel("geneve", datagram(family, A, V.address(family)), src=HOST, options=ORIGIN), XDP_TX,
         -len(ORIGIN)),
    Work("drop", "transit", 100, Testbed.as_bouncer,
         lambda family: tunnel("geneve", datagram(family, A, B.address(family)), src=DIVIDER, options=ORIGIN),
         XDP_DROP),
    Work("agent, into the tunnel", "agent", 150, Testbed.as_host,
         lambda family: bytes(datagram(family, A, R.address(family))), TC_REDIRECT, OVERHEAD, stage="ENDPOINT_EGRESS"),
    Work("agent, limited", "agent", 250, limited,
         lambda family: bytes(datagram(family, A, R.address(family))), TC_REDIRECT, OVERHEAD),
    Work("agent, into the shaper", "agent", 100, shaped,
         lambda family: bytes(datagram(family, A, R.address(family))), TC_REDIRECT),
    Work("transit, limited", "transit", 250, limited,
         lambda family: tunnel("geneve", datagram(family, R, A.address(family), dst_mac=A.mac), src=BOUNCER),
         XDP_PASS, OVERHEAD),
    Work("agent, direct path", "agent", 150, knowing_s,
         lambda family: bytes(datagram(family, A, S.address(family))), TC_REDIRECT, OVERHEAD),
    Work("agent, same droplet", "agent", 150, Testbed.as_host,
         lambda family: bytes(datagram(family, A, B.address(family))), TC_REDIRECT, stage="ENDPOINT_INGRESS"),
    Work("agent, into the substrate", "agent", 250, beside_the_stack,
         lambda family: bytes(datagram(family, A, OUTSIDE[family])), TC_REDIRECT),
    Work("from the substrate", "substrate", 250, beside_the_stack,
         lambda family: bytes(from_stack(family, OUTSIDE[family], A.address(family)) / Raw(bytes(100))), TC_REDIRECT),
    Work("agent, drop", "agent", 100, Testbed.as_host,
         lambda family: bytes(datagram(family, A, R.address(family), src_mac=B.mac)), TC_SHOT),
    Work("proxy and agent: a flow", "proxy", 300, carrying,
         lambda family: bytes(datagram(family, R, P.address(family), dst_mac=P.mac)), TC_REDIRECT, OVERHEAD),
)  # fmt: skip


@functools.cache
def compiled(source: Path, *more: str) -> bytes:
    """An object file, with the flags and folders of the real build; made once, however many figures want it."""
    build = build_module()
    include = [f"-I{ROOT / 'dataplane'}", f"-I{ROOT / 'contracts'}", *build.system_includes()]
    command = [build.find_clang(), *build.C_FLAGS, *include, *more, "-c", str(source), "-o", "-"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603


def build_module() -> ModuleType:
    """dataplane/build.py."""
    spec = importlib.util.spec_from_file_location("dataplane_build", ROOT / "dataplane" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def repeatable() -> dict[str, bytes]:
    """The programs that could not run on one frame again and again as they are."""
    return {
        "agent": compiled(ROOT / "dataplane" / "agent.c", "-include", str(SOURCES / "repeatable.h")),
        "deliver": compiled(ROOT / "dataplane" / "deliver.c", "-include", str(SOURCES / "note.h")),
    }


class Bench:
    """The testbed with the restoring programs beside ours."""

    def __init__(self, repeat: int, rounds: int, sizes: Mapping[str, int] | None = None, *, live: bool = False) -> None:
        """`live`: for frames on wires, where programs need no changes to run again and again."""
        self.repeat, self.rounds = repeat, rounds
        self.vary = 0, 0, 0
        """Where a word of the frame differs from run to run, how many there are less one, and the first."""
        ours = {name: object_bytes(name) for name in OBJECTS}
        if not live:
            ours |= repeatable()
        helpers = {path.stem: compiled(path) for path in SOURCES.glob("*.c")}
        self.testbed = Testbed(objects=ours | helpers, sizes=sizes)
        self.programs = {name: program.fd for name, program in self.testbed.programs.programs.items()}

    def run_ns(self, program: str, frame: bytes, room: int, verdict: int) -> int:
        """Nanoseconds per run of restoring program and `program`; the fastest round."""
        hook = "tc" if program in (*TC, "baseline_tc") else "xdp"
        rooms = (room, 0) if hook == "xdp" else (0, room)
        template = Template(frame, *rooms, HANDOVER_BYTES, P.ifindex, self.vary, verdict=XDP_TX)
        maps, zero = self.testbed.programs.maps, bytes(4)
        check(lib().bpf_map_update_elem(maps["template"], zero, template.packed(), 0), "write the template")
        target = struct.pack("=I", self.programs[program])
        check(lib().bpf_map_update_elem(maps[f"jump_{hook}"], zero, target, 0), "choose the program")
        run = test_run.run_xdp if hook == "xdp" else test_run.run_tc
        best = 0
        for _ in range(self.rounds):
            result = run(self.programs[f"restore_{hook}"], frame, repeat=self.repeat)
            if result.retval != verdict and not program.startswith("baseline"):
                raise SystemExit(f"{program} answered {result.retval}, not {verdict}: {self.testbed.counted()}")
            best = min(best, result.duration_ns) if best else result.duration_ns
        return best

    def added_ns(self, work: Work, droplet: int) -> tuple[float, float]:
        """What a function that continues adds to a work, and one that is for others (`droplet`: bits), in turn."""
        chained = Chained(self.testbed)
        one = member(from_text("return FUNCTION_CONTINUE;"))
        best = [0.0, 0.0]
        rounds, self.rounds = self.rounds, 1
        for _ in range(rounds):
            for place, stages in enumerate(({}, {work.stage: [one]})):
                chained.put(stages, droplet)
                cost = self.cost_ns(work, FAMILIES[0])
                best[place] = min(best[place] or cost, cost)
        self.rounds = rounds
        chained.close()
        return best[0], best[1]

    def cost_ns(self, work: Work, family: int) -> float:
        """What the program itself costs for one packet."""
        self.testbed.reset()
        work.setup(self.testbed)
        frame = work.frame(family)
        baseline = "baseline_tc" if work.program in TC else "baseline_xdp"
        whole = self.run_ns(work.program, frame, work.room, work.verdict)
        empty = self.run_ns(baseline, frame, 0, 0)
        moves = self.run_ns(baseline, frame, work.room, 0) - empty if work.room else 0
        return whole - empty - moves / 2


def main() -> int:
    """Print the table; exit 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1_000_000, help="runs per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the fastest counts")
    arguments = parser.parse_args()
    bench = Bench(arguments.repeat, arguments.rounds)
    print(f"{'work':<26}{'IPv4 ns':>9}{'IPv6 ns':>9}{'limit ns':>10}")
    passed = True
    part = [0.0 for _ in FAMILIES]
    for work in WORK:
        costs = [bench.cost_ns(work, family) for family in FAMILIES]
        show(work.name, costs, None if any(part) else work.limit_ns)
        whole = [sum(pair) for pair in zip(costs, part, strict=True)]
        if any(part):
            show(work.name.split(":")[0], whole, work.limit_ns)
        passed = passed and max(whole) <= (work.limit_ns or max(whole))
        part = [0.0 for _ in FAMILIES] if work.limit_ns else whole
    print(f"\n{'with a function':<26}{'without':>9}{'with':>9}{'added':>10}")
    for work in (work for work in WORK if work.stage):
        for whose, droplet in (("for others", 0), ("continues", 1)):
            without, with_one = bench.added_ns(work, droplet)
            name = f"{work.name.replace(': transit', '')}, {whose}"
            print(f"{name:<34}{without:>7.1f}{with_one:>9.1f}{with_one - without:>10.1f}", flush=True)
    return 0 if passed else 1


def show(name: str, costs: list[float], limit_ns: int | None) -> None:
    """One line of the table."""
    print(f"{name:<26}" + "".join(f"{cost:>9.0f}" for cost in costs) + f"{limit_ns or '':>10}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
