# SPDX-License-Identifier: Apache-2.0
"""Every way to attach the programs, and substrates as anybody may make them: plain veths, odd queues, jumbo frames."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256

import grpc
import pytest
from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from mizar.kernel import bpffs, clsact
from mizar.kernel.namespaces import Namespace
from mizar.kernel.programs import object_bytes
from tests.marks import first_of
from tests.transit.rig import (
    BACK,
    FRONT,
    Droplet,
    Rig,
    endpoint,
    local,
    put_droplet,
    put_network,
    put_vpc,
    until,
)
from tests.transit.traffic import exchange_udp, ping, send_superpacket, send_tcp, sink

MODES = [
    ("generic", "clsact"), ("off", "tcx"), ("driver", "tcx"),
    ("driver", "clsact"), ("generic", "tcx"), ("off", "clsact"),
]  # fmt: skip
"""The third is what every other test runs in."""


def flags(xdp: str, tc: str) -> list[str]:
    """The options that force a mode."""
    return ["--xdp", xdp, "--tc", tc]


def modes_of(droplet: Droplet) -> tuple[str, str]:
    """As the daemon tells them."""
    info = droplet.client.GetInfo(pb.GetInfoRequest())
    return info.xdp_mode, info.tc_mode


def merging(droplet: Droplet) -> list[str]:
    """Devices whose sockets make the kernel merge tunnel packets."""
    with IPRoute(netns=droplet.namespace) as ip:
        names = [str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links()]
    return [name for name in names if name.startswith("mzgro")]


def three_droplets(made: Rig, *arguments: str) -> tuple[list[Droplet], list[str]]:
    """Endpoints 1 on droplet 1, 2 on 2 and 3 on 3, which bounces their network; 4 is on 2 in a network of its own."""
    droplets = [made.add_droplet() for _ in range(3)]
    one, two, three = droplets
    made.start_all(*arguments)
    for droplet in droplets:
        known = [put_droplet(other) for other in droplets]
        droplet.apply(*known, put_vpc(three), put_network(FRONT, three), put_network(BACK, three))
    places = [made.make_namespace(f"e{number}") for number in range(1, 5)]
    wanted = [endpoint(1, FRONT, one), endpoint(2, FRONT, two), endpoint(3, FRONT, three), endpoint(4, BACK, two)]
    for number, (host, what) in enumerate(zip((one, two, three, two), wanted, strict=True)):
        host.attach_whole(local(f"uid-{number}", what, name=places[number]))
    three.apply(*(pb.Change(put_endpoint=what) for what in wanted if what.host != three.address))
    until(lambda: ping(places[0], "10.0.1.12", 0.2), "the first answer")
    return droplets, places


def talk(places: list[str]) -> None:
    """Echo, UDP (superpackets too) and TCP, both families: over a bouncer, straight from the wire into an endpoint,
    over a divider."""
    first, second, third, fourth = places
    ways = [(first, second, FRONT, 2), (first, third, FRONT, 3), (third, first, FRONT, 1), (fourth, first, FRONT, 1)]
    for source, target, network, number in ways:
        for address in (f"10.0.{network}.1{number}", f"fd00:10:0:{network}::1{number}"):
            assert ping(source, address) is not None
            exchange_udp(source, target, address, b"mizar" * 200)
            send_superpacket(source, target, address)
            data = os.urandom(400_000)
            with sink(target, address, 5001) as received:
                send_tcp(source, address, 5001, data)
            assert b"".join(received) == data


@contextmanager
def onlookers(droplets: list[Droplet]) -> Iterator[None]:
    """Packet sockets on the droplets' interfaces, as of tcpdump: the kernel then shares each frame with them."""

    def look() -> socket.socket:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        one.bind(("sub0", 0))
        return one

    with ExitStack() as stack:
        for droplet in droplets:
            with Namespace.by_name(droplet.namespace) as namespace:
                stack.enter_context(namespace.run(look))
        yield


@pytest.mark.parametrize(("xdp", "tc"), first_of(MODES, 2))
def test_every_mode_carries_everything(made: Rig, xdp: str, tc: str) -> None:
    """Also after all daemons were killed and started again, and nothing is left at the end. At tc with tcx,
    superpackets are left to the wire: without interfaces.end_udp_segmentation() send_superpacket() waits in vain."""
    options = [*flags(xdp, tc), *(["--uplink-offloads"] if (xdp, tc) == ("off", "tcx") else [])]
    droplets, places = three_droplets(made, *options)
    assert {modes_of(droplet) for droplet in droplets} == {(xdp, tc)}
    offloads = {droplet.client.GetInfo(pb.GetInfoRequest()).uplink_offloads.partition(":")[0] for droplet in droplets}
    assert offloads == {"checksums are left to the wire" if "--uplink-offloads" in options else ""}
    talk(places)
    with onlookers(droplets):
        talk(places)
    for droplet in droplets:
        droplet.stop(9)
        droplet.start(*options)
    assert {modes_of(droplet) for droplet in droplets} == {(xdp, tc)}
    talk(places)
    one = droplets[0]
    assert f"xdp={xdp} tc={tc}" in one.log.read_text()
    one.stop()
    one.start(*options, "--detach-on-exit")
    one.stop()
    assert one.name not in bpffs.instances()
    with IPRoute(netns=one.namespace) as ip:
        link = ip.link("get", ifname="sub0")[0]
    facts = link.get_attr("IFLA_XDP")
    assert not facts or not facts.get_attr("IFLA_XDP_ATTACHED")
    with Namespace.by_name(one.namespace) as namespace:
        assert namespace.run(lambda: clsact.attached(link["index"])) == []


