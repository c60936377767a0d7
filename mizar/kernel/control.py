# SPDX-License-Identifier: Apache-2.0
"""Sends control packets (contracts/wire.md) to other droplets: Geneve with the O bit and a CONTROL option.

Owns one UDP socket per daemon and family. What comes back is never read here: Transit XDP takes it in front of the
host's stack. It must never wait, and never fail because of the other end: a packet that cannot be sent was lost.
"""

from __future__ import annotations

import socket
import struct

GENEVE_PORT = 6081
PROBE = 1
_GENEVE_ETHERNET, _CONTROL_BIT, _CRITICAL_BIT = 0x6558, 0x80, 0x40
_CLASS, _IDENTITY, _CONTROL = 0xFF01, 0x83, 0x85


class ControlSocket:
    """Control packets of the droplet with these addresses (4 or 16 bytes, one of each size at most)."""

    def __init__(self, *own: bytes) -> None:
        self._own = {len(address): address for address in own}
        self._sockets: dict[int, socket.socket] = {}

    def send(self, to: bytes, data: bytes, vni: int = 0, identity: bytes = b"") -> bool:
        """Sends the data of one CONTROL option (whole words); False when the host would not take it.

        `identity`: 16 bytes that tell the VPC from others of its VNI, where there are others.
        """
        try:
            if len(to) not in self._own:
                return False
            if len(to) not in self._sockets:
                self._sockets[len(to)] = _open(self._own[len(to)])
            self._sockets[len(to)].sendto(packet(data, vni, identity), (_text(to), GENEVE_PORT))
        except OSError:  # no address, no route, no neighbour, no buffer: all of them pass
            self.close()
            return False
        return True

    def close(self) -> None:
        """Closes the sockets; the next packet opens another."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets = {}


def _open(own: bytes) -> socket.socket:
    opened = socket.socket(_family(own), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        opened.bind((_text(own), 0))
    except OSError:
        opened.close()
        raise
    return opened


def packet(data: bytes, vni: int, identity: bytes = b"") -> bytes:
    """From the Geneve header on."""
    options = _option(_IDENTITY, identity) if identity else b""
    options += _option(_CONTROL, data)
    bits = _CONTROL_BIT | _CRITICAL_BIT  # both options are critical (RFC 8926 3.4)
    return struct.pack("!BBHI", len(options) // 4, bits, _GENEVE_ETHERNET, vni << 8) + options


def _option(kind: int, data: bytes) -> bytes:
    return struct.pack("!HBB", _CLASS, kind, len(data) // 4) + data


def _family(address: bytes) -> socket.AddressFamily:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def _text(address: bytes) -> str:
    return socket.inet_ntop(_family(address), address)
