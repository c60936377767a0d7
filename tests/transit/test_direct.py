# SPDX-License-Identifier: Apache-2.0
"""The direct path with real daemons and real traffic: learned, used, given up, and never at the price of a packet."""

from __future__ import annotations

import signal
from itertools import product

import pytest

from mizar._built import transit_pb2 as pb
from tests.marks import first_of
from tests.transit.rig import BACK, FRONT, VNI, Droplet, Rig, endpoint, local, packed, put_droplet, put_network, until
from tests.transit.rig import put_vpc as put_vpc_of
from tests.transit.test_failover import called_down, wire
from tests.transit.traffic import exchange_udp, ping, send_udp

TUNNELS = (pb.GENEVE, pb.VXLAN)
FAMILIES = (4, 6)


def address(family: int, network: int, number: int) -> str:
    return f"10.0.{network}.1{number}" if family == 4 else f"fd00:10:0:{network}::1{number}"


class Scene:
    """Endpoint 1 of "front" on droplet 1, endpoint 2 of "front" and 3 of "back" on droplet 2. Droplet 3 bounces
    "front", droplet 4 "back"; droplet 5 divides the VPC."""

    def __init__(self, made: Rig, tunnel: pb.TunnelProtocol.ValueType = pb.GENEVE) -> None:
        self.made = made
        self.droplets = [made.add_droplet() for _ in range(5)]
        one, two, three, four, five = self.droplets
        self.names = {number: made.make_namespace(f"e{number}") for number in (1, 2, 3)}
        self.ends = {
            1: endpoint(1, FRONT, one, tunnel),
            2: endpoint(2, FRONT, two, tunnel),
            3: endpoint(3, BACK, two, tunnel),
        }
        made.start_all()
        for droplet in self.droplets:
            droplet.apply(*map(put_droplet, self.droplets), put_vpc_of(five))
        for droplet in (one, two, three, five):
            droplet.apply(put_network(FRONT, three))
        for droplet in (two, four, five):
            droplet.apply(put_network(BACK, four))
        three.apply(*(pb.Change(put_endpoint=self.ends[number]) for number in (1, 2)))
        four.apply(pb.Change(put_endpoint=self.ends[3]))
        one.attach_whole(local("uid-1", self.ends[1], name=self.names[1]))
        for number in (2, 3):
            two.attach_whole(local(f"uid-{number}", self.ends[number], name=self.names[number]))
        for droplet in self.droplets:
            until(lambda at=droplet: not called_down(at), "all are up")  # type: ignore[misc]

    def learned(self, droplet: Droplet) -> dict[bytes, bytes]:
        """Address → host of what a droplet has learned."""
        return {one.address: one.host for one in droplet.state().learned}

    def until_direct(self, source: int, target: str) -> None:
        """Ping until the source's droplet has sent on the direct path."""
        host = self.droplets[0] if source == 1 else self.droplets[1]
        before = host.counters().direct_packets

        def direct() -> bool:
            return ping(self.names[source], target, 0.3) is not None and host.counters().direct_packets > before

        until(direct, f"the direct path from {source} to {target}")


@pytest.mark.parametrize("tunnel", first_of(TUNNELS))
def test_both_ways_within_a_network_and_between_networks(made: Rig, tunnel: pb.TunnelProtocol.ValueType) -> None:
    """After the first packets the hops see nothing more, in either direction, of either family."""
    scene = Scene(made, tunnel)
    one, two, *hops = scene.droplets
    for family, (network, number) in product(FAMILIES, ((FRONT, 2), (BACK, 3))):
        scene.until_direct(1, address(family, network, number))
        scene.until_direct(number, address(family, FRONT, 1))
    assert scene.learned(one) == {
        packed(address(family, network, number)): two.address
        for family, (network, number) in product(FAMILIES, ((FRONT, 2), (BACK, 3)))
    }
    assert scene.learned(two) == {packed(address(family, FRONT, 1)): one.address for family in FAMILIES}
    before = [hop.counters() for hop in hops]
    for family, (network, number) in product(FAMILIES, ((FRONT, 2), (BACK, 3))):
        exchange_udp(scene.names[1], scene.names[number], address(family, network, number), b"direct")
    assert [hop.counters() for hop in hops] == before
    assert ping(scene.names[1], address(4, FRONT, 2)) == 64
    assert ping(scene.names[1], address(4, BACK, 3)) == 63


def test_the_way_back_is_learned_without_asking(made: Rig) -> None:
    """What came over hops says where it set out: the daemons of the hops are dead, and nobody could be asked."""
    scene = Scene(made)
    one, two, *hops = scene.droplets
    for hop in hops:
        hop.stop(signal.SIGKILL)

    def known() -> bool:
        send_udp(scene.names[1], address(4, BACK, 3), b"one way")
        return scene.learned(two) == {packed(address(4, FRONT, 1)): one.address}

    until(known, "droplet 2 knows where the packets set out")


@pytest.mark.parametrize("tunnel", first_of(TUNNELS))
def test_one_way_and_of_full_size(made: Rig, tunnel: pb.TunnelProtocol.ValueType) -> None:
    """Packets that leave no room for an option, into another network, and nobody answers."""
    scene = Scene(made, tunnel)
    one = scene.droplets[0]
    before = one.counters().direct_packets

    def direct() -> bool:
        send_udp(scene.names[1], address(4, BACK, 3), bytes(1450 - 28))
        return one.counters().direct_packets > before

    until(direct, "the direct path")
    assert "PACKET_TOO_BIG" not in one.drops()


