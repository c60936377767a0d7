# SPDX-License-Identifier: Apache-2.0
"""What a policy said of a packet, as a sentence. Called by explain.py. Pure."""

from __future__ import annotations

from ipaddress import ip_address

from mizar.oracle.frames import ICMP, ICMPV6, Inner
from mizar.oracle.outcome import Judgement
from mizar.oracle.policies import Direction
from mizar.trace.names import Names

_WITH_PORTS = (6, 17, 132)
_UNREADABLE, _FULL, _ENDED = "POLICY_UNREADABLE", "POLICY_FLOWS_FULL", "POLICY_FLOW_ENDED"


def said(names: Names, place: tuple[int, bytes], inner: Inner, one: Judgement) -> str:
    """`place`: the policed endpoint, by number of the VPC and address."""
    egress = one.direction is Direction.EGRESS
    if not one.uid:
        return _crossing(names, place, one)
    known = names.endpoint(*place)
    whose = f"{'egress' if egress else 'ingress'} of {known.name if known else ip_address(place[1])}"
    who = names.verdict(*place, one.rule, egress=egress)
    if one.reason == _UNREADABLE:
        return f"{whose}: what its rules ask for cannot be read"
    if one.reason == _FULL:
        return f"{whose}: allowed by {who}, but the VPC has as many flows as it may have on this droplet"
    if one.reason == _ENDED:
        return f"{whose}: the flow was allowed once, and now {who} {'denies' if one.rule else 'allows'} it"
    if not one.reason:
        why = f"allowed by {who}" if one.rule else "allowed, as no policy selects it"
        return f"{whose}: {why}" + (", when its flow began" if one.known else "")
    text = f"denied by {who}" if one.rule else f"denied by default: {who} allows it"
    if one.rule and (behind := names.behind(*place, one.rule, _peer(inner, egress), inner.protocol, _port(inner))):
        text += f", which stands before {behind}"
    return f"{whose}: " + (f"would be {text}; audit mode lets it pass" if one.audited else text)


def _crossing(names: Names, place: tuple[int, bytes], one: Judgement) -> str:
    """What a network's ACL said."""
    egress = one.direction is Direction.EGRESS
    whose = "out of its network" if egress else "into its network"
    if not one.rule:
        return f"{whose}: what the rules of the network's ACL ask for cannot be read"
    who = names.verdict(*place, one.rule, egress=egress)
    if not one.reason:
        return f"{whose}: allowed by {who}"
    return f"{whose}: would be denied by {who}; audit mode lets it pass" if one.audited else f"{whose}: denied by {who}"


def _peer(inner: Inner, egress: bool) -> bytes:
    return inner.destination if egress else inner.source


def _port(inner: Inner) -> int:
    """What rules call the port: that of the end that is asked; of ICMP, type and code."""
    if inner.protocol in _WITH_PORTS and len(inner.payload) >= 4 and not inner.fragment:
        return int.from_bytes(inner.payload[2:4], "big")
    if inner.protocol in (ICMP, ICMPV6) and len(inner.payload) >= 2:
        return int.from_bytes(inner.payload[:2], "big")
    return 0
