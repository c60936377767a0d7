# SPDX-License-Identifier: Apache-2.0
"""From VPCs of Mizar through a gateway to the world outside and back, over each way of a new connection.

Two tenants have equal addresses. To each VPC the world is a network with a foreign endpoint, on a droplet without
daemon that is the gateway; to the gateway a VPC is a VNI behind the droplet that knows that network.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from scapy.all import ICMP, IP, UDP, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.packet import Packet

from mizar.api.client import Client
from mizar.kernel import interfaces, namespaces
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.addresses import ROUTER_MAC
from mizar.model.manifest import parse_manifests
from mizar.pipeline.kernel_path import KernelPath, KernelPort, KernelRoute
from mizar.pipeline.nat import Masquerade, NatRules
from mizar.pipeline.ranges import Ranges
from tests.gateway.rig import FAR4, FAR6, GATEWAY_MAC, PORT, UdpEcho, heard_from, put_behind
from tests.gateway.rig import Rig as Host
from tests.gateway.running import NEW, description_of, running
from tests.gateway.talk import EXCEEDED, REFUSED, TOO_BIG, bulk, complain, ping, stream, told
from tests.marks import first_of
from tests.peers.foreign import command, on_wire, plugged

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

GATEWAY, OUTER = "172.31.0.100", "172.31.0.101"
VNIS = {"blue": 4242, "green": 4243, "world": 100}
WORLD4, WORLD6, POOL4, POOL6 = "10.0.200.254", "fd00:10:0:c8::fe", "10.0.200.10", "fd00:10:0:c8::10"
WEB4, WEB6 = "10.0.1.5", "fd00:10:0:1::5"
FAR_PORT, END_PORT = 9009, 9010
"""The world sends on what comes to these, to a host over a narrower link; of the second its last hop is the world."""
MAC = GATEWAY_MAC.to_bytes(6, "big").hex(":")
BEYOND = f"""
table inet beyond {{
	chain ages {{
		type filter hook prerouting priority mangle
		udp dport {END_PORT} ip ttl set 1
		udp dport {END_PORT} ip6 hoplimit set 1
	}}
	chain leads {{
		type nat hook prerouting priority dstnat
		iifname vx udp dport {{ {FAR_PORT}, {END_PORT} }} dnat ip to {FAR4}
		iifname vx udp dport {{ {FAR_PORT}, {END_PORT} }} dnat ip6 to {FAR6}
	}}
}}
"""

MANIFEST = f"""
{{apiVersion: mizar/v1, kind: Lab, metadata: {{name: NAME}}, spec: {{droplets: 2}}}}
---
{{apiVersion: mizar/v1, kind: Droplet, metadata: {{name: gateway}}, spec: {{address: {GATEWAY}, daemon: none}}}}
"""
for _tenant in ("blue", "green"):
    MANIFEST += f"""
