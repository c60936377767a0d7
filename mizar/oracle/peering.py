# SPDX-License-Identifier: Apache-2.0
"""The crossing from one VPC into another that it is peered with. A packet crosses once at most."""

from __future__ import annotations

from mizar.oracle.outcome import Packet, RefusedError
from mizar.oracle.tables import Droplet, Network, Vpc

VPC_NUMBERS = 1 << 24
"""From here on a VPC is known by its identity beside its VNI."""


def cross_peering(here: Droplet, packet: Packet, entry: Network, source: bytes, size: int) -> Vpc:
    """The peer, whose the packet is from here on. Only what comes from a network of the VPC itself may leave it so."""
    own = here.find_network(packet.vni, source)
    if own is None or own.peer:
        raise RefusedError("PEERING_NOT_TRANSITIVE")
    peer = here.vpcs.get(entry.peer)
    if peer is None:
        raise RefusedError("PEER_UNKNOWN")
    if entry.peer >= VPC_NUMBERS:  # its packets would need an option, for which there may be no room
        raise RefusedError("IDENTITY_LOST")
    packet.count("vpc", packet.vni, "peered", size)
    packet.ruled = packet.vni in here.acl_vpcs
    packet.vni = entry.peer
    return peer
