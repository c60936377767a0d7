# SPDX-License-Identifier: Apache-2.0
"""The judging of what a policed endpoint sends and is sent (docs/policy.md, "How a packet is judged").

Called by agent, transit and stack. What changes from packet to packet is the droplet's table of flows alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mizar.oracle.frames import ICMP, Inner
from mizar.oracle.outcome import Judgement, Packet, RefusedError
from mizar.oracle.policies import (
    Direction,
    EndpointPolicy,
    PolicyFlow,
    PolicyFlowKey,
    PolicySet,
    RuleVerdict,
)
from mizar.oracle.policy_read import WITH_PORTS, Policed, Seen, read_policed
from mizar.oracle.tables import Droplet

TCP = 6
ECHO_REQUEST, ECHO_REQUEST6 = 8 << 8, 128 << 8
_ALL = RuleVerdict(0, allow=True)


@dataclass(frozen=True, slots=True)
class _Case:
    """A packet before its judge."""

    policy: EndpointPolicy
    direction: Direction
    key: PolicyFlowKey
    """Of the flow that it is of, or is about."""
    seen: Seen
    group_set: int
    peer: bytes
    """Who sends it, or whom it is sent to."""


def police(
    here: Droplet,
    packet: Packet,
    inner: Inner,
    uid: str,
    direction: Direction,
    group_set: int = 0,
    own_port: bytes = b"",
) -> None:
    """Raises RefusedError when the endpoint may not send the packet, or not be sent it. `group_set`: what it bears
    of its sender's groups, 0 for nothing; `own_port`: not the port that it bears, but this one is the endpoint's."""
    policy = here.policies.get(uid)
    if policy is None or not (policy.ingress or policy.egress):
        return
    here.policy_flows.begun = None
    seen = read_policed(inner, direction)
    if seen is None:
        if _set_of(policy, direction):
            _refuse(packet, uid, direction, "POLICY_UNREADABLE", 0)
        return
    if own_port:
        seen = replace(seen, own_port=own_port)
    peer = inner.source if direction is Direction.INGRESS else inner.destination
    other, protocol = seen.about or (peer, seen.protocol)
    later = seen.kind is Policed.LATER
    key = PolicyFlowKey(packet.vni, uid, other, seen.own_port, seen.peer_port, protocol, later)
    case = _Case(policy, direction, key, seen, group_set, peer)
    if not _is_known(here, packet, case):
        _judge(here, packet, case)
    if seen.first and seen.kind is Policed.FLOW:
        _admit_fragments(here, case)


def _is_known(here: Droplet, packet: Packet, case: _Case) -> bool:
    """Whether it is of a flow that is current, so that no rule has to be asked."""
    flow = here.policy_flows.get(case.key)
    if case.seen.kind is Policed.ALONE or flow is None or flow.generation < case.policy.since:
        return False
    if case.seen.kind is Policed.ERROR:
        return not flow.ended
    if flow.generation != case.policy.generation:
        return False
    if case.seen.kind is Policed.FLOW:
        if case.seen.begins and (flow.ended or flow.direction is not case.direction):
            return False
        if flow.direction is case.direction is Direction.INGRESS and flow.group_set != case.group_set:
            return False
    _touch(flow, case)
    if flow.ended:
        _refuse(packet, case.key.endpoint, case.direction, "POLICY_FLOW_ENDED", flow.rule)
    packet.judged.append(Judgement(case.key.endpoint, case.direction, flow.rule, known=True))
    return True


def _judge(here: Droplet, packet: Packet, case: _Case) -> None:
    """By the rules."""
    flow = here.policy_flows.get(case.key) if case.seen.kind is Policed.FLOW else None
    goes_on = flow and flow.generation >= case.policy.since
    if flow and goes_on and (not case.seen.begins or (flow.direction is case.direction and not flow.ended)):
        _judge_again(packet, case, flow)
        return
    verdict = _ask_rules(case, case.direction, case.group_set, again=False)
    if not goes_on and not _is_let_pass(case, verdict, case.direction) and _answers_older(case):
        _begin_older(here, packet, case, flow)
        return
    audited = _enforce(packet, case, verdict, case.direction)
    if case.seen.kind is not Policed.FLOW:
        _audit_beside(packet, case, verdict, case.direction, case.group_set, again=False)
        return
    new = PolicyFlow(case.policy.generation, case.direction)
    _begin(new, verdict, case.group_set)
    new.closing = case.seen.closing
    if flow:
        here.policy_flows[case.key] = new
    elif not here.policy_flows.insert(case.key, new) and not audited:
        _refuse(packet, case.key.endpoint, case.direction, "POLICY_FLOWS_FULL", verdict.rule if verdict else 0)
    _audit_beside(packet, case, verdict, case.direction, case.group_set, again=False)


def _answers_older(case: _Case) -> bool:
    """Whether it may be an answer in a flow that is older than the endpoint's first policy, and is allowed."""
    if not case.policy.grace or case.seen.kind is not Policed.FLOW or case.seen.begins:
        return False
    begun = _other(case.direction)
    if _set_of(case.policy, begun) is None:
        server, client = case.key.own_port, case.key.peer_port
        if begun is Direction.EGRESS:
            server, client = client, server
        return case.seen.protocol == TCP and server < client
    verdict = _ask_rules(case, begun, 0, again=True)
    return bool(verdict and verdict.allow)


