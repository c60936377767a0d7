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
from mizar.pipeline.nat import Address, Forward, NatRules, Static


def allows(nat: NatRules, original: Flow, becomes: Flow) -> bool:
    """`original`: the flow of the first packet as it came; `becomes`: as it went on."""
    outward = _outward(nat, original, becomes)
    if outward is not None and _inward(nat, outward) is None:
        return outward == becomes
    if outward is not None:  # hairpin: out, and in again
        return _inward(nat, outward) == becomes
    return _inward(nat, original) == becomes


def outside_of(nat: NatRules, original: Flow, becomes: Flow) -> Flow | None:
    """`becomes` of a translation whose metadata nobody told, as of the kernel's; None when no rule makes it."""
    for meta in {rule.outside for _, rule in nat.rules()} | {_inside(nat, original)}:
        if meta is not None and allows(nat, original, replace(becomes, meta=meta)):
            return replace(becomes, meta=meta)
    return None


def tenant_of(nat: NatRules, original: Flow, becomes: Flow) -> int:
    """In whose quota a connection is: of the inside that began it, or that it was begun to."""
    inward = _inward(nat, original)
    return original.meta if inward is None else becomes.meta


def _inside(nat: NatRules, original: Flow) -> int | None:
    inward = _inward(nat, original)
    return None if inward is None else inward.meta


def _outward(nat: NatRules, flow: Flow, becomes: Flow) -> Flow | None:
    """The flow with its source translated, by a masquerade to what `becomes` has if that is one of its ends."""
    for static in nat.static:
        if _is(static.inside_address, flow.version, flow.source) and flow.meta == static.inside:
            return replace(flow, meta=static.outside, source=int(static.outside_address))
    for rule in nat.masquerade:
        if rule.version != flow.version or flow.meta not in rule.inside:
            continue
        ends = {int(address) for address in rule.addresses}
        if becomes.source not in ends or not rule.ports[0] <= becomes.source_port <= rule.ports[1]:
            return None
        query = flow.protocol.startswith("icmp")
        return replace(
            flow,
            meta=rule.outside,
            source=becomes.source,
            source_port=becomes.source_port,
            destination_port=becomes.source_port if query else flow.destination_port,
        )
    return None


def _inward(nat: NatRules, flow: Flow) -> Flow | None:
    """The flow with its destination translated, where that is an outer end that somebody has."""
    for static in nat.static:
        if _outer(static, flow):
            return replace(flow, meta=static.inside, destination=int(static.inside_address))
    for forward in nat.forward:
        first, last = forward.outside_ports
        if _outer(forward, flow) and flow.protocol in forward.protocols and first <= flow.destination_port <= last:
            port = flow.destination_port - first + forward.inside_ports[0]
            return replace(flow, meta=forward.inside, destination=int(forward.inside_address), destination_port=port)
    return None


def _outer(rule: Static | Forward, flow: Flow) -> bool:
    return flow.meta == rule.outside and _is(rule.outside_address, flow.version, flow.destination)


def _is(address: Address, version: int, number: int) -> bool:
    return address.version == version and int(address) == number


def address_of(version: int, number: int) -> IPv4Address | IPv6Address:
    """An address that a flow has as a number."""
    return IPv4Address(number) if version == 4 else IPv6Address(number)
