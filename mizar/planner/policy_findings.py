# SPDX-License-Identifier: Apache-2.0
"""What people should know of the rules that they wrote: those that never decide, and those that contradict others.
Pure.

Called when policies are applied and shown. Looked at is what rules mean now: peers are taken by their addresses, so a
rule about a group may well stand behind one about a prefix. Never part of what droplets are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mizar.planner.policy import ALLOW, Matcher
from mizar.planner.policy_peers import EVERYWHERE, Area, partition
from mizar.planner.policy_ports import Span, flatten
from mizar.planner.policy_world import PolicyView, World

MOST_FINDINGS = 50
_MOST_PAIRS = 64
"""Rules of one class of peers that are compared with one another for contradictions."""
Placed = tuple[PolicyView, int, Matcher]
Companies = Callable[[bool], Iterable[tuple[PolicyView, ...]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind`: shadowed, redundant, contradicted, missing or unpoliced. `policy`: name of the policy that it is about.

    `rule`: that rule in words, empty for a policy as a whole; `by`: the rules to blame, in words.
    """

    kind: str
    policy: str
    rule: str
    by: tuple[str, ...]
    message: str


def findings(world: World, policy: PolicyView, companies: Companies) -> list[Finding]:
    """About one policy, beside all others of its VPC. `companies`: with which others it decides in a direction."""
    found = [Finding("missing", policy.name, "", (), text) for text in world.missing(policy)]
    found += _unpoliced(world, policy)
    for egress in (False, True):
        if policy.rules(egress):
            found += _of_direction(world, policy, egress, companies(egress))
    return found[:MOST_FINDINGS]


def _unpoliced(world: World, policy: PolicyView) -> Iterator[Finding]:
    meant = [one for one in world.endpoints.values() if world.means(policy, one)]
    others = sorted(one.name for one in meant if not one.policed) if not policy.spec.subjects.everybody else []
    if others:
        message = f"no droplet can judge endpoint {others[0]}" + (f" and {len(others) - 1} more" if others[1:] else "")
        yield Finding("unpoliced", policy.name, "", (), message)


def _of_direction(
    world: World, policy: PolicyView, egress: bool, companies: Iterable[tuple[PolicyView, ...]]
) -> Iterator[Finding]:
    """A rule is shadowed when it decides nothing for any endpoint, though it matches something."""
    places: set[int] = set()
    live: set[int] = set()
    hiding: dict[int, dict[str, Placed]] = {}
    contradicting: dict[int, dict[str, Placed]] = {}
    for together in companies:
        placed = world.matchers(together, egress, by_address=True)
        own = {rank: place for rank, (one, place, _) in enumerate(placed) if one.uid == policy.uid}
        for ranks in _classes(placed):
            mine = ranks & own.keys()
            rows = flatten((rank, placed[rank][2].spans) for rank in ranks) if mine else ()
            deciding = {row.rank for row in rows}
            places |= {own[rank] for rank in mine}
            live |= {own[rank] for rank in mine & deciding}
            for rank in mine - deciding:
                by = {
                    other for other in deciding if other < rank and meet(placed[rank][2].spans, placed[other][2].spans)
                }
                hiding.setdefault(own[rank], {}).update(_named(placed, by, egress))
            if len(ranks) <= _MOST_PAIRS:
                for rank in mine:
                    by = {other for other in ranks if _contradict(placed[rank], placed[other])}
                    contradicting.setdefault(own[rank], {}).update(_named(placed, by, egress))
    for place in sorted(places):
        name = policy.rule_text(egress, place)
        if place not in live:
            yield _hidden(policy, name, _allows(policy, egress, place), hiding.get(place, {}))
        elif against := contradicting.get(place):
            whom = _listed(list(against))
            message = f"{name} allows what {whom} of the same priority denies: where both match, it is denied"
            yield Finding("contradicted", policy.name, name, tuple(against), message)


def _hidden(policy: PolicyView, name: str, allows: bool, by: dict[str, Placed]) -> Finding:
    against = [text for text, (_, _, matcher) in by.items() if bool(matcher.action & ALLOW) != allows]
    whom = _listed(against or list(by))
    if against:
        message = (
            f"{name} never decides: {whom} stands before it and {'denies' if allows else 'allows'} what it matches"
        )
        return Finding("shadowed", policy.name, name, tuple(against), message)
    message = f"{name} never decides: {whom} stands before it and says the same"
    return Finding("redundant", policy.name, name, tuple(by), message)


def _classes(placed: list[Placed]) -> set[frozenset[int]]:
    return rank_classes([matcher for _, _, matcher in placed])


def rank_classes(rules: Sequence[Matcher]) -> set[frozenset[int]]:
    """The rules that match a peer, by rank, for every peer that is told from others."""
    areas = (
        (rank, area)
        for rank, matcher in enumerate(rules)
        for area in ((Area(EVERYWHERE),) if matcher.anybody else matcher.areas)
    )
    return {ranks for _, ranks in partition(areas)}


def meet(some: tuple[Span, ...], others: tuple[Span, ...]) -> bool:
    """Whether a packet can be of both."""
    return any(
        (one.protocol is None or other.protocol is None or one.protocol == other.protocol)
        and one.first <= other.last
        and other.first <= one.last
        for one in some or (Span(None),)
        for other in others or (Span(None),)
    )


def _contradict(mine: Placed, other: Placed) -> bool:
    """Whether an allowing rule meets a denying one of its own priority."""
    same = mine[0].spec.priority == other[0].spec.priority
    opposite = bool(mine[2].action & ALLOW) and not other[2].action & ALLOW
    return same and opposite and meet(mine[2].spans, other[2].spans)


def _allows(policy: PolicyView, egress: bool, place: int) -> bool:
    rules = policy.rules(egress) or ()
    return rules[place].action.value == "allow"


def _named(placed: list[Placed], ranks: set[int], egress: bool) -> Iterator[tuple[str, Placed]]:
    return ((placed[rank][0].rule_text(egress, placed[rank][1]), placed[rank]) for rank in sorted(ranks))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return " and ".join(names[:2]) + more if not more else ", ".join(names[:2]) + more
