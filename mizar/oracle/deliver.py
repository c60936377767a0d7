# SPDX-License-Identifier: Apache-2.0
"""deliver: hands a decapsulated frame to its endpoint (docs/way-of-a-packet.md 3)."""

from __future__ import annotations

from mizar.oracle.outcome import Handover, Outcome, Packet, Verdict
from mizar.oracle.tables import Droplet


def deliver(here: Droplet, frame: bytes, note: Handover | None, segments: int = 1) -> Outcome:
    """A frame comes up from transit, with its note, or any other frame without."""
    packet = Packet(frame, segments)
    if note is None:
        return packet.served(Verdict.PASS, frame)
    agent = here.agents.get(note.ifindex)
    if agent is None or (agent.vni, agent.uid) != (note.vni, note.uid):  # it left, or the number is another's now
        packet.vni, packet.vpc_known = note.vni, note.vni in here.vpcs
        return packet.refused("DELIVERY_FAILED")
    return packet.served(Verdict.DELIVER, frame, handover=note)
