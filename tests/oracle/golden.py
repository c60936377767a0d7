# SPDX-License-Identifier: Apache-2.0
"""Frames written by hand, field by field as in the figures of the RFCs: what comes in, and what must come out.

The droplet is d1, 192.0.2.1. It bounces network 10.0.1.0/24, fd00:10:0:1::/64 of VPC 0x0a0b0c, hosts 10.0.1.11 and
knows that 10.0.1.21 lives on d4, 192.0.2.4, and 10.0.1.31, that speaks VXLAN, on d2, 192.0.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass


def octets(text: str) -> bytes:
    """Hexadecimal digits; what stands behind a # is for the reader."""
    return bytes.fromhex(" ".join(line.split("#")[0] for line in text.splitlines()))


@dataclass(frozen=True)
class Golden:
    """A frame at one of the droplet's doors and what comes of it, except for what no RFC says: `free` octets."""

    name: str
    door: str
    comes: bytes
    goes: bytes
    free: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return self.name


# RFC 8926 3.1 and 3.4: the inner frame behind UDP port 6081 and eight octets, here with one option (3.5) and DSCP EF.
GENEVE_OUTER_IN = """
    02 00 00 00 02 01  02 00 00 00 02 04  08 00      # Ethernet: to d1, from d4, IPv4
    45 b8 00 5c  00 00 40 00  40 11 b5 d3            # IPv4: 92 octets, DF, TTL 64, UDP, checksum
    c0 00 02 04  c0 00 02 01                         # from 192.0.2.4 to 192.0.2.1
    c1 23 17 c1  00 48 00 00                         # UDP: from 49443 to 6081, 72 octets, no checksum
"""
GENEVE_HEADER = """
    02 00 65 58                                      # version 0, two words of options, neither O nor C, Ethernet
    0a 0b 0c 00                                      # VNI, reserved
    01 02 01 01  de ad be ef                         # option of class 0x0102, type 1, not critical, one word of data
"""
FROM_R = """
    02 4d 5a 00 00 01  02 00 00 00 01 15  08 00      # Ethernet: to the router, from 10.0.1.21, IPv4
    45 00 00 22  12 34 40 00  40 11 12 78            # IPv4: 34 octets, TTL 64, UDP
    0a 00 01 15  0a 00 01 0b                         # from 10.0.1.21 to 10.0.1.11
    0f a1 0f a2  00 0e 70 83  6d 69 7a 61 72 21      # UDP: from 4001 to 4002, "mizar!"
"""
TO_A = """
    02 00 00 00 01 0b  02 4d 5a 00 00 01  08 00      # Ethernet: to 10.0.1.11, from the router
    45 00 00 22  12 34 40 00  40 11 12 78            # all else as it was: d1 hosts it, there is no hop
    0a 00 01 15  0a 00 01 0b
    0f a1 0f a2  00 0e 70 83  6d 69 7a 61 72 21
"""
GENEVE_DELIVERED = Golden("geneve-delivered", "transit", octets(GENEVE_OUTER_IN + GENEVE_HEADER + FROM_R), octets(TO_A))

TO_R = """
    02 4d 5a 00 00 01  02 00 00 00 01 0b  08 00      # Ethernet: to the router, from 10.0.1.11
    45 00 00 22  12 34 40 00  40 11 12 78
    0a 00 01 0b  0a 00 01 15                         # from 10.0.1.11 to 10.0.1.21
    0f a2 0f a1  00 0e 70 83  6d 69 7a 61 72 21
"""
BOUNCED_TO_R = """
    02 00 00 00 01 15  02 4d 5a 00 00 01  08 00      # Ethernet: to 10.0.1.21, from the router
    45 00 00 22  12 34 40 00  3f 11 13 78            # TTL 63, checksum by RFC 1624
    0a 00 01 0b  0a 00 01 15
    0f a2 0f a1  00 0e 70 83  6d 69 7a 61 72 21
"""
GENEVE_OUTER_OUT = """
    02 00 00 00 02 04  02 00 00 00 02 01  08 00      # Ethernet: to d4, from d1
    45 b8 00 64  00 00 40 00  40 11 b5 cb            # the service octet goes along
    c0 00 02 01  c0 00 02 04                         # from 192.0.2.1 to 192.0.2.4
    c1 23 17 c1  00 50 00 00                         # the source port stays
"""
GENEVE_HEADER_TOLD = """
    04 00 65 58  0a 0b 0c 00                         # four words of options
    ff 01 01 01  c0 00 02 04                         # RETURN_TO_SENDER: the packet set out from 192.0.2.4
    01 02 01 01  de ad be ef                         # as it came
"""
GENEVE_BOUNCED = Golden(
    "geneve-bounced",
    "transit",
    octets(GENEVE_OUTER_IN + GENEVE_HEADER + TO_R),
    octets(GENEVE_OUTER_OUT + GENEVE_HEADER_TOLD + BOUNCED_TO_R),
)

