# SPDX-License-Identifier: Apache-2.0
"""What an instance of a NAT gateway makes of a frame, told for traces: what the rules of its namespace refuse, and what
its process says of the program. Called by `nat_gateway`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.kernel import nat_guard
from mizar.kernel.nat_guard import Limits
from mizar.kernel.nat_way import Address, Prefix
from mizar.transit.engines.nat_pipeline import INSIDE

_IP = {b"\x08\x00": (26, 4), b"\x86\xdd": (22, 16)}
"""Where the source stands behind an EtherType, and its length."""
_TOLD = pb.TraceEngineReply


def refused(frame: bytes, inside: tuple[Prefix, ...], limits: Limits) -> pb.TraceEngineReply | None:
    """Of a frame of an endpoint: that it is no packet, or what the rules refuse it for."""
    ends = _ends(frame)
    if ends is None:
        return _TOLD(fate=_TOLD.DROPPED, sentence="It is no packet of IP.")
    answered, why = nat_guard.refuses(inside, limits, *ends)
    return _TOLD(fate=_TOLD.PROHIBITED if answered else _TOLD.DROPPED, sentence=why) if why else None


def reply(said: Mapping[str, Any], inside: tuple[Prefix, ...], *, outside: bool) -> pb.TraceEngineReply:
    """What the process has said; with what the pipeline and the namespace do behind its translation."""
    found = _TOLD(known=said["known"], reason=said["reason"], sentence=said["sentence"])
    found.frame = bytes.fromhex(said["frame"])
    found.inside = said["meta"] == INSIDE
    if not found.frame:
        found.fate = _TOLD.DROPPED
        return found
    found.fate = _TOLD.TRANSLATED
    ends = _ends(found.frame)
    if outside and not found.inside:
        found.fate, found.sentence = _TOLD.DROPPED, "It came from outside, and is not for anybody inside."
    elif found.inside and ends is not None and nat_guard.holds(inside, ends[0]):
        found.fate, found.sentence = _TOLD.DROPPED, f"{ends[0]} is of the VPC: nobody outside can be it."
    return found


def _ends(frame: bytes) -> tuple[Address, Address] | None:
    place, length = _IP.get(frame[12:14], (0, 0))
    if not place or len(frame) < place + 2 * length:
        return None
    return ip_address(frame[place : place + length]), ip_address(frame[place + length : place + 2 * length])
