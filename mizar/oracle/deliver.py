# SPDX-License-Identifier: Apache-2.0
"""deliver: hands a decapsulated frame to its endpoint (docs/way-of-a-packet.md 3)."""

from __future__ import annotations

from mizar.oracle.frames import Kind, parse_inner
from mizar.oracle.outcome import Handover, Outcome, Packet, RefusedError, Verdict
from mizar.oracle.service import translate_to_member
from mizar.oracle.tables import Agent, Droplet


def deliver(here: Droplet, frame: bytes, note: Handover | None, segments: int = 1) -> Outcome:
    """A frame comes up from transit, with its note, or any other frame without."""
    packet = Packet(frame, segments)
    if note is None:
        return packet.served(Verdict.PASS, frame)
    packet.vni = note.vni
    agent = here.agents.get(note.ifindex)
    try:
        if agent is None or (agent.vni, agent.uid) != (note.vni, note.uid):  # it left, or the number is another's now
            raise RefusedError("DELIVERY_FAILED")
        if note.service:
            frame = to_member(here, frame, agent, note)
    except RefusedError as refused:
        packet.vpc_known = note.vni in here.vpcs
        return packet.refused(refused.reason)
    return packet.served(Verdict.DELIVER, frame, handover=note)


def to_member(here: Droplet, frame: bytes, agent: Agent, note: Handover) -> bytes:
    """The frame with the member's address in place of its service's."""
    inner = parse_inner(frame)
    leg = agent.leg(4 if inner.kind is Kind.IPV4 else 6)
    if leg is None or inner.kind not in (Kind.IPV4, Kind.IPV6):
        raise RefusedError("DELIVERY_FAILED")
    return translate_to_member(here, agent.vni, inner, leg.address, listened=note.listened, outside=note.public).frame
