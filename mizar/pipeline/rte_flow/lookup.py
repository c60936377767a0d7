# SPDX-License-Identifier: Apache-2.0
"""Connections in rte_flow: rules that stand always, and those that each connection gets. Called by `compile`.

Hardware knows a connection by a rule of its own. TCP is checked by the conntrack action and item; of what has no rule,
only what may begin a connection is `new`. UDP has no check. ICMP has no translation in rte_flow and takes the way of
`new`, where software translates it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mizar.pipeline.description import Otherwise, State, Switch
from mizar.pipeline.headers import Notation
from mizar.pipeline.interpreter.connection import ICMP_ERRORS, ICMP_REPLIES, ICMP_REQUESTS, Flow
from mizar.pipeline.rte_flow.lowering import ALL_ONES, FLOW_TAG, Resources
from mizar.pipeline.rte_flow.rules import Action, Item, Match, Plan, Rule, action

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


def flow_rules(plan: Plan, flow: Flow, becomes: Flow, number: int, idle_s: int = 300, port: int = 0) -> list[Rule]:
    """The rules of one direction of a connection: found by its addresses and ports, translated by its number.

    `number` names the direction (32 bits) in the tag register. Raises ValueError for ICMP, which has no translation.
    """
    if flow.protocol not in ("tcp", "udp"):
        raise ValueError(f"rte_flow cannot translate {flow.protocol}: its id has no action")
    tag = action("set_tag", data=number, mask=ALL_ONES, index=FLOW_TAG)
    rules = []
    for place in plan.lookups:
        tracked = [action("conntrack")] if flow.protocol == "tcp" else []
        after = place.check if tracked else place.established
        actions = (action("age", timeout=idle_s), tag, *tracked, action("jump", group=after))
        rules.append(Rule(f"{place.spot}: connection", port, place.group, 0, _exact(flow), actions))
    item = Item("tag", (Match("data", number, 0xFFFFFFFF, 32), Match("index", FLOW_TAG, 0xFF, 8)))
    family = (item, Item("eth"), Item(f"ipv{flow.version}"), Item(flow.protocol))
    for translation in plan.translations:
        actions = (*_changes(flow, becomes), *translation.then)
        rules.append(Rule(f"{translation.spot}: connection", port, translation.group, 0, family, actions))
    return rules


def _exact(flow: Flow) -> tuple[Item, ...]:
    bits, notation = (32, Notation.IPV4) if flow.version == 4 else (128, Notation.IPV6)
    every = (1 << bits) - 1
    addresses = [
        Match("src", flow.source, every, bits, notation),
        Match("dst", flow.destination, every, bits, notation),
    ]
    if flow.version == 4:
        addresses.append(Match("fragment_offset", 0, 0x3FFF, 16))  # no fragment at all: it may lack the checksum's rest
    ports = (Match("src", flow.source_port, 0xFFFF, 16), Match("dst", flow.destination_port, 0xFFFF, 16))
    meta = Item("meta", (Match("data", flow.meta, 0xFFFFFFFF, 32),))
    return (
        meta,
        Item("eth", (Match("has_vlan", 0, 1, 1),)),
        Item(f"ipv{flow.version}", tuple(addresses)),
        Item(flow.protocol, ports),
    )


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


def notes(has_lookups: bool, has_queues: bool, has_decap: bool) -> Iterator[str]:
    """What hardware does otherwise than the interpreter."""
    if has_lookups:
        yield "a TCP or UDP connection has two rules for each direction: one finds it, one translates it"
        yield "related: ICMP errors and queries take the way of new, where software has to translate them"
        yield "UDP connections are not checked; TCP is, by the conntrack action, which the program has to set up"
    if has_queues:
        yield "a queue is chosen on the application's port, by the tag register: registers must survive that way"
    if has_decap:
        yield "outer IPv4 options and Geneve options are not matched: raw decap takes off headers of a fixed length"
