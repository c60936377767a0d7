# SPDX-License-Identifier: Apache-2.0
"""The function ddos-protection and its twin in a whole droplet. Alone: tests/dataplane/test_ddos_twin.py."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mizar.kernel.function_maps import ENDPOINT_VALUES, raw_table, replace_table
from mizar.model.prefix_list import PrefixList, boundaries, listed, table4
from mizar.oracle import functions, protection
from mizar.oracle.agent import agent
from mizar.oracle.protection_state import Rule
from mizar.oracle.tables import Function
from mizar.oracle.transit import transit
from mizar.transit import ddos_values
from tests.dataplane.chained import Chained, member
from tests.dataplane.ddos_loaded import OBJECT as PROTECTION
from tests.oracle.golden_droplet import droplet
from tests.oracle.real import RealDroplet
from tests.oracle.test_functions import FRAMES, said

SENDER, BLOCKED = bytes((10, 0, 1, 21)), bytes((10, 0, 1, 22))
"""Whose frames golden droplets deliver, and one who is on a list."""


@pytest.fixture
def protected(real: RealDroplet) -> Iterator[Rule]:
    """All endpoints of the droplet have a protection: a list, and a packet of each source in eleven days."""
    chained = Chained(real)
    try:
        chained.put({"ENDPOINT_INGRESS": [member(PROTECTION.read_bytes())]}, droplet=1)
        (maps,) = chained.own.values()
        block = listed([(int.from_bytes(BLOCKED, "big"), 32)], [])
        rule = Rule(seed=1, source_packet_ns=10**15, burst_ns=1, block=block)
        raw = {name: raw_table(name, maps[name]) for name in (ENDPOINT_VALUES, "protections")}
        raw[ENDPOINT_VALUES].put_raw([(slot.to_bytes(4, "little"), (1).to_bytes(4, "little")) for slot in range(1024)])
        packed = ddos_values.RULE.pack(1, 10**15, 0, 0, 0, 1, 0, 0, 0, ddos_values.LISTS, 0)
        raw["protections"].put_raw([((1).to_bytes(4, "little"), packed)])
        replace_table(maps["prefixes4"], 1, table4(boundaries(block, PrefixList(), 4)))
        functions.TWINS[protection.NAME] = protection.of_protection(protection.Protection(rule), time.monotonic_ns)
        yield rule
    finally:
        chained.close()
        functions.TWINS.pop(protection.NAME, None)


@pytest.mark.root
def test_the_twin_of_a_protection_says_what_it_does(real: RealDroplet, protected: Rule) -> None:
    """In a whole droplet, with what the platform tells the function of a frame: who is on the list is refused, and of
    others the second frame on. Verdicts and all counters."""
    here = replace(droplet(), functions=(Function(protection.NAME, ("ENDPOINT_INGRESS",), droplet=True),))
    met: Counter[bool | None] = Counter()
    sources = [SENDER, BLOCKED, bytes((10, 0, 1, 23))]
    for source in [*sources, *sources]:
        for one in FRAMES:
            came = one.comes.replace(SENDER, source, 1)
            real.fill(droplet())
            by_oracle = transit(here, came) if one.door == "transit" else agent(here, 1, came)
            by_kernel = real.transit(came) if one.door == "transit" else real.agent(1, came)
            assert said(by_oracle) == said(by_kernel), (one.name, source)
            met.update(each.dropped for each in by_oracle.met)
    assert met[False] >= 2
    assert met[True] >= 6
