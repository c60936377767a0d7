# SPDX-License-Identifier: Apache-2.0
"""Who hears of what: each watcher what it asked for, drops while somebody asks, and how much was lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Solicit
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from mizar._built import transit_pb2 as pb
from mizar.transit import events
from mizar.transit.events import QUEUE, Hub
from mizar.transit.guest.answering import kind_of


class Source:
    """Drops on request."""

    def __init__(self) -> None:
        self.on: list[bool] = []
        self.drops: asyncio.Queue[tuple[int, pb.Drop]] = asyncio.Queue()
        self.left_out: list[list[pb.Suppressed]] = [[pb.Suppressed(reason=1, packets=99)]]

    def switch(self, on: bool) -> None:
        self.on.append(on)

    async def __aiter__(self) -> AsyncIterator[tuple[int, pb.Drop]]:
        while True:
            yield await self.drops.get()

    async def suppressed(self) -> list[pb.Suppressed]:
        return self.left_out.pop(0) if self.left_out else []


async def test_each_hears_what_it_asked_for() -> None:
    """Traps and paths only on request; drops turn the source on and off."""
    source = Source()
    hub = Hub(source)
    with hub.subscribed(drops=False) as plain, hub.subscribed(drops=False, traps=True, paths=True) as asking:
        hub.trapped("u", 7, "dhcp4", True)
        hub.path_changed(7, b"\1\2\3\4", b"")
        hub.link_changed("eth0", True, 1500)
        assert (await plain.next()).WhichOneof("event") == "link_changed"
        kinds = [(await asking.next()).WhichOneof("event") for _ in range(3)]
        assert kinds == ["trapped", "path_changed", "link_changed"]
        assert source.on == []
        with hub.subscribed(drops=True) as drops:
            await source.drops.put((5, pb.Drop(reason=62)))
            assert (await drops.next()).drop.reason == 62
        assert source.on == [True, False]
    assert hub.watchers == 0


async def test_what_was_left_out_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what was left out before anybody watched."""
    monkeypatch.setattr(events, "SUMMARY_S", 0.01)
    source = Source()
    source.left_out.append([pb.Suppressed(reason=62, vni=7, packets=4)])
    with Hub(source).subscribed(drops=True) as drops:
        async with asyncio.timeout(30):
            assert (await drops.next()).suppressed == pb.Suppressed(reason=62, vni=7, packets=4)


async def test_a_slow_watcher_is_told_what_it_lost() -> None:
    """When it has read the rest; another one has lost nothing."""
    source = Source()
    hub = Hub(source)
    with hub.subscribed(drops=True) as slow, hub.subscribed(drops=False):
        for _ in range(QUEUE + 3):
            hub.link_changed("eth0", True, 1500)
        for _ in range(QUEUE):
            assert (await slow.next()).WhichOneof("event") == "link_changed"
        assert (await slow.next()).suppressed.events == 3
        hub.link_changed("eth0", False, 1500)
        assert (await slow.next()).WhichOneof("event") == "link_changed"


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (IP() / UDP(sport=68, dport=67) / BOOTP() / DHCP(options=[("message-type", "discover")]), "dhcp4"),
        (IPv6() / UDP(sport=546, dport=547) / DHCP6_Solicit(), "dhcp6"),
        (IPv6() / ICMPv6ND_RS(), "router"),
        (IP() / UDP(sport=1, dport=2), ""),
        (IP(proto=6), ""),
    ],
)
def test_what_an_endpoint_asks_for_has_a_name(packet: Packet, kind: str) -> None:
    """Or none, when it asks for nothing that there is."""
    assert kind_of(bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / packet)) == kind
