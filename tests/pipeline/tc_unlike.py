# SPDX-License-Identifier: Apache-2.0
"""The kinds of frames that tc ends otherwise than the interpreter, each with the reason (also in docs/pipeline.md).

A kind is told by the frame's bytes and by both ends, never by its name in the corpus; what fits none is a defect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.pipeline.tc_guest import Came

_IPV4, _IPV6, _ARP, _VLAN = b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x81\0"
_FABRIC, _TUNNEL = b"\0\x02", 54
_OUT = 50
"""The headers of the tunnel in which frames leave for the kernel, and neighbours for the worker; others are bare."""


@dataclass(frozen=True)
class Unlike:
    """A kind: why tc differs, and what tells it from the frame, what came out, and what the interpreter says."""

    reason: str
    fits: Callable[[bytes, Came, Came], bool]


def kind_of(frame: bytes, came: Came, wanted: Came) -> str | None:
    """The first kind that explains the difference."""
    return next((name for name, one in UNLIKE.items() if one.fits(frame, came, wanted)), None)


def _in_fabric(frame: bytes) -> bool:
    return frame[12:14] == _VLAN and frame[14:16] == _FABRIC


def _inner(frame: bytes) -> bytes:
    """What the filters see behind the tag, or the tunnel."""
    if _in_fabric(frame):
        return frame[_TUNNEL:]
    return frame[:12] + frame[16:] if frame[12:14] == _VLAN else frame


def _end(inner: bytes) -> int | None:
    """Where the IP packet says that it ends."""
    if inner[12:14] == _IPV4:
        return 14 + int.from_bytes(inner[16:18], "big")
    return 54 + int.from_bytes(inner[18:20], "big") if inner[12:14] == _IPV6 else None


def _bodies(came: Came) -> tuple[bytes, bytes]:
    """The one frame that came out, bare, and without the tunnel that it may have."""
    return came[0][1], came[0][1][_OUT:]


def _passed(frame: bytes, came: Came, wanted: Came) -> bool:
    """tc lets pass, as it is, what the interpreter drops."""
    return not wanted and len(came) == 1 and _inner(frame) in _bodies(came)


def _unsendable(frame: bytes, came: Came, wanted: Came) -> bool:
    return len(frame) < 14 and not wanted and [where for where, _ in came] == [""]


def _bad_sum(frame: bytes, came: Came, _wanted: Came) -> bool:
    header = frame[18 : 18 + (frame[18] & 15) * 4] if _in_fabric(frame) and len(frame) > 18 else b""
    total = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, len(header), 2))
    return not came and bool(header) and total % 0xFFFF != 0


def _reserved(frame: bytes, came: Came, _wanted: Came) -> bool:
    return not came and _in_fabric(frame) and (frame[46:50] != b"\x08\0\0\0" or frame[53:54] != b"\0")


def _fragment(frame: bytes, came: Came, _wanted: Came) -> bool:
    inner = _inner(frame)
    place, mask = (20, 0x3FFF) if inner[12:14] == _IPV4 else (56, 0xFFF9)
    return not came and _is_ip(inner) and int.from_bytes(inner[place : place + 2], "big") & mask != 0


def _only(frame: bytes, came: Came, wanted: Came) -> bool:
    inner = _inner(frame)
    if not _has_fragment_header(inner) or len(came) != 1 or len(wanted) != 1 or came[0][0] != wanted[0][0]:
        return False
    bare = inner[:18] + (len(inner) - 62).to_bytes(2, "big") + inner[54:55] + inner[21:54] + inner[62:]
    return bare in _bodies(came) and inner in _bodies(wanted)


def _is_ip(inner: bytes) -> bool:
    return inner[12:14] == _IPV4 or _has_fragment_header(inner)


def _has_fragment_header(inner: bytes) -> bool:
    return inner[12:14] == _IPV6 and inner[20:21] == b"\x2c"


def _padded(frame: bytes, came: Came, wanted: Came) -> bool:
    inner = _inner(frame)
    end = _end(inner)
    if end is None or end >= len(inner) or len(came) != 1 or len(wanted) != 1:
        return False
    return came[0][0] == wanted[0][0] and inner[:end] in _bodies(came) and inner in _bodies(wanted)


def _cut(frame: bytes, came: Came, wanted: Came) -> bool:
    end = _end(_inner(frame))
    return end is not None and end > len(_inner(frame)) and _passed(frame, came, wanted)


def _version(frame: bytes, came: Came, wanted: Came) -> bool:
    inner = _inner(frame)
    return inner[12:14] == _IPV6 and inner[14] >> 4 != 6 and _passed(frame, came, wanted)


def _other_arp(frame: bytes, came: Came, _wanted: Came) -> bool:
    inner = _inner(frame)
    return not came and inner[12:14] == _ARP and inner[20:22] not in (b"\0\1", b"\0\2")


UNLIKE = {
    "unsendable": Unlike("a device takes no frame without a whole Ethernet header: none comes in", _unsendable),
    "outer checksum": Unlike("the kernel drops a tunnel whose IPv4 checksum is wrong", _bad_sum),
    "reserved bits": Unlike("the kernel's VXLAN drops what has bits that mean nothing to it", _reserved),
    "fragment": Unlike("ct keeps fragments until the datagram is whole", _fragment),
    "only fragment": Unlike("ct takes IPv6's fragment header off what needs none", _only),
    "padded": Unlike("ct takes off what is behind the packet", _padded),
    "cut": Unlike(
        "flower checks no lengths: a packet that ends early, behind its TCP, UDP or ICMP header, passes", _cut
    ),
    "version": Unlike("flower goes by the EtherType and does not look at IPv6's version", _version),
    "other arp": Unlike("flower knows ARP's request and reply, no other operation", _other_arp),
}
