# SPDX-License-Identifier: Apache-2.0
"""TCP's MSS option (RFC 9293 3.7.1), lowered in a SYN to what the way has room for."""

from __future__ import annotations

import struct

from mizar.oracle.checksum import updated
from mizar.oracle.flow import TCP
from mizar.oracle.frames import Inner, Kind
from mizar.oracle.rewrite import replace

HEADER, SYN = 20, 0x02
END, NOP, MSS = 0, 1, 2
OPTIONS_READ = 10
"""So many options of a segment the data plane reads; the MSS stands first as a rule."""


def clamp_mss(inner: Inner, room: int) -> bytes:
    """The frame, for a way with room for IP packets of so many bytes; 0: any."""
    segment = inner.payload
    if not room or inner.protocol != TCP or inner.fragment or len(segment) < HEADER or not segment[13] & SYN:
        return inner.frame
    most = room - (20 if inner.kind is Kind.IPV4 else 40) - HEADER
    end = (segment[12] >> 4) * 4
    at = HEADER
    if not HEADER <= end <= len(segment):
        return inner.frame
    for _ in range(OPTIONS_READ):
        # The data plane wants four octets of whatever option it looks at, in the frame if not in the segment.
        beyond = inner.header + at + 4 > len(inner.frame)
        if at + 2 > end or beyond or segment[at] == END or (segment[at] != NOP and segment[at + 1] < 2):
            break
        if segment[at] == MSS:
            if segment[at + 1] != 4 or at + 4 > end:
                break
            (before,) = struct.unpack_from("!H", segment, at + 2)
            return lowered(inner, at, before, most) if before > most else inner.frame
        at += 1 if segment[at] == NOP else segment[at + 1]
    return inner.frame


def lowered(inner: Inner, at: int, before: int, after: int) -> bytes:
    """The frame with another MSS; at an odd place the checksum's words are not the option's."""
    (check,) = struct.unpack_from("!H", inner.payload, 16)
    swapped = (_swapped(before), _swapped(after)) if at & 1 else (before, after)
    frame = replace(inner.frame, inner.header + 16, struct.pack("!H", updated(check, *swapped)))
    return replace(frame, inner.header + at + 2, struct.pack("!H", after))


def _swapped(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8