def test_a_daemon_changes_modes_only_when_told(made: Rig) -> None:
    """Without a word, generic stays (a change would lose packets) and clsact becomes tcx (which loses none). XDP goes
    and comes back when it is told."""
    one = made.add_droplet()
    one.start(*flags("generic", "clsact"))
    one.stop(9)
    one.start()
    assert modes_of(one) == ("generic", "tcx")
    assert "stays so lest packets are lost" in one.log.read_text()
    one.stop(9)
    one.start("--xdp", "driver")
    assert modes_of(one) == ("driver", "tcx")
    one.stop(9)
    one.start("--xdp", "off")
    assert modes_of(one) == ("off", "tcx")
    until(lambda: len(merging(one)) == 2, "devices for GRO of both tunnels")
    workload = pb.Workload(name="nobody", interface="eth0")
    (result,) = one.attach(
        pb.LocalEndpoint(uid="whole", endpoint=endpoint(1, FRONT, one), workload=workload, bypass=True)
    )
    assert "bypasses decapsulation" in result.error
    data = object_bytes("function_missing")
    asked = pb.Function(name="function-missing", object=data, digest=sha256(data).digest(), stages=[0])
    asked.scopes.add(droplet=True)
    with pytest.raises(grpc.RpcError, match="runs in XDP"):
        one.client.SetFunctions(pb.SetFunctionsRequest(functions=[asked]), timeout=30)
    one.stop(9)
    one.start("--xdp", "driver")
    assert modes_of(one) == ("driver", "tcx")
    assert not merging(one)


def test_at_tc_the_kernel_merges_tunnels_that_are_used(made: Rig) -> None:
    """Of one tunnel it finds the socket at once: there is a second device only while endpoints have both, on whatever
    droplet they are, and whichever daemon came to know of them."""
    one, two = made.add_droplet(), made.add_droplet()
    one.start("--xdp", "off")
    one.apply(put_droplet(one), put_droplet(two), put_vpc(two), put_network(FRONT, two))
    one.attach_whole(local("uid-1", endpoint(1, FRONT, one), name=made.make_namespace("e1")))
    until(lambda: [name[:6] for name in merging(one)] == ["mzgro0"], "the device for Geneve alone")
    far = endpoint(2, FRONT, two, pb.VXLAN)
    one.apply(pb.Change(put_endpoint=far))
    until(lambda: len(merging(one)) == 2, "devices for both")
    one.stop(9)
    one.start("--xdp", "off")
    assert len(merging(one)) == 2
    one.detach("uid-1")
    until(lambda: [name[:6] for name in merging(one)] == ["mzgro1"], "the device for VXLAN alone")


@pytest.mark.parametrize(
    ("near", "far", "mtu", "mode"),
    first_of([(1, 2, 1500, "generic"), (1, 1, 9000, "driver"), (2, 2, 1500, "driver")]),
    ids=["unequal-queues", "jumbo", "two-queues"],
)
def test_substrates_of_plain_veths_work(made: Rig, near: int, far: int, mtu: int, mode: str) -> None:
    """However a user made them, and without anything set at their far ends."""
    made.wire = {"near": near, "far": far, "mtu": mtu}
    droplets, places = three_droplets(made)
    assert {modes_of(droplet)[0] for droplet in droplets} == {mode}
    if mode == "generic":
        assert "driver mode" in droplets[0].log.read_text(), "the reason for the fallback is in the log"
    talk(places)


def test_a_checksum_left_to_hardware_arrives_whole(made: Rig) -> None:
    """A foreign vxlan device over a veth with checksum offload: its packets come in with partial inner checksums, and
    a bouncer sends them on."""
    one, two = made.add_droplet(), made.add_droplet()
    place = made.make_namespace("e1")
    foreign = made.add_droplet()
    for droplet in (one, two):
        droplet.start()
        known = [put_droplet(other) for other in (one, two, foreign)]
        droplet.apply(*known, put_vpc(two), put_network(FRONT, two))
    one.attach_whole(local("uid-1", endpoint(1, FRONT, one, pb.VXLAN), name=place))
    there = endpoint(2, FRONT, foreign, pb.VXLAN)
    two.apply(pb.Change(put_endpoint=endpoint(1, FRONT, one, pb.VXLAN)), pb.Change(put_endpoint=there))
    remote = ["id", "7", "local", "172.30.9.3", "remote", "172.30.9.2", "dstport", "4789", "nolearning"]
    for command in (
        ["link", "add", "vx", "address", there.mac.hex(":"), "mtu", "1450", "type", "vxlan", *remote],
        ["addr", "add", "10.0.1.12/24", "dev", "vx"],
        ["link", "set", "vx", "up"],
    ):
        subprocess.run(["ip", "-n", foreign.namespace, *command], check=True, timeout=30)
    until(lambda: ping(foreign.namespace, "10.0.1.11", 0.2), "the first answer")
    data = os.urandom(400_000)
    with sink(place, "10.0.1.11", 5001) as received:
        send_tcp(foreign.namespace, "10.0.1.11", 5001, data)
    assert b"".join(received) == data
