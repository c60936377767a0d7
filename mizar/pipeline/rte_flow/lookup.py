# SPDX-License-Identifier: Apache-2.0
"""Connections in rte_flow: the rules that stand always. Called by `compile`; `connection` has those that come and go.

Hardware knows a connection by a rule of its own. TCP is checked by the conntrack action and item; of what has no rule,
only what may begin a connection is `new`. UDP has no check. ICMP without a rule takes the way of `new`, where software
translates it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mizar.pipeline.description import Otherwise, State, Switch
from mizar.pipeline.interpreter.connection import ICMP_ERRORS, ICMP_REPLIES, ICMP_REQUESTS
from mizar.pipeline.rte_flow.lowering import Resources
from mizar.pipeline.rte_flow.rules import Action, Item, Match, Rule, action

VALID, CHANGED, INVALID, DISABLED, BAD = 1, 2, 4, 8, 16
"""What the conntrack item may say of a packet (RTE_FLOW_CONNTRACK_PKT_STATE_*)."""
_IP = (("ipv4", ("fragment_offset", 0, 0x1FFF, 16)), ("ipv6", None))


@dataclass(frozen=True, slots=True)
class StateBlocks:
    """The group that takes each state; None: no case does, and the packet is dropped."""

    new: int | None
    established: int | None
    invalid: int | None

    @classmethod
    def of(cls, switch: Switch, entries: dict[int, int]) -> StateBlocks:
        """The groups of a switch's cases."""

        def entry(state: State) -> int | None:
            for place, case in enumerate(switch.cases):
                if isinstance(case.when, Otherwise) or (isinstance(case.when, frozenset) and state in case.when):
                    return entries[place]
            return None

        return cls(entry(State.NEW), entry(State.ESTABLISHED), entry(State.INVALID))


def lookup_rules(
    spot: str, port: int, group: int, check: int, blocks: StateBlocks, resources: Resources
) -> Iterator[Rule]:
    """The rules that stand always: what has no rule of its own, and what the check of TCP says."""

    def to(entry: int | None) -> tuple[Action, ...]:
        missed = f"{spot}: no case"
        return tuple(resources.dropped(missed)) if entry is None else (action("jump", group=entry),)

    for items in _beginnings():
        yield Rule(spot, port, group, 1, items, to(blocks.new))
    yield Rule(spot, port, group, 2, (Item("eth"),), to(blocks.invalid))
    for said, entry in (
        (VALID, blocks.established),
        (VALID | CHANGED, blocks.established),
        (INVALID, blocks.invalid),
        (DISABLED, blocks.invalid),
        (BAD, blocks.invalid),
    ):
        item = Item("conntrack", (Match("", said, 0xFF, 8),))
        yield Rule(f"{spot}: check", port, check, 0, (Item("eth"), item), to(entry))
    yield Rule(f"{spot}: check", port, check, 1, (Item("eth"),), to(blocks.invalid))


def _beginnings() -> Iterator[tuple[Item, ...]]:
    """What may begin a connection, and every ICMP that software has to look at."""
    for ip, fragment in _IP:
        front = (Item("eth", (Match("has_vlan", 0, 1, 1),)), Item(ip, () if fragment is None else (Match(*fragment),)))
        yield (*front, Item("tcp", (Match("flags", 0x02, 0x17, 8),)))
        yield (*front, Item("udp"))
        kind = "icmp4" if ip == "ipv4" else "icmp6"
        for message in sorted({*ICMP_REQUESTS[kind], *ICMP_REPLIES[kind], *ICMP_ERRORS[kind]}):
            yield (*front, Item("icmp" if ip == "ipv4" else "icmp6", (Match("type", message, 0xFF, 8),)))


def notes(has_lookups: bool, has_queues: bool, has_decap: bool) -> Iterator[str]:
    """What hardware does otherwise than the interpreter."""
    yield "fragments of IPv6 have no transport header: nothing is looked for behind IPv6 extension headers"
    if has_lookups:
        yield "a connection has rules of its own for each direction: some find it, one translates it"
        yield "related: ICMP errors take the way of new, where software has to translate them"
        yield "ICMPv4 queries that keep their id have rules; all other ICMP takes the way of new: no action changes ids"
        yield "UDP is not checked; of TCP the state alone, the conntrack action being liberal: no sequence numbers"
    if has_queues:
        yield "a queue is chosen on the application's port, by the tag register: registers must survive that way"
    if has_decap:
        yield "outer IPv4 options and Geneve options are not matched: raw decap takes off headers of a fixed length"
