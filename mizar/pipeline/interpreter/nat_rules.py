# SPDX-License-Identifier: Apache-2.0
"""Which rule translates a new connection's source and its destination. Called by the table; keeps no connections."""

from __future__ import annotations

from dataclasses import dataclass

from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import Address, Masquerade, NatRules


@dataclass(frozen=True, slots=True)
class Fixed:
    """An end that a static rule or a forward gives: metadata, address and port."""

    meta: int
    address: int
    port: int


def source_of(rules: NatRules, flow: Flow) -> Masquerade | Fixed | None:
    """What a flow's source becomes: a static rule goes before masquerade; None: no rule is for its tenant."""
    for static in rules.static:
        if static.inside == flow.meta and _is(static.inside_address, flow.version, flow.source):
            return Fixed(static.outside, int(static.outside_address), flow.source_port)
    for masquerade in rules.masquerade:
        if flow.meta in masquerade.inside and masquerade.version == flow.version:
            return masquerade
    return None


def destination_of(rules: NatRules, flow: Flow) -> Fixed | None:
    """What the destination of a flow that comes to an outer end becomes, by a static rule or a forward."""
    for static in rules.static:
        if static.outside == flow.meta and _is(static.outside_address, flow.version, flow.destination):
            return Fixed(static.inside, int(static.inside_address), flow.destination_port)
    for forward in rules.forward:
        first, last = forward.outside_ports
        if (
            forward.outside == flow.meta
            and _is(forward.outside_address, flow.version, flow.destination)
            and flow.protocol in forward.protocols
            and first <= flow.destination_port <= last
        ):
            port = flow.destination_port - first + forward.inside_ports[0]
            return Fixed(forward.inside, int(forward.inside_address), port)
    return None


def rule_of_outer(rules: NatRules, meta: int, version: int, address: int, port: int) -> Masquerade | None:
    """The masquerade rule that owns an outer end."""
    for rule in rules.masquerade:
        owns = rule.outside == meta and rule.version == version and rule.ports[0] <= port <= rule.ports[1]
        if owns and any(int(one) == address for one in rule.addresses):
            return rule
    return None


def _is(address: Address, version: int, number: int) -> bool:
    return address.version == version and int(address) == number
