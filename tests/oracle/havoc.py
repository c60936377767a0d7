# SPDX-License-Identifier: Apache-2.0
"""Many variants of one frame, fast: bytes changed at random places, ends cut off, and then lengths and checksums mended
or left as lies. The same seed gives the same variants.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.oracle.build import summed

BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x40, 0x06, 0x11, 0x3A, 0x45, 0x60, 0x87, 0x88)
SHORTEST = 14
GENEVE, VXLAN = b"\x17\xc1", b"\x12\xb5"
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"


def variants(frame: bytes, seed: int, count: int) -> Iterator[bytes]:
    """`count` variants of a frame that came in by one of the two doors."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(frame)
        for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
            at = chance.randrange(len(data)) if data else 0
            change(chance, data, at)
        if chance.random() < 0.15:
            del data[chance.randrange(min(SHORTEST, len(data)), len(data) + 1) :]
        if chance.random() < 0.05:
            data += bytes(chance.randrange(1, 64))
        if chance.random() < 0.6:
            mend(data)
        yield bytes(data)


def change(chance: random.Random, data: bytearray, at: int) -> None:
    """One octet, or two that are one number, or some that come from elsewhere in the frame."""
    how = chance.random()
    if how < 0.3:
        data[at : at + 1] = bytes([chance.choice(BYTES)])
    elif how < 0.5:
        data[at : at + 1] = bytes([data[at] ^ 1 << chance.randrange(8)])
    elif how < 0.7:
        data[at : at + 1] = bytes([(data[at] + chance.choice((-1, 1, 8, -8))) % 256])
    elif how < 0.8:
        data[at : at + 2] = chance.choice((b"\0\0", b"\xff\xff", b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\xff\xfe"))
    else:
        size = chance.choice((4, 6, 16))
        source = chance.randrange(len(data))
        data[at : at + size] = data[source : source + size]


def mend(data: bytearray) -> None:
    """The outer lengths of a tunnel packet, and then the checksum of ICMPv6 where it is the first next header."""
    if len(data) >= 42 and data[12:14] == IPV4 and data[23] == 17 and bytes(data[36:38]) in (GENEVE, VXLAN):
        data[16:18] = (len(data) - 14 & 0xFFFF).to_bytes(2, "big")
        mend_tunnel(data, 34)
    elif len(data) >= 62 and data[12:14] == IPV6 and data[20] == 17 and bytes(data[56:58]) in (GENEVE, VXLAN):
        data[18:20] = (len(data) - 54 & 0xFFFF).to_bytes(2, "big")
        mend_tunnel(data, 54)
    else:
        mend_icmpv6(data, 0)


def mend_tunnel(data: bytearray, udp: int) -> None:
    """From the outer UDP header on."""
    data[udp + 4 : udp + 6] = (len(data) - udp & 0xFFFF).to_bytes(2, "big")
    options = (data[udp + 8] & 0x3F) * 4 if data[udp + 2 : udp + 4] == GENEVE and len(data) > udp + 8 else 0
    mend_icmpv6(data, udp + 16 + options)


def mend_icmpv6(data: bytearray, at: int) -> None:
    """Of the frame that begins there."""
    message = at + 54
    length = int.from_bytes(data[at + 18 : at + 20], "big")
    if data[at + 12 : at + 14] != IPV6 or data[at + 20 : at + 21] != b"\x3a" or len(data) < message + max(4, length):
        return
    data[message + 2 : message + 4] = bytes(2)
    pseudo = data[at + 22 : message] + length.to_bytes(4, "big") + b"\0\0\0\x3a"
    right = summed(bytes(pseudo + data[message : message + length]))
    data[message + 2 : message + 4] = right.to_bytes(2, "big")
