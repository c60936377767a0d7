# SPDX-License-Identifier: Apache-2.0
"""Reads captures: pcap (either byte order, micro- or nanoseconds) and pcapng, Ethernet alone.

Called by `mizar pipeline simulate`; `pcapng` writes them. A file comes from anywhere: every length is checked, and what
is wrong is said with its place in the file. It must never return half a frame as a whole one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mizar.model.errors import InvalidError

Frame = tuple[int, bytes]
"""Nanoseconds since 1970, and the bytes."""
_PCAP = {b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
         b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1)}  # fmt: skip
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_ETHERNET, _RESOLUTION = 1, 9
_MICROSECONDS = 6


def read_frames(data: bytes, source: str) -> list[Frame]:
    """Every frame of a capture, in order. Raises InvalidError."""
    try:
        if data[:4] in _PCAP:
            return list(_pcap(data))
        if data[:4] == struct.pack("<I", _SECTION):
            return list(_pcapng(data))
        raise ValueError("it begins neither as pcap nor as pcapng")
    except (ValueError, struct.error) as error:
        raise InvalidError(f"{source} is no capture that can be read: {error}") from error


def _pcap(data: bytes) -> Iterator[Frame]:
    order, unit_ns = _PCAP[data[:4]]
    _only_ethernet(struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF)
    at = 24
    while at < len(data):
        seconds, parts, length, whole = struct.unpack_from(order + "IIII", data, at)
        yield seconds * 1_000_000_000 + parts * unit_ns, _frame(data, at + 16, length, whole)
        at += 16 + length


def _pcapng(data: bytes) -> Iterator[Frame]:
    order, at = "<", 0
    units: list[int] = []
    while at < len(data):
        (kind,) = struct.unpack_from(order + "I", data, at)
        if kind == _SECTION:
            order = "<" if struct.unpack_from("<I", data, at + 8)[0] == 0x1A2B3C4D else ">"
            units = []
        (length,) = struct.unpack_from(order + "I", data, at + 4)
        if length < 12 or length % 4 or at + length > len(data):
            raise ValueError(f"byte {at}: a block of {length} bytes")
        body = data[at + 8 : at + length - 4]
        if kind == _INTERFACE:
            _only_ethernet(struct.unpack_from(order + "H", body)[0])
            units.append(_units_per_s(order, body[8:]))
        elif kind == _ENHANCED:
            number, high, low, captured, whole = struct.unpack_from(order + "IIIII", body)
            if number >= len(units):
                raise ValueError(f"byte {at}: a packet of interface {number}, which was not described")
            yield (high << 32 | low) * 1_000_000_000 // units[number], _frame(body, 20, captured, whole)
        elif kind == _SIMPLE:
            (whole,) = struct.unpack_from(order + "I", body)
            yield 0, _frame(body, 4, whole, whole)
        at += length


def _units_per_s(order: str, options: bytes) -> int:
    """What an interface's time counts."""
    at, exponent, base = 0, _MICROSECONDS, 10
    while at + 4 <= len(options):
        code, length = struct.unpack_from(order + "HH", options, at)
        if code == _RESOLUTION and length == 1:
            exponent, base = options[at + 4] & 0x7F, 2 if options[at + 4] & 0x80 else 10
        at += 4 + length + -length % 4
        if code == 0:
            break
    return int(base**exponent)


def _only_ethernet(link: int) -> None:
    if link != _ETHERNET:
        raise ValueError(f"expected Ethernet (link type 1), found link type {link}")


def _frame(data: bytes, at: int, length: int, whole: int) -> bytes:
    if at + length > len(data):
        raise ValueError(f"a frame of {length} bytes, of which {max(0, len(data) - at)} are there")
    if length < whole:
        raise ValueError(f"a frame of {whole} bytes was captured with {length}: capture whole frames (tcpdump -s 0)")
    return data[at : at + length]
