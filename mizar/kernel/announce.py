# SPDX-License-Identifier: Apache-2.0
"""Telling a link that addresses are here now: gratuitous ARP (RFC 5227 3) and unsolicited neighbour advertisements (RFC
4861 7.2.6).

Called by what attracts addresses. Only sends; whoever has had the address before is not asked.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from mizar.kernel.interfaces import Interface
from mizar.kernel.packet_socket import PacketSocket

_ALL = bytes.fromhex("ffffffffffff")
_ALL_NODES_MAC, _ALL_NODES = bytes.fromhex("333300000001"), IPv6Address("ff02::1").packed
_ADVERTISEMENT, _OVERRIDE, _ROUTER, _ICMP6 = 136, 0x20000000, 0x80000000, 58


def announce(interface: Interface, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
    """One frame for each address; the link may lose it, as any."""
    with contextlib.closing(PacketSocket()) as sending:
        for address in addresses:
            mac = interface.mac
            sending.send(interface.index, _arp(mac, address) if address.version == 4 else _nd(mac, address))


def _arp(mac: bytes, address: IPv4Address) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + address.packed + bytes(6) + address.packed
    return _ALL + mac + b"\x08\x06" + body


def _nd(mac: bytes, address: IPv6Address) -> bytes:
    option = b"\x02\x01" + mac
    message = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE | _ROUTER) + address.packed + option
    pseudo = address.packed + _ALL_NODES + struct.pack("!II", len(message), _ICMP6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMP6, 255) + address.packed + _ALL_NODES
    return _ALL_NODES_MAC + mac + b"\x86\xdd" + header + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
