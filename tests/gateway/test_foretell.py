# SPDX-License-Identifier: Apache-2.0
"""What is foretold of a frame is what the interpreter makes of it, over the same connections; and nothing changes."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from mizar.gateway import rules
from mizar.gateway.entries import ANSWERED
from mizar.gateway.foretell import Foretold, foretell
from mizar.pipeline.interpreter.connection import Flow, read
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.interpreter.translate import translated
from mizar.trace.packet import Asked, build
from tests.gateway.test_flow_table import BLUE, GREEN, OUTSIDE, Set, flows, in_use, nat

__all__ = ("flows",)
pytestmark = pytest.mark.root
PACKETS = [
    (BLUE, "10.0.0.5", "198.51.100.9"),
    (BLUE, "10.0.0.6", "198.51.100.9"),
    (BLUE, "10.0.0.9", "198.51.100.9"),  # static
    (GREEN, "fd00:10::5", "2001:db8:1::9"),
    (GREEN, "10.0.0.7", "203.0.113.11"),  # hairpin
    (OUTSIDE, "198.51.100.9", "203.0.113.11"),
    (OUTSIDE, "198.51.100.9", "203.0.113.10"),
]


def frame(source: str, destination: str, protocol: str, port: int) -> bytes:
    asked = Asked(protocol, port, 8080)
    return build(asked, bytes.fromhex("020000000002"), ip_address(source).packed, ip_address(destination).packed)


def flow_of(packet: bytes, meta: int) -> Flow:
    seen = read(packet, meta)
    assert seen is not None
    return seen.flow


def ask(flows: Set, packet: bytes, meta: int) -> Foretold:
    return foretell(flows.table, nat(), packet, meta)


def test_it_says_what_the_interpreter_does(flows: Set) -> None:
    """Of new connections, whose ports may be taken by then, and of those that are known, from both sides."""
    table = NatTable(nat())
    for port in (4000, 40000):
        for protocol in ("tcp", "udp", "icmp"):
            for meta, source, destination in PACKETS:
                packet = frame(source, destination, protocol, port)
                seen = read(packet, meta)
                assert seen is not None
                becomes = table.allocate(seen, 0)
                found = ask(flows, packet, meta)
                assert ask(flows, packet, meta) == found, "asking has changed something"
                if becomes is None:
                    assert (found.frame, found.reason) == (b"", "NO_RULE"), (meta, source, protocol)
                    continue
                assert found.frame == translated(packet, seen, becomes), (meta, source, protocol)
                assert found.known == (flows.table.find(seen.flow) is not None)  # an id of ICMP may be another's
                if not found.known:
                    flows.table.install(seen.flow, becomes, nat(), ANSWERED)
                assert ask(flows, packet, meta) == Foretold(found.frame, becomes.meta, known=True)


def test_an_answer_is_known_while_the_connection_lives(flows: Set) -> None:
    """And nobody's afterwards."""
    packet = frame("10.0.0.5", "198.51.100.9", "udp", 4000)
    found = ask(flows, packet, BLUE)
    becomes = flow_of(found.frame, found.meta)
    flows.table.install(flow_of(packet, BLUE), becomes, nat())
    answer = build(
        Asked("udp", becomes.destination_port, becomes.source_port), bytes(6),
        ip_address("198.51.100.9").packed, ip_address(becomes.source).packed,
    )  # fmt: skip
    back = ask(flows, answer, OUTSIDE)
    assert (back.known, back.meta, flow_of(back.frame, BLUE).destination_port) == (True, BLUE, 4000)
    flows.clock.now += 10**6
    assert ask(flows, answer, OUTSIDE) == Foretold(reason="NO_RULE")


def test_a_quota_that_is_used_up_is_told(flows: Set) -> None:
    """As why it is dropped; what is known goes on, and nobody else is refused."""
    rules.write(flows.table.tables, nat(quota=1), keeper=flows.table.keeper)
    first, second = (frame("10.0.0.5", "198.51.100.9", "udp", port) for port in (4000, 4001))
    found = ask(flows, first, BLUE)
    flows.table.install(flow_of(first, BLUE), flow_of(found.frame, found.meta), nat())
    assert ask(flows, first, BLUE).known
    assert ask(flows, second, BLUE) == Foretold(reason="QUOTA_EXCEEDED")
    assert ask(flows, second, GREEN).frame
    assert in_use(flows) == 1
