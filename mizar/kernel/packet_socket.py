# SPDX-License-Identifier: Apache-2.0
"""Frames out of an interface of this namespace, as they are (AF_PACKET).

Called by what answers endpoints. It only sends: nothing is received on the socket, so it costs other traffic nothing.
"""

from __future__ import annotations

import socket


class PacketSocket:
    """Sends frames, Ethernet header included, out of any interface by its index."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)

    def send(self, ifindex: int, frame: bytes) -> bool:
        """Whether the kernel took it; an interface that is gone, down or full takes nothing."""
        try:
            name = socket.if_indextoname(ifindex)
            return self._socket.sendto(frame, (name, 0)) == len(frame)
        except OSError:
            return False

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
