# SPDX-License-Identifier: Apache-2.0
"""The shipped descriptions, made in the real kernel under names of this test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mizar.kernel.topology_facts import VLAN_FILTERING
from mizar.kernel.topology_features import missing
from mizar.topology.compare import State
from tests.topology.conftest import HEAD, Host

pytestmark = pytest.mark.root

FOLDER = Path(__file__).parents[2] / "examples" / "topologies"
NAMES = {"bridge": ("netns-a", "netns-b", "netns-c"), "dpdk": ("dpdk_netns", "dpdk-a", "dpdk-b", "dpdk-c")}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_description_is_made_and_taken_away(gateway: Host, name: str) -> None:
    """Once; everything is as wanted; nothing is left."""
    text = (FOLDER / f"{name}.yaml").read_text()
    for namespace in NAMES[name]:
        text = text.replace(f"{namespace},", f"NS-{namespace},").replace(f"{namespace}}}", f"NS-{namespace}}}")
        text = text.replace(f"{namespace}\n", f"NS-{namespace}\n")
    assert len(gateway.apply(text).steps) == 14
    assert sorted(gateway.names()) == sorted(NAMES[name])
    assert {row.state for row in gateway.show(text)} == {State.AS_WANTED}
    assert gateway.apply(text).steps == []
    gateway.delete(text)
    assert gateway.links() == {}
    assert gateway.names() == []


VLANS = (
    HEAD
    + """
  bridges: [{name: br0, vlanFiltering: true}]
  vteps:
    - {name: vx0, bridge: br0, external: true, vnifilter: true, vnis: [100, 200], vlans: [{vlan: 10, vni: 100}]}
  veths:
    - {name: v0, ends: [{interface: v0-br, bridge: br0, vlan: 10}, {interface: eth0}]}
"""
)


def test_vlans_of_ports(gateway: Host) -> None:
    """Access ports and VLANs that stand for VNIs; changed in place, repaired, none by default."""
    if missing({VLAN_FILTERING}):
        pytest.skip(f"this kernel lacks {VLAN_FILTERING}")
    gateway.apply(VLANS)
    links = gateway.links()
    assert links["", "br0"].link.vlan_filtering
    assert links["", "vx0"].link.vlans == frozenset({(10, 100)})
    assert links["", "v0-br"].link.vlans == frozenset({(10, 0)})
    assert gateway.apply(VLANS).steps == []
    changed = VLANS.replace("{vlan: 10, vni: 100}", "{vlan: 10, vni: 200}, {vlan: 11, vni: 100}")
    changed = changed.replace("bridge: br0, vlan: 10", "bridge: br0, vlan: 11")
    gateway.apply(changed)
    links = gateway.links()
    assert links["", "vx0"].link.vlans == frozenset({(10, 200), (11, 100)})
    assert links["", "v0-br"].link.vlans == frozenset({(11, 0)})
    assert gateway.apply(changed).steps == []


def test_a_vlan_is_a_vni_on_the_wire(gateway: Host) -> None:
    """Frames of an access port leave in the VNI of their VLAN, to a peer that was made by hand, and come back."""
    if missing({VLAN_FILTERING}):
        pytest.skip(f"this kernel lacks {VLAN_FILTERING}")
    text = VLANS.replace("{interface: eth0}", "{interface: eth0, namespace: NS-a, addresses: [10.5.0.1/24]}")
    text = text.replace("  bridges:", "  namespaces: [{name: NS-a}]\n  bridges:").replace(
        "external:", "local: 192.0.2.1, external:"
    )
    gateway.apply(text)
    subprocess.run(["ip", "netns", "add", f"{gateway.prefix}-p"], check=True)
    gateway.ip(*f"link add wire type veth peer name wire netns {gateway.prefix}-p".split())
    for namespace, address in (("", "192.0.2.1/30"), ("p", "192.0.2.2/30")):
        gateway.ip("addr", "add", address, "dev", "wire", namespace=namespace)
        gateway.ip("link", "set", "wire", "up", namespace=namespace)
    peer = "link add vx type vxlan id 100 local 192.0.2.2 remote 192.0.2.1 dstport 4789"
    gateway.ip(*peer.split(), namespace="p")
    gateway.ip("addr", "add", "10.5.0.2/24", "dev", "vx", namespace="p")
    gateway.ip("link", "set", "vx", "up", namespace="p")
    flood = "fdb append 00:00:00:00:00:00 dev vx0 src_vni 100 dst 192.0.2.2 vni 100"
    subprocess.run(["bridge", "-n", gateway.name, *flood.split()], check=True)
    ping = ["ip", "netns", "exec", f"{gateway.prefix}-a", "ping", "-c", "1", "-W", "20", "10.5.0.2"]
    assert subprocess.run(ping, capture_output=True, check=False).returncode == 0
