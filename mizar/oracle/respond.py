# SPDX-License-Identifier: Apache-2.0
"""The virtual router's answers to ARP, neighbour solicitations and echo requests.

A request becomes its answer in the same frame, as long as it was. Whether to answer is the caller's decision.
"""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC
from mizar.oracle.checksum import checksum, ones_sum, pseudo_header, updated
from mizar.oracle.frames import ETHERNET, ICMP, ICMPV6, Inner, Kind
from mizar.oracle.outcome import RefusedError
from mizar.oracle.rewrite import IPV6_HOP_LIMIT, from_router, replace, set_ipv4_ttl

ANSWER_TTL = 64
SOLICITATION, ADVERTISEMENT = 135, 136
SOURCE_MAC, TARGET_MAC = 1, 2
MESSAGE = 24
"""Bytes of a solicitation, and of an advertisement, before the options."""
MOST_OPTIONS = 48
"""Bytes of options that the data plane reads. No RFC sets a limit; no stack sends more than 16."""


def respond_arp(inner: Inner) -> bytes:
    """ "The target's MAC is the router's" (RFC 826)."""
    arp = inner.frame[ETHERNET:]
    reply = arp[:6] + struct.pack("!H", 2) + ROUTER_MAC + inner.destination + arp[8:14] + inner.source
    return replace(from_router(inner.frame, inner.ether_source), ETHERNET, reply)


def parse_solicitation(inner: Inner) -> tuple[bytes, list[bytes]]:
    """The address that is asked for, and the MACs that the sender says it has, after all checks of RFC 4861 7.1.1."""
    message = inner.payload
    summed = ones_sum(pseudo_header(inner.source, inner.destination, len(message), ICMPV6) + message)
    target = message[8:24]
    if (
        len(message) < MESSAGE
        or len(message) > MESSAGE + MOST_OPTIONS
        or inner.ttl != 255
        or message[:2] != bytes([SOLICITATION, 0])
        or summed != 0xFFFF
        or target[0] == 0xFF
    ):
        raise RefusedError("ND_MALFORMED")
    macs = []
    options = message[MESSAGE:]
    while options:
        size = options[1] * 8 if len(options) >= 8 else 0
        if size == 0 or size > len(options):
            raise RefusedError("ND_MALFORMED")
        if options[0] == SOURCE_MAC:
            macs.append(options[2:8])
        options = options[size:]
    if len(set(macs)) > 1:
        raise RefusedError("ND_MALFORMED")
    if not any(inner.source) and (macs or not is_solicited_group(inner.destination)):
        raise RefusedError("ND_MALFORMED")
    return target, macs


def is_solicited_group(address: bytes) -> bool:
    """ff02::1:ffXX:XXXX (RFC 4291 2.7.1)."""
    return address.startswith(bytes.fromhex("ff02 0000 0000 0000 0000 0001 ff"))


def respond_solicitation(inner: Inner, target: bytes, *, router: bool, mac: bytes = ROUTER_MAC) -> bytes:
    """An advertisement (RFC 4861 4.4), solicited and overriding, with `mac` in place of the first option.

    A request without options gets an answer without. What else stood in the request is padding behind the answer.
    """
    flags = 0xE0000000 if router else 0x60000000
    option = bytes([TARGET_MAC, 1]) + mac if len(inner.payload) > MESSAGE else b""
    source, destination = target, inner.source
    message = struct.pack("!BBHI", ADVERTISEMENT, 0, 0, flags) + target + option
    summed = checksum(pseudo_header(source, destination, len(message), ICMPV6) + message)
    message = replace(message, 2, struct.pack("!H", summed))
    header = (
        inner.frame[ETHERNET : ETHERNET + 4] + struct.pack("!HBB", len(message), ICMPV6, 255) + source + destination
    )
    return replace(from_router(inner.frame, inner.ether_source), ETHERNET, header + message)


def respond_echo(inner: Inner) -> bytes:
    """An echo request becomes its reply (RFC 792, RFC 4443 4); the router runs no other service.

    Whoever changes places with whom no checksum notices; type and TTL are followed by RFC 1624.
    """
    request, reply, protocol = (8, 0, ICMP) if inner.kind is Kind.IPV4 else (128, 129, ICMPV6)
    if inner.protocol != protocol or inner.fragment:
        raise RefusedError("ENDPOINT_UNKNOWN")
    if len(inner.payload) < 8:
        raise RefusedError("INNER_TRUNCATED")
    kind, code, old = struct.unpack_from("!BBH", inner.payload)
    if (kind, code) != (request, 0):
        raise RefusedError("ENDPOINT_UNKNOWN")
    frame = from_router(inner.frame, inner.ether_source)
    echo = struct.pack("!BBH", reply, 0, updated(old, request << 8, reply << 8))
    frame = replace(frame, inner.header, echo)
    addresses = inner.destination + inner.source
    if inner.kind is Kind.IPV6:
        return replace(replace(frame, IPV6_HOP_LIMIT, bytes([ANSWER_TTL])), ETHERNET + 8, addresses)
    return replace(set_ipv4_ttl(frame, ANSWER_TTL), ETHERNET + 12, addresses)
