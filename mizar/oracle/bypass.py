# SPDX-License-Identifier: Apache-2.0
"""What is different for an endpoint of this droplet that takes tunnel packets as they are."""

from __future__ import annotations

from mizar.oracle.outcome import Handover, Outcome, Packet, Verdict
from mizar.oracle.rewrite import from_router
from mizar.oracle.tables import Droplet, Endpoint


def hand_over_whole(here: Droplet, packet: Packet, outer: bytes, inner: bytes, trailer: bytes, to: Endpoint) -> Outcome:
    """A tunnel packet that has arrived, as `outer` headers and `inner` frame: the inner frame is addressed as that of
    any endpoint, and the outer one to the endpoint's interface."""
    frame = to.mac + here.mac + outer[12:] + from_router(inner, to.mac) + trailer
    return packet.served(Verdict.DELIVER, frame, handover=Handover(to.ifindex, packet.vni, to.uid))


def hand_over_wrapped(packet: Packet, frame: bytes, to: Endpoint) -> Outcome:
    """One that the sender's agent has made, from this droplet to itself."""
    packet.count("vpc", packet.vni, "delivered", len(packet.inner))
    packet.count("endpoint", to.uid, "delivered", len(packet.inner))
    handover = Handover(to.ifindex, packet.vni, to.uid)
    return packet.served(Verdict.DELIVER, to.mac + frame[6:], handover=handover)
