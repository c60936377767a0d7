# SPDX-License-Identifier: Apache-2.0
"""Whether rules allow a connection: they would begin it today, and with the translation that it has. Pure.

Called for a changed file (connections that are allowed no more end), for what the kernel translated, and for what
another gateway tells of. A connection is of the first rule that fits, as in the data plane: static, forward,
masquerade.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.interpreter.nat_rules import Fixed, destination_of, rule_of_outer, source_of
from mizar.pipeline.nat import Mapping, NatRules


def allows(nat: NatRules, original: Flow, becomes: Flow) -> bool:
    """`original`: the flow of the first packet as it came; `becomes`: as it went on."""
    outward = _outward(nat, original, becomes)
    inner = _inward(nat, original if outward is None else outward, becomes)  # of what went out, too: hairpin
    return becomes == (outward if inner is None else inner)


def tenant_of(nat: NatRules, original: Flow, becomes: Flow) -> int:
    """In whose quota a connection is: of the inside that began it, or that it was begun to."""
    return becomes.meta if source_of(nat, original) is None else original.meta


def _outward(nat: NatRules, flow: Flow, becomes: Flow) -> Flow | None:
    """The flow with its source translated, by a masquerade to what `becomes` has if that is one of its ends."""
    found = source_of(nat, flow)
    if isinstance(found, Fixed):
        return replace(flow, meta=found.meta, source=found.address)
    if found is None or becomes.source not in {int(address) for address in found.addresses}:
        return None
    if not found.ports[0] <= becomes.source_port <= found.ports[1]:
        return None
    port = becomes.source_port
    there = port if flow.protocol.startswith("icmp") else flow.destination_port
    return replace(flow, meta=found.outside, source=becomes.source, source_port=port, destination_port=there)


def _inward(nat: NatRules, flow: Flow, becomes: Flow) -> Flow | None:
    """The flow with its destination translated, where that is an outer end that somebody has.

    By a mapping to whom `becomes` says, if that is a tenant of its rule.
    """
    found = destination_of(nat, flow)
    if found is not None:
        return replace(flow, meta=found.meta, destination=found.address, destination_port=found.port)
    rule = rule_of_outer(nat, flow.meta, flow.version, flow.destination, flow.destination_port)
    if rule is None or rule.mapping is not Mapping.ENDPOINT_INDEPENDENT or becomes.meta not in rule.inside:
        return None
    port = becomes.destination_port
    return replace(flow, meta=becomes.meta, destination=becomes.destination, destination_port=port)


def address_of(version: int, number: int) -> IPv4Address | IPv6Address:
    """An address that a flow has as a number."""
    return IPv4Address(number) if version == 4 else IPv6Address(number)