# RFC 7348 5: the same place behind UDP port 4789, the I flag, three octets reserved, the VNI.
VXLAN_IN = """
    02 00 00 00 02 01  02 00 00 00 02 04  08 00
    45 00 00 54  00 00 40 00  40 11 b6 93            # IPv4: 84 octets
    c0 00 02 04  c0 00 02 01
    c1 23 12 b5  00 40 00 00                         # UDP: to 4789, 64 octets
    08 00 00 00  0a 0b 0c 00                         # flags: I; VNI
"""
VXLAN_DELIVERED = Golden("vxlan-delivered", "transit", octets(VXLAN_IN + FROM_R), octets(TO_A))

# 10.0.1.31 speaks VXLAN: its agentless droplet gets it, whatever came in; Geneve's option stays behind.
TO_V = """
    02 4d 5a 00 00 01  02 00 00 00 01 0b  08 00
    45 00 00 22  12 34 40 00  40 11 12 6e
    0a 00 01 0b  0a 00 01 1f                         # from 10.0.1.11 to 10.0.1.31
    0f a2 0f a1  00 0e 70 79  6d 69 7a 61 72 21
"""
TRANSLATED_TO_V = """
    02 00 00 00 02 02  02 00 00 00 02 01  08 00      # Ethernet: to d2, from d1
    45 b8 00 54  00 00 40 00  40 11 b5 dd            # IPv4: the option's eight octets are gone
    c0 00 02 01  c0 00 02 02
    c1 23 12 b5  00 40 00 00                         # UDP: to 4789
    08 00 00 00  0a 0b 0c 00                         # VXLAN: I, VNI
    02 00 00 00 01 1f  02 4d 5a 00 00 01  08 00      # to 10.0.1.31, from the router
    45 00 00 22  12 34 40 00  3f 11 13 6e
    0a 00 01 0b  0a 00 01 1f
    0f a2 0f a1  00 0e 70 79  6d 69 7a 61 72 21
"""
GENEVE_TO_VXLAN = Golden(
    "geneve-to-vxlan", "transit", octets(GENEVE_OUTER_IN + GENEVE_HEADER + TO_V), octets(TRANSLATED_TO_V)
)

# The agent of 10.0.1.11 puts the outer headers on: port, service octet 0, no option.
AGENT_ENCAPSULATES = Golden(
    "agent-encapsulates",
    "agent",
    octets(TO_R),
    octets(
        """
    02 00 00 00 02 04  02 00 00 00 02 01  08 00      # Ethernet: to d4, from d1
    45 00 00 54  00 00 40 00  40 11 b6 93            # IPv4: 84 octets
    c0 00 02 01  c0 00 02 04
    00 00 17 c1  00 40 00 00                         # UDP: the source port is the flow's hash
    00 00 65 58  0a 0b 0c 00                         # Geneve without options
    02 00 00 00 01 15  02 4d 5a 00 00 01  08 00      # to 10.0.1.21, from the router: d4 is its host
    45 00 00 22  12 34 40 00  40 11 12 78            # the same network: no hop
    0a 00 01 0b  0a 00 01 15
    0f a2 0f a1  00 0e 70 83  6d 69 7a 61 72 21
    """
    ),
    free=(34, 36),
)

