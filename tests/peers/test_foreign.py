# SPDX-License-Identifier: Apache-2.0
"""Independent tunnel ends exchange real traffic with ours, in both directions, over bouncers and dividers.

Whatever sender and receiver of our own share as a mistake shows here. Neighbours are resolved through the tunnel: the
foreign ends have no agent, so a bouncer answers their ARP requests and neighbour solicitations.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from tests.lab.conftest import lab as lab
from tests.peers.foreign import MAC, VNI, Foreign, kernel_vxlan, open_vswitch

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

PEER = "172.31.0.100"
PREFIX_OVER_IPV6, PEER_OVER_IPV6 = "fd31::/64", "fd31::100"
PEER4, PEER6 = "10.0.1.200", "fd00:10:0:1::c8"
LIMIT_S = 20.0

MANIFEST = f"""
{{apiVersion: mizar/v1, kind: Lab, metadata: {{name: NAME}}, spec: {{droplets: 2}}}}
---
{{apiVersion: mizar/v1, kind: Droplet, metadata: {{name: foreign}}, spec: {{address: {PEER}, daemon: none}}}}
---
{{apiVersion: mizar/v1, kind: Tenant, metadata: {{name: blue}}}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {{name: main, tenant: blue}}
spec: {{cidrs: [10.0.0.0/16, "fd00:10::/48"], vni: {VNI}}}
---
apiVersion: mizar/v1
kind: Network
metadata: {{name: front, tenant: blue}}
spec: {{vpc: main, cidrs: [10.0.1.0/24, "fd00:10:0:1::/64"]}}
---
apiVersion: mizar/v1
kind: Network
metadata: {{name: back, tenant: blue}}
spec: {{vpc: main, cidrs: [10.0.2.0/24, "fd00:10:0:2::/64"], tunnelProtocol: vxlan}}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {{name: peer, tenant: blue}}
spec: {{network: front, droplet: foreign, addresses: [{PEER4}, "{PEER6}"], mac: "{MAC}", tunnelProtocol: PROTOCOL}}
"""
for _network in ("front", "back"):
    for _droplet in ("d1", "d2"):
        MANIFEST += f"""
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {{name: {_network}-{_droplet}, tenant: blue}}
spec: {{network: {_network}, droplet: {_droplet}}}
"""


def start(lab: LabName, protocol: str, *, over_ipv6: bool = False) -> dict[str, list[str]]:
    """Brings the lab up; returns its endpoints' addresses, and under "bouncer" that of front's bouncer."""
    text = MANIFEST.replace("NAME", lab.name).replace("PROTOCOL", protocol)
    if over_ipv6:
        text = text.replace("{droplets: 2}", f'{{droplets: 2, substrate: {{cidr: "{PREFIX_OVER_IPV6}"}}}}')
        text = text.replace(f"address: {PEER}", f'address: "{PEER_OVER_IPV6}"')
    labs.up(parse_manifests(text, "test"))
    with Client(lab.server_url) as client:
        found = {item["metadata"]["name"]: item["status"]["addresses"] for item in client.list("Endpoint")}
        network = client.get("Network", "front", "blue")
        found["bouncer"] = [client.get("Droplet", network["status"]["bouncers"][0])["spec"]["address"]]
    return found


def ends(lab: LabName) -> Iterator[tuple[str, Namespace]]:
    """The endpoints on our side, with their namespaces."""
    for name in ("front-d1", "front-d2", "back-d1", "back-d2"):
        with Namespace.by_name(lab.endpoint_namespace("blue", name)) as namespace:
            yield name, namespace


def transfer(source: Namespace, destination: Namespace, address: str, size: int = 1 << 20) -> None:
    """A TCP connection from one namespace to an address in the other; everything sent is heard, unaltered."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    data = os.urandom(size)
    heard: list[str] = []
    with closing(destination.run(lambda: socket.create_server(("", 0), family=family))) as server:
        server.settimeout(LIMIT_S)

        def receive() -> None:
            connection, _ = server.accept()
            connection.settimeout(LIMIT_S)
            with connection, connection.makefile("rb") as stream:
                heard.append(hashlib.sha256(stream.read()).hexdigest())

        thread = threading.Thread(target=receive)
        thread.start()
        with source.run(lambda: socket.create_connection((address, server.getsockname()[1]), LIMIT_S)) as client:
            client.sendall(data)
        thread.join(LIMIT_S)
    assert heard == [hashlib.sha256(data).hexdigest()]


def exchange(lab: LabName, addresses: dict[str, list[str]], foreign: Foreign) -> None:
    """Both directions and both families, between the foreign end and each of ours."""
    for name, namespace in ends(lab):
        for own, theirs in zip(sorted(addresses[name]), sorted([PEER4, PEER6]), strict=True):
            transfer(foreign.endpoint, namespace, own)
            transfer(namespace, foreign.endpoint, theirs)


def test_a_kernel_vxlan_device_and_our_endpoints_exchange_traffic(lab: LabName) -> None:
    """VXLAN: neighbours through the tunnel, same network and other network, IPv4 and IPv6."""
    addresses = start(lab, "vxlan")
    with kernel_vxlan(lab, addresses["bouncer"][0], PEER, [f"{PEER4}/24", f"{PEER6}/64"]) as foreign:
        exchange(lab, addresses, foreign)


def test_an_open_vswitch_and_our_endpoints_exchange_traffic(lab: LabName, tmp_path: Path) -> None:
    """Geneve with a foreign option on every packet: the same, to Geneve and to VXLAN endpoints."""
    addresses = start(lab, "geneve")
    with open_vswitch(lab, addresses["bouncer"][0], PEER, [f"{PEER4}/24", f"{PEER6}/64"], tmp_path) as foreign:
        exchange(lab, addresses, foreign)


@pytest.mark.long
def test_a_kernel_vxlan_device_over_an_ipv6_substrate(lab: LabName) -> None:
    """The same with IPv6 outside, where droplets send no checksum and the kernel does."""
    addresses = start(lab, "vxlan", over_ipv6=True)
    own = [f"{PEER4}/24", f"{PEER6}/64"]
    with kernel_vxlan(lab, addresses["bouncer"][0], PEER_OVER_IPV6, own) as foreign:
        exchange(lab, addresses, foreign)


@pytest.mark.long
def test_an_open_vswitch_over_an_ipv6_substrate(lab: LabName, tmp_path: Path) -> None:
    """Geneve with a foreign option, IPv6 outside."""
    addresses = start(lab, "geneve", over_ipv6=True)
    own = [f"{PEER4}/24", f"{PEER6}/64"]
    with open_vswitch(lab, addresses["bouncer"][0], PEER_OVER_IPV6, own, tmp_path) as foreign:
        exchange(lab, addresses, foreign)
