# SPDX-License-Identifier: Apache-2.0
"""The twin of the function ddos-protection, as far as frames alone decide: its lists.

What depends on rates, on cookies and on what an endpoint has asked is the data plane's own at that instant; a frame of
which only that decides is taken for one that passes. Pure; for mizar.oracle.functions.TWINS, by whoever knows lists.
"""

from __future__ import annotations

from mizar.model.prefix_list import ALLOWED, BLOCKED, UNLISTED, PrefixList
from mizar.oracle.functions import Seen, Twin

NAME = "ddos-protection"
_PLACES = {b"\x08\x00": (4, 26, 4), b"\x86\xdd": (6, 22, 16)}
"""By Ethernet type: the family, and where the source's address is, with its bytes."""


def verdict(block: PrefixList, allow: PrefixList, frame: bytes) -> int:
    """What the lists say of an inner frame: ALLOWED, BLOCKED or UNLISTED."""
    family, at, size = _PLACES.get(frame[12:14], (0, 0, 0))
    address = frame[at : at + size]
    if not family or len(address) < size:
        return UNLISTED
    number = int.from_bytes(address, "big")
    if allow.holds(family, number):
        return ALLOWED
    return BLOCKED if block.holds(family, number) else UNLISTED


def of_lists(block: PrefixList, allow: PrefixList) -> Twin:
    """Whether a frame to an endpoint with these lists is dropped."""

    def drops(seen: Seen) -> bool:
        return seen.stage == "ENDPOINT_INGRESS" and verdict(block, allow, seen.inner) == BLOCKED

    return drops
