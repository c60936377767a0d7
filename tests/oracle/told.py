# SPDX-License-Identifier: Apache-2.0
"""Entries of one droplet → the oracle's tables: mizar/simulation/tables.py, with places of scaled endpoints as daemons
give them, and fewer flows than a test can use up. Called by planned.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mizar.oracle.tables import Droplet
from mizar.planner.entries import Entry
from mizar.simulation import tables as simulation
from mizar.transit import maglev

TUNNELS = simulation.TUNNELS
IDENTITY = 0x83
ROOM = 1000
"""Flows of scaled endpoints that a VPC may have."""

mac_on_substrate = simulation.mac_on_substrate


def tables(address: bytes, entries: Iterable[Entry], ifindexes: dict[str, int]) -> Droplet:
    """A droplet that was told of these entries, in their order."""
    found = simulation.tables(address, entries, ifindexes, places=places, room=ROOM)
    return replace(found, stack_link=False, stack={})  # what a test run loads has none


def places(weights: Mapping[bytes, int]) -> tuple[bytes | None, ...]:
    """At each place the member, by its MAC, that takes its flows."""
    return maglev.table(frozenset(weights.items()))
