# SPDX-License-Identifier: Apache-2.0
"""Frames that Transit XDP sends back over a veth in driver mode, or drops, beside programs that do nothing else."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from bench.program_cost import TEMPLATE_BYTES, WORK, Bench, Work
from bench.suite.figure import Figure, Plan, Turn
from bench.suite.leftovers import prefix
from bench.suite.machine import on_cpu
from mizar.kernel import attach, interfaces, namespaces
from mizar.kernel.libbpf import check, ffi, lib
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from tests.dataplane.testbed import XDP_DROP, XDP_TX
from tests.peers.foreign import command

LIVE_FRAMES, BATCH = 1 << 1, 64
SENT, DROPPED = "sent back over a veth", "dropped"
OURS = {"bounce": SENT, "divide": SENT, "drop": DROPPED}
BARE = {SENT: ("baseline_xdp", XDP_TX), DROPPED: ("sink_xdp", XDP_DROP)}


class Wire:
    """A veth whose far end takes frames in driver mode; they are all one CPU's work."""

    def __init__(self, bench: Bench, inside: Namespace, repeat: int) -> None:
        self.bench, self.inside, self.repeat = bench, inside, repeat

    def frames_per_s(self, program: str, frame: bytes) -> float:
        """Of live frames that a program sees, each as if it had just come."""
        words = frame[:TEMPLATE_BYTES].ljust(TEMPLATE_BYTES, b"\0")
        template = struct.pack("=IiIIIIII", len(frame), 0, 0, 0, 0, 0, 0, 0) + words
        maps, target = self.bench.testbed.programs.maps, struct.pack("=I", self.bench.programs[program])
        check(lib().bpf_map_update_elem(maps["template"], bytes(4), template, 0), "write the template")
        check(lib().bpf_map_update_elem(maps["jump_xdp"], bytes(4), target, 0), "choose the program")
        return 1e9 / self.inside.run(partial(self._run, frame))

    def _run(self, frame: bytes) -> float:
        data, context = ffi.from_buffer(frame), ffi.new("struct xdp_md *")
        context.data_end = len(frame)
        with Netlink() as netlink:
            context.ingress_ifindex = interfaces.get(netlink, "wire").index
        opts = ffi.new("struct test_run_opts *", {"sz": ffi.sizeof("struct test_run_opts"), "data_in": data})
        opts.data_size_in, opts.ctx_in, opts.ctx_size_in = len(frame), context, ffi.sizeof("struct xdp_md")
        opts.repeat, opts.flags, opts.batch_size = self.repeat, LIVE_FRAMES, BATCH
        check(lib().bpf_prog_test_run_opts(self.bench.programs["restore_xdp"], opts), "send live frames")
        return float(opts.duration)


@contextmanager
def opened(plan: Plan) -> Iterator[Mapping[str, Turn | str]]:
    """One wire, in a namespace of its own."""
    bench, name = Bench(1, 1), prefix() + "live"
    works: dict[str, Work] = {work.name: work for work in WORK}
    try:
        with namespaces.create(name) as inside:
            command("ip", "-n", name, "link", "add", "wire", "type", "veth", "peer", "name", "far")
            for end in ("wire", "far"):
                command("ip", "-n", name, "link", "set", end, "addrgenmode", "none", "up")
            links = [inside.run(partial(_attach, bench.programs["sink_xdp"], end)) for end in ("wire", "far")]
            made = Wire(bench, inside, plan.pick(100_000, 1_000_000))

            def turn(what: str) -> dict[str, float]:
                bench.testbed.reset()
                with on_cpu(plan.cpus[-1]):
                    if what in works:
                        works[what].setup(bench.testbed)
                        return {OURS[what]: made.frames_per_s("transit", works[what].frame(4))}
                    frame = works["bounce"].frame(4)
                    return {way: made.frames_per_s(program, frame) for way, (program, _) in BARE.items()}

            try:
                yield {"nothing else": lambda: turn("")} | {
                    f"mizar, {what}": partial(turn, what) for what in OURS
                }  # fmt: skip
            finally:
                for link in links:
                    os.close(link)
    finally:
        bench.testbed.close()
        if name in namespaces.names():
            namespaces.remove(name)


def _attach(program: int, interface: str) -> int:
    with Netlink() as netlink:
        index = interfaces.get(netlink, interface).index
    return attach.create_link(program, index, "driver")


FIGURES = (
    Figure(
        "live",
        "Small frames through Transit XDP and over a veth in driver mode, one CPU",
        "frames/s",
        opened,
        "a network card. The CPU makes the frames, writes their headers anew (as each program changes them), runs the "
        "program, and takes what comes out at the far end: the same for all contenders.",
        rounds=5,
    ),
)
