# SPDX-License-Identifier: Apache-2.0
"""What droplets say to one another (contracts/wire.md, "Control packets")."""

from __future__ import annotations

from mizar.oracle.options import Options
from mizar.oracle.outcome import Outcome, Packet, RefusedError, Verdict
from mizar.oracle.tables import Droplet
from mizar.oracle.tunnel import Outer, Overlay, turn_around

PROBE, PROBE_REPLY = 1, 2


def obey(here: Droplet, packet: Packet, outer: Outer, overlay: Overlay, options: Options) -> Outcome:
    """A probe is answered with itself; an answer is noted, and ends here."""
    if not overlay.control or options.control is None:
        raise RefusedError("GENEVE_CONTROL")
    if options.control[0] == PROBE:
        said = bytearray(overlay.rest)
        said[options.control_at] = PROBE_REPLY
        return packet.served(Verdict.SEND, turn_around(here, packet.frame, outer, bytes(said)), next_hop=outer.source)
    if options.control[0] == PROBE_REPLY:
        return packet.served(Verdict.DROP, packet.frame)
    raise RefusedError("GENEVE_CONTROL")
