# SPDX-License-Identifier: Apache-2.0
"""The route table of a network: what becomes of a packet before the VPC's tables are asked."""

from __future__ import annotations

from collections.abc import Mapping

from mizar.oracle.outcome import RefusedError
from mizar.oracle.tables import Agent, in_prefix

BLACKHOLE, SUBSTRATE = "blackhole", "substrate"
Table = Mapping[tuple[bytes, int], str | bytes]


def action_for(table: Table, address: bytes) -> str | bytes:
    """Of the prefixes that hold the address, the longest decides; empty where none does."""
    found = [(length, action) for (prefix, length), action in table.items() if in_prefix(address, prefix, length)]
    return max(found, key=lambda each: each[0])[1] if found else ""


def follow_routes(sender: Agent, to: bytes) -> str | bytes:
    """Where the packet goes: SUBSTRATE, or an appliance, by its MAC; else it is none of the table's business."""
    action = action_for(sender.routes, to)
    if action == BLACKHOLE:
        raise RefusedError("ROUTE_BLACKHOLE")
    if action == SUBSTRATE or (isinstance(action, bytes) and action != sender.mac):
        return action
    return ""
