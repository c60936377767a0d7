# SPDX-License-Identifier: Apache-2.0
"""A droplet of veths in driver mode, over which one CPU sends live frames: the programs that they meet, or empty ones.

`wire` is the droplet's uplink, and `far` its other end; `end` is an endpoint's interface on the droplet, and `inside`
its other end, in a namespace of the endpoint's own. The kernel puts frames into the driver's receive path of `wire` or
`end` (BPF_PROG_TEST_RUN with live frames); what comes out at `far` or `inside` is counted there, and ends. Called by
the figure `live`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bench.program_cost import HANDOVER_BYTES, Bench
from bench.template import Template, arrived
from mizar.kernel import attach, interfaces, namespaces
from mizar.kernel.libbpf import check, ffi, lib
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from tests.dataplane.plan import UPLINK_IFINDEX, B
from tests.dataplane.testbed import XDP_DROP, XDP_TX, Testbed
from tests.peers.foreign import command

LIVE_FRAMES, BATCH = 1 << 1, 64
Interface = Literal["wire", "end"]


@dataclass(frozen=True)
class Way:
    """What a frame goes through: Transit XDP, a tc program, or one behind the other; and what does the same in place of
    them but for the work: the same moves of the frame's beginning, the same verdicts.

    `into`: the interface that the frame comes in by. `room`: by how much Transit XDP moves the beginning. `tc`: the
    program that takes what is passed on; `tc_room`: by how much that moves it. `out`: the interface where it leaves.
    """

    name: str
    setup: Callable[[Testbed], None]
    frame: Callable[[int], bytes]
    verdict: int = XDP_TX
    into: Interface = "wire"
    room: int = 0
    tc: str = ""
    tc_room: int = 0
    to_peer: bool = False

    @property
    def transit(self) -> bool:
        """Whether Transit XDP is part of it: where endpoints' frames come in, it is not."""
        return self.into == "wire"


class Wires:
    """The droplet, and what is measured on it."""

    def __init__(self, bench: Bench, droplet: Namespace, frames: int) -> None:
        self.bench, self.droplet, self.frames = bench, droplet, frames

    def ours_ns(self, way: Way, family: int) -> float:
        """A frame through our programs. The tables are as they are."""
        program = "transit" if way.transit else "baseline_xdp"
        template = Template(way.frame(family), metadata=HANDOVER_BYTES, verdict=way.verdict)
        return self._measured(way, template, program, way.tc)

    def bare_ns(self, way: Way, family: int) -> float:
        """The same through empty ones."""
        index = B.ifindex if way.to_peer else UPLINK_IFINDEX
        rooms = way.room, way.tc_room, HANDOVER_BYTES if way.tc else 0
        template = Template(
            way.frame(family), *rooms, verdict=way.verdict, ifindex=index if way.tc else 0, to_peer=way.to_peer
        )
        return self._measured(way, template, "baseline_xdp", "baseline_tc" if way.tc else "")

    def _measured(self, way: Way, template: Template, xdp: str, tc: str) -> float:
        maps, programs = self.bench.testbed.programs.maps, self.bench.programs
        check(lib().bpf_map_update_elem(maps["template"], bytes(4), template.packed(), 0), "write the template")
        check(lib().bpf_map_update_elem(maps["jump_xdp"], bytes(4), struct.pack("=I", programs[xdp]), 0), "choose")
        with ExitStack() as stack:
            if tc:
                stack.enter_context(attached(self.droplet, programs[tc], way.into, "tcx"))
            run = partial(self._run, self.bench.programs["restore_xdp"], way.into, template.frame)
            self.droplet.run(partial(run, BATCH))  # flows begin, names are remembered
            took = self.droplet.run(partial(run, self.frames))
        if way.verdict != XDP_DROP and self._arrived() < 0.9 * self.frames:
            raise RuntimeError(
                f"{way.name}: only {self._arrived()} of {self.frames} frames came out: {self.bench.testbed.counted()}"
            )
        return took

    def translated_ns(self, program: int, frame: bytes) -> float:
        """A frame through a program of bench/gateway_cost, which makes one of the next flow of it and sends it back."""
        before = self._arrived()
        took = self.droplet.run(partial(self._run, program, "wire", frame, self.frames))
        if self._arrived() - before < 0.9 * self.frames:
            raise RuntimeError(f"only {self._arrived() - before} of {self.frames} translated frames came out")
        return took

    def _run(self, program: int, interface: str, frame: bytes, repeat: int) -> float:
        data, context = ffi.from_buffer(frame), ffi.new("struct xdp_md *")
        context.data_end = len(frame)
        with Netlink() as netlink:
            context.ingress_ifindex = interfaces.get(netlink, interface).index
        opts = ffi.new("struct test_run_opts *", {"sz": ffi.sizeof("struct test_run_opts"), "data_in": data})
        opts.data_size_in, opts.ctx_in, opts.ctx_size_in = len(frame), context, ffi.sizeof("struct xdp_md")
        opts.repeat, opts.flags, opts.batch_size = repeat, LIVE_FRAMES, BATCH
        check(lib().bpf_prog_test_run_opts(program, opts), "send live frames")
        return float(opts.duration)

    def _arrived(self) -> int:
        fd = self.bench.testbed.programs.maps["template"]
        value = ffi.new("char[]", 512)
        check(lib().bpf_map_lookup_elem(fd, bytes(4), value), "read what has arrived")
        return arrived(bytes(ffi.buffer(value)))


@contextmanager
def attached(namespace: Namespace, program: int, interface: str, mode: Literal["driver", "tcx"]) -> Iterator[None]:
    """A program on an interface."""

    def attach_it() -> int:
        with Netlink() as netlink:
            return attach.create_link(program, interfaces.get(netlink, interface).index, mode)

    link = namespace.run(attach_it)
    try:
        yield
    finally:
        os.close(link)


@contextmanager
def wires(name: str, frames: int, sizes: dict[str, int]) -> Iterator[Wires]:
    """Namespaces of this name, and what is in them."""
    bench = Bench(1, 1, sizes, live=True)
    names = name, f"{name}in"
    programs = bench.programs
    try:
        with namespaces.create(names[0]) as droplet, namespaces.create(names[1]) as endpoint, ExitStack() as stack:
            uplink, index = ("index", str(UPLINK_IFINDEX)), ("index", str(B.ifindex))
            command("ip", "-n", names[0], "link", "add", "wire", *uplink, "type", "veth", "peer", "name", "far")
            peer = ("peer", "name", "inside", "netns", names[1])
            command("ip", "-n", names[0], "link", "add", "end", *index, "type", "veth", *peer)
            for interface in ("wire", "far", "end"):
                command("ip", "-n", names[0], "link", "set", interface, "addrgenmode", "none", "up")
            command("ip", "-n", names[1], "link", "set", "inside", "addrgenmode", "none", "up")
            for interface in ("wire", "far"):
                stack.enter_context(attached(droplet, programs["sink_xdp"], interface, "driver"))
            stack.enter_context(attached(endpoint, programs["sink_tc"], "inside", "tcx"))
            yield Wires(bench, droplet, frames)
    finally:
        bench.testbed.close()
        for one in names:
            if one in namespaces.names():
                namespaces.remove(one)
