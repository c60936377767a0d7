# SPDX-License-Identifier: Apache-2.0
"""Rules of a network's ACL → sets of rules as droplets hold them, and what people should know of them. Pure.

Called by mizar.manager.network_acls. The tables, and what makes them constant in time, are those of policies. Rules
have places here, and no priorities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from mizar.model.addresses import parse_prefix
from mizar.model.network_acl import AclRule, NetworkAclSpec
from mizar.model.policy import Action, Mode
from mizar.planner.entries import PolicySetEntry
from mizar.planner.policy import ALLOW, AUDIT, LOG, Matcher, compile_rules, rule_number
from mizar.planner.policy_findings import MOST_FINDINGS, meet, rank_classes
from mizar.planner.policy_peers import area_of
from mizar.planner.policy_ports import ALL_PORTS, Span, flatten
from mizar.planner.policy_sets import rows_of

LAST = 0x7FFF
"""Place of the rule behind all others: enum network_acl_rule of contracts/dataplane.h."""


@dataclass(frozen=True, slots=True)
class AclView:
    """An ACL by uid, its id in the VPC, its name and what it says."""

    uid: str
    id: int
    name: str
    spec: NetworkAclSpec

    def rules(self, egress: bool) -> tuple[AclRule, ...] | None:
        """Of one direction; None: it is not judged."""
        return self.spec.egress if egress else self.spec.ingress

    def rule_text(self, egress: bool, place: int) -> str:
        """A rule's name, for people."""
        direction = "egress" if egress else "ingress"
        if place == LAST:
            return f"the last rule of network ACL {self.name} ({direction}), which denies what no other allows"
        return f"network ACL {self.name} {direction} rule {place + 1}"


def matchers(acl: AclView, egress: bool, *, later: bool = False) -> list[Matcher]:
    """The rules of a direction in their order, and the last. `later`: as fragments behind the first meet them, which
    show no ports: what allows some ports of a protocol allows them, what denies some says nothing."""
    found = []
    for place, rule in enumerate(acl.rules(egress) or ()):
        spans = tuple(Span(one.number, *one.range) for one in rule.ports)
        if later and spans:
            spans = _without_ports(spans, allows=rule.action is Action.ALLOW)
            if not spans:
                continue
        areas = tuple(area_of(parse_prefix(text)) for text in rule.cidrs)
        number = rule_number(acl.id, egress, place)
        found.append(Matcher(number, _action(acl, rule), not rule.cidrs, areas, frozenset(), spans))
    audits = AUDIT if acl.spec.mode is Mode.AUDIT else 0
    return [*found, Matcher(rule_number(acl.id, egress, LAST), audits, anybody=True)]


def _without_ports(spans: tuple[Span, ...], *, allows: bool) -> tuple[Span, ...]:
    if allows:
        return tuple(dict.fromkeys(Span(one.protocol) for one in spans))
    return tuple(one for one in spans if (one.first, one.last) == ALL_PORTS)


def _action(acl: AclView, rule: AclRule) -> int:
    action = LOG if rule.log else 0
    if rule.action is Action.ALLOW:
        return action | ALLOW
    return action | (AUDIT if acl.spec.mode is Mode.AUDIT else 0)


def set_id(acl: AclView, egress: bool, later: bool) -> int:
    """The same by every server; no policy's."""
    text = f"acl {egress:d} {later:d} {acl.uid}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") or 1


def sets_of(vni: int, acl: AclView) -> Iterator[PolicySetEntry]:
    """All that its rules become. Raises ExhaustedError when they would be too large."""
    for egress in (False, True):
        for later in (False, True) if acl.rules(egress) is not None else ():
            rows = rows_of(compile_rules(matchers(acl, egress, later=later)))
            yield PolicySetEntry(vni, set_id(acl, egress, later), *rows)


def warnings(acl: AclView) -> list[str]:
    """Rules that never decide, as others stand before them."""
    found: list[str] = []
    for egress in (False, True):
        rules = matchers(acl, egress)[:-1]
        places, live, hiding = set[int](), set[int](), dict[int, set[int]]()
        for ranks in rank_classes(rules):
            deciding = {row.rank for row in flatten((rank, rules[rank].spans) for rank in ranks)}
            places |= ranks
            live |= deciding
            for rank in ranks - deciding:
                before = {one for one in deciding if one < rank and meet(rules[rank].spans, rules[one].spans)}
                hiding.setdefault(rank, set()).update(before)
        found += [_hidden(acl, egress, rules, place, hiding[place]) for place in sorted(places - live)]
    return found[:MOST_FINDINGS]


def _hidden(acl: AclView, egress: bool, rules: list[Matcher], place: int, by: set[int]) -> str:
    allows = bool(rules[place].action & ALLOW)
    against = sorted(one for one in by if bool(rules[one].action & ALLOW) != allows)
    whom = [acl.rule_text(egress, one) for one in (against or sorted(by))[:2]]
    says = f"{'denies' if allows else 'allows'} what it matches" if against else "says the same"
    return f"{acl.rule_text(egress, place)} never decides: {' and '.join(whom)} stands before it and {says}"
