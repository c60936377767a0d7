# SPDX-License-Identifier: Apache-2.0
"""What the data plane tells a function of a frame (struct function_frame of contracts/function.h), read from the
frame's bytes: for tests without a data plane. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from mizar.functions.frame import ETHERNET, GENEVE, IPV4, IPV6, OPTION_CLASS, UDP, VXLAN
from mizar.model.addresses import MAPPED

_GENEVE, _VXLAN = 1, 2  # enum tunnel_protocol
_OPTION_GROUPS = 2


@dataclass(frozen=True, slots=True)
class _Ip:
    family: int
    protocol: int
    source: bytes
    destination: bytes
    end: int
    fragment: bool
    later: bool


def context_of(frame: bytes) -> dict[str, Any]:
    """Fields of struct function_frame that follow from the frame: places, addresses, tunnel."""
    found: dict[str, Any] = {"length": len(frame), "packets": 1}
    inner_at = 0
    outer = _ip(frame, ETHERNET)
    if outer is not None and outer.protocol == UDP and not outer.fragment:
        found |= _tunnel(frame, outer)
        inner_at = int(found.get("inner_at", 0))
    inner = _ip(frame, inner_at + ETHERNET)
    if inner is None:
        return found
    return found | {
        "network_at": inner_at + ETHERNET,
        "transport_at": 0 if inner.later else inner.end,
        "family": inner.family,
        "protocol": inner.protocol,
        "fragment": int(inner.fragment),
        "src": inner.source,
        "dst": inner.destination,
    }


def _tunnel(frame: bytes, outer: _Ip) -> dict[str, Any]:
    if len(frame) < outer.end + 16:
        return {}
    (port,) = struct.unpack_from("!H", frame, outer.end + 2)
    first, _, middle, last = struct.unpack_from("!BBHI", frame, outer.end + 8)
    if port not in (GENEVE, VXLAN):
        return {}
    begin = outer.end + 16
    size = 4 * (first & 0x3F) if port == GENEVE else 0
    group = _group(frame[begin : begin + size]) if port == GENEVE else middle if first & 0x80 else 0
    return {
        "tunnel": _GENEVE if port == GENEVE else _VXLAN,
        "outer_family": outer.family,
        "wire_vni": last >> 8,
        "options_at": begin if size else 0,
        "option_bytes": size,
        "inner_at": begin + size,
        "group_set": group,
    }


def _group(options: bytes) -> int:
    at = 0
    while at + 4 <= len(options):
        of, kind, words = struct.unpack_from("!HBB", options, at)
        if of == OPTION_CLASS and kind == _OPTION_GROUPS and at + 8 <= len(options):
            return int(struct.unpack_from("!I", options, at + 4)[0]) & 0xFFFF
        at += 4 + 4 * (words & 0x1F)
    return 0


def _ip(frame: bytes, at: int) -> _Ip | None:
    kind = frame[at - 2 : at]
    if kind == struct.pack("!H", IPV4) and len(frame) >= at + 20:
        first, fragment, protocol = frame[at], struct.unpack_from("!H", frame, at + 6)[0] & 0x3FFF, frame[at + 9]
        source, to = (MAPPED + frame[place : place + 4] for place in (at + 12, at + 16))
        end = at + (first & 15) * 4
        return _Ip(4, protocol, source, to, end, fragment != 0, bool(fragment & 0x1FFF))
    if kind == struct.pack("!H", IPV6) and len(frame) >= at + 40:
        source, to = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        return _Ip(6, frame[at + 6], source, to, at + 40, False, False)
    return None
