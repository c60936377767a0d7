# SPDX-License-Identifier: Apache-2.0
"""Which address and which ports of a pool a new connection tries, in order: equal in every engine.

The rule is contracts/gateway.h's (nat_pools). A source port that is in the pool's range is tried first, so it is kept
where it is free; the others are spread by a hash, so that one tenant cannot tell the next port of another.
"""

from __future__ import annotations

from collections.abc import Iterator

from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import Address, Mapping, Masquerade

PORT_TRIES = 128
NUMBERS = {"tcp": 6, "udp": 17, "icmp4": 1, "icmp6": 58}
_WORD = (1 << 64) - 1


def address_for(rule: Masquerade, source: int) -> Address:
    """The address that an inner address always gets (RFC 4787 REQ-2)."""
    return rule.addresses[source % len(rule.addresses)]


def ports_for(rule: Masquerade, flow: Flow) -> Iterator[int]:
    """The ports to try for a flow, as it comes from inside."""
    first, last = rule.ports
    count = last - first + 1
    mapped, kept = rule.mapping is Mapping.ENDPOINT_INDEPENDENT, first <= flow.source_port <= last
    if kept:
        yield flow.source_port
    target = (0, 0) if mapped else (flow.destination, flow.destination_port)
    found = mix(_fold(flow.source, flow.version)) ^ _fold(target[0], flow.version)
    found = mix(found) ^ (flow.meta << 32 | flow.source_port << 16 | target[1])
    found = mix(mix(found) ^ NUMBERS[flow.protocol])
    start = (found >> 32) % count
    stride = 1 + (found & 0xFFFFFFFF) % max(1, count // PORT_TRIES) if count > PORT_TRIES else 1
    for step in range(count if count < PORT_TRIES else PORT_TRIES - (mapped or kept)):
        yield first + (start + step * stride) % count


def mix(word: int) -> int:
    """The finalizer of MurmurHash3 (64 bits, public domain): every bit of a word moves every bit of the result."""
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _WORD
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _WORD
    return word ^ word >> 33


def _fold(address: int, version: int) -> int:
    return address if version == 4 else address >> 64 ^ address & _WORD