@pytest.mark.long
def test_what_is_in_use_is_asked_for_again(made: Rig) -> None:
    """The old host has the endpoint still and serves it; the bouncer says another one by now, and is heard."""
    scene = Scene(made)
    one, _, three, four, _ = scene.droplets
    scene.until_direct(1, address(4, FRONT, 2))
    four.apply(put_network(FRONT, three))
    new = made.make_namespace("e5")
    four.attach_whole(local("uid-5", endpoint(2, FRONT, four), name=new))
    three.apply(pb.Change(put_endpoint=endpoint(2, FRONT, four)))

    def corrected() -> bool:
        send_udp(scene.names[1], address(4, FRONT, 2), b"on and on")
        return scene.learned(one).get(packed(address(4, FRONT, 2))) == four.address

    until(corrected, "droplet 1 sends to the new host")


def test_a_divider_alone_dies(made: Rig) -> None:
    """Of two: packets between networks pass over the other, with nobody to ask for another way."""
    scene = Scene(made)
    _, _, three, four, five = scene.droplets
    four.apply(put_network(FRONT, three))
    for droplet in scene.droplets:
        droplet.apply(put_vpc_of(four, five))
    wire(made, five, "down")
    for droplet in (three, four):
        until(lambda at=droplet: five.address in called_down(at), "it is called down")  # type: ignore[misc]
    for family in FAMILIES:
        for end, target in ((1, address(family, BACK, 3)), (3, address(family, FRONT, 1))):
            until(lambda e=end, t=target: ping(scene.names[e], t) is not None, "traffic goes on")  # type: ignore[misc]
    assert five.address in called_down(three)


@pytest.mark.parametrize("tunnel", first_of(TUNNELS))
def test_a_deleted_endpoint_is_given_up_at_once(made: Rig, tunnel: pb.TunnelProtocol.ValueType) -> None:
    """Its old host sends the frame back, the sender's droplet forgets, and the bouncer says what became of it."""
    scene = Scene(made, tunnel)
    one, two, three, _, _ = scene.droplets
    scene.until_direct(1, address(4, FRONT, 2))
    two.detach("uid-2")
    three.apply(pb.Change(delete_endpoint=pb.EndpointKey(vni=VNI, addresses=scene.ends[2].addresses)))
    refused = three.drops().get("ENDPOINT_UNKNOWN", 0)
    assert ping(scene.names[1], address(4, FRONT, 2), 0.3) is None
    until(lambda: not scene.learned(one), "droplet 1 has forgotten")
    assert two.counters().returned_packets >= 1
    assert until(lambda: three.drops().get("ENDPOINT_UNKNOWN", 0) > refused, "the bouncer has refused the frame")


def test_an_endpoint_on_another_droplet_loses_nothing(made: Rig) -> None:
    """It comes again elsewhere: what the stale sender sends to the old host comes back, and arrives by the hops."""
    scene = Scene(made)
    one, two, _, four, five = scene.droplets
    scene.until_direct(1, address(4, BACK, 3))
    two.detach("uid-3")
    moved = endpoint(3, BACK, four)
    new = made.make_namespace("e4")
    four.attach_whole(local("uid-4", moved, name=new))
    exchange_udp(scene.names[1], new, address(4, BACK, 3), b"x" * 1400)
    assert two.counters().returned_packets >= 1

    def known() -> bool:  # asked for by packets: the next one asks again when an answer was not heard
        ping(scene.names[1], address(4, BACK, 3), 0.1)
        return scene.learned(one).get(packed(address(4, BACK, 3))) == four.address

    until(known, "droplet 1 knows the new host")
    assert "ENDPOINT_UNKNOWN" not in one.drops()
    assert "RETURNED_STRANGE" not in one.drops()
    assert five.counters().divided_packets


def test_a_dead_host_is_no_direct_path(made: Rig) -> None:
    """Learned entries that lead to it are passed over; the hops have the word again."""
    scene = Scene(made)
    one, two, three, _, _ = scene.droplets
    scene.until_direct(1, address(4, FRONT, 2))
    wire(made, two, "down")
    until(lambda: two.address in called_down(one), "the host is called down")
    bounced = three.counters().bounced_packets
    ping(scene.names[1], address(4, FRONT, 2), 0.1)
    assert until(lambda: three.counters().bounced_packets > bounced, "the bouncer has the packet")
    wire(made, two, "up")
    scene.until_direct(1, address(4, FRONT, 2))


@pytest.mark.long
def test_without_daemons_what_was_learned_serves_on(made: Rig) -> None:
    """Daemons die and come again: the entry stays, nobody takes it for the planner's, and a planner's replaces it."""
    scene = Scene(made)
    one, _, three, _, _ = scene.droplets
    scene.until_direct(1, address(4, FRONT, 2))
    for droplet in scene.droplets:
        droplet.stop(signal.SIGKILL)
    exchange_udp(scene.names[1], scene.names[2], address(4, FRONT, 2), b"alone")
    one.start()
    state = one.state()
    assert [learned.address for learned in state.learned] == [packed(address(4, FRONT, 2))]
    assert not state.endpoints
    one.apply(put_network(FRONT, one, three), pb.Change(put_endpoint=scene.ends[2]))
    state = one.state()
    assert not state.learned
    assert [list(found.addresses) for found in state.endpoints] == [list(scene.ends[2].addresses)]
    one.apply(pb.Change(delete_endpoint=pb.EndpointKey(vni=VNI, addresses=scene.ends[2].addresses)))
    assert not one.state().learned
    one.apply(pb.Change(put_vpc=pb.Vpc(vni=VNI, dividers=[scene.droplets[4].address])))
    assert not one.state().learned
