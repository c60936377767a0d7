# SPDX-License-Identifier: Apache-2.0
"""Bulk data stays in large pieces where it may: what arrives is merged, and what leaves is cut late. No test of time:
frames are counted."""

import os
from dataclasses import dataclass

import pytest
from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from tests.marks import first_of
from tests.peers.foreign import command
from tests.transit.rig import FRONT, Rig, endpoint, local, put_droplet, put_network, put_vpc, until
from tests.transit.test_modes import flags, merging, talk, three_droplets
from tests.transit.traffic import ping, send_tcp, sink

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


@pytest.mark.parametrize("tunnel", first_of([pb.VXLAN, pb.GENEVE], 1))
def test_at_tc_single_frames_are_merged_again(made: Rig, tunnel: "pb.TunnelProtocol.ValueType") -> None:
    """A wire that takes no superpackets cuts them; the kernel merges the tunnel of the endpoints that the droplet
    knows, and needs one device for it."""
    one, two = droplets = made.add_droplet(), made.add_droplet()
    made.start_all("--xdp", "off", "--uplink-offloads")
    places = [made.make_namespace(f"e{number}") for number in (1, 2)]
    ends = [endpoint(number, FRONT, host, tunnel) for number, host in enumerate(droplets, 1)]
    for number, host in enumerate(droplets):
        host.apply(put_droplet(one), put_droplet(two), put_vpc(two), put_network(FRONT, two))
        host.attach_whole(local(f"uid-{number}", ends[number], name=places[number]))
    two.apply(pb.Change(put_endpoint=ends[0]))
    for number in (1, 2):
        command("ethtool", "-K", f"p{number}", "tso", "off", namespace=made.switch)
    until(lambda: [len(merging(host)) for host in droplets] == [1, 1], "one device for GRO at each")
    until(lambda: ping(places[0], "10.0.1.12", 0.2), "the first answer")
    wire, arrived = Seen.at(two.namespace, "sub0"), Seen.at(places[1], "eth0")
    data = os.urandom(BYTES)
    with sink(places[1], "10.0.1.12", 5001) as received:
        send_tcp(places[0], "10.0.1.12", 5001, data)
    assert b"".join(received) == data
    assert int(Seen.at(two.namespace, "sub0").since(wire)) in range(1000, 1550)
    assert Seen.at(places[1], "eth0").since(arrived) > 3000


@pytest.mark.long
@pytest.mark.parametrize("xdp", ["driver", "generic"])
def test_every_way_carries_checksums_left_to_the_wire(made: Rig, xdp: str) -> None:
    """Bounced, divided, straight and direct, of both families, UDP and TCP: every byte arrives."""
    _, places = three_droplets(made, *flags(xdp, "tcx"), "--uplink-offloads")
    talk(places)
