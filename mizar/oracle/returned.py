# SPDX-License-Identifier: Apache-2.0
"""Frames that go back to their sender, and that come back (contracts/wire.md, "Returned frames")."""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC, SERVICE_MAC
from mizar.oracle.appliance import is_by_mac
from mizar.oracle.frames import Inner
from mizar.oracle.outcome import Outcome, Packet, RefusedError, Verdict
from mizar.oracle.substrate import sender_of
from mizar.oracle.tables import Droplet, Tunnel
from mizar.oracle.tunnel import CRITICAL_BIT, GENEVE_ETHERNET, Outer, Overlay, turn_around

UDP_BYTES, CONTROL_BIT = 8, 0x80


def give_back(here: Droplet, packet: Packet, outer: Outer, overlay: Overlay) -> Outcome:
    """The endpoint is not here: the whole frame goes back, as Geneve with the O bit, whatever it came in."""
    if packet.vpc_known:
        packet.count("vpc", packet.vni, "returned")
    back = bytearray(turn_around(here, packet.frame, outer, overlay.rest))
    udp = len(back) - len(outer.trailer) - len(outer.body) - UDP_BYTES
    back[udp + 2 : udp + 4] = struct.pack("!H", Tunnel.GENEVE.value)
    bits = CONTROL_BIT if packet.identity is None else CONTROL_BIT | CRITICAL_BIT
    header = struct.pack("!BBH", overlay.option_bytes // 4, bits, GENEVE_ETHERNET)
    back[udp + UDP_BYTES : udp + UDP_BYTES + 4] = header
    return packet.served(Verdict.SEND, bytes(back), next_hop=sender_of(here, outer.source))


def take_back(here: Droplet, packet: Packet, outer: Outer, inner: Inner) -> bytes:
    """The frame as the endpoint's agent would send it over the hops; what was learned is out of use."""
    if packet.vni not in here.vpcs:
        raise RefusedError("UNKNOWN_VNI")
    if is_by_mac(inner.frame):
        raise RefusedError("RETURNED_STRANGE")
    to = here.endpoints.get((packet.vni, inner.destination))
    learned, there = to is not None and to.learned, to is not None and to.host == sender_of(here, outer.source)
    if learned and there and to and not to.gone:
        packet.gone = packet.vni, inner.destination
    if to and not learned:
        if there:
            raise RefusedError("ENDPOINT_UNKNOWN")
        return inner.frame
    sender = here.endpoints.get((packet.vni, inner.source))
    if sender and sender.ifindex:
        mac = sender.mac
    elif learned and there:
        mac = SERVICE_MAC
    else:
        raise RefusedError("RETURNED_STRANGE")
    return ROUTER_MAC + mac + inner.frame[12:]
