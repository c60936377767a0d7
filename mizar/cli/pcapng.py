# SPDX-License-Identifier: Apache-2.0
"""Writes captures that Wireshark reads: pcapng, with a comment on each packet.

Called by mizar.cli.monitor. A section, one interface description per (droplet, interface), enhanced packet blocks with
opt_comment (draft-ietf-opsawg-pcapng 4.1-4.3); little-endian whatever the machine. scapy, which also writes the format,
is no dependency of an installed Mizar, and is many times this file. It must never leave half a block behind.
"""

from __future__ import annotations

import struct
from importlib.metadata import version
from typing import BinaryIO

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6  # block types
_MAGIC, _ETHERNET, _UNKNOWN_LENGTH = 0x1A2B3C4D, 1, 0xFFFF_FFFF_FFFF_FFFF
_COMMENT, _USER_APPLICATION, _INTERFACE_NAME, _RESOLUTION = 1, 4, 2, 9  # option codes
_NANOSECONDS = b"\x09"
_MOST = 0xFFFF
"""Bytes of an option."""


class PcapngWriter:
    """One file, whole after each packet. The stream stays the caller's."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._interfaces: dict[str, int] = {}
        body = struct.pack("<IHHQ", _MAGIC, 1, 0, _UNKNOWN_LENGTH)
        self._write(_SECTION, body + _options((_USER_APPLICATION, f"mizar {version('mizar')}".encode())))

    def write(self, interface: str, time_ns: int, frame: bytes, length: int, comment: str) -> None:
        """One Ethernet frame, which had `length` bytes on the wire; `time_ns` since 1970."""
        body = struct.pack("<IIIII", self._number(interface), time_ns >> 32, time_ns & 0xFFFF_FFFF, len(frame),
                           max(length, len(frame)))  # fmt: skip
        self._write(_PACKET, body + _padded(frame) + _options((_COMMENT, comment.encode())))
        self._stream.flush()

    def _number(self, interface: str) -> int:
        if interface not in self._interfaces:
            self._interfaces[interface] = len(self._interfaces)
            options = _options((_INTERFACE_NAME, interface.encode()), (_RESOLUTION, _NANOSECONDS))
            self._write(_INTERFACE, struct.pack("<HHI", _ETHERNET, 0, 0) + options)
        return self._interfaces[interface]

    def _write(self, kind: int, body: bytes) -> None:
        length = len(body) + 12
        self._stream.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))


def _options(*options: tuple[int, bytes]) -> bytes:
    listed = b"".join(struct.pack("<HH", code, len(value[:_MOST])) + _padded(value[:_MOST]) for code, value in options)
    return listed + struct.pack("<HH", 0, 0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