---
{{apiVersion: mizar/v1, kind: Tenant, metadata: {{name: {_tenant}}}}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {{name: main, tenant: {_tenant}}}
spec: {{cidrs: [10.0.0.0/16, "fd00:10::/48"], vni: {VNIS[_tenant]}}}
---
apiVersion: mizar/v1
kind: Network
metadata: {{name: world, tenant: {_tenant}}}
spec: {{vpc: main, cidrs: [10.0.200.0/24, "fd00:10:0:c8::/64"], tunnelProtocol: vxlan}}
---
apiVersion: mizar/v1
kind: Network
metadata: {{name: front, tenant: {_tenant}}}
spec:
  vpc: main
  cidrs: [10.0.1.0/24, "fd00:10:0:1::/64"]
  tunnelProtocol: vxlan
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {{name: server, tenant: {_tenant}}}
spec:
  network: world
  droplet: gateway
  addresses: [{WORLD4}, "{WORLD6}"]
  mac: "{MAC}"
  tunnelProtocol: vxlan
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {{name: web, tenant: {_tenant}}}
spec: {{network: front, droplet: d2, addresses: [{WEB4}, "{WEB6}"]}}
"""


def nat() -> NatRules:
    """Both tenants behind one address of each family."""
    insides = Ranges.of(32, [0x01000000 + VNIS[name] for name in ("blue", "green")])
    outside = 0x01000000 + VNIS["world"]
    return NatRules(
        masquerade=tuple(
            Masquerade(inside=insides, outside=outside, addresses=(ip_address(one),)) for one in (POOL4, POOL6)
        )
    )


def kernel(namespace: str) -> KernelPath:
    """How the kernel lives in each VPC, and outside with the router's MAC: frames keep theirs on the hot path."""
    inner = (ip_interface("10.0.200.3/24"), ip_interface("fd00:10:0:c8::3/64"))
    inward = (
        KernelRoute(to=ip_network("10.0.0.0/16"), via=ip_address("10.0.200.1")),
        KernelRoute(to=ip_network("fd00:10::/48"), via=ip_address("fd00:10:0:c8::1")),
    )
    ports = [
        KernelPort(meta=0x01000000 + VNIS[name], to=name, mac=GATEWAY_MAC, addresses=inner, routes=inward)
        for name in ("blue", "green")
    ]
    outer = (ip_interface("10.0.200.2/24"), ip_interface("fd00:10:0:c8::2/64"))
    mac = int.from_bytes(ROUTER_MAC, "big")
    ports.append(KernelPort(meta=0x01000000 + VNIS["world"], to="world", mac=mac, addresses=outer))
    return KernelPath(namespace=namespace, ports=tuple(ports), mtu=1400)


@contextmanager
def plumbed(lab: LabName) -> Iterator[tuple[Host, dict[str, tuple[str, str]]]]:
    """The gateway's host and the world on the lab's substrate; by name address and MAC of whom each VNI is behind."""
    with ExitStack() as stack:
        host = stack.enter_context(plugged(lab, "gw"))
        on_wire(host, "wire", GATEWAY)
        world = stack.enter_context(plugged(lab, "outer"))
        on_wire(world, "wire", OUTER)
        kind = ["type", "vxlan", "id", str(VNIS["world"]), "local", OUTER, "remote", GATEWAY, "dstport", "4789"]
        command("ip", "-n", world, "link", "add", "vx", "address", MAC, "mtu", "1400", *kind, "nolearning")
        for address in (f"{WORLD4}/24", f"{WORLD6}/64"):
            command("ip", "-n", world, "addr", "add", address, "dev", "vx", *(["nodad"] if ":" in address else []))
        command("ip", "-n", world, "link", "set", "vx", "up")
        beyond = stack.enter_context(plugged(lab, "beyond"))
        put_behind(world, beyond)
        subprocess.run(["nsenter", f"--net=/run/netns/{world}", "nft", "-f", "-"], input=BEYOND, text=True, check=True)
        behind = {"world": (OUTER, _mac(OUTER, host))}
        with Client(lab.server_url) as client:
            for tenant in ("blue", "green"):
                droplet = client.get("Network", "world", tenant)["status"]["bouncers"][0]
                address = client.get("Droplet", droplet)["spec"]["address"]
                behind[tenant] = address, _mac(address, host)
        names = {name: lab.endpoint_namespace(name, "web") for name in ("blue", "green")} | {"world": world}
        ends = {name: stack.enter_context(Namespace.by_name(one)) for name, one in names.items()}
        opened = stack.enter_context(Namespace.by_name(host))
        opened.run(lambda: interfaces.set_gro("wire", on=True))
        with Namespace.by_name(lab.substrate_namespace) as substrate:  # or a redirect into the wire delivers nothing
            substrate.run(lambda: interfaces.set_gro("gw", on=True))
        yield Host(f"gwl{os.getpid()}", opened, ends), behind


def _mac(address: str, host: str) -> str:
    """Whoever answers for an address on the substrate."""
    command("ping", "-c1", "-W10", address, namespace=host)
    words = command("ip", "-n", host, "neigh", "show", address).split()
    return words[words.index("lladdr") + 1]


def _own_mac(namespace: Namespace) -> str:
    with Netlink(namespace) as netlink:
        return interfaces.get(netlink, "wire").mac.hex(":")


def silent(namespace: Namespace, address: str, port: int) -> socket.socket:
    """Takes datagrams and says nothing, so that there is no error about them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = namespace.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
    made.bind((address, port))
    return made


def about(source: str, target: str, port: int, kind: str) -> Packet:
    """An error of `source`, who would have sent on what `target` sent from port PORT to its port."""
    ports = UDP(sport=PORT, dport=port) / bytes(8)
    if ":" not in source:
        error = ICMP(type=11) if kind is EXCEEDED else ICMP(type=3, code=4, nexthopmtu=1300)
        return IP(src=source, dst=target) / error / IP(src=target, dst=source, flags="DF") / ports
    error = ICMPv6TimeExceeded() if kind is EXCEEDED else ICMPv6PacketTooBig(mtu=1300)
    return IPv6(src=source, dst=target) / error / IPv6(src=target, dst=source) / ports


@pytest.mark.parametrize("way", first_of(NEW))
def test_a_vpc_speaks_with_the_world(lab: LabName, way: str, tmp_path: Path) -> None:
    """UDP, TCP, ICMP and their errors, both families, both tenants at once; the errors from the world about what comes
    out of a VPC, and those from an endpoint about what comes from the world."""
    labs.up(parse_manifests(MANIFEST.replace("NAME", lab.name), "test"))
    with plumbed(lab) as (host, behind):
        own = _own_mac(host.host)
        inside = f"{lab.namespace_prefix}peer_nat"
        text = description_of(way, (GATEWAY, own), behind, VNIS, kernel(inside), nat())
        with running(host, text, tmp_path):
            world, tenants = host.ends["world"], (host.ends["blue"], host.ends["green"])
            for far, pool, web in ((WORLD4, POOL4, WEB4), (WORLD6, POOL6, WEB6)):
                with UdpEcho(world, far):
                    outer = [heard_from(tenant, far, source_port=4000) for tenant in tenants]
                assert {address for address, _ in outer} == {pool}
                assert len(set(outer)) == 2
                for tenant, (_, port) in zip(tenants, outer, strict=True):
                    ask = partial(told, world, pool, port=port, source=(far, PORT))
                    assert ask() == (REFUSED, pool)
                    with silent(tenant, web, 4000):
                        for kind in (EXCEEDED, TOO_BIG):
                            error = about(web, far, 4000, kind)
                            assert ask(then=partial(complain, tenant, error), kinds=(kind,)) == (kind, pool)
            for far in (WORLD4, WORLD6):
                with stream(tenants[0], world, far, PORT) as one, stream(tenants[1], world, far, PORT + 1) as two:
                    bulk(*one)
                    bulk(*two)
                for tenant in tenants:
                    ping(tenant, far)
                    assert told(tenant, far) == (REFUSED, far)
                    assert told(tenant, far, port=END_PORT) == (EXCEEDED, far)
                    assert told(tenant, far, port=FAR_PORT, size=1320) == (TOO_BIG, far)
    assert not namespaces.exists(inside)
