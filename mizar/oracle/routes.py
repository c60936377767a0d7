# SPDX-License-Identifier: Apache-2.0
"""The route table of a network: what becomes of a packet before the VPC's tables are asked."""

from __future__ import annotations

from mizar.oracle.outcome import RefusedError
from mizar.oracle.tables import Agent, in_prefix

BLACKHOLE = "blackhole"


def follow_routes(sender: Agent, to: bytes) -> None:
    """Of the table's prefixes that hold the destination, the longest decides."""
    found = [(length, action) for (prefix, length), action in sender.routes.items() if in_prefix(to, prefix, length)]
    if found and max(found)[1] == BLACKHOLE:
        raise RefusedError("ROUTE_BLACKHOLE")
