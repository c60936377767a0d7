# SPDX-License-Identifier: Apache-2.0
"""The MAC that leads to another droplet: found, kept current, given up; and the droplet's own interface."""

import os
import socket
import subprocess
from pathlib import Path

from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from mizar.kernel import bpffs, libbpf
from mizar.kernel.bpffs import Pins
from mizar.kernel.layout import U32, struct_codec
from mizar.kernel.maps import Table
from mizar.kernel.namespaces import Namespace
from mizar.pki.authority import initialise
from tests.transit.rig import (
    FRONT,
    Droplet,
    Rig,
    endpoint,
    local,
    packed,
    put_droplet,
    put_network,
    put_vpc,
    until,
)
from tests.transit.test_traffic import two_droplets
from tests.transit.traffic import ping


def macs(droplet: Droplet) -> dict[bytes, bytes]:
    """Address of each known droplet and the MAC that leads there, as the programs read them."""
    fd = libbpf.open_pin(Pins.of(droplet.name).maps / "droplets")
    assert fd is not None
    try:
        entries = list(Table("droplets", fd, U32, struct_codec("droplet")).items())
    finally:
        os.close(fd)
    return {value["addr"][12:]: value["next_hop_mac"] for _, value in entries if any(value["addr"])}


def set_mac(namespace: str, mac: str) -> None:
    """Give the substrate interface of a namespace another MAC."""
    with IPRoute(netns=namespace) as ip:
        ip.link("set", index=ip.link_lookup(ifname="sub0")[0], address=mac)


def test_next_hops_are_found_followed_and_given_up(made: Rig) -> None:
    """A peer that gets another MAC is followed; one that goes away ends as zero, which the programs count."""
    one, peer = made.add_droplet(), made.add_droplet()
    set_mac(peer.namespace, "02:00:00:00:99:01")
    one.start()
    one.apply(put_droplet(one), put_droplet(peer))
    until(lambda: macs(one)[peer.address] == bytes.fromhex("020000009901"), "the peer's MAC is found")
    set_mac(peer.namespace, "02:00:00:00:99:02")
    ping(peer.namespace, "172.30.9.1")  # its ARP question tells its new MAC
    until(lambda: macs(one)[peer.address] == bytes.fromhex("020000009902"), "the new MAC is followed", 20)
    with IPRoute(netns=peer.namespace) as ip:
        ip.link("set", index=ip.link_lookup(ifname="sub0")[0], state="down")
    until(lambda: macs(one)[peer.address] == bytes(6), "nobody answers any more", 40)
    with IPRoute(netns=peer.namespace) as ip:
        ip.link("set", index=ip.link_lookup(ifname="sub0")[0], state="up")
    until(lambda: macs(one)[peer.address] == bytes.fromhex("020000009902"), "it is back", 40)
    one.apply(pb.Change(delete_droplet=peer.address))
    assert peer.address not in macs(one)


def test_another_mac_of_its_own_ends_the_daemon(made: Rig) -> None:
    """The programs were loaded with the old one; a new daemon loads the new one."""
    one = made.add_droplet()
    one.start()
    set_mac(one.namespace, "02:00:00:00:99:03")
    assert one.process is not None
    assert one.process.wait(30) == 1
    assert "MAC of sub0 changed" in " ".join(one.log.read_text().split())
    one.start()


def test_failed_first_start_leaves_nothing(made: Rig, tmp_path: Path) -> None:
    """What it listens on is taken, or cannot be: one sentence, and neither programs nor pins stay behind."""
    one, other = made.add_droplet(), made.add_droplet()
    other.start()
    initialise(tmp_path / "pki")
    with Namespace.by_name(one.namespace) as entered:
        taken = entered.run(lambda: socket.create_server(("172.30.9.1", 7443)))
    cases = {
        f"unix://{other.socket}": "another process listens",
        "unix:///proc/no/folder/socket": "cannot listen on /proc/no/folder/socket",
        "172.30.9.1:7443": "cannot listen on 172.30.9.1:7443",
    }
    for listen, sentence in cases.items():
        command = [*one.command()[:6], "--interface", "sub0", "--name", one.name, "--listen", listen]
        command += ["--pki", str(tmp_path / "pki")]
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert found.returncode == 1
        assert sentence in " ".join(found.stderr.split())
        assert "internal error" not in found.stderr
        assert one.name not in bpffs.instances()
    taken.close()
    with IPRoute(netns=one.namespace) as ip:
        xdp = ip.link("get", ifname="sub0")[0].get_attr("IFLA_XDP")
    assert not xdp or not xdp.get_attr("IFLA_XDP_ATTACHED")


def own_interface(droplet: Droplet, *command: str) -> None:
    """An ip(8) command about the droplet's own interface."""
    subprocess.run(["ip", "-n", droplet.namespace, *command], check=True, timeout=30)


