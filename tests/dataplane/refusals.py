# SPDX-License-Identifier: Apache-2.0
"""A frame, the situation that it meets, and why it is refused: what the cases of Transit and of agents are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from .frames import datagram
from .plan import BLUE, BOUNCER, DIVIDER, FAMILIES, HOST, NETWORK_BOUNCED_HERE, A, R
from .testbed import Testbed

Setup = Callable[[Testbed], None]


def host(droplet: Testbed) -> None:
    droplet.as_host()


def bouncer(droplet: Testbed) -> None:
    droplet.as_bouncer()
    droplet.agent(A, network_flags=NETWORK_BOUNCED_HERE)


def divider(droplet: Testbed) -> None:
    droplet.as_divider()


@dataclass(frozen=True)
class Case:
    """A frame, the situation that it meets, and why it is refused."""

    name: str
    reason: str
    frame: bytes
    setup: Setup = bouncer
    vpc_known: bool = True

    def __str__(self) -> str:
        return f"{self.reason}-{self.name}"


def edited(frame: Any, **at: int) -> bytes:
    """The frame with some bytes replaced: edited(frame, b14=0x55)."""
    data = bytearray(bytes(frame))
    for place, value in at.items():
        data[int(place[1:])] = value
    return bytes(data)


GOOD = {family: datagram(family, A, R.address(family)) for family in FAMILIES}
"""What a bouncer would forward."""


def inner_ip(family: int, **fields: Any) -> Any:
    frame = GOOD[family].copy()
    for name, value in fields.items():
        setattr(frame[IP if family == 4 else IPv6], name, value)
    return frame


def retarget(endpoint_or_network: Any, host_part: int = 0, family: int = 4) -> Any:
    dst = endpoint_or_network.address(family, host_part) if host_part else endpoint_or_network.address(family)
    return datagram(family, A, dst)


def crossing(droplet: Testbed) -> None:
    droplet.as_crossing(DIVIDER)


def crossing_to_nobody(droplet: Testbed) -> None:
    crossing(droplet)
    droplet.tables.vpcs.delete(BLUE.vni)


def narrow(setup: Setup) -> Setup:
    """The ways to BOUNCER and HOST have no room for what is sent there."""

    def narrowed(droplet: Testbed) -> None:
        setup(droplet)
        droplet.narrow(100, BOUNCER, HOST)

    return narrowed
