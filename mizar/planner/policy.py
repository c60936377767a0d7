# SPDX-License-Identifier: Apache-2.0
"""Rules in their order → the tables by which the data plane decides in constant time. Pure.

Called by mizar.planner.policy_sets. A peer is found by its address, or by the set of groups that its packets tell;
each of both leads to a class, and a class and (protocol, port) to the first rule that matches. Of two classes the
lower rank wins. So the order of rules, priorities, ranges and nested prefixes cost nothing per packet; the tables are
as large as they must.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mizar.model.errors import ExhaustedError
from mizar.planner.policy_peers import EVERYWHERE, Area, Place, partition
from mizar.planner.policy_ports import Row, Span, flatten

ALLOW, LOG, AUDIT, KEEP = 1, 2, 4, 8
MOST_ROWS = 1 << 20
"""Of one direction of a set: what would be larger is refused."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """A rule as packets meet it. Neither areas nor group sets, and `anybody`: every peer."""

    number: int
    """By which events name it: `rule_number`."""
    action: int
    """enum policy_action of contracts/dataplane.h."""
    anybody: bool = False
    areas: tuple[Area, ...] = ()
    group_sets: frozenset[int] = frozenset()
    spans: tuple[Span, ...] = ()
    """Empty: every protocol."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a class has for `bits` of protocol and port; `rank`: place of its rule, 0 the first."""

    protocol: int
    port: int
    bits: int
    rank: int
    action: int
    rule: int


@dataclass(frozen=True, slots=True)
class Tables:
    """One direction of a set. Numbers of classes follow from what is in them, so that equal ones stay."""

    peers: Mapping[Place, int] = field(default_factory=dict)
    groups: Mapping[int, int] = field(default_factory=dict)
    classes: Mapping[int, tuple[Verdict, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many entries of maps."""
        return len(self.peers) + len(self.groups) + sum(map(len, self.classes.values()))


NOTHING = 0
"""The class of peers that no rule matches: it has no rows."""


def compile_rules(rules: Sequence[Matcher]) -> Tables:
    """The tables of rules that stand in this order. Raises ExhaustedError when they would be too large."""
    maker = _Classes(rules)
    areas = [(rank, area) for rank, rule in enumerate(rules) for area in _areas(rule)]
    peers = {place: maker.number(ranks) for place, ranks in partition(areas)}
    sets: dict[int, list[int]] = {}
    for rank, rule in enumerate(rules):
        for group_set in rule.group_sets:
            sets.setdefault(group_set, []).append(rank)
    groups = {group_set: maker.number(frozenset(ranks)) for group_set, ranks in sorted(sets.items())}
    return Tables(peers, groups, {number: rows for number, rows in maker.rows.items() if rows})


def _areas(rule: Matcher) -> Iterable[Area]:
    return (Area(EVERYWHERE),) if rule.anybody else rule.areas


class _Classes:
    """Classes in the making: one for each different content."""

    def __init__(self, rules: Sequence[Matcher]) -> None:
        self._rules = rules
        self._known: dict[frozenset[int], int] = {}
        self._numbers: dict[tuple[Verdict, ...], int] = {(): NOTHING}
        self._size = 0
        self.rows: dict[int, tuple[Verdict, ...]] = {}

    def number(self, ranks: frozenset[int]) -> int:
        """The class of peers that exactly these rules match."""
        found = self._known.get(ranks)
        if found is None:
            rows = tuple(map(self._verdict, flatten((rank, self._rules[rank].spans) for rank in ranks)))
            found = self._known[ranks] = self._numbers[rows] if rows in self._numbers else self._add(rows)
        return found

    def _verdict(self, row: Row) -> Verdict:
        rule = self._rules[row.rank]
        return Verdict(row.protocol, row.port, row.bits, row.rank, rule.action, rule.number)

    def _add(self, rows: tuple[Verdict, ...]) -> int:
        self._size += len(rows)
        if self._size > MOST_ROWS:
            raise ExhaustedError(f"the rules for one endpoint would need more than {MOST_ROWS} entries")
        text = repr([(one.protocol, one.port, one.bits, one.rank, one.action, one.rule) for one in rows])
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
        while number == NOTHING or number in self.rows:
            number = (number + 1) & 0xFFFFFFFF
        self.rows[number] = rows
        self._numbers[rows] = number
        return number


_PLACES = 15


def rule_number(policy: int, egress: bool, place: int) -> int:
    """By what droplets know a rule, in its VPC: the policy's id, the direction and the rule's place; never 0."""
    return policy << (_PLACES + 1) | egress << _PLACES | place


def rule_of(number: int) -> tuple[int, bool, int]:
    """The reverse of `rule_number`: the policy's id, whether it is about egress, and the rule's place."""
    return number >> (_PLACES + 1), bool(number >> _PLACES & 1), number & ((1 << _PLACES) - 1)
