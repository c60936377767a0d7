# SPDX-License-Identifier: Apache-2.0
"""The mark of a traced packet on a tunnel packet that is ready to be sent (contracts/wire.md). Pure."""

from __future__ import annotations

import struct

from mizar.model.errors import InvalidError

_ETHERNET, _UDP = 14, 8
_IPV4, _IPV6 = 0x0800, 0x86DD
_GENEVE, _VXLAN = 6081, 4789
_CLASS, _TRACE = 0xFF01, 0x04
_MOST_OPTION_WORDS = 63


def destination_of(frame: bytes) -> bytes:
    """The outer destination of a tunnel packet; empty for any other frame."""
    udp = _udp_at(frame)
    if not udp or len(frame) < udp + 16:
        return b""
    source, port = struct.unpack_from("!HH", frame, udp)
    if port not in (_GENEVE, _VXLAN) or source < 0xC000:
        return b""
    return frame[30:34] if udp == _ETHERNET + 20 else frame[38:54]


def marked(frame: bytes, mark: int, option: bool) -> bytes:
    """The tunnel packet with a mark; as an option, where it is Geneve and has room for one, else in its last byte."""
    udp = _udp_at(frame)
    if not udp:
        raise InvalidError("only a packet of a tunnel can bear a mark")
    header = udp + _UDP
    words, (port,) = frame[header] & 0x3F, struct.unpack_from("!H", frame, udp + 2)
    if port != _GENEVE or not option or words + 2 > _MOST_OPTION_WORDS:
        return frame[: header + 7] + bytes([mark]) + frame[header + 8 :]
    one = struct.pack("!HBBI", _CLASS, _TRACE, 1, mark)
    grown = bytearray(frame[: header + 8] + one + frame[header + 8 :])
    grown[header] += 2
    _add(grown, udp + 4, len(one))
    if udp == _ETHERNET + 20:
        _add(grown, 16, len(one))
        grown[24:26] = bytes(2)
        grown[24:26] = struct.pack("!H", _checksum(bytes(grown[14:34])))
    else:
        _add(grown, 18, len(one))
    return bytes(grown)


def _udp_at(frame: bytes) -> int:
    """Where UDP begins, behind an outer header without options; 0: there is none."""
    if len(frame) < _ETHERNET + 20 + _UDP:
        return 0
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    if ethertype == _IPV4 and frame[14] == 0x45 and frame[23] == 17:
        return _ETHERNET + 20
    if ethertype == _IPV6 and frame[20] == 17 and len(frame) >= _ETHERNET + 40 + _UDP:
        return _ETHERNET + 40
    return 0


def _add(frame: bytearray, at: int, by: int) -> None:
    (before,) = struct.unpack_from("!H", frame, at)
    struct.pack_into("!H", frame, at, before + by)


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
