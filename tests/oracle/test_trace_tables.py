# SPDX-License-Identifier: Apache-2.0
"""Live tables, told row by row, mean to the oracle what they mean to the data plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from mizar.model.addresses import to_mapped
from mizar.oracle.outcome import Outcome
from mizar.oracle.tables import Droplet
from mizar.trace.rows import NeedError, Point, Rows
from mizar.trace.tables import droplet_of
from mizar.transit import table_rows
from mizar.transit.policies import now_tick
from tests.oracle.differential import Case, cases, predict
from tests.oracle.droplets import ME, MY_MAC, VNIS
from tests.oracle.real import RealDroplet


@pytest.fixture(scope="module")
def real() -> Iterator[RealDroplet]:
    """A droplet in the kernel."""
    droplet = RealDroplet(ME, MY_MAC)
    yield droplet
    droplet.close()


def told(real: RealDroplet, here: Droplet, points: frozenset[Point]) -> Rows:
    """What a daemon would tell of the droplet."""
    rows = Rows(asked=points)
    itself = {"address": here.address.hex(), "address6": "", "mac": here.mac.hex(), "ifindex": 1, "tick": now_tick()}
    rows.take("self", [json.dumps(["", itself | {"icmp_errors": here.icmp_errors, "traps": here.traps}])])
    keys = [table_rows.parse_key(point.table, point.key) for point in points]
    for table, found in table_rows.chunks(table_rows.read(real.tables, VNIS, keys)):
        rows.take(table, found)
    return rows


def shown(outcome: Outcome) -> tuple[object, ...]:
    """Of an outcome all but the names of counters, which are slots in a map."""
    counted = {key: value for key, value in outcome.counted.items() if key[0] != "endpoint"}
    handover = outcome.handover and (outcome.handover.ifindex, outcome.handover.vni, outcome.handover.service)
    return outcome.verdict, outcome.frame.hex(), outcome.reason, outcome.next_hop, outcome.step, handover, counted


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(most=4))
def test_the_maps_say_what_was_put_into_them(real: RealDroplet, case: Case) -> None:
    """Any droplet, written into maps, read back and asked for what a packet needs, does the same to any packet."""
    here = replace(case.here, traps=True, icmp_errors=True)
    real.fill(here)
    for arrival in case.arrivals:
        real.fill_endpoints(here)
        points: frozenset[Point] = frozenset()
        for _ in range(50):
            try:
                found = predict(droplet_of(told(real, here, points)), arrival)
                break
            except NeedError as need:
                points |= {need.point} if need.point else set()
        else:
            raise AssertionError("it never has enough")
        # A packet changes flows and what there is room for, of which the maps here are told nothing.
        assert shown(found) == shown(predict(deepcopy(here), arrival)), arrival


def test_an_altered_droplet_entry_leads_where_packets_go(real: RealDroplet) -> None:
    """The slot of a droplet is written by the data plane, not its name: an address altered by hand is believed."""
    here = Droplet(ME, MY_MAC, {ME: MY_MAC, ME[:3] + b"\x02": MY_MAC})
    real.fill(here)
    slot = real.droplet_slots.of(ME[:3] + b"\x02")
    real.tables.droplets.put(slot, {"addr": to_mapped(ME[:3] + b"\x63"), "next_hop_mac": MY_MAC})
    assert ME[:3] + b"\x63" in droplet_of(told(real, here, frozenset())).droplets
