# SPDX-License-Identifier: Apache-2.0
"""A mark makes of a tunnel packet another sound one."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from mizar.model.errors import InvalidError
from mizar.transit.marking import destination_of, marked

INNER = b"\x02" * 60
GENEVE = bytes.fromhex("0000655800000700")
VXLAN = bytes.fromhex("0800000000000700")


def packet(header: bytes, port: int, *, v6: bool = False, sport: int = 0xC001) -> bytes:
    """A tunnel packet to 192.0.2.9 or 2001:db8::9."""
    ip = IPv6(src="2001:db8::1", dst="2001:db8::9") if v6 else IP(src="192.0.2.1", dst="192.0.2.9", flags="DF")
    return bytes(Ether(dst="02:00:00:00:00:01") / ip / UDP(sport=sport, dport=port, chksum=0) / (header + INNER))


@pytest.mark.parametrize("v6", [False, True])
def test_an_option_is_put_in_front_and_all_lengths_follow(v6: bool) -> None:
    """Lengths and the header's checksum are those that an independent implementation computes."""
    frame = marked(packet(GENEVE, 6081, v6=v6), 77, option=True)
    found = Ether(frame)
    again = found.copy()
    if v6:
        again[IPv6].plen = None
    else:
        del again[IP].len, again[IP].chksum
    again[UDP].len = None
    assert bytes(again) == frame
    assert bytes(found[UDP].payload) == bytes.fromhex("02006558000007 00 ff010401 0000004d") + INNER


@pytest.mark.parametrize(("header", "port", "option"), [(GENEVE, 6081, False), (VXLAN, 4789, True)])
def test_without_room_for_an_option_the_length_stays(header: bytes, port: int, option: bool) -> None:
    """VXLAN has none, and a packet that would become too long gets none: the header's last byte has the mark."""
    before = packet(header, port)
    after = marked(before, 77, option=option)
    at = before.index(header) + 7
    assert after == before[:at] + b"\x4d" + before[at + 1 :]


def test_where_a_packet_goes_is_read_of_tunnel_packets_alone() -> None:
    """An endpoint's own packets may look like anything."""
    assert destination_of(packet(GENEVE, 6081)) == ip_address("192.0.2.9").packed
    assert destination_of(packet(VXLAN, 4789, v6=True)) == ip_address("2001:db8::9").packed
    assert destination_of(packet(GENEVE, 53)) == b""
    assert destination_of(packet(GENEVE, 6081, sport=99)) == b""
    assert destination_of(b"\0" * 60) == b""
    with pytest.raises(InvalidError):
        marked(b"\0" * 60, 77, option=True)
