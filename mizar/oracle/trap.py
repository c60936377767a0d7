# SPDX-License-Identifier: Apache-2.0
"""What is left to the daemon: an endpoint's requests for its configuration (DHCPv4, DHCPv6, router solicitations)."""

from __future__ import annotations

import struct

from mizar.oracle.flow import UDP
from mizar.oracle.frames import ETHERNET, ICMPV6, IPV4, IPV6
from mizar.oracle.outcome import RefusedError
from mizar.oracle.tables import Agent, in_prefix

MOST = 1024
"""Bytes of a frame that is taken."""
ROUTER = bytes.fromhex("fe80") + bytes(13) + b"\x01"
"""The virtual router on every link."""
ROUTER_SOLICITATION = 133
DHCP4_PORTS, DHCP6_PORTS = (68, 67), (546, 547)
DHCP6_GROUP = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0001 0002")


def is_link_local(address: bytes) -> bool:
    """fe80::/10."""
    return in_prefix(address, bytes.fromhex("fe80") + bytes(14), 10)


def asks_for_configuration(frame: bytes, sender: Agent) -> bool:
    """Of a frame whose lengths and headers were found sound, or that was refused for going to a group."""
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    packet = frame[ETHERNET:]
    if ethertype == IPV4:
        header, (total, fragment) = (packet[0] & 15) * 4, struct.unpack_from("!HxxH", packet, 2)
        gateway = sender.ipv4.gateway if sender.ipv4 else None
        plain = packet[9] == UDP and not fragment & 0x3FFF and packet[16:20] in (b"\xff" * 4, gateway)
        return plain and ports(packet[header:total]) == DHCP4_PORTS
    if ethertype == IPV6:
        payload = packet[40 : 40 + int.from_bytes(packet[4:6], "big")]
        if packet[6] == ICMPV6:
            return len(payload) >= 8 and payload[0] == ROUTER_SOLICITATION
        return packet[6] == UDP and packet[24:40] == DHCP6_GROUP and ports(payload) == DHCP6_PORTS
    return False


def ports(payload: bytes) -> tuple[int, ...]:
    """Of UDP; none where its header does not fit."""
    return struct.unpack_from("!HH", payload) if len(payload) >= 8 else ()


def check_asker(frame: bytes, sender: Agent) -> None:
    """It may have no address yet, or but that of its link; nobody asks for another."""
    if frame[6:12] != sender.mac:
        raise RefusedError("SPOOFED_MAC")
    if frame[12:14] == struct.pack("!H", IPV4):
        source = frame[ETHERNET + 12 : ETHERNET + 16]
        if any(source) and not (sender.ipv4 and source == sender.ipv4.address):
            raise RefusedError("SPOOFED_ADDRESS")
    else:
        source, solicits = frame[ETHERNET + 8 : ETHERNET + 24], frame[ETHERNET + 6] == ICMPV6
        own = is_link_local(source) or bool(sender.ipv6 and source == sender.ipv6.address)
        if not own and not (not any(source) and (solicits or not sender.ipv6)):
            raise RefusedError("SPOOFED_ND" if solicits else "SPOOFED_ADDRESS")
    if len(frame) > MOST:
        raise RefusedError("REQUEST_LIMITED")
