# SPDX-License-Identifier: Apache-2.0
"""The rules that a connection gets when it is established, in both directions. Called by whoever installs them.

A direction is found by metadata, addresses and ports, and numbered in a tag register; behind the check of TCP another
rule translates it by that number. Both directions of a TCP connection share one conntrack object, an indirect action.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mizar.pipeline.headers import Notation
from mizar.pipeline.interpreter.connection import ICMP_REPLIES, ICMP_REQUESTS, Flow
from mizar.pipeline.rte_flow.lowering import ALL_ONES, FLOW_TAG
from mizar.pipeline.rte_flow.rules import Action, Item, Match, Plan, Rule, action

IDLE_S = 300
MAX_NUMBER = (1 << 31) - 1
_ICMP_QUERIES = (*ICMP_REQUESTS["icmp4"], *ICMP_REPLIES["icmp4"])


@dataclass(frozen=True, slots=True)
class Direction:
    """What testpmd is told first, and the rules."""

    setup: tuple[str, ...]
    rules: tuple[Rule, ...]

    def commands(self) -> list[str]:
        """All of it, as testpmd reads it."""
        return [*self.setup, *(rule.command() for rule in self.rules)]


@dataclass(frozen=True, slots=True)
class Connection:
    """Both directions, the one in which it began first."""

    original: Direction
    reply: Direction

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules."""
        return (*self.original.rules, *self.reply.rules)

    def commands(self) -> list[str]:
        """Everything in order, as testpmd reads it."""
        return [*self.original.commands(), *self.reply.commands()]


def connection_rules(
    plan: Plan, flow: Flow, becomes: Flow, number: int, idle_s: int = IDLE_S, port: int = 0
) -> Connection:
    """What is to be installed for a connection that begins with `flow`, which `becomes` another one.

    `number`, from 1, names the connection and its conntrack object. Raises ValueError for what no rule translates.
    """
    if not 1 <= number <= MAX_NUMBER:
        raise ValueError(f"expected a connection's number from 1 to {MAX_NUMBER}, found {number}")
    why = untranslatable(flow, becomes)
    if why is not None:
        raise ValueError(why)
    tracked = number if flow.protocol == "tcp" else None
    ways = ((flow, becomes, 2 * number - 1, True), (becomes.reversed(), flow.reversed(), 2 * number, False))
    made = []
    for seen, then, tag, is_original in ways:
        setup = () if tracked is None else tuple(_conntrack(port, number, is_original))
        made.append(Direction(setup, tuple(_rules(plan, seen, then, tag, tracked, idle_s, port))))
    return Connection(*made)


def untranslatable(flow: Flow, becomes: Flow) -> str | None:
    """Why no rule can translate a flow; None where one can. Such connections stay on the way of `new`."""
    if flow.protocol in ("tcp", "udp"):
        return None
    if flow.protocol != "icmp4":
        return f"rte_flow cannot match the id of {flow.protocol}"
    if flow.source_port != becomes.source_port:
        return "rte_flow cannot translate icmp4 to another id: no action changes it"
    return None


def _conntrack(port: int, number: int, is_original: bool) -> Iterator[str]:
    """testpmd's words for the conntrack object: its own context first, whose direction holds for the rules that follow.

    Liberal: the state is followed, sequence numbers are not checked, which nobody has recorded when the rules are made.
    """
    yield (
        f"set conntrack com peer {port} is_orig {int(is_original)} enable 1 live 1 sack 1 cack 0 last_dir 0 liberal 1 "
        "state 1 max_ack_win 0 r_lim 0 last_win 0 last_seq 0 last_ack 0 last_end 0 last_index 0"
    )
    if is_original:
        for way in ("orig", "rply"):
            rest = "unack_data 0 sent_end 0 reply_end 0 max_win 0 max_ack 0"
            yield f"set conntrack {way} scale 0 fin 0 acked 1 {rest}"
        yield f"flow indirect_action {port} create action_id {number} transfer action conntrack / end"
    else:
        yield f"flow indirect_action {port} update {number} action conntrack_update dir / end"


def _rules(
    plan: Plan, flow: Flow, becomes: Flow, tag: int, tracked: int | None, idle_s: int, port: int
) -> Iterator[Rule]:
    """One direction: what finds it, and what translates it."""
    numbered = action("set_tag", data=tag, mask=ALL_ONES, index=FLOW_TAG)
    for place in plan.lookups:
        check = [] if tracked is None else [Action("indirect", (("", tracked),))]
        then = action("jump", group=place.check if check else place.established)
        for items in _exact(flow):
            actions = (action("age", timeout=idle_s), numbered, *check, then)
            yield Rule(f"{place.spot}: connection", port, place.group, 0, items, actions)
    item = Item("tag", (Match("data", tag, 0xFFFFFFFF, 32), Match("index", FLOW_TAG, 0xFF, 8)))
    transport = "icmp" if flow.protocol == "icmp4" else flow.protocol
    family = (item, Item("eth"), Item(f"ipv{flow.version}"), Item(transport))
    for translation in plan.translations:
        actions = (*_changes(flow, becomes), *translation.then)
        yield Rule(f"{translation.spot}: connection", port, translation.group, 0, family, actions)


def _exact(flow: Flow) -> Iterator[tuple[Item, ...]]:
    bits, notation = (32, Notation.IPV4) if flow.version == 4 else (128, Notation.IPV6)
    every = (1 << bits) - 1
    addresses = [
        Match("src", flow.source, every, bits, notation),
        Match("dst", flow.destination, every, bits, notation),
    ]
    if flow.version == 4:
        addresses.append(Match("fragment_offset", 0, 0x3FFF, 16))  # no fragment at all: it may lack the checksum's rest
    meta = Item("meta", (Match("data", flow.meta, 0xFFFFFFFF, 32),))
    front = (meta, Item("eth", (Match("has_vlan", 0, 1, 1),)), Item(f"ipv{flow.version}", tuple(addresses)))
    if flow.protocol == "icmp4":
        for kind in _ICMP_QUERIES:
            fields = (Match("type", kind, 0xFF, 8), Match("ident", flow.source_port, 0xFFFF, 16))
            yield (*front, Item("icmp", fields))
    else:
        ports = (Match("src", flow.source_port, 0xFFFF, 16), Match("dst", flow.destination_port, 0xFFFF, 16))
        yield (*front, Item(flow.protocol, ports))


def _changes(flow: Flow, becomes: Flow) -> Iterator[Action]:
    """Only what differs is written; hardware keeps the checksums."""
    address = IPv4Address if flow.version == 4 else IPv6Address
    for old, new, way in ((flow.source, becomes.source, "src"), (flow.destination, becomes.destination, "dst")):
        if old != new:
            yield Action(f"set_ipv{flow.version}_{way}", ((f"ipv{flow.version}_addr", str(address(new))),))
    for old, new, way in (
        (flow.source_port, becomes.source_port, "src"),
        (flow.destination_port, becomes.destination_port, "dst"),
    ):
        if old != new:
            yield action(f"set_tp_{way}", port=new)
    if flow.meta != becomes.meta:
        yield action("set_meta", data=hex(becomes.meta), mask=ALL_ONES)
