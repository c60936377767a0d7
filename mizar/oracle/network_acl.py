# SPDX-License-Identifier: Apache-2.0
"""The judging of what crosses from one network into another (docs/network-acl.md).

Called by agent, transit and stack, once they know where a packet goes next. It remembers nothing.
"""

from __future__ import annotations

from mizar.oracle.frames import Inner
from mizar.oracle.outcome import Judgement, Packet, RefusedError, Step
from mizar.oracle.policies import Direction, NetworkAcl, PolicySet, RuleVerdict
from mizar.oracle.policy_read import WITH_PORTS, Policed, Seen, read_policed
from mizar.oracle.tables import Droplet, in_prefix

LAST_RULE = 0x7FFF
"""Lower bits of the number of the rule behind all others (enum network_acl_rule)."""
_KNOWN = (Step.DELIVER, Step.BOUNCE, Step.DIVIDE, Step.SUBSTRATE)


def has_acls(here: Droplet, vni: int) -> bool:
    """Whether any network of a VPC has an ACL."""
    return vni in here.acl_vpcs


def cross(here: Droplet, packet: Packet, inner: Inner, vni: int, step: Step, *, final: bool = False) -> None:
    """Raises RefusedError when the packet may not cross. `vni`: the VPC that it comes from; `final`: its sender took
    this droplet for the host of its endpoint, and has judged it."""
    if final or not (packet.ruled or has_acls(here, packet.vni)) or not (packet.ruled or step in _KNOWN):
        return
    source, to = acl_of(here, vni, inner.source), acl_of(here, packet.vni, inner.destination)
    if source and to and vni == packet.vni and source.network == to.network:
        return
    seen = read_policed(inner, Direction.INGRESS)
    later = seen is not None and seen.kind is Policed.LATER
    audited = False
    if source:
        rules = source.egress_later if later else source.egress
        audited |= _ask(packet, seen, rules, inner.destination, Direction.EGRESS)
    if to:
        rules = to.ingress_later if later else to.ingress
        audited |= _ask(packet, seen, rules, inner.source, Direction.INGRESS)
    if audited:
        packet.count("vpc", packet.vni, "audited")


def acl_of(here: Droplet, vni: int, address: bytes) -> NetworkAcl | None:
    """That of the longest prefix that holds an address."""
    found = [
        (length, acl)
        for (of, prefix, length), acl in here.network_acls.items()
        if of == vni and in_prefix(address, prefix, length)
    ]
    return max(found, key=lambda each: each[0])[1] if found else None


def _ask(packet: Packet, seen: Seen | None, rules: PolicySet | None, peer: bytes, direction: Direction) -> bool:
    """What one direction's rules say; True: they would refuse it, but for audit mode."""
    if rules is None:
        return False
    verdict = _verdict(seen, rules, peer) if seen else None
    rule = verdict.rule if verdict else 0
    if verdict and verdict.allow:
        packet.judged.append(Judgement("", direction, rule))
        return False
    default = not rule or rule & LAST_RULE == LAST_RULE
    reason = f"NETWORK_ACL_{'DEFAULT' if default else 'DENIED'}"
    audited = bool(verdict and verdict.audit)
    packet.judged.append(Judgement("", direction, rule, reason, audited=audited))
    if not audited:
        raise RefusedError(reason)
    return True


def _verdict(seen: Seen, rules: PolicySet, peer: bytes) -> RuleVerdict | None:
    port: int | None = None
    if seen.message is not None:
        port = seen.message
    elif seen.kind is Policed.FLOW and seen.protocol in WITH_PORTS:
        port = int.from_bytes(seen.own_port, "big")
    return rules.verdict_of(rules.class_of(peer), seen.protocol, port)
