# SPDX-License-Identifier: Apache-2.0
"""VPN connections to sites behind a NAT, which alone has an address on the substrate: the site begins, and both sides
speak. Without a NAT's namespace between, or without UDP around ESP, nothing of this comes up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from tests.lab.far_site import FarSite, FarStrongswan, Site, inside, ip, key
from tests.lab.test_substrate_route import address, stream
from tests.lab.test_vpn import PSK, becomes, flow, green, lost, pings
from tests.lab.test_vpn_several import connection, manifests

PRIVATE, ROUTER = "10.77.0.2", "10.77.0.1"
"""Of the gateway, and of the NAT towards it."""


@contextmanager
def behind_nat(site: Site) -> Iterator[str]:
    """The site's address is a NAT's from now on, and its gateway behind it, which is seen at other ports than it has.
    The NAT's namespace."""
    nat = f"{site.lab.namespace_prefix}{site.name}-nat"
    substrate = site.lab.substrate_namespace
    ip("netns", "add", nat)
    ip("-n", substrate, "link", "del", site.name)
    ip("-n", substrate, "link", "add", site.name, "type", "veth", "peer", "name", "wan", "netns", nat)
    ip("-n", substrate, "link", "set", site.name, "master", "bridge", "up")
    ip("-n", nat, "link", "add", "in", "type", "veth", "peer", "name", "wan", "netns", site.gateway)
    ip("-n", nat, "addr", "add", f"{site.addresses[4]}/24", "dev", "wan")
    ip("-n", nat, "addr", "add", f"{ROUTER}/24", "dev", "in")
    ip("-n", site.gateway, "addr", "add", f"{PRIVATE}/24", "dev", "wan")
    for namespace, link in ((nat, "lo"), (nat, "wan"), (nat, "in"), (site.gateway, "wan")):
        ip("-n", namespace, "link", "set", link, "up")
    ip("-n", site.gateway, "route", "add", "default", "via", ROUTER)
    subprocess.run([*inside(nat), "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
    masquerade(nat, 20000)
    yield nat


def masquerade(nat: str, first: int) -> None:
    """What the gateway sends has the NAT's address, and a port of a hundred from `first` on; nothing else gets in."""
    rules = f"""flush ruleset
table ip nat {{
  chain out {{
    type nat hook postrouting priority 100; oifname wan meta l4proto udp masquerade to :{first}-{first + 99};
  }}
}}
table ip filter {{
  chain through {{ type filter hook forward priority 0; iifname wan ct state != {{ established, related }} drop; }}
}}
"""
    subprocess.run([*inside(nat), "nft", "-f", "-"], input=rules, text=True, check=True)


def both_ways(lab: LabName, far: Site) -> None:
    """ICMP and TCP of both families, begun on either side."""
    for family in (4, 6):
        web = address(lab, "green", "web-1", family)
        pings(green(lab), far.hosts[family])
        pings(far.host, web)
        stream(far.host, green(lab), far.hosts[family], family)
        stream(green(lab), far.host, web, family)


@pytest.mark.long
def test_wireguard_behind_a_nat(lab: LabName) -> None:
    """The site keeps the NAT's mapping alive; when the NAT forgets and takes another port, it is followed."""
    labs.up(manifests(lab))
    with FarSite(lab) as far, behind_nat(far) as nat, Client(lab.server_url) as client:
        private, public = key()
        guard = {"privateKey": private, "port": 51900, "peerPublicKey": far.public, "keepaliveS": 1}
        client.apply([connection("to-far", "green", far, peer_port=far.port, wireguard=guard)])
        far.configure(public, endpoint="172.31.0.2:51900", keepalive_s=1)
        becomes(lab, "up")
        both_ways(lab, far)
        masquerade(nat, 30000)
        subprocess.run([*inside(nat), "conntrack", "-F"], check=True, capture_output=True)
        pings(green(lab), far.hosts[4])
        with flow(green(lab), far.hosts[4]) as sent:
            for _ in range(3):
                pings(far.host, address(lab, "green", "web-1", 6))
        assert lost(sent) == 0


@pytest.mark.long
def test_ipsec_behind_a_nat(lab: LabName, tmp_path: Path) -> None:
    """ESP in UDP, from a port that is not 4500."""
    labs.up(manifests(lab))
    with FarStrongswan(lab, tmp_path, PSK, begins=("172.31.0.2", 4510)) as far, behind_nat(far) as nat:
        with Client(lab.server_url) as client:
            names = {"localId": "green.example", "remoteId": "far.example"}
            client.apply([connection("to-far", "green", far, ipsec=names | {"psk": PSK, "port": 4510})])
        far.load()
        becomes(lab, "up")
        both_ways(lab, far)
        argv = [*inside(nat), "conntrack", "-L", "-p", "udp"]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert "sport=4500 dport=4510" in shown
        assert "sport=4510 dport=200" in shown
