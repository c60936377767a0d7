# SPDX-License-Identifier: Apache-2.0
"""An endpoint of ME that policies are about: frames for it and of it, whether they pass, and why not."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from mizar.model import drop_reasons

from .frames import ip, option, tunnel
from .plan import HOST, ROUTER_MAC, A, R
from .policies import Row, police, rules
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, Testbed

SYN, SYN_ACK, ACK, FIN = "S", "SA", "A", "FA"
GROUPS = 7


def segment(family: int, sender: Any, dst: str, flags: str, sport: int = 4001, dport: int = 80, **fields: Any) -> Any:
    ether = Ether(src=sender.mac, dst=ROUTER_MAC)
    return ether / ip(family, sender.address(family), dst) / TCP(sport=sport, dport=dport, flags=flags, **fields)


def answer(family: int, flags: str) -> Any:
    """Of a to r's connection to its port 80."""
    return segment(family, A, R.address(family), flags, sport=80, dport=4001)


def arriving(kind: str, inner: Any, groups: int = 0) -> bytes:
    """From HOST, in a tunnel; the sender is in a set of groups."""
    options = option(0xFF01, 2, groups.to_bytes(4, "big") + bytes(4)) if groups and kind == "geneve" else b""
    return tunnel(kind, inner, src=HOST, options=options, group=groups if kind == "vxlan" else 0)


def comes(droplet: Testbed, inner: Any, groups: int = 0, kind: str = "geneve") -> bool:
    """Whether Transit XDP lets it in to a."""
    return {XDP_PASS: True, XDP_DROP: False}[droplet.transit(arriving(kind, inner, groups)).retval]


def goes(droplet: Testbed, frame: Any) -> bool:
    """Whether the agent of a sends it on."""
    return {TC_REDIRECT: True, TC_SHOT: False}[droplet.send(frame).retval]


def why(droplet: Testbed) -> set[str]:
    """The reasons that were counted, forgotten afterwards."""
    found = {name for kind, name in droplet.counted() if kind == "drop"}
    droplet.tables.drop_counters.zero([drop_reasons.by_name()[name].number for name in found])
    return found


def closed(droplet: Testbed, *rows: Row, **more: Any) -> None:
    """ME hosts a, which takes what the rows allow, and may send anything."""
    droplet.as_host()
    police(droplet, A, ingress=rules(droplet, 1, *rows, **more))