def _begin_older(here: Droplet, packet: Packet, case: _Case, stale: PolicyFlow | None) -> None:
    """That flow, the other way round than the packet goes."""
    begun = _other(case.direction)
    verdict = _ask_rules(case, begun, 0, again=True)
    new = PolicyFlow(case.policy.generation, begun, answered=True, closing=case.seen.closing)
    _begin(new, verdict, 0)
    _enforce(packet, case, verdict, begun)
    if stale:
        here.policy_flows[case.key] = new
    elif not here.policy_flows.insert(case.key, new):
        _refuse(packet, case.key.endpoint, begun, "POLICY_FLOWS_FULL", new.rule)
    _audit_beside(packet, case, verdict, begun, 0, again=True)


def _other(direction: Direction) -> Direction:
    return Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS


def _judge_again(packet: Packet, case: _Case, flow: PolicyFlow) -> None:
    """A flow that was judged by another generation, or whose peer has other groups now."""
    group_set = case.group_set if case.direction is Direction.INGRESS else flow.group_set
    verdict = _ask_rules(case, flow.direction, group_set, again=True)
    flow.generation = case.policy.generation
    if _is_let_pass(case, verdict, flow.direction):
        _begin(flow, verdict, group_set)
        _touch(flow, case)
        _enforce(packet, case, verdict, flow.direction)
        _audit_beside(packet, case, verdict, flow.direction, group_set, again=True)
        return
    flow.group_set = group_set if flow.direction is Direction.INGRESS else 0
    _touch(flow, case)
    if flow.kept:
        packet.judged.append(Judgement(case.key.endpoint, flow.direction, flow.rule, known=True))
        return
    flow.ended = True
    flow.rule = verdict.rule if verdict else 0
    _enforce(packet, case, verdict, flow.direction)


def _begin(flow: PolicyFlow, verdict: RuleVerdict | None, group_set: int) -> None:
    flow.rule = verdict.rule if verdict else 0
    flow.group_set = group_set if flow.direction is Direction.INGRESS else 0
    flow.ended, flow.kept = False, bool(verdict and verdict.keep)


def _touch(flow: PolicyFlow, case: _Case) -> None:
    """What a packet tells of its flow."""
    if case.seen.begins:
        flow.answered = flow.confirmed = flow.closing = False
    if flow.direction is case.direction:
        flow.confirmed |= flow.answered and not case.seen.bare
    else:
        flow.answered = True
    flow.closing |= case.seen.closing


