# SPDX-License-Identifier: Apache-2.0
"""What droplets say to one another (contracts/wire.md, "Control packets")."""

from __future__ import annotations

from mizar.oracle.options import Options
from mizar.oracle.outcome import Outcome, Packet, RefusedError, Verdict
from mizar.oracle.substrate import sender_of
from mizar.oracle.tables import Droplet
from mizar.oracle.tunnel import Outer, Overlay, turn_around

PROBE, PROBE_REPLY, ASK, HINT = 1, 2, 3, 4
PLACE_BYTES = 68
"""Of an ASK or HINT."""


def obey(here: Droplet, packet: Packet, outer: Outer, overlay: Overlay, options: Options) -> Outcome:
    """A probe is answered with itself; its answer is noted; the daemon hears of the others."""
    if not overlay.control or not options.control:
        raise RefusedError("GENEVE_CONTROL")
    if options.control[0] == PROBE:
        said = bytearray(overlay.rest)
        said[options.control_at] = PROBE_REPLY
        return packet.served(
            Verdict.SEND, turn_around(here, packet.frame, outer, bytes(said)), next_hop=sender_of(here, outer.source)
        )
    if options.control[0] == PROBE_REPLY:
        return packet.served(Verdict.DROP, packet.frame)
    if options.control[0] in (ASK, HINT) and len(options.control) >= PLACE_BYTES:
        if packet.vni not in here.vpcs:
            raise RefusedError("UNKNOWN_VNI")
        return packet.served(Verdict.DROP, packet.frame)
    raise RefusedError("GENEVE_CONTROL")