def test_own_interface_down_is_counted_and_up_again_heals(made: Rig) -> None:
    """While it is down no next hop is resolved, and packets are refused for that reason. Then all is as before."""
    one, two, first, second = two_droplets(made)
    until(lambda: ping(second, "10.0.1.11", 0.2), "the first answer")
    own_interface(one, "link", "set", "sub0", "down")
    until(lambda: macs(one)[two.address] == bytes(6), "no next hop is resolved")
    assert ping(first, "10.0.1.12", 0.2) is None
    assert one.drops()["NEXT_HOP_UNRESOLVED"] >= 1
    own_interface(one, "link", "set", "sub0", "up")
    until(lambda: ping(first, "10.0.1.12", 0.2), "the first answer again")


def test_lost_address_is_told(made: Rig) -> None:
    """Nobody can reach the droplet without it; when it is back, so is the traffic."""
    one, _, first, second = two_droplets(made)
    until(lambda: ping(second, "10.0.1.11", 0.2), "the first answer")
    own_interface(one, "addr", "del", "172.30.9.1/24", "dev", "sub0")
    until(lambda: "event=address_lost address=172.30.9.1" in one.log.read_text(), "the loss is told")
    own_interface(one, "addr", "add", "172.30.9.1/24", "dev", "sub0")
    until(lambda: "event=address_back" in one.log.read_text(), "the return is told")
    until(lambda: ping(first, "10.0.1.12", 0.2), "the first answer again")


def test_endpoints_stay_with_their_droplets_address(made: Rig) -> None:
    """A second address changes nothing. With another one instead, the daemon refuses to end what is there."""
    one, _, first, second = two_droplets(made)
    until(lambda: ping(second, "10.0.1.11", 0.2), "the first answer")
    one.stop()
    own_interface(one, "addr", "del", "172.30.9.1/24", "dev", "sub0")
    own_interface(one, "addr", "add", "172.30.9.77/24", "dev", "sub0")
    for more in ([], ["--address", "172.30.9.77"]):
        found = subprocess.run(one.command(*more), capture_output=True, text=True, timeout=20, check=False)
        assert found.returncode == 1
        assert "the endpoints here belong to droplet 172.30.9.1, and this would be 172.30.9.77" in " ".join(
            found.stderr.split()
        )
    own_interface(one, "addr", "add", "172.30.9.1/24", "dev", "sub0")
    one.start()
    assert [found.local.uid for found in one.state().local_endpoints] == ["uid-1"]
    until(lambda: ping(first, "10.0.1.12", 0.2), "the first answer again")


def test_droplets_behind_a_router(made: Rig) -> None:
    """In different subnets: the MAC is the router's, also when the route comes late and changes."""
    one, two = made.add_droplet(), made.add_droplet()
    router, switch = made.make_namespace("router"), made.switch
    for command in (
        f"-n {switch} link add br1 up type bridge",
        f"-n {switch} link set p2 master br1",
        f"-n {switch} link add r0 master br0 up type veth peer name eth0 netns {router}",
        f"-n {switch} link add r1 master br1 up type veth peer name eth1 netns {router}",
        f"-n {router} link set eth0 up",
        f"-n {router} link set eth1 up",
        f"-n {router} addr add 172.30.9.254/24 dev eth0",
        f"-n {router} addr add 172.30.9.253/24 dev eth0",
        f"-n {router} addr add 172.30.10.254/24 dev eth1",
        f"-n {two.namespace} addr del 172.30.9.2/24 dev sub0",
        f"-n {two.namespace} addr add 172.30.10.2/24 dev sub0",
        f"-n {two.namespace} route add default via 172.30.10.254",
    ):
        subprocess.run(["ip", *command.split()], check=True, timeout=30)
    with Namespace.by_name(router) as entered:
        entered.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
    two.address = packed("172.30.10.2")
    first, second = made.make_namespace("e1"), made.make_namespace("e2")
    for droplet in (one, two):
        droplet.start()
        droplet.apply(put_droplet(one), put_droplet(two), put_vpc(two), put_network(FRONT, two))
    one.attach_whole(local("uid-1", endpoint(1, FRONT, one), name=first))
    two.attach_whole(local("uid-2", endpoint(2, FRONT, two), name=second))
    two.apply(pb.Change(put_endpoint=endpoint(1, FRONT, one)))
    assert ping(first, "10.0.1.12", 0.2) is None
    own_interface(one, "route", "add", "172.30.10.0/24", "via", "172.30.9.254")
    until(lambda: ping(first, "10.0.1.12", 0.2), "the first answer")
    own_interface(one, "route", "replace", "172.30.10.0/24", "via", "172.30.9.253")
    assert ping(first, "10.0.1.12") is not None
