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
from tests.transit.rig import Droplet, Rig, put_droplet, until
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
    assert one.process.wait(5) == 1
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
