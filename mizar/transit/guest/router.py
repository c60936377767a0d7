# SPDX-License-Identifier: Apache-2.0
"""Router advertisements (RFC 4861 4.2, 6.2; DNS: RFC 8106): the virtual router is fe80::1 on every link.

Addresses come by DHCPv6 (flag M), so that an endpoint has the address that it was given: the prefix is on the link, and
no host makes an address from it.
"""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC
from mizar.transit.guest.frames import Request, icmpv6
from mizar.transit.guest.lease import BadRequestError, Lease, domain_bytes

SOLICITATION, ADVERTISEMENT = 133, 134
LIFETIME_S = 9000
"""The longest that RFC 4861 6.2.1 allows; `REFRESH_S` is how often an endpoint that asked is told again."""
REFRESH_S = 1800
_HOPS, _MANAGED_AND_OTHER, _ON_LINK = 64, 0xC0, 0x80
_SOURCE_MAC, _PREFIX, _MTU, _DNS, _DOMAINS = 1, 3, 5, 25, 31
_ALL_NODES, _ALL_NODES_MAC = bytes.fromhex("ff02" + "00" * 13 + "01"), bytes.fromhex("333300000001")


def answer(request: Request, lease: Lease) -> bytes | None:
    """The advertisement that answers a solicitation. Raises BadRequestError."""
    message = request.message
    if len(message) < 8 or message[:2] != bytes([SOLICITATION, 0]) or request.hop_limit != 255:
        raise BadRequestError("no router solicitation (RFC 4861 6.1.1)")
    return advertisement(lease, request.source if any(request.source) else b"")


def advertisement(lease: Lease, to: bytes = b"") -> bytes | None:
    """To one address, or to all nodes of the endpoint's link."""
    leg = lease.ipv6
    if leg is None:
        return None
    body = struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, _HOPS, _MANAGED_AND_OTHER, LIFETIME_S, 0, 0)
    body += bytes([_SOURCE_MAC, 1]) + ROUTER_MAC + struct.pack("!BBHI", _MTU, 1, 0, lease.mtu)
    body += struct.pack("!BBBBIII", _PREFIX, 4, leg.length, _ON_LINK, 0xFFFFFFFF, 0xFFFFFFFF, 0) + leg.prefix
    servers, domain = lease.settings.servers(16), domain_bytes(lease.settings.domain)
    if servers:
        body += struct.pack("!BBHI", _DNS, 1 + 2 * len(servers), 0, LIFETIME_S) + b"".join(servers)
    if domain:
        domain += bytes(-len(domain) % 8)
        body += struct.pack("!BBHI", _DOMAINS, 1 + len(domain) // 8, 0, LIFETIME_S) + domain
    return icmpv6(lease.mac, to, body) if to else icmpv6(_ALL_NODES_MAC, _ALL_NODES, body)
