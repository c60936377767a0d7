# SPDX-License-Identifier: Apache-2.0
"""Frames as people describe them, against scapy's opinion, and what the data plane would tell of them."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from mizar.functions.context import context_of
from mizar.functions.frame import changed, frame_of
from mizar.model.addresses import MAPPED
from mizar.model.errors import InvalidError

ROUTER, HOST = "02:4d:5a:00:00:01", "02:00:0a:00:01:02"
SIX = {"src": "fd00::2", "dst": "fd00::3"}
ETHER = Ether(dst=ROUTER, src=HOST)


@pytest.mark.parametrize(
    ("description", "wanted"),
    [
        (
            {"ipv4": {"src": "10.0.1.2", "dst": "10.0.1.3", "dscp": 46}, "udp": {"src": 7, "dst": 9}, "payload": "abc"},
            ETHER / IP(src="10.0.1.2", dst="10.0.1.3", tos=46 << 2, id=0) / UDP(sport=7, dport=9) / b"abc",
        ),
        (
            {"ipv6": SIX, "tcp": {"src": 1, "dst": 2, "flags": "syn ack", "ack": 5}, "payload": {"hex": "00 01"}},
            ETHER / IPv6(**SIX) / TCP(sport=1, dport=2, flags="SA", ack=5, window=65535) / b"\0\1",
        ),
        (
            {"ipv4": {"src": "10.0.1.2", "dst": "10.0.1.3", "ttl": 3}, "icmp": {"id": 4, "seq": 5}},
            ETHER / IP(src="10.0.1.2", dst="10.0.1.3", ttl=3, id=0) / ICMP(id=4, seq=5),
        ),
        ({"ipv6": SIX, "icmp6": {"id": 4, "seq": 5}}, ETHER / IPv6(**SIX) / ICMPv6EchoRequest(id=4, seq=5)),
        (
            {"ethernet": {"dst": "ff:ff:ff:ff:ff:ff", "type": 0x0806}, "payload": {"bytes": 28}},
            Ether(dst="ff:ff:ff:ff:ff:ff", src=HOST, type=0x0806) / bytes(28),
        ),
    ],
    ids=["udp", "tcp over IPv6", "icmp", "icmp6", "any other"],
)
def test_a_description_is_the_frame_that_scapy_builds(description: dict[str, Any], wanted: Any) -> None:
    assert frame_of(description) == bytes(wanted)


def test_a_tunnel_with_options() -> None:
    """Outer headers as droplets write them: no checksum of UDP, do not fragment."""
    inner = ETHER / IP(src="10.0.1.2", dst="10.0.1.3", id=0) / UDP(sport=40000, dport=80)
    option = GeneveOptions(classid=0x0102, type=1, data=bytes.fromhex("cafe0001"))
    outer = Ether(dst="02:00:ac:1f:00:02", src="02:00:ac:1f:00:01")
    outer /= IP(src="172.31.0.1", dst="172.31.0.2", id=0, flags="DF") / UDP(sport=50000, dport=6081, chksum=0)
    described: dict[str, Any] = {
        "tunnel": {"vni": 9, "options": [{"class": 0x0102, "type": 1, "data": "cafe0001"}]},
        "ipv4": {},
        "udp": {},
    }
    frame = frame_of(described)
    assert frame == bytes(outer / GENEVE(vni=9, options=[option]) / inner)
    told = context_of(frame)
    assert (told["wire_vni"], told["tunnel"], told["options_at"], told["option_bytes"]) == (9, 1, 50, 8)
    assert (told["inner_at"], told["network_at"], told["transport_at"]) == (58, 72, 92)
    assert (told["src"], told["family"], told["protocol"]) == (MAPPED + bytes([10, 0, 1, 2]), 4, 17)
    described["tunnel"] = {"vni": 9, "options": [{"type": 1, "data": "00000000"}, {"type": 0x83, "data": "00" * 16}]}
    assert frame_of(described)[42:44] == bytes([7, 0x40])  # one of them is critical (RFC 8926 3.4)
    described["tunnel"] = {"protocol": "vxlan", "vni": 9, "group": 5}
    vxlan = outer.copy()
    vxlan[UDP].dport = 4789
    assert frame_of(described) == bytes(vxlan / VXLAN(vni=9, flags=0x88, gpid=5) / inner)
    assert context_of(frame_of(described))["group_set"] == 5


def test_changes_lie_over_a_description() -> None:
    """A field of a layer, and a layer that is not there any more."""
    before = {"tunnel": {"vni": 7}, "ipv4": {"ttl": 64, "dscp": 0}, "udp": {}}
    after = changed(before, {"tunnel": None, "ipv4": {"dscp": 46}})
    assert after == {"ipv4": {"ttl": 64, "dscp": 46}, "udp": {}}
    assert frame_of(after)[15] == 46 << 2


def test_a_fragment_has_no_transport() -> None:
    """The first one has: it bears the ports."""
    first, later = ({"ipv4": {"offset": offset, "more": True}, "udp": {}} for offset in (0, 1480))
    assert [context_of(frame_of(one)).get("transport_at") for one in (first, later)] == [34, 0]
    assert context_of(frame_of(later))["fragment"] == 1


@pytest.mark.parametrize(
    ("description", "field"),
    [
        ({"ipv4": {"src": "10.0.1"}}, "ipv4.src"),
        ({"ipv4": {"src": "fd00::1"}}, "ipv4.src"),
        ({"ipv4": {"ttl": 256}}, "ipv4.ttl"),
        ({"ipv4": {"colour": 1}}, "ipv4.colour"),
        ({"ipv4": {}, "udp": {}, "tcp": {}}, "tcp"),
        ({"ipv4": {}, "tcp": {"flags": "sin"}}, "tcp.flags"),
        ({"tunnel": {"options": [{"data": "00"}]}}, "tunnel.options[0].data"),
        ({"hex": "zz"}, "hex"),
        ({"hex": "00", "ipv4": {}}, "hex"),
        ({"ethernet": {"src": "02"}}, "ethernet.src"),
        ([], ""),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(description: Any, field: str) -> None:
    with pytest.raises(InvalidError) as refused:
        frame_of(description)
    assert [problem.field for problem in refused.value.problems] == [field]
