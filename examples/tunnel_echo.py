#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A function over AF_XDP: reads tunnel packets as they are, says what is in them, and answers datagrams.

    ip netns exec NAMESPACE python examples/tunnel_echo.py [--interface eth0] [--count N] [--wire veth]     (as root)

Runs in the namespace of an endpoint with `bypassDecapsulation: true` (docs/endpoint-options.md). For each tunnel packet
it writes a line of JSON with the outer addresses, VNI, Geneve options and inner addresses. A UDP datagram of IPv4 or
IPv6 goes back as it came, as a plain frame from the endpoint: what a function sends is in no tunnel.
"""

from __future__ import annotations

import argparse
import json

from mizar.functions.tunnelled import TunnelPacket
from mizar.functions.user_space import UserSpaceFunction, Wire

UDP = 17


class TunnelEcho(UserSpaceFunction):
    """`count`: packets to read; 0: no end."""

    def __init__(self, interface: str, wire: Wire, count: int) -> None:
        super().__init__(interface, wire=wire)
        self._count = count

    def started(self) -> None:
        """Somebody waits for this line before sending."""
        print(json.dumps({"ready": self.interface, "mode": self.mode}), flush=True)

    def packet(self, packet: TunnelPacket) -> None:
        """Says what it is, and answers."""
        if self._count and self.counters.received > self._count:
            return
        line = {
            "outer": [str(packet.outer_source), str(packet.outer_destination)],
            "tunnel": packet.tunnel,
            "vni": packet.vni,
            "bytes": len(packet.frame),
            "options": [[option.of, option.type, option.data.hex()] for option in packet.options],
        }
        inner = packet.inner
        if inner is not None and inner.protocol == UDP:
            line["inner"] = [str(inner.source), str(inner.destination)]
            self.send(inner.back())
        print(json.dumps(line), flush=True)
        if self.counters.received == self._count:
            self.stop()


def main() -> None:
    """Works until it has seen enough, or is interrupted."""
    parser = argparse.ArgumentParser(description="Answers datagrams that come in tunnel packets.")
    parser.add_argument("--interface", default="eth0")
    parser.add_argument("--count", type=int, default=0, help="packets to read; 0: no end")
    parser.add_argument("--wire", choices=("xdp", "veth"), default="xdp")
    wanted = parser.parse_args()
    TunnelEcho(wanted.interface, wanted.wire, wanted.count).run()


if __name__ == "__main__":
    main()
