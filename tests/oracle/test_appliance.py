# SPDX-License-Identifier: Apache-2.0
"""The way by an appliance, to it and through it: oracle and programs, octet by octet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mizar.model.addresses import APPLIANCE_MAC
from mizar.oracle.outcome import Verdict
from mizar.oracle.tables import Droplet, Endpoint, Tunnel
from tests.oracle import build
from tests.oracle.differential import Arrival, check
from tests.oracle.droplets import BOUNCER, HOST, ME, MY_MAC, RED, address, mac_of, packed
from tests.oracle.golden_droplet import droplet
from tests.oracle.real import RealDroplet
from tests.oracle.seeds import octet_by_octet

pytestmark = pytest.mark.root
BEYOND = {4: packed("198.51.100.1"), 6: packed("2001:db8:6::1")}
OUT = {4: packed("192.0.2.0"), 6: packed("2001:db8:5::")}
NEAR, FAR, SENDER = mac_of(9, 1), mac_of(9, 2), mac_of(1, 11)


def routed() -> Droplet:
    """The golden droplet: the sender forwards; its table leads by an appliance here, by one elsewhere, by the sender
    itself, and into the substrate."""
    here = droplet()
    table: dict[tuple[bytes, int], str | bytes] = {}
    sources: dict[tuple[bytes, int], str | bytes] = {}
    for family, bits in ((4, 32), (6, 128)):
        table[packed("0.0.0.0" if family == 4 else "::"), 0] = FAR
        table[address(family, 1, 21), bits] = NEAR
        table[address(family, 2, 12), bits] = SENDER
        table[OUT[family], bits // 4 * 3] = "substrate"
        sources[address(family, 3, 0), bits // 2] = "vpc"
        sources[address(family, 3, 12), bits] = "blackhole"
    appliances = {
        (RED, NEAR): Endpoint(1, NEAR, ME, ifindex=7, uid="near"),
        (RED, FAR): Endpoint(2, FAR, HOST, Tunnel.VXLAN),
        (RED, SENDER): Endpoint(1, SENDER, ME, ifindex=1, uid="a"),
    }
    agents = {1: replace(here.agents[1], routes=table, forwarding=True, sources=sources)}
    return replace(here, agents=agents, appliances=appliances, stack_link=True)


def arrivals() -> Iterator[Arrival]:
    """Through the sender from its own address and from others, to each of these; and what comes for an appliance."""
    for family in (4, 6):
        ethertype = 0x0800 if family == 4 else 0x86DD
        goals = (BEYOND[family], address(family, 1, 21), address(family, 2, 12), OUT[family][:-1] + b"\1")
        for source in (address(family, 1, 11), address(family, 3, 11), address(family, 3, 12), BEYOND[family]):
            for to in goals:
                body = build.udp(4001, 4002, b"mizar!")
                packet = build.ipv4(source, to, 17, body) if family == 4 else build.ipv6(source, to, 17, body)
                yield Arrival("agent", build.ethernet(build.ROUTER, SENDER, ethertype, packet))
                for mac in (NEAR, FAR, build.ROUTER):
                    inner = build.ethernet(mac, APPLIANCE_MAC, ethertype, packet)
                    frame = build.tunnel(
                        "geneve", inner, src=BOUNCER, dst=ME, src_mac=mac_of(2, 2), dst_mac=MY_MAC, vni=RED
                    )
                    yield Arrival("transit", frame)


def test_every_octet_of_what_goes_by_an_appliance(real: RealDroplet) -> None:
    """Whatever one octet is changed to, and however much is missing."""
    here = routed()
    real.fill(here)
    seen: Counter[object] = Counter()
    for place, arrival in enumerate(arrivals()):
        (outcome,) = check(real, here, [arrival])
        seen.update([outcome.reason, outcome.verdict])
        if not place % 4:
            check(real, here, octet_by_octet(arrival, frozenset()))
    assert seen.keys() >= {"FOREIGN_SOURCE", "FOREIGN_SUBSTRATE", "APPLIANCE_GONE", Verdict.DELIVER, Verdict.STACK}
