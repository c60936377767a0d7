# SPDX-License-Identifier: Apache-2.0
"""The Geneve options of contracts/wire.md: which of ours a packet bears, in whatever order."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mizar.oracle.outcome import RefusedError
from mizar.oracle.tunnel import Overlay

OPTION_CLASS, CRITICAL = 0xFF01, 0x80
RETURN_TO_SENDER, GROUPS, TRACE, IDENTITY, CONTROL, VIP = 0x01, 0x02, 0x04, 0x83, 0x85, 0x86
SIZES = {
    RETURN_TO_SENDER: (4, 16),
    GROUPS: range(4, 128, 4),
    TRACE: range(0, 128, 4),
    IDENTITY: (16,),
    CONTROL: range(4, 128, 4),
    VIP: (8, 20),
}
"""Bytes of data that an option of ours may have."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the options of a packet say; None where it bears none of the kind."""

    origin: bytes | None = None
    """RETURN_TO_SENDER: the droplet that the packet set out from, 4 or 16 bytes."""
    group_set: int | None = None
    identity: tuple[int, int] | None = None
    """Tenant and VPC."""
    control: bytes | None = None
    """CONTROL: kind, and what follows it."""
    control_at: int = 0
    """Where that stands, counted from the first option."""
    trace: bytes | None = None
    vip: bytes | None = None
    """VIP: port, two bytes of zero, address."""


def walk_options(overlay: Overlay) -> Options:
    """RFC 8926 3.5. Of others' options, and of ours that are not known here, a critical one is refused."""
    raw = overlay.rest[: overlay.option_bytes]
    if len(raw) < overlay.option_bytes:
        raise RefusedError("GENEVE_OPTIONS_TRUNCATED")
    ours: dict[int, bytes] = {}
    places: dict[int, int] = {}
    while raw:
        of, kind, words = struct.unpack_from("!HBB", raw)
        size = 4 + (words & 0x1F) * 4
        if size > len(raw):
            raise RefusedError("GENEVE_OPTION_LENGTH")
        data, raw = raw[4:size], raw[size:]
        if of == OPTION_CLASS and kind in SIZES:
            if kind in ours or len(data) not in SIZES[kind] or (kind == VIP and any(data[2:4])):
                raise RefusedError("OPTION_MALFORMED")
            ours[kind] = data
            places[kind] = overlay.option_bytes - len(raw) - len(data)
        elif kind & CRITICAL:
            raise RefusedError("GENEVE_CRITICAL_OPTION")
    identity = ours.get(IDENTITY)
    return Options(
        ours.get(RETURN_TO_SENDER),
        int.from_bytes(ours[GROUPS][2:4], "big") if GROUPS in ours else None,
        (int.from_bytes(identity[:8], "big"), int.from_bytes(identity[8:], "big")) if identity else None,
        ours.get(CONTROL),
        places.get(CONTROL, 0),
        ours.get(TRACE),
        ours.get(VIP),
    )
