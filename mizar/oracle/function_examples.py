# SPDX-License-Identifier: Apache-2.0
"""Twins of the functions in examples/functions, frame by frame. Whoever asks the oracle about a droplet that has loaded
one puts it into `functions.TWINS`, with its parameters and what its maps hold. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mizar.model.addresses import Prefix
from mizar.oracle.checksum import checksum
from mizar.oracle.functions import Decision, Says, Seen, Twin

_IPV4, _IPV6, _ETHERNET = b"\x08\x00", b"\x86\xdd", 14
_GENEVE, _MOST_WORDS = 6081, 60
GOES_ON = Says()


def _family(frame: bytes) -> int:
    """As functions are told it: 4, 6, or 0 of what has no whole header."""
    if frame[12:14] == _IPV4 and len(frame) >= _ETHERNET + 20:
        return 4
    return 6 if frame[12:14] == _IPV6 and len(frame) >= _ETHERNET + 40 else 0


def blocklist(blocked: Iterable[Prefix]) -> Twin:
    """Drops what comes from these prefixes."""
    held = [(one.version, int(one.network_address), one.max_prefixlen - one.prefixlen) for one in blocked]

    def says(seen: Seen) -> Says:
        family, frame = _family(seen.inner), seen.inner
        source = int.from_bytes(frame[26:30] if family == 4 else frame[22:38], "big")
        if any(version == family and (source ^ address) >> free == 0 for version, address, free in held):
            return Says(Decision.DROP)
        return GOES_ON

    return says


@dataclass(frozen=True, slots=True)
class Metadata:
    """Parameters of metadata-inject, with its own defaults."""

    tag: int = 0
    longest: int = 1514
    option_class: int = 0x0103
    option_type: int = 1
    dscp: int = 10

    @property
    def packed(self) -> bytes:
        """As its object has them."""
        return struct.pack("=IIHBB", self.tag, self.longest, self.option_class, self.option_type, self.dscp)


def metadata_inject(told: Metadata) -> Twin:
    """A DSCP on what endpoints send, an option in front of the others on what is sent on in Geneve."""

    def says(seen: Seen) -> Says:
        if seen.stage == "ENDPOINT_EGRESS":
            return Says(frame=_marked(seen.frame, told.dscp))
        frame = seen.frame
        udp = _ETHERNET + (20 if frame[12:14] == _IPV4 else 40)
        if not told.tag or int.from_bytes(frame[udp + 2 : udp + 4], "big") != _GENEVE:
            return GOES_ON
        if len(frame) + 8 > told.longest or frame[udp + 8] & 0x3F > _MOST_WORDS:
            return GOES_ON
        option = struct.pack("!HBBI", told.option_class, told.option_type, 1, told.tag)
        length = struct.pack("!H", int.from_bytes(frame[udp + 4 : udp + 6], "big") + 8)
        head = _longer(frame[:udp], length) + frame[udp : udp + 4] + length + frame[udp + 6 : udp + 8]
        tunnel = bytes([frame[udp + 8] + 2]) + frame[udp + 9 : udp + 16]
        return Says(frame=head + tunnel + option + frame[udp + 16 :])

    return says


def metadata_strip(seen: Seen) -> Says:
    """Takes the DSCP away before delivery, in a tunnel too."""
    inner, tunnel = seen.inner, seen.frame[: len(seen.frame) - len(seen.inner)]
    if not {4: inner[15] >> 2, 6: inner[14] & 15 | inner[15] & 0xC0, 0: 0}[_family(inner)]:
        return GOES_ON
    return Says(frame=tunnel + _marked(inner, 0))


def _longer(outer: bytes, udp_length: bytes) -> bytes:
    """The outer headers in front of UDP, of a packet that is 8 bytes longer."""
    if outer[12:14] != _IPV4:
        return outer[:18] + udp_length + outer[20:]
    total = struct.pack("!H", int.from_bytes(outer[16:18], "big") + 8)
    return _with_check(outer[:16] + total + outer[18:])


def _marked(frame: bytes, dscp: int) -> bytes:
    match _family(frame):
        case 4:
            changed = frame[:15] + bytes([dscp << 2 | frame[15] & 3]) + frame[16:]
            return changed[:24] + _mended(frame[24:26], frame[14:16], changed[14:16]) + changed[26:]
        case 6:
            first = 0x60 | dscp >> 2
            return frame[:14] + bytes([first, dscp << 6 & 0xC0 | frame[15] & 0x3F]) + frame[16:]
        case _:
            return frame


def _with_check(outer: bytes) -> bytes:
    """With the checksum of its IPv4 header, which was right before."""
    head = outer[14:24] + bytes(2) + outer[26:34]
    return outer[:24] + struct.pack("!H", checksum(head)) + outer[26:]


def _mended(check: bytes, before: bytes, after: bytes) -> bytes:
    """Of a header of which one word is another: RFC 1624, whatever the checksum was."""
    values = (int.from_bytes(one, "big") for one in (check, before, after))
    old, was, now = values
    total = (~old & 0xFFFF) + (~was & 0xFFFF) + now
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
