# SPDX-License-Identifier: Apache-2.0
"""Protections in the words of the maps of the function ddos-protection (dataplane/ddos_protection.c). Pure."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from mizar._built import transit_pb2 as pb
from mizar.kernel.layout import Codec, Fields
from mizar.model.addresses import to_mapped
from mizar.model.errors import InvalidError
from mizar.model.prefix_list import PrefixList, boundaries, counts, table4, table6, table_bytes, unpacked

FUNCTION = "ddos-protection"
PROTECTIONS, TOP, KINDS = 64, 64, 12
COOKIES, COOKIES_ALWAYS, REFLECTED, REFLECTED_ALWAYS, LISTS = 1, 2, 4, 8, 16
COUNTED = {
    9: "seen", 1: "blocked", 2: "sourceOverLimit", 3: "targetOverLimit", 10: "syns", 7: "synsAnswered", 8: "verified",
    4: "noSuchConnection", 5: "reflected", 6: "synMalformed",
}  # fmt: skip
"""enum ddos_kind, as people read it."""
RULE = struct.Struct("=9Q2I")
STATE = struct.Struct("=6Q")
KERNEL = struct.Struct("=2I16s16s")
_COUNTERS = struct.Struct(f"={2 * KINDS}Q")
COUNTERS: Codec[Fields] = Codec(
    "struct ddos_counters",
    _COUNTERS.size,
    lambda found: _COUNTERS.pack(*found["packets"], *found["bytes"]),
    lambda data: {"packets": _COUNTERS.unpack(data)[:KINDS], "bytes": _COUNTERS.unpack(data)[KINDS:]},
)
VOTED = struct.Struct("=16sQII")
_S = 10**9
_NOBODY = bytes(16)


def rule(message: pb.DdosProtection, seed: int) -> bytes:
    """struct ddos_protection."""
    flags = message.flags | (LISTS if message.block_digest or message.allow_digest else 0)
    return RULE.pack(
        seed,
        *(_between(message.source_packets), _for_kib(message.source_bytes)),
        *(_between(message.target_packets), _for_kib(message.target_bytes)),
        message.burst_ms * 10**6,
        *(_between(message.syns), _between(message.reflected)),
        message.hold_s * _S,
        flags,
        0,
    )


def _between(per_s: int) -> int:
    return max(_S // per_s, 1) if per_s else 0


def _for_kib(bytes_per_s: int) -> int:
    return max(1024 * _S // bytes_per_s, 1) if bytes_per_s else 0


def kernel(namespace: int, ifindex: int, addresses: Iterable[bytes] = ()) -> bytes:
    """struct ddos_kernel. `namespace`: its number, plus one; `addresses`: the endpoint's own, one of a family."""
    own = {len(one): to_mapped(one) for one in addresses}
    return KERNEL.pack(namespace, ifindex, own.get(4, _NOBODY), own.get(16, _NOBODY))


def check(message: pb.DdosProtection) -> None:
    """Raises InvalidError for what cannot be."""
    if not 0 < message.number < PROTECTIONS:
        raise InvalidError(f"protection {message.name} has number {message.number}, expected 1 to {PROTECTIONS - 1}")
    for data, digest in ((message.block, message.block_digest), (message.allow, message.allow_digest)):
        if sha256(data).digest() != digest if digest else data:
            raise InvalidError(f"protection {message.name}: the list is not the one that its digest names")


def lists_bytes(message: pb.DdosProtection) -> int:
    """What its lists take at most."""
    return table_bytes(counts(data) for data in (message.block, message.allow) if data)


def in_turn(changed: Iterable[pb.DdosProtection], held: Mapping[str, pb.DdosProtection]) -> list[pb.DdosProtection]:
    """Those first whose lists become shorter than what is held: what all take together is never more than before and
    after, with the longest twice."""
    return sorted(changed, key=lambda one: lists_bytes(one) - (lists_bytes(held[one.uid]) if one.uid in held else 0))


def tables(message: pb.DdosProtection) -> Mapping[str, array[int]]:
    """Its lists as the data plane looks them up, by map; none where there is no list."""
    if not message.block_digest and not message.allow_digest:
        return {}
    block = unpacked(message.block) if message.block_digest else PrefixList()
    allow = unpacked(message.allow) if message.allow_digest else PrefixList()
    return {
        "prefixes4": table4(boundaries(block, allow, 4)),
        "prefixes6": table6(boundaries(block, allow, 6)),
    }


def port_words(ports: Iterable[int]) -> dict[int, int]:
    """Bits by word of 64 ports."""
    found: dict[int, int] = {}
    for port in ports:
        found[port >> 6] = found.get(port >> 6, 0) | 1 << (port & 63)
    return found


def told_counts(found: Fields | None) -> list[pb.DdosCount]:
    """In a message, in the order in which people read them."""
    packets, sizes = (found["packets"], found["bytes"]) if found else ([0] * KINDS, [0] * KINDS)
    return [pb.DdosCount(kind=name, packets=packets[kind], bytes=sizes[kind]) for kind, name in COUNTED.items()]


def voted(rows: Sequence[bytes], uids: Mapping[int, str]) -> list[pb.DdosTop]:
    """Sources and prefixes, most first. `rows`: places of one protection; `uids`: of endpoints, by slot."""
    found = []
    for place, data in enumerate(rows):
        address, seen, kind, slot = VOTED.unpack(data)
        if address == _NOBODY or not seen:
            continue
        ipv4 = address[:12] == bytes(10) + b"\xff\xff"
        length = (32 if ipv4 else 128) if place < TOP else (24 if ipv4 else 48)
        found.append(
            pb.DdosTop(
                address=address[12:] if ipv4 else address, length=length, kind=COUNTED.get(kind, ""), packets=seen,
                endpoint=uids.get(slot, ""),
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: -one.packets)
