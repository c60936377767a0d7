# SPDX-License-Identifier: Apache-2.0
"""What is said of refused frames, whatever is in them, and of those that were left out."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from mizar._built import transit_pb2 as pb
from mizar.kernel.layout import constant
from mizar.model.addresses import to_mapped
from mizar.transit.captured import Inner, inner
from mizar.transit.drops import Describer, Suppressed
from mizar.transit.state import Limits, State

A, B = "10.0.1.11", "10.0.1.12"
A6, B6 = "fd00::11", "fd00::12"


def packed(text: str) -> bytes:
    return ip_address(text).packed


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        (IP(src=A, dst=B) / TCP(sport=1, dport=2), (6, 1, 2)),
        (IP(src=A, dst=B, options=b"\1\1\1\1") / UDP(sport=3, dport=4), (17, 3, 4)),
        (IP(src=A, dst=B, frag=7) / UDP(sport=3, dport=4), (17, 0, 0)),
        (IP(src=A, dst=B) / ICMP(), (1, 0, 0)),
        (IPv6(src=A6, dst=B6) / UDP(sport=5, dport=6), (17, 5, 6)),
        (ARP(op=1, psrc=A, pdst=B), (0, 0, 0)),
    ],
)
def test_addresses_protocol_and_ports(packet: Any, found: tuple[int, int, int]) -> None:
    """Of both families; of fragments and of what has no ports, none."""
    ends = (A6, B6) if IPv6 in packet else (A, B)
    assert inner(bytes(Ether(dst="02:00:00:00:00:01") / packet)) == Inner(packed(ends[0]), packed(ends[1]), *found)


@given(st.binary(max_size=128))
def test_any_bytes_are_read(frame: bytes) -> None:
    """Never more than nothing comes of nonsense."""
    inner(frame)
    inner(b"\0" * 12 + b"\x08\x00" + frame)
    inner(b"\0" * 12 + b"\x86\xdd" + frame)


def event(**fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "reason": 62,
        "vni": 7,
        "ifindex": 3,
        "length": 60,
        "endpoint_slot": 0,
        "vpc_slot": 2,
        "inner_at": 0,
        "rule": 0,
        "policed_slot": 0,
        "outcome": 0,
    }
    base |= {"captured": 128, "hook": constant("HOOK_AGENT"), "src": bytes(16), "dst": bytes(16), "frame": bytes(128)}
    return base | fields


FRAME = bytes(Ether(dst="02:00:00:00:00:01") / IP(src=A, dst=B) / TCP(sport=1, dport=2)).ljust(78, b"\0")


def test_the_inside_is_believed_where_the_data_plane_read_the_same() -> None:
    """It may have stopped in front of it, or have read another one."""
    describer = Describer(lambda: State(packed("172.30.9.1"), Limits()), str)
    ends = {"src": to_mapped(packed(A)), "dst": to_mapped(packed(B))}
    transit = {"hook": constant("HOOK_TRANSIT"), "frame": bytes(50) + FRAME, "inner_at": 50}
    assert describer.drop(event(**ends, **transit)).destination_port == 2
    assert not describer.drop(event(**ends, **transit | {"inner_at": 0})).inner
    assert not describer.drop(event(src=to_mapped(packed(B)), dst=to_mapped(packed(B)), **transit)).inner
    without = describer.drop(event(frame=FRAME, captured=len(FRAME)))
    assert (without.source, without.inner, without.interface) == (packed(A), True, "3")
    assert describer.drop(event(endpoint_slot=9)).uid == ""


class Limit:
    """event_limits, by slot and CPU."""

    def __init__(self) -> None:
        self.rows: dict[int, list[dict[str, int]]] = {}

    def items(self) -> list[tuple[int, list[dict[str, int]]]]:
        return list(self.rows.items())


def row(vni: int, *counts: int) -> list[dict[str, int]]:
    return [{"due_ns": 1, "vni": vni, "suppressed": count} for count in counts]


def test_what_was_left_out_is_told_once() -> None:
    """Over all CPUs and places; a place that another VPC has taken begins anew."""
    limits, reasons = Limit(), constant("EVENT_REASONS")
    suppressed = Suppressed(SimpleNamespace(event_limits=limits))
    limits.rows = {reasons * 2 + 62: row(7, 10, 5), reasons * 3 + 62: row(8, 1, 0)}
    assert list(suppressed.take()) == [
        pb.Suppressed(reason=62, vni=7, packets=15),
        pb.Suppressed(reason=62, vni=8, packets=1),
    ]
    assert list(suppressed.take()) == []
    limits.rows[reasons * 2 + 62] = row(7, 10, 9)
    assert list(suppressed.take()) == [pb.Suppressed(reason=62, vni=7, packets=4)]
    limits.rows[reasons * 2 + 62] = row(9, 3, 0)
    assert list(suppressed.take()) == [pb.Suppressed(reason=62, vni=9, packets=3)]
