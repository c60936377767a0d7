# SPDX-License-Identifier: Apache-2.0
"""What the gateway's translation is asked to do while counted.py counts it: rules, and frames for gateway_nat/nat.c,
which looks up a connection, does what it says, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from scapy.all import IP, TCP, UDP, Ether, IPv6, Raw

from mizar.gateway import rules
from mizar.kernel import programs
from mizar.kernel.gateway_tables import GatewayTables
from mizar.pipeline.description import State
from mizar.pipeline.nat import Masquerade, NatRules
from mizar.pipeline.ranges import Ranges

from .counting import RUNS
from .gateway_nat import ROOT, STATES, reasons, with_meta

PROGRAM = "nat"
SOURCE = ROOT / "tests" / "dataplane" / "gateway_nat" / "nat.c"
TENANT, WORLD = 0x01000005, 0x02FF0064
ENDS = {4: ("10.0.0.1", "198.51.100.7"), 6: ("2001:db8:a::1", "2001:db8:9::7")}
POOL = ("203.0.113.1", "2001:db8:ff::1")
PORT = 40_000
"""Of the first connection."""
CONFIG = struct.pack("=II", 0, 0)
"""As a gateway has it: not watched, and with the kernel's clock."""
SIZES = {"connections4": 4096, "connections6": 4096}


def frame(family: int, layer: UDP | TCP) -> bytes:
    """Of the tenant, to the world."""
    source, target = ENDS[family]
    ip = IP(src=source, dst=target) if family == 4 else IPv6(src=source, dst=target)
    whole = Ether(src="02:00:00:00:00:00", dst="02:00:00:00:00:02") / ip / layer / Raw(b"odd")
    return with_meta(bytes(whole), TENANT)


def udp(family: int, port: int) -> bytes:
    """A datagram."""
    return frame(family, UDP(sport=port, dport=53))


def tcp(flags: str) -> Callable[[int, int], bytes]:
    """A segment with these flags."""
    return lambda family, port: frame(family, TCP(sport=port, dport=80, flags=flags))


@dataclass(frozen=True)
class Kind:
    """One kind of packet, many times: of one flow, or each of another. `reason`: why it is not translated."""

    name: str
    made: Callable[[int, int], bytes]
    state: State
    each_another: bool = False
    reason: str = ""

    def frames(self, family: int) -> Sequence[bytes]:
        """One after the other."""
        return [self.made(family, PORT + (number if self.each_another else 0)) for number in range(RUNS)]

    @property
    def verdict(self) -> int:
        """What nat.c answers."""
        state = next(number for number, state in STATES.items() if state is self.state)
        reason = next((number for number, name in reasons().items() if name == self.reason), 0)
        return state | reason << 8


KINDS = (
    Kind("NAT, drop", tcp("A"), State.INVALID, reason="TCP_WITHOUT_CONNECTION"),
    Kind("NAT, new connection, UDP", udp, State.NEW, each_another=True),
    Kind("NAT, new connection, TCP", tcp("S"), State.NEW, each_another=True),
    Kind("NAT, known flow, UDP", udp, State.ESTABLISHED),
    Kind("NAT, known flow, TCP", tcp("A"), State.ESTABLISHED),
)
"""In this order: the last are of flows that those before them have begun."""


@contextmanager
def loaded(code: bytes) -> Iterator[programs.Programs]:
    """nat.c, with rules and without connections."""
    masquerade = tuple(
        Masquerade(inside=Ranges.of(32, [TENANT]), outside=WORLD, addresses=(ip_address(address),)) for address in POOL
    )
    with programs.load(CONFIG, objects={PROGRAM: code}, max_entries=SIZES) as found:
        rules.write(GatewayTables.of(found.maps), NatRules(masquerade=masquerade))
        yield found
