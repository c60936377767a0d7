# SPDX-License-Identifier: Apache-2.0
"""The packet that a trace asks about is what an endpoint would send."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from mizar.model.errors import InvalidError
from mizar.trace.packet import Asked, build

MAC = bytes.fromhex("0200000000aa")


def made(asked: Asked, source: str = "10.0.1.2", destination: str = "10.0.2.3") -> bytes:
    return build(asked, MAC, ip_address(source).packed, ip_address(destination).packed)


@pytest.mark.parametrize(("protocol", "layer"), [("icmp", ICMP), ("tcp", TCP), ("udp", UDP)])
@pytest.mark.parametrize("size", [0, 100, 1451])
def test_an_ipv4_packet_is_sound(protocol: str, layer: type, size: int) -> None:
    """Lengths and checksums are those that an independent implementation computes."""
    frame = made(Asked(protocol, 4000, 53, size))
    found = Ether(frame)
    assert found[IP].src == "10.0.1.2"
    assert found.src == "02:00:00:00:00:aa"
    assert not size or found[IP].len == size == len(frame) - 14
    again = found.copy()
    del again[IP].chksum, again[layer].chksum
    assert bytes(again) == frame


@pytest.mark.parametrize("protocol", ["icmp", "tcp", "udp"])
def test_an_ipv6_packet_is_sound(protocol: str) -> None:
    """The same for IPv6, whose checksums hold the addresses."""
    frame = made(Asked(protocol, size=200), "fd00::1", "fd00::2")
    found = Ether(frame)
    layer = {"icmp": ICMPv6EchoRequest, "tcp": TCP, "udp": UDP}[protocol]
    again = found.copy()
    if protocol == "icmp":
        again[layer].cksum = None
    else:
        del again[layer].chksum
    assert bytes(again) == frame
    assert found[IPv6].plen == 160


@pytest.mark.parametrize("asked", [Asked("tcp", size=39), Asked("udp", size=9217), Asked("sctp"), Asked("udp", 70000)])
def test_what_no_packet_can_be_is_refused(asked: Asked) -> None:
    """Too short for its headers, too long for any wire, of a protocol that is not made, from no port."""
    with pytest.raises(InvalidError):
        made(asked)
