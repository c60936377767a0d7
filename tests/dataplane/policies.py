# SPDX-License-Identifier: Apache-2.0
"""Policies in a testbed's maps: sets of rows written by hand, and the flows that programs have begun.

Numbers are written out, as in plan.py: a test that takes both sides from one place proves nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from mizar.kernel.layout import constant

from .plan import FAMILIES, ME, RED, EndpointPlan, mapped
from .testbed import Testbed

POLICED, MEMBER_POLICED = 64, 2
ALLOW, DENY, LOG, AUDIT, KEEP = 1, 0, 2, 4, 8
AUDIT_INGRESS, AUDIT_EGRESS = 1, 2
INGRESS = 1
ENDED, KEPT = 4, 8
ANSWERED, CLOSING, CONFIRMED = 1, 2, 8
OF_TCP, OF_UDP = 6, 17
ANYBODY = 0
"""The class of who has none."""


@dataclass(frozen=True)
class Row:
    """A verdict for a class: for all, for a protocol, for a range of ports that shares `bits` leading bits."""

    action: int = ALLOW
    protocol: int | None = None
    port: int = 0
    bits: int = 0
    class_: int = ANYBODY
    rank: int = 1
    rule: int = 5


def big(number: int) -> int:
    return int.from_bytes(number.to_bytes(4, "big"), sys.byteorder)


def rules(
    droplet: Testbed, number: int, *rows: Row, peers: Mapping[str, int] | None = None, groups: Mapping[int, int] = {}
) -> int:
    """Writes a set; returns its number. `peers`: prefix → class."""
    tables = droplet.tables
    for row in rows:
        bits = 64 if row.protocol is None else 72 + row.bits
        key = {"prefix_bits": bits, "set_be": big(number), "class_be": big(row.class_), "protocol": row.protocol or 0}
        value = {"rank": row.rank, "action": row.action, "rule": row.rule}
        tables.policy_verdicts.put(key | {"port_be": row.port.to_bytes(2, "big")}, value)
    for prefix, class_ in (peers or {}).items():
        network = ip_network(prefix)
        bits = 32 + network.prefixlen + (96 if network.version == 4 else 0)
        address = mapped(str(network.network_address))
        tables.policy_peers.put({"prefix_bits": bits, "set_be": big(number), "addr": address}, class_)
    for group_set, class_ in groups.items():
        tables.policy_groups.put({"set": number, "group_set": group_set}, class_)
    return number


def police(
    droplet: Testbed, endpoint: EndpointPlan, *, ingress: int = 0, egress: int = 0, generation: int = 1, since: int = 1,
    flags: int = 0, room: int = 100, grace_s: int = 0, beside_ingress: int = 0, beside_egress: int = 0, **fields: Any,
) -> None:  # fmt: skip
    """Makes an endpoint of ME policed, or changes its record. `fields`: of its entry and its agent."""
    record = {"ingress": ingress, "egress": egress, "generation": generation, "since": since, "flags": flags}
    record |= {"beside_ingress": beside_ingress, "beside_egress": beside_egress}
    record["grace_until"] = (time.monotonic_ns() >> constant("FLOW_STAMP_SHIFT")) + grace_s if grace_s else 0
    droplet.tables.endpoint_policies.put(endpoint.slot, record | {"vni": RED.vni})
    droplet.tables.policy_budgets.put(RED.slot, {"until": room})
    assert endpoint.droplet is ME
    old = {"flags": 0} | fields
    droplet.endpoint(endpoint, **(old | {"flags": old["flags"] | POLICED}))
    agent = droplet.tables.agents.get(endpoint.ifindex)
    if agent:
        droplet.tables.agents.put(endpoint.ifindex, agent | {"flags": agent["flags"] | POLICED})


def both(prefixes: Mapping[int, str], class_: int) -> dict[str, int]:
    """A prefix of each family, of one class."""
    return {prefixes[family]: class_ for family in FAMILIES}


def host_prefix(endpoint: EndpointPlan, class_: int) -> dict[str, int]:
    """The addresses of an endpoint, of one class."""
    return {endpoint.address(family): class_ for family in FAMILIES}


def flows(droplet: Testbed) -> list[dict[str, Any]]:
    """Key and value of each flow, without its stamp and whose budget it is part of."""
    without = ("stamp", "vpc_slot", "vni")
    return [
        {name: field for name, field in (key | value).items() if name not in without}
        for key, value in droplet.tables.policy_flows.items()
    ]
