# SPDX-License-Identifier: Apache-2.0
"""Frames of a capture file: pcap (both byte orders, µs and ns) and pcapng's packet blocks. Pure.

Called by the command line. Ethernet captures alone: what a workload sends is Ethernet.
"""

from __future__ import annotations

import struct

from mizar.model.errors import InvalidError

_MAGICS = {b"\xa1\xb2\xc3\xd4": ">", b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\x3c\x4d": ">", b"\x4d\x3c\xb2\xa1": "<"}
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_ETHERNET = 1


def frames(data: bytes) -> list[bytes]:
    """All frames of a capture, in its order. Raises InvalidError for what is none, or none of Ethernet."""
    try:
        if data[:4] in _MAGICS:
            return _pcap(data, _MAGICS[data[:4]])
        if data[:4] == b"\x0a\x0d\x0d\x0a":
            return _pcapng(data)
    except struct.error as error:
        raise InvalidError("the capture is cut off in the middle of a header") from error
    raise InvalidError("this is no capture: expected a file of pcap or pcapng")


def _pcap(data: bytes, order: str) -> list[bytes]:
    (link,) = struct.unpack_from(order + "I", data, 20)
    _check_link(link & 0xFFFF)
    found: list[bytes] = []
    at = 24
    while at + 16 <= len(data):
        kept, whole = struct.unpack_from(order + "II", data, at + 8)
        _check_whole(min(kept, len(data) - at - 16), whole, len(found) + 1)
        found.append(data[at + 16 : at + 16 + kept])
        at += 16 + kept
    return found


def _pcapng(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    links: list[int] = []
    order, at = "<", 0
    while at + 12 <= len(data):
        (kind,) = struct.unpack_from(order + "I", data, at)
        if kind == _SECTION:
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            links = []
        (length,) = struct.unpack_from(order + "I", data, at + 4)
        if length < 12 or length % 4:
            raise InvalidError(f"the capture's block at byte {at} has an impossible length, {length}")
        if kind == _INTERFACE:
            links.append(struct.unpack_from(order + "H", data, at + 8)[0])
        elif kind == _ENHANCED:
            interface, kept, whole = struct.unpack_from(order + "I8xII", data, at + 8)
            _check_link(links[interface] if interface < len(links) else -1)
            _check_whole(min(kept, length - 32, len(data) - at - 32), whole, len(found) + 1)
            found.append(data[at + 28 : at + 28 + kept])
        elif kind == _SIMPLE:
            (whole,) = struct.unpack_from(order + "I", data, at + 8)
            _check_link(links[0] if links else -1)
            _check_whole(min(length - 16, len(data) - at - 16), whole, len(found) + 1)
            found.append(data[at + 12 : at + 12 + whole])
        at += length
    return found


def _check_link(link: int) -> None:
    if link != _ETHERNET:
        raise InvalidError(f"the capture is of link type {link}, not of Ethernet (1): capture inside of the workload")


def _check_whole(kept: int, whole: int, number: int) -> None:
    if kept < whole:
        raise InvalidError(
            f"frame {number} of the capture was cut off at {max(kept, 0)} of {whole} bytes: capture with -s 0"
        )
