# SPDX-License-Identifier: Apache-2.0
"""Labs whose droplets have no XDP (`mizar daemon --xdp off`): the demo's matrix, and superpackets that are sent on."""

from __future__ import annotations

import os

import pytest

from mizar.api.client import Client
from mizar.cli.demo import EXAMPLE
from mizar.lab import lab as labs
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Lab, Resource, SubstrateSpec
from tests.lab.screen import Recorder
from tests.lab.test_appliance import arrives, green, repeat
from tests.lab.test_routing import dropped, example
from tests.lab.test_substrate_route import address
from tests.transit.test_bulk import Seen
from tests.transit.traffic import send_superpacket, send_tcp, sink

OFF = ("--xdp", "off", "--uplink-offloads")
"""Data cross the wire in large pieces."""
TWO_FAMILIES = SubstrateSpec(cidr="172.31.0.0/24", second_cidr="fd31::/64", only={"d1": "ipv4", "d3": "ipv6"}, mtu=1500)
BYTES = 8 << 20


def without_xdp(resources: list[Resource], substrate: SubstrateSpec | None = None) -> list[Resource]:
    """The same, whose daemons use none."""
    changed = {"daemon_arguments": OFF} | ({"substrate": substrate} if substrate else {})
    return [
        one.model_copy(update={"spec": one.spec.model_copy(update=changed)}) if isinstance(one, Lab) else one
        for one in resources
    ]


def demo(lab: LabName) -> list[Resource]:
    """The demo's manifests under a name of their own."""
    text = EXAMPLE.read_text()
    return parse_manifests(text.replace("metadata: {name: demo}", f"metadata: {{name: {lab.name}}}"), "demo")


@pytest.mark.long
def test_everybody_is_reached(lab: LabName) -> None:
    """Ping, UDP and TCP of both families between all endpoints of the demo, and nobody else's."""
    labs.up(without_xdp(demo(lab)))
    with Client(lab.server_url) as client:
        assert {item["status"]["xdpMode"] for item in client.list("Droplet")} == {"off"}
    result = traffic(lab, Recorder())
    assert [cell for cell in result.cells if not cell.ok] == []
    assert [problem for path in result.paths for problem in path.problems] == []
    assert result.ok


@pytest.mark.long
@pytest.mark.parametrize("substrate", [None, TWO_FAMILIES], ids=["one-family", "two-families"])
def test_superpackets_that_an_endpoint_forwards_arrive(lab: LabName, substrate: SubstrateSpec | None) -> None:
    """TCP by way of a firewall, which gets superpackets and sends them on, from a droplet that speaks IPv4 alone to one
    that speaks IPv6 alone as well, and superpackets of UDP. Without open_marked() no byte arrives."""
    labs.up(without_xdp(example(lab, "appliance"), substrate))
    for family in (4, 6):
        to = address(lab, "green", "db-1", family)
        repeat(lambda family=family: arrives(lab, "web-1", "db-1", family))  # type: ignore[misc]
        before = Seen.at(green(lab, "fw"), "eth0")
        data = os.urandom(BYTES)
        with sink(green(lab, "db-1"), to, 5001) as received:
            send_tcp(green(lab, "web-1"), to, 5001, data)
        assert b"".join(received) == data
        assert Seen.at(green(lab, "fw"), "eth0").since(before) > 3000
        send_superpacket(green(lab, "web-1"), green(lab, "db-1"), to)
    with Client(lab.server_url) as client:
        assert [dropped(client, name).get("REWRITE_FAILED", 0) for name in ("d1", "d2", "d3")] == [0, 0, 0]
