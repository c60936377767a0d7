# SPDX-License-Identifier: Apache-2.0
"""Connections that a description's own `nat:` section translates, as rules. Called by the command line and tests. Pure.

What a connection becomes is the interpreter's answer, so that hardware gets what every other target would do. Texts
are `META PROTOCOL SOURCE DESTINATION`, for example `0x01000005 tcp 10.0.0.1:40000 198.51.100.7:443`; of ICMP queries
the port is the id, IPv6 addresses stand in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from mizar.model.errors import InvalidError
from mizar.pipeline.description import Pipeline
from mizar.pipeline.interpreter.connection import SYN, Flow, Seen
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.nat import Timeouts
from mizar.pipeline.rte_flow.connection import Connection, connection_rules
from mizar.pipeline.rte_flow.rules import Plan

FORM = "META tcp|udp|icmp4 ADDRESS:PORT ADDRESS:PORT"
_END = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Described:
    """A connection: its first flow, what that becomes, and its rules."""

    flow: Flow
    becomes: Flow
    rules: Connection

    def __str__(self) -> str:
        return f"{flow_text(self.flow)} becomes {flow_text(self.becomes)}"


def described(pipeline: Pipeline, plan: Plan, flows: Iterable[Flow], port: int = 0) -> list[Described]:
    """The rules of connections that begin one after the other; equal ones are one connection.

    Raises InvalidError when the description has no `nat:`, when no rule of it or no port is there for a connection, or
    when no rule of rte_flow can translate it.
    """
    if pipeline.nat is None:
        raise InvalidError(f"pipeline {pipeline.name}: has no section nat, which would say what connections become")
    if not plan.translations:
        raise InvalidError(f"pipeline {pipeline.name}: has no step nat for connections that are established")
    table = NatTable(pipeline.nat)
    found = []
    for number, flow in enumerate(dict.fromkeys(flows), 1):
        becomes = table.allocate(Seen(flow, tcp_flags=SYN if flow.protocol == "tcp" else 0), 0)
        if becomes is None:
            why = ", ".join(sorted(table.reasons))
            raise InvalidError(f"pipeline {pipeline.name}: nat: {flow_text(flow)} gets no translation: {why}")
        idle_s = idle_time_s(pipeline.nat.timeouts, flow.protocol)
        try:
            rules = connection_rules(plan, flow, becomes, number, idle_s, port)
        except ValueError as error:
            raise InvalidError(f"pipeline {pipeline.name}: {flow_text(flow)}: {error}") from error
        found.append(Described(flow, becomes, rules))
    return found


def idle_time_s(timeouts: Timeouts, protocol: str) -> int:
    """How long an established connection may be silent."""
    return {"tcp": timeouts.tcp_s, "udp": timeouts.udp_s}.get(protocol, timeouts.icmp_s)


def flow_text(flow: Flow) -> str:
    """A flow in the form that read_flow() takes."""
    ends = []
    for address, port in ((flow.source, flow.source_port), (flow.destination, flow.destination_port)):
        ends.append(f"{IPv4Address(address)}:{port}" if flow.version == 4 else f"[{IPv6Address(address)}]:{port}")
    return f"{flow.meta:#x} {flow.protocol} {ends[0]} {ends[1]}"


def read_flow(text: str) -> Flow:
    """A flow from its text. Raises InvalidError."""
    words = text.split()
    if len(words) != 4 or words[1] not in ("tcp", "udp", "icmp4", "icmp6"):
        raise InvalidError(f"connection {text!r}: expected {FORM}")
    try:
        meta = int(words[0], 0)
    except ValueError as error:
        raise InvalidError(f"connection {text!r}: metadata: expected a number, found {words[0]}") from error
    if not 0 <= meta < 1 << 32:
        raise InvalidError(f"connection {text!r}: metadata: expected a number of 32 bits, found {words[0]}")
    (source, source_port), (destination, destination_port) = (_end(text, word) for word in words[2:])
    if source.version != destination.version or words[1] == f"icmp{10 - source.version}":
        raise InvalidError(f"connection {text!r}: expected addresses of one family, and its ICMP")
    if words[1].startswith("icmp") and source_port != destination_port:
        raise InvalidError(f"connection {text!r}: expected the same id at both ends of an ICMP query")
    ends = int(source), int(destination), source_port, destination_port
    return Flow(meta, source.version, words[1], *ends)


def _end(text: str, word: str) -> tuple[IPv4Address | IPv6Address, int]:
    found = _END.fullmatch(word)
    try:
        if found is None or int(found[3]) > 65535:
            raise ValueError(word)
        return ip_address(found[1] or found[2]), int(found[3])
    except ValueError as error:
        raise InvalidError(f"connection {text!r}: expected ADDRESS:PORT, found {word}") from error
