# SPDX-License-Identifier: Apache-2.0
"""How long a workload gets no answer from its virtual router while its interface is exchanged.

Used by the daemon when an endpoint moves to its droplet. Sends an echo request each millisecond out of the workload's
namespace (RFC 792, RFC 4443 4.1) until the former interface is gone; it must never change anything there.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass
from itertools import pairwise

from mizar.kernel import interfaces
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink

INTERVAL_S = 0.001
AFTER_S = 0.05
"""How long it goes on when the former interface is gone."""
LIMIT_S = 10.0

_REQUEST, _REPLY = {socket.AF_INET: 8, socket.AF_INET6: 128}, {socket.AF_INET: 0, socket.AF_INET6: 129}
_HEADER = struct.Struct("!BBHHH")


@dataclass(slots=True)
class _Echo:
    sent_s: float
    answered: bool = False


class Pulse:
    """Made before the exchange begins. `former`: what the former interface will be called until it is gone."""

    def __init__(self, namespace: Namespace, router: str, former: str) -> None:
        self._family = socket.AF_INET6 if ":" in router else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if self._family == socket.AF_INET6 else socket.IPPROTO_ICMP
        self._socket = namespace.run(lambda: socket.socket(self._family, socket.SOCK_RAW, protocol))
        self._netlink = Netlink(namespace)
        self._router, self._former = router, former
        self._mark = int.from_bytes(os.urandom(2), "big")
        self._echoes: list[_Echo] = []
        self.ready = False
        """Whether the router has answered once."""
        self.exchanged = False
        """To be set when the new interface has the addresses."""

    def run(self) -> float:
        """Measures; returns the longest time without an answer, in seconds, 0 when there was none at all. Blocks."""
        try:
            self._socket.setblocking(False)
            self._beat()
        finally:
            self._socket.close()
            self._netlink.close()
        answered = [echo.sent_s for echo in self._echoes if echo.answered]
        return max((later - sooner for sooner, later in pairwise(answered)), default=0.0)

    def _beat(self) -> None:
        end = time.monotonic() + LIMIT_S
        while (now := time.monotonic()) < end:
            self._send()
            self._receive(now + INTERVAL_S)
            if self.exchanged and len(self._echoes) % 16 == 0 and not interfaces.find(self._netlink, self._former):
                self.exchanged, end = False, min(end, now + AFTER_S)

    def _send(self) -> None:
        number = len(self._echoes)
        self._echoes.append(_Echo(time.monotonic()))
        head = _HEADER.pack(_REQUEST[self._family], 0, 0, self._mark, number)
        if self._family == socket.AF_INET:  # of ICMPv6 the kernel writes it
            head = _HEADER.pack(_REQUEST[self._family], 0, _checksum(head), self._mark, number)
        try:
            self._socket.sendto(head, (self._router, 0))
        except OSError:
            return  # no route, no interface: this is what is measured

    def _receive(self, until_s: float) -> None:
        while (left := until_s - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(2048)
            except TimeoutError:
                return
            except OSError:
                continue
            if self._family == socket.AF_INET:
                data = data[(data[0] & 0xF) * 4 :]
            if len(data) < _HEADER.size:
                continue
            kind, _, _, mark, number = _HEADER.unpack_from(data)
            if (kind, mark) == (_REPLY[self._family], self._mark) and number < len(self._echoes):
                self._echoes[number].answered = self.ready = True


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
