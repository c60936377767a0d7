# SPDX-License-Identifier: Apache-2.0
"""Taking headers off a frame and putting them on, byte for byte. Called by the machine. Never decides anything."""

from __future__ import annotations

from mizar.pipeline.description import TunnelEnd
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.interpreter.checksum import internet
from mizar.pipeline.interpreter.frame import headers
from mizar.pipeline.steps import Encap

MAX_IP = 65535
VLAN_TYPE = b"\x81\x00"


def pop_vlan(frame: bytes) -> bytes:
    """Without the tag right behind the addresses."""
    return frame[:12] + frame[16:]


def push_vlan(frame: bytes) -> bytes:
    """With a new tag (0x8100, priority 0, id 0) right behind the addresses."""
    return frame[:12] + VLAN_TYPE + b"\0\0" + frame[12:]


def decap(frame: bytes) -> bytes:
    """What the outermost tunnel carries: from its inner Ethernet header to the end of its UDP datagram."""
    tunnel = next(part for part in headers(frame) if part.kind in TUNNELS)
    return frame[tunnel.end : tunnel.limit]


def encap(frame: bytes, step: Encap, end: TunnelEnd) -> bytes | None:
    """The frame behind the fixed headers of a tunnel end; None when it is too long for IPv4.

    TTL 64, DF set, no service byte, identification 0, UDP checksum 0, VNI 0: contracts/wire.md, with the tunnel end's
    own source port.
    """
    kind = step.tunnel
    tunnel = b"\x08\0\0\0\0\0\0\0" if kind == "vxlan" else b"\0\0\x65\x58\0\0\0\0"
    udp_length = 8 + len(tunnel) + len(frame)
    if 20 + udp_length > MAX_IP:
        return None
    udp = b"".join(number.to_bytes(2, "big") for number in (end.source_port, TUNNELS[kind], udp_length, 0))
    ip = b"\x45\0" + (20 + udp_length).to_bytes(2, "big") + b"\0\0\x40\0\x40\x11\0\0"
    ip += end.source.packed + end.destination.packed
    ip = ip[:10] + internet(ip).to_bytes(2, "big") + ip[12:]
    eth = end.destination_mac.to_bytes(6, "big") + end.source_mac.to_bytes(6, "big")
    tag = VLAN_TYPE + (end.vid or 0).to_bytes(2, "big") if step.vlan else b""
    return eth + tag + b"\x08\0" + ip + udp + tunnel + frame
