# SPDX-License-Identifier: Apache-2.0
"""Runs a loaded program on one frame without an interface (BPF_PROG_TEST_RUN): for tests, measuring, and tracing.

Called by data-plane tests, the benchmark, the doctor, and the daemon that sends a traced packet. The frame never
reaches a wire, but maps are changed for real. With repeat > 1 the kernel does not restore a frame that the program
rewrote: measure with programs that do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mizar.kernel import libbpf
from mizar.kernel.libbpf import ffi, lib

_ROOM = 512  # bytes by which a program may let a frame grow


@dataclass(frozen=True)
class TestRun:
    """What came out: the program's return value, the frame, what XDP left as metadata in front of it, nanoseconds
    per run (the mean of the repetitions), and for tc the packet's mark and when it is to leave (CLOCK_MONOTONIC; 0: at
    once)."""

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    retval: int
    frame: bytes
    metadata: bytes
    duration_ns: int
    mark: int = 0
    departs_ns: int = 0


def run_xdp(
    fd: int, frame: bytes, *, metadata: bytes = b"", ingress_ifindex: int = 0, queue: int = 0, repeat: int = 1
) -> TestRun:
    """Runs an XDP program on `frame` (from 14 bytes on; the kernel refuses shorter ones).

    `metadata` (a multiple of 4, at most 252 bytes) stands in front of it as ctx->data_meta. `ingress_ifindex` must
    name an interface of the caller's network namespace that has receive queue `queue`; 0 is the loopback's.
    """
    context = ffi.new("struct xdp_md *")
    context.data = len(metadata)
    context.data_end = len(metadata) + len(frame)
    context.ingress_ifindex, context.rx_queue_index = ingress_ifindex, queue
    retval, out, duration_ns = _run(fd, metadata + frame, context, repeat)
    return TestRun(retval, out[context.data :], out[: context.data], duration_ns)


def run_tc(
    fd: int,
    frame: bytes,
    *,
    ifindex: int = 0,
    ingress_ifindex: int = 0,
    mark: int = 0,
    gso_size: int = 0,
    gso_segs: int = 0,
    cb: int = 0,
    repeat: int = 1,
) -> TestRun:
    """Runs a tc program on `frame` as if it had come in at `ifindex` (0: the loopback) of the caller's namespace.

    `cb`: what a program before it left in the first word of skb->cb.
    """
    context = ffi.new("struct sk_buff_ctx *")
    context.ifindex, context.ingress_ifindex, context.mark = ifindex, ingress_ifindex, mark
    context.gso_size, context.gso_segs = gso_size, gso_segs
    context.cb[0] = cb
    retval, out, duration_ns = _run(fd, frame, context, repeat)
    return TestRun(retval, out, b"", duration_ns, context.mark, context.tstamp)


def _run(fd: int, data: bytes, context: Any, repeat: int) -> tuple[int, bytes, int]:
    out = ffi.new("char[]", len(data) + _ROOM)
    source = ffi.from_buffer(data)
    length = ffi.sizeof(context[0])
    opts = ffi.new(
        "struct test_run_opts *",
        {
            "sz": ffi.sizeof("struct test_run_opts"),
            "data_in": source,
            "data_size_in": len(data),
            "data_out": out,
            "data_size_out": len(data) + _ROOM,
            "ctx_in": context,
            "ctx_out": context,
            "ctx_size_in": length,
            "ctx_size_out": length,
            "repeat": repeat,
        },
    )
    libbpf.check(lib().bpf_prog_test_run_opts(fd, opts), f"run program {fd} on a frame of {len(data)} bytes")
    return opts.retval, ffi.buffer(out, opts.data_size_out)[:], opts.duration
