# SPDX-License-Identifier: Apache-2.0
"""Bulk data stays in large pieces where it may: what arrives is merged, and what leaves is cut late. No test of time:
frames are counted."""

import os
from dataclasses import dataclass

import pytest
from pyroute2 import IPRoute

from tests.marks import first_of
from tests.transit.rig import Rig
from tests.transit.test_modes import flags, talk, three_droplets
from tests.transit.traffic import send_tcp, sink

BYTES = 8 << 20


@dataclass(frozen=True)
class Seen:
    """What an interface has received: packets and bytes."""

    packets: int
    bytes: int

    @classmethod
    def at(cls, namespace: str, interface: str) -> "Seen":
        with IPRoute(netns=namespace) as ip:
            stats = ip.link("get", ifname=interface)[0].get_attr("IFLA_STATS64")
        return cls(stats["rx_packets"], stats["rx_bytes"])

    def since(self, before: "Seen") -> float:
        """Bytes of a packet, on the average."""
        return (self.bytes - before.bytes) / (self.packets - before.packets)


@pytest.mark.parametrize(("offloads", "wire"), first_of([(True, range(3000, 65536)), (False, range(1000, 1550))], 1))
def test_a_stream_is_cut_late_and_merged_at_once(made: Rig, offloads: bool, wire: range) -> None:
    """With --uplink-offloads superpackets leave the sender's host whole; cut as frames they arrive merged at the
    endpoint. The first fails without the option, the second without GRO, or with notes in front of frames that differ
    within a connection."""
    _, places = three_droplets(made, *(["--uplink-offloads"] if offloads else []))
    left, arrived = Seen.at(made.switch, "p1"), Seen.at(places[1], "eth0")
    data = os.urandom(BYTES)
    with sink(places[1], "10.0.1.12", 5001) as received:
        send_tcp(places[0], "10.0.1.12", 5001, data)
    assert b"".join(received) == data
    assert int(Seen.at(made.switch, "p1").since(left)) in wire
    assert Seen.at(places[1], "eth0").since(arrived) > 3000


@pytest.mark.long
@pytest.mark.parametrize("xdp", ["driver", "generic"])
def test_every_way_carries_checksums_left_to_the_wire(made: Rig, xdp: str) -> None:
    """Bounced, divided, straight and direct, of both families, UDP and TCP: every byte arrives."""
    _, places = three_droplets(made, *flags(xdp, "tcx"), "--uplink-offloads")
    talk(places)
