# SPDX-License-Identifier: Apache-2.0
"""What the first bytes of a refused frame say: addresses, protocol and ports of the packet inside of it.

Called by `drops`. The data plane tells where the inner frame begins; it may have stopped in front of it, and the bytes
may be anything. It must never raise.
"""

import struct
from dataclasses import dataclass

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
_WITH_PORTS = frozenset({6, 17, 132})  # TCP, UDP, SCTP


@dataclass(frozen=True, slots=True)
class Inner:
    """Addresses are 4 or 16 bytes. Ports are 0 where there are none, or where they were not captured."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int = 0
    destination_port: int = 0


def inner(frame: bytes) -> Inner | None:
    """What an Ethernet frame bears; None when that is not IP, or ends early."""
    try:
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        if ethertype == IPV4 and frame[14] >> 4 == 4:
            fragment, protocol = struct.unpack_from("!HxB", frame, 20)
            source, destination = struct.unpack_from("!4s4s", frame, 26)
            ports = _ports(frame, 14 + (frame[14] & 15) * 4, protocol) if not fragment & 0x1FFF else (0, 0)
            return Inner(source, destination, protocol, *ports)
        if ethertype == IPV6 and frame[14] >> 4 == 6:
            protocol, source, destination = struct.unpack_from("!Bx16s16s", frame, 20)
            return Inner(source, destination, protocol, *_ports(frame, 54, protocol))
        if ethertype == ARP:
            source, destination = struct.unpack_from("!4s6x4s", frame, 28)
            return Inner(source, destination, 0)
    except (struct.error, IndexError):
        pass
    return None


def _ports(frame: bytes, at: int, protocol: int) -> tuple[int, int]:
    if protocol not in _WITH_PORTS or len(frame) < at + 4:
        return 0, 0
    source, destination = struct.unpack_from("!HH", frame, at)
    return source, destination
