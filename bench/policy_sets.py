# SPDX-License-Identifier: Apache-2.0
"""How long a droplet takes to change very many rows of policies: python -m bench.policy_sets [ROWS] (needs root).

A set of half as many peers and half as many verdicts is put, then one whose every verdict is another: all rows are
written beside the old ones, take their place at once, and the old ones go. Also: how long the planner takes for a set
of rules.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from mizar.kernel.configuration import configuration
from mizar.kernel.programs import load
from mizar.kernel.tables import Tables
from mizar.model.addresses import to_mapped
from mizar.model.policy_rows import PEER, VERDICT
from mizar.planner.policy import ALLOW, Matcher, compile_rules
from mizar.planner.policy_peers import Area
from mizar.planner.policy_ports import Span
from mizar.planner.policy_sets import rows_of
from mizar.transit.batch import Plan
from mizar.transit.execute import execute
from mizar.transit.policy_values import PolicySet, PutPolicySet, checked
from mizar.transit.state import Limits, State
from mizar.transit.values import PutVpc, Vpc

RULES = 100_000
CONFIG = configuration([b"\xc0\x00\x02\x01"], b"\x02\0\0\0\0\1", 1, send_by_tc=False)


def address(number: int) -> bytes:
    """The number-th of 10.0.0.0/8, as maps hold it."""
    return to_mapped((0x0A000000 + number).to_bytes(4, "big"))


def rules_of(count: int, action: int) -> PolicySet:
    """A set with a class of its own for each peer."""
    peers = b"".join(PEER.pack(address(n), 128, n + 1) for n in range(count))
    verdicts = b"".join(VERDICT.pack(n + 1, 6, 80, 24, n, action, 65536) for n in range(count))
    return PolicySet(1, 7, peers, b"", verdicts)


def planner_s() -> float:
    """The planner's time for RULES rules, each with its peer and port."""
    spans = [(Span(6, n & 0x3FF, n & 0x3FF),) for n in range(RULES)]
    rules = [Matcher(65536 + n, ALLOW, areas=(Area((address(n), 128)),), spans=spans[n]) for n in range(RULES)]
    begun = time.perf_counter()
    rows_of(compile_rules(rules))
    return time.perf_counter() - begun


def daemon_s(rows: int) -> tuple[float, float]:
    """A daemon's time to write a set of so many rows, and to put another in its place whose every verdict differs."""
    limits = Limits(policy_rows=max(1 << 20, 2 * rows))
    sizes = {"policy_peers": limits.policy_rows, "policy_verdicts": limits.policy_rows}
    sets = [rules_of(rows // 2, action) for action in (1, 0)]
    with load(CONFIG, max_entries=sizes) as programs:
        maps, state = Tables.of(programs.maps), State(b"\xc0\x00\x02\x01", limits)
        _change(maps, state, lambda: PutVpc(Vpc(1, ())))
        first, second = (_change(maps, state, lambda one=one: PutPolicySet(checked(one))) for one in sets)
        return first, second


def _change(maps: Tables, state: State, make: Callable[[], PutVpc | PutPolicySet]) -> float:
    begun = time.perf_counter()
    plan = Plan(state)
    plan.add(make())
    execute(maps, plan.ops)
    plan.journal.commit()
    return time.perf_counter() - begun


def main(rows: int) -> None:
    """Everything once."""
    first, second = daemon_s(rows)
    for what, took in (
        (f"planner: {RULES} rules, each with its peer and port", planner_s()),
        (f"daemon: a set of {rows} rows", first),
        (f"daemon: all {rows} rows changed", second),
    ):
        print(f"{what:<56} {took:6.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
