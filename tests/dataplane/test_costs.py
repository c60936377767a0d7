# SPDX-License-Identifier: Apache-2.0
"""No kind of packet makes the data plane do more than it did: exact counts, not times (counted.py)."""

from __future__ import annotations

import pytest

from .counted import RENEW, difference, known, measured
from .counting import Names

pytestmark = pytest.mark.root

ADVICE = f"""Look for the call in what changed of dataplane/: a packet pays for each (docs/decisions/costs.md). If it is
meant, measure it (bench/program_cost.py), run {RENEW}, and say why in the commit."""


def test_no_packet_costs_more_than_it_did() -> None:
    """Lookups by table, calls of helpers and of functions, as costs.toml has them. Less is written down, too."""
    found = measured()
    assert all(found.values()), "what is not counted cannot grow"
    changes = difference(found, known())
    head = "Packets cost something else than tests/dataplane/costs.toml says:"
    assert not changes, "\n".join([head, *changes, ADVICE])


def test_more_rules_cost_no_more_calls() -> None:
    """A policy of many rules is judged by as many lookups as one of one rule."""
    costs = known()
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


def test_calls_are_counted_and_declarations_are_not() -> None:
    """Helpers by name, of maps by map; functions of the sources' own at their beginning."""
    text = """
static void *(*bpf_map_lookup_elem)(void *map) = (void *)1;
struct endpoint_key { int vni; };
static __attribute__((noinline)) int find(struct a *b, int c)
{
 x = bpf_map_lookup_elem(&vpcs, &key); bpf_redirect(1, 0);
}
"""
    names = Names()
    counting = names.instrument(text)
    assert names.places == {"lookup vpcs": 0, "redirect": 1, "call find": 2}
    assert "(operations[0]++, bpf_map_lookup_elem)(&vpcs, &key)" in counting
    assert "{ operations[2]++;" in counting
    assert "(*bpf_map_lookup_elem)(void *map)" in counting
