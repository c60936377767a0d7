# SPDX-License-Identifier: Apache-2.0
"""No kind of packet makes the data plane do more than it did: exact counts, not times (counted.py)."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest

from mizar.kernel import test_run
from mizar.kernel.programs import load

from .counted import (
    HELPERS,
    RENEW,
    Places,
    calls,
    compiled,
    compiler,
    compiler_of_known,
    difference,
    instructions,
    known,
    measured,
    shared_marks,
)
from .counting import INSTRUCTIONS, PLACES, Costs, Marked, helpers

pytestmark = pytest.mark.root

HEAD = "Packets cost something else than tests/dataplane/costs.toml says:"
ADVICE = f"""Look for the call in what changed of dataplane/: a packet pays for each (docs/decisions/costs.md). If it is
meant, measure it (bench/program_cost.py), run {RENEW}, and say why in the commit."""


@pytest.fixture(scope="module")
def found() -> dict[str, Costs]:
    """What each kind of packet does now."""
    return measured()


def test_no_packet_costs_more_than_it_did(found: dict[str, Costs]) -> None:
    """Lookups by table, calls of helpers and of functions, as costs.toml has them. Less is written down, too."""
    assert all(calls(found).values()), "what is not counted cannot grow"
    changes = difference(calls(found), calls(known()))
    assert not changes, "\n".join([HEAD, *changes, ADVICE])


def test_no_packet_takes_more_instructions_than_it_did(found: dict[str, Costs]) -> None:
    """To the instruction: every change of what is compiled is written down, with the same compiler."""
    if compiler() != compiler_of_known():
        pytest.skip(f"needs clang {compiler_of_known()}, whose instructions costs.toml has; here is {compiler()}")
    changes = difference(instructions(found), instructions(known()))
    assert not changes, "\n".join([HEAD, *changes, f"If that is meant, run {RENEW}."])


def test_more_rules_cost_no_more_calls() -> None:
    """A policy of many rules is judged by as many lookups as one of one rule."""
    costs = calls(known())
    many = [name for name in costs if "30 rules" in name]
    assert len(many) == 8
    assert all(costs[name] == costs[name.replace("30 rules", "1 rule")] for name in many)


def test_a_difference_names_path_operation_and_count() -> None:
    """In both directions, and paths that come or go."""
    before = {"bounce": {"lookup endpoints": 1, "jiffies64": 1}, "gone": {}}
    now = {"bounce": {"lookup endpoints": 3}, "divide": {}}
    assert difference(now, before) == [
        "bounce: 2 more of lookup endpoints, 1 less of jiffies64",
        "gone: not looked at any more",
        "divide: new",
    ]


LOOP = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, int);
} turns SEC(".maps");

__attribute__((noinline)) int turn(int number)
{
	int *found = bpf_map_lookup_elem(&turns, &number);

	return found ? *found + number : 0;
}

SEC("xdp")
int loop(struct xdp_md *ctx)
{
	int sum = 0, most = (ctx->data_end - ctx->data) & 63;

	for (int number = 0; number < most; number++)
		sum += turn(sum & number);
	return sum < 0 ? XDP_DROP : XDP_PASS;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
"""


def test_a_loop_counts_as_often_as_it_runs(tmp_path: Path) -> None:
    """Lookups and calls exactly, and each turn as many instructions as the one before."""
    source = tmp_path / "loop.c"
    source.write_text(LOOP)
    marked, code = compiled("loop", source)
    with shared_marks("loop"), load(b"", objects={"loop": code}) as programs:
        places, found = Places(programs, [marked]), []
        for turns in range(20, 24):
            places.clear()
            test_run.run_xdp(programs.programs["loop"].fd, bytes(turns))
            found.append(places.told())
            assert found[-1]["lookup turns"] == found[-1]["call turn"] == turns
    (each,) = {after[INSTRUCTIONS] - before[INSTRUCTIONS] for before, after in pairwise(found)}
    assert 5 < each < 30


ASSEMBLY = """
\t.section\txdp,"ax",@progbits
\t.type\tfirst,@function
first:                                  # @first
\t.loc\t1 30 0                          # first.c:30
\tr2 = vpcs ll
\tr1 = r2
\tcall 1
\tif r0 == 0 goto LBB0_2
# %bb.1:
\tcall second
LBB0_2:
\tw0 = 1
\texit
"""


def test_a_mark_takes_a_register_that_nobody_reads() -> None:
    """One for each block, at most; and helpers are told by name, of maps by map."""
    marked = Marked("first", ASSEMBLY, helpers(HELPERS.read_text()))
    body = [line.strip() for line in marked.text.splitlines() if line.startswith("\t") and not line.startswith("\t.")]
    assert [line.partition("  ")[0] for line in body] == [
        "r0 = marks_first ll", "*(u64 *)(r0 + 0) = r0", "lock *(u64 *)(r0 + 8) += r0",
        "r2 = vpcs ll", "r1 = r2", "call 1", "if r0 == 0 goto LBB0_2",
        "r0 = marks_first ll", "lock *(u64 *)(r0 + 16) += r0", "call second",
        "r0 = marks_first ll", "lock *(u64 *)(r0 + 24) += r0", "w0 = 1", "exit",
    ]  # fmt: skip
    base = -(1 << 40)
    ran = struct.pack("=4q", base, 1 * base, 2 * base, 3 * base)
    told = {INSTRUCTIONS: 4 + 2 * 1 + 3 * 2, "lookup vpcs": 1, "call second": 2}
    assert marked.told(ran.ljust(8 * PLACES, b"\0")) == told
