# SPDX-License-Identifier: Apache-2.0
"""Local endpoints that take tunnel packets as they are: their interface, and what a new daemon makes of them."""

import signal
import socket

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel import interfaces
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from tests.transit.rig import FRONT, Droplet, Rig, endpoint, local, put_droplet, put_network, put_vpc, until
from tests.transit.traffic import ping

PORT = 4200


def facts(droplet: Droplet, place: str) -> tuple[int, int, bool, bool]:
    """MTU of both ends, whether the droplet's leaves checksums undone, and whether the workload's merges."""
    (found,) = [one for one in droplet.state().local_endpoints if one.local.uid == "one"]
    with Namespace.by_name(droplet.namespace) as host, Netlink(host) as netlink:
        outer = interfaces.get(netlink, found.host_interface)
        undone = host.run(lambda: interfaces.tx_checksum(found.host_interface))
    with Namespace.by_name(place) as inside, Netlink(inside) as netlink:
        inner = interfaces.get(netlink, "eth0")
        merges = inside.run(lambda: interfaces.gro("eth0"))
    return outer.mtu, inner.mtu, undone, merges


def hears_a_tunnel(place: str, sender: str) -> bool:
    """Whether a datagram from a namespace comes in a tunnel."""
    with Namespace.by_name(place) as inside:
        wire = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    with Namespace.by_name(sender) as inside:
        client = inside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with wire, client:
        wire.bind(("eth0", 0))
        wire.settimeout(0.1)
        client.sendto(b"in a tunnel?", ("10.0.1.11", PORT))
        try:
            while True:
                frame = wire.recv(65536)
                if frame.endswith(b"in a tunnel?"):
                    return frame[36:38] in (b"\x17\xc1", b"\x12\xb5")
        except TimeoutError:
            return False


@pytest.mark.long
def test_it_is_switched_in_place_and_kept_by_a_new_daemon(made: Rig) -> None:
    """Off and on again; the interface follows, and each state is the same after a restart."""
    a = made.add_droplet()
    a.start()
    a.apply(put_droplet(a), put_vpc(a), put_network(FRONT, a))
    one, two = (made.make_namespace(f"e{number}") for number in (1, 2))
    wanted = local("one", endpoint(1, FRONT, a), name=one)
    whole = pb.LocalEndpoint()
    whole.CopyFrom(wanted)
    whole.bypass = True
    a.attach_whole(local("two", endpoint(2, FRONT, a), name=two))
    substrate = 1500
    for given in (whole, wanted, whole):
        a.attach_whole(given)
        expected = (substrate, substrate, False, False) if given.bypass else (*[substrate - 50] * 2, True, True)
        for _ in range(2):
            assert facts(a, one) == expected
            (held,) = [found.local for found in a.state().local_endpoints if found.local.uid == "one"]
            assert held == given
            if given.bypass:
                until(lambda: hears_a_tunnel(one, two), "a datagram comes in a tunnel")
            else:
                until(lambda: ping(two, "10.0.1.11") is not None, "an answer")
            a.stop(signal.SIGKILL)
            a.start()