# RFC 826: the packet format, and "?Am I the target protocol address?" answered by the router for all.
ARP = Golden(
    "arp",
    "agent",
    octets(
        """
    ff ff ff ff ff ff  02 00 00 00 01 0b  08 06      # Ethernet: to all, ARP
    00 01 08 00 06 04 00 01                          # Ethernet, IPv4, 6 and 4 octets, request
    02 00 00 00 01 0b  0a 00 01 0b                   # sender: its MAC, 10.0.1.11
    00 00 00 00 00 00  0a 00 01 15                   # target: not known, 10.0.1.21
    """
    ),
    octets(
        """
    02 00 00 00 01 0b  02 4d 5a 00 00 01  08 06      # Ethernet: to who asked, from the router
    00 01 08 00 06 04 00 02                          # reply
    02 4d 5a 00 00 01  0a 00 01 15                   # sender: the router's MAC, 10.0.1.21
    02 00 00 00 01 0b  0a 00 01 0b                   # target: who asked
    """
    ),
)

# RFC 4861 4.3, 4.4 and 4.6.1.
NEIGHBOUR_SOLICITATION = Golden(
    "neighbour-solicitation",
    "agent",
    octets(
        """
    33 33 ff 00 00 01  02 00 00 00 01 0b  86 dd      # Ethernet: to the solicited-node group
    60 00 00 00  00 20 3a ff                         # IPv6: 32 octets of ICMPv6, hop limit 255
    fd 00 00 10 00 00 00 01 00 00 00 00 00 00 00 0b  # from fd00:10:0:1::b
    ff 02 00 00 00 00 00 00 00 00 00 01 ff 00 00 01  # to ff02::1:ff00:1
    87 00 7c 63  00 00 00 00                         # type 135, code 0, checksum, reserved
    fd 00 00 10 00 00 00 01 00 00 00 00 00 00 00 01  # target: the gateway
    01 01 02 00 00 00 01 0b                          # option: source link-layer address
    """
    ),
    octets(
        """
    02 00 00 00 01 0b  02 4d 5a 00 00 01  86 dd      # Ethernet: to who asked, from the router
    60 00 00 00  00 20 3a ff
    fd 00 00 10 00 00 00 01 00 00 00 00 00 00 00 01  # from the target
    fd 00 00 10 00 00 00 01 00 00 00 00 00 00 00 0b  # to who asked
    88 00 42 12  e0 00 00 00                         # type 136; R, S and O
    fd 00 00 10 00 00 00 01 00 00 00 00 00 00 00 01  # target
    02 01 02 4d 5a 00 00 01                          # option: target link-layer address, the router's
    """
    ),
)

# RFC 792, "Echo or Echo Reply Message".
ECHO = Golden(
    "echo",
    "agent",
    octets(
        """
    02 4d 5a 00 00 01  02 00 00 00 01 0b  08 00
    45 00 00 22  00 01 00 00  3f 01 65 cf            # IPv4: TTL 63, ICMP
    0a 00 01 0b  0a 00 01 01                         # from 10.0.1.11 to its gateway
    08 00 9e 09  00 07 00 03  6d 69 7a 61 72 21      # echo, identifier 7, sequence 3, "mizar!"
    """
    ),
    octets(
        """
    02 00 00 00 01 0b  02 4d 5a 00 00 01  08 00
    45 00 00 22  00 01 00 00  40 01 64 cf            # TTL 64
    0a 00 01 01  0a 00 01 0b
    00 00 a6 09  00 07 00 03  6d 69 7a 61 72 21      # echo reply
    """
    ),
)

ALL = (
    GENEVE_DELIVERED, GENEVE_BOUNCED, VXLAN_DELIVERED, GENEVE_TO_VXLAN, AGENT_ENCAPSULATES, ARP,
    NEIGHBOUR_SOLICITATION, ECHO,
)  # fmt: skip
