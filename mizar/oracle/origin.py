# SPDX-License-Identifier: Apache-2.0
"""The RETURN_TO_SENDER option (contracts/wire.md): the first droplet on a packet's way says where it set out."""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC, SERVICE_MAC, UNTOLD_MAC
from mizar.oracle.frames import ETHERNET
from mizar.oracle.options import OPTION_CLASS, RETURN_TO_SENDER, Options
from mizar.oracle.substrate import address_to, sender_of
from mizar.oracle.tables import Droplet, Tunnel
from mizar.oracle.tunnel import Outer, Overlay

OPTION_BYTES = 252
"""Of one packet, at most (RFC 8926 3.4)."""


def tell_origin(
    here: Droplet, outer: Outer, overlay: Overlay, options: Options, frame: bytes, room: int
) -> tuple[bytes, bytes]:
    """The option that this hop adds, if any, and the inner frame. `room`: the longest inner packet without it; 0: any.

    Where it does not fit, the frame goes on saying so: the next hop would take this one for where it set out.
    """
    sets_out = frame[:6] == ROUTER_MAC and frame[6:12] not in (ROUTER_MAC, SERVICE_MAC)
    if outer.tunnel is not Tunnel.GENEVE or overlay.control or options.origin is not None or not sets_out:
        return b"", frame
    name = sender_of(here, outer.source)
    assert name is not None
    address = address_to(here, name) or name
    option = struct.pack("!HBB", OPTION_CLASS, RETURN_TO_SENDER, len(address) // 4) + address
    fits = not room or len(frame) + len(option) <= room + ETHERNET
    if fits and overlay.option_bytes + len(option) <= OPTION_BYTES:
        return option, frame
    return b"", untold(frame)


def untold(frame: bytes) -> bytes:
    """Nobody is to learn where it set out; a service lives on no one droplet anyway."""
    return frame if frame[6:12] == SERVICE_MAC else UNTOLD_MAC + frame[6:]