def _admit_fragments(here: Droplet, case: _Case) -> None:
    """Fragments behind an allowed first one may pass, too: one entry without ports stands for all of them."""
    here.policy_flows.begun = None
    key = replace(case.key, own_port=bytes(2), peer_port=bytes(2), later=True)
    flow = here.policy_flows.get(key)
    if flow:
        flow.generation = case.policy.generation
    else:
        here.policy_flows.insert(key, PolicyFlow(case.policy.generation, case.direction))


# ---- the rules


def _set_of(policy: EndpointPolicy, direction: Direction) -> PolicySet | None:
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def _is_let_pass(case: _Case, verdict: RuleVerdict | None, direction: Direction) -> bool:
    return verdict.allow or verdict.audit if verdict else direction in case.policy.audit


def _enforce(packet: Packet, case: _Case, verdict: RuleVerdict | None, direction: Direction) -> bool:
    """Raises RefusedError for what is not allowed; True: it would be, but for audit mode, which tells of it."""
    rule, uid = verdict.rule if verdict else 0, case.key.endpoint
    if verdict and verdict.allow:
        packet.judged.append(Judgement(uid, direction, rule))
        return False
    reason = f"POLICY_{direction.name}_{'DENIED' if verdict else 'DEFAULT'}"
    if not _is_let_pass(case, verdict, direction):
        _refuse(packet, uid, direction, reason, rule)
    packet.judged.append(Judgement(uid, direction, rule, reason, audited=True))
    packet.count("vpc", packet.vni, "audited")
    return True


def _refuse(packet: Packet, uid: str, direction: Direction, reason: str, rule: int) -> None:
    packet.judged.append(Judgement(uid, direction, rule, reason))
    raise RefusedError(reason)


def _ask_rules(case: _Case, direction: Direction, group_set: int, *, again: bool) -> RuleVerdict | None:
    """What the rules of a direction say of the packet, or of the flow's first one; None: nothing."""
    rules = _set_of(case.policy, direction)
    if rules is None:
        return _ALL
    return _ask(rules, case, direction, group_set, again=again)


def _audit_beside(
    packet: Packet, case: _Case, verdict: RuleVerdict | None, direction: Direction, group_set: int, *, again: bool
) -> None:
    """Tells of what the rules allow, and would not if those that only audit were rules as well."""
    policy = case.policy
    rules = policy.beside_ingress if direction is Direction.INGRESS else policy.beside_egress
    if rules is None or _set_of(policy, direction) is None or not (verdict and verdict.allow):
        return
    told = _ask(rules, case, direction, group_set, again=again)
    if told and not told.allow:
        reason = f"POLICY_{direction.name}_DENIED"
        packet.judged.append(Judgement(case.key.endpoint, direction, told.rule, reason, audited=True))
        packet.count("vpc", packet.vni, "audited")


def _ask(rules: PolicySet, case: _Case, direction: Direction, group_set: int, *, again: bool) -> RuleVerdict | None:
    port: int | None = None
    if case.seen.message is not None:
        port = case.seen.message
        if again:  # what an answer is an answer to
            port = ECHO_REQUEST if case.seen.protocol == ICMP else ECHO_REQUEST6
    elif case.seen.kind is Policed.FLOW and case.seen.protocol in WITH_PORTS:
        end = case.key.own_port if direction is Direction.INGRESS else case.key.peer_port
        port = int.from_bytes(end, "big")
    verdict = rules.verdict_of(rules.class_of(case.peer), case.seen.protocol, port)
    by_groups = rules.class_of_groups(group_set) if direction is Direction.INGRESS and group_set else None
    if by_groups is not None:
        second = rules.verdict_of(by_groups, case.seen.protocol, port)
        if second and (verdict is None or second.rank < verdict.rank):
            return second
    return verdict
