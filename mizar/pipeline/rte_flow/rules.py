# SPDX-License-Identifier: Apache-2.0
"""Rules of rte_flow as values, and how testpmd and JSON write them.

Made by `compile`, `match` and `lookup`. Knows the syntax of DPDK 22.11 alone, never what a rule is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from mizar.pipeline.headers import Notation

_IN_HEX = ("type", "inner_type", "data")


@dataclass(frozen=True, slots=True)
class Match:
    """A field of an item: the value of the bits in the mask."""

    name: str
    spec: int
    mask: int
    width: int
    notation: Notation = Notation.NUMBER

    def __str__(self) -> str:
        if self.mask == (1 << self.width) - 1:
            return f"{self.name} is {self._text(self.spec, full=True)}".lstrip()  # conntrack's only field has no name
        return f"{self.name} spec {self._text(self.spec)} {self.name} mask {self._text(self.mask)}"

    def _text(self, number: int, full: bool = False) -> str:
        if self.notation is Notation.MAC:
            return number.to_bytes(6, "big").hex(":")
        if self.notation is Notation.IPV4:
            return str(IPv4Address(number))
        if self.notation is Notation.IPV6:
            return str(IPv6Address(number))
        return str(number) if full and (self.name not in _IN_HEX or self.width <= 8) else hex(number)


@dataclass(frozen=True, slots=True)
class Item:
    """A pattern item."""

    type: str
    fields: tuple[Match, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.type, *map(str, self.fields)])


@dataclass(frozen=True, slots=True)
class Action:
    """An action with its configuration, in the words and the order of testpmd."""

    type: str
    conf: tuple[tuple[str, int | str], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.type, *(f"{name} {value}".lstrip() for name, value in self.conf)])  # indirect has no name


def action(kind: str, **conf: int | str) -> Action:
    """An action by its words."""
    return Action(kind, tuple(conf.items()))


@dataclass(frozen=True, slots=True)
class Rule:
    """A flow rule. `spot` is the rule of the description that it comes from; group None: an ingress rule of group 0."""

    spot: str
    port: int
    group: int
    priority: int
    items: tuple[Item, ...]
    actions: tuple[Action, ...]
    domain: str = "transfer"

    def command(self) -> str:
        """What testpmd reads."""
        pattern = " / ".join(map(str, (*self.items, Item("end"))))
        actions = " / ".join(map(str, (*self.actions, Action("end"))))
        place = f"group {self.group} priority {self.priority} {self.domain}"
        return f"flow create {self.port} {place} pattern {pattern} actions {actions}"

    def plain(self) -> dict[str, Any]:
        """The rule as JSON's values; fields in numbers."""
        pattern = [
            {"type": item.type, "fields": {one.name: {"spec": one.spec, "mask": one.mask} for one in item.fields}}
            for item in self.items
        ]
        return {
            "from": self.spot,
            "port": self.port,
            "domain": self.domain,
            "group": self.group,
            "priority": self.priority,
            "pattern": pattern,
            "actions": [{"type": one.type, "conf": dict(one.conf)} for one in self.actions],
            "testpmd": self.command(),
        }


@dataclass(frozen=True, slots=True)
class Counter:
    """What a counter's number stands for; several rules with one number are added up."""

    number: int
    name: str
    meta: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All commands in order (`setup` before `rules`), what the counters mean, and what hardware does differently."""

    setup: tuple[str, ...]
    rules: tuple[Rule, ...]
    counters: tuple[Counter, ...]
    notes: tuple[str, ...]
    lookups: tuple[Lookup, ...]
    translations: tuple[Translation, ...]

    def commands(self) -> list[str]:
        """Everything, as testpmd reads it."""
        return [*self.setup, *(rule.command() for rule in self.rules)]

    def plain(self) -> dict[str, Any]:
        """The plan as JSON's values."""
        counters = [{"number": one.number, "name": one.name, "meta": one.meta} for one in self.counters]
        return {
            "setup": list(self.setup),
            "rules": [rule.plain() for rule in self.rules],
            "counters": counters,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Lookup:
    """Where each connection has a rule that finds it: the group, and where TCP is checked and the rest goes on."""

    spot: str
    group: int
    check: int
    established: int


@dataclass(frozen=True, slots=True)
class Translation:
    """Where each connection has a rule that translates it, and what follows."""

    spot: str
    group: int
    then: tuple[Action, ...]
