# SPDX-License-Identifier: Apache-2.0
"""An example of the rules that each connection gets, with addresses of the documentation ranges (RFC 5737)."""

from __future__ import annotations

from ipaddress import IPv4Address

from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.rte_flow.connection import Connection, connection_rules
from mizar.pipeline.rte_flow.rules import Plan

_INSIDE, _OUTSIDE, _SERVER = (int(IPv4Address(text)) for text in ("192.0.2.10", "203.0.113.1", "198.51.100.7"))


def example_connection(plan: Plan, port: int) -> Connection | None:
    """The rules of one masqueraded TCP connection, both directions; None when the pipeline knows no connections."""
    if not plan.lookups:
        return None
    flow = Flow(0x01000005, 4, "tcp", _INSIDE, _SERVER, 40000, 443)
    becomes = Flow(0x02FF0064, 4, "tcp", _OUTSIDE, _SERVER, 1024, 443)
    return connection_rules(plan, flow, becomes, 1, port=port)
