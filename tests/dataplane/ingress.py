# SPDX-License-Identifier: Apache-2.0
"""Transit as it is compiled for tc ingress, run on one frame and told of as XDP would tell it.

What it ends in for delivery (deliver_tc) is taken out of its reach: what is left for that is the note, which XDP leaves
in front of the frame. Called by testbeds, whose tests then mean both hooks.
"""

from __future__ import annotations

from mizar.kernel import layout, libbpf, test_run
from mizar.kernel.layout import U32
from mizar.kernel.libbpf import ffi, lib
from mizar.kernel.programs import Programs
from mizar.kernel.test_run import TestRun

XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
TC_SHOT, TC_REDIRECT, TC_UNSPEC = 2, 7, 0xFFFFFFFF


class Ingress:
    """The program, loaded once for all that `programs` have in common with it."""

    def __init__(self, programs: Programs) -> None:
        self._fd = programs.transit_tc.fd
        lib().bpf_map_delete_elem(programs.maps["ingress_stages"], U32.pack(0))
        self._notes = programs.maps["handover_notes"]
        self._cpus = lib().libbpf_num_possible_cpus()

    def run(self, frame: bytes, **context: int) -> TestRun:
        """As test_run.run_xdp() of Transit XDP. `context`: as of test_run.run_tc()."""
        result = test_run.run_tc(self._fd, frame, **context)
        metadata = self._note()
        verdicts = {TC_SHOT: XDP_PASS if metadata else XDP_DROP, TC_REDIRECT: XDP_TX, TC_UNSPEC: XDP_PASS}
        return TestRun(verdicts[result.retval], result.frame, metadata, result.duration_ns, result.mark)

    def _note(self) -> bytes:
        """What the last run has left, on whatever CPU, or nothing; and from here on nothing is."""
        size, room = layout.size("handover"), (layout.size("handover") + 7) // 8 * 8
        values = ffi.new("char[]", room * self._cpus)
        libbpf.check(lib().bpf_map_lookup_elem(self._notes, U32.pack(0), values), "read the note")
        each = [ffi.buffer(values)[at : at + size] for at in range(0, room * self._cpus, room)]
        libbpf.check(
            lib().bpf_map_update_elem(self._notes, U32.pack(0), ffi.new("char[]", len(values)), 0), "forget it"
        )
        return next((note for note in each if any(note[:4])), b"")
