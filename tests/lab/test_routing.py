# SPDX-License-Identifier: Apache-2.0
"""Routing with real daemons and real traffic: networks inside of networks, route tables, peerings."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Ref, Resource
from tests.lab.conftest import wait_until
from tests.lab.screen import Recorder

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(lab: LabName, name: str) -> list[Resource]:
    """An example under a name of its own."""
    text = (EXAMPLES / f"{name}.yaml").read_text()
    assert text.count(f"metadata: {{name: {name}}}") == 1
    return parse_manifests(text.replace(f"metadata: {{name: {name}}}", f"metadata: {{name: {lab.name}}}"), name)


def test_everybody_is_reached_in_networks_inside_of_networks(lab: LabName) -> None:
    """Ping, UDP and TCP of both families between all pairs: of one network, inside and around, over other droplets."""
    labs.up(example(lab, "routing"))
    result = traffic(lab, Recorder())
    assert [cell for cell in result.cells if not cell.ok] == []
    assert len(result.cells) == 20
    assert [problem for path in result.paths for problem in path.problems] == []
    assert result.ok


def test_a_route_table_holds_back_what_it_says(lab: LabName) -> None:
    """Nothing leaves the VPC from the network with the table, by either family; its neighbours are reached."""
    labs.up(example(lab, "routing"))
    send = "import socket, sys; socket.socket(%s, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 9))"
    for family, to in (("socket.AF_INET", "192.0.2.1"), ("socket.AF_INET6", "2001:db8::1")):
        with Namespace.by_name(lab.endpoint_namespace("green", "keys-1")) as inside:
            inside.run(partial(subprocess.run, [sys.executable, "-c", send % family, to], check=True))
    with Client(lab.server_url) as client:
        wait_until(lambda: dropped(client, "d1").get("ROUTE_BLACKHOLE", 0) == 2)
        assert "routes" in client.get("Network", "keys", "green")["spec"]


def dropped(client: Client, droplet: str) -> dict[str, int]:
    """Packets that a droplet refused, by reason."""
    return {row["name"]: int(row["packets"]) for row in client.counters(droplet)["drops"]}


def test_two_tenants_that_are_peered_hear_one_another_and_nobody_else_does(lab: LabName) -> None:
    """TCP, UDP and ping of both families, Geneve to VXLAN; a third tenant with equal addresses hears nothing. Once one
    half is gone, so is all that crossed."""
    labs.up(example(lab, "peering"))
    result = traffic(lab, Recorder())
    assert [cell for cell in result.cells if not cell.ok] == []
    across = [cell for cell in result.cells if cell.source.group != cell.destination.group]
    assert {(str(cell.source), str(cell.destination)) for cell in across} == {
        pair
        for blue in ("blue/one", "blue/two")
        for red in ("red/web", "red/db")
        for pair in ((blue, red), (red, blue))
    }
    assert result.isolation.ok, result.isolation
    assert result.isolation.sent > 0
    with Client(lab.server_url) as client:
        client.delete("VPCPeering", "to-blue", "red")
        client.wait([Ref("VPCPeering", "red", "to-blue")], 20, until="gone")
        (half,) = client.list("VPCPeering")
        assert half["status"]["state"] == "Pending"
    result = traffic(lab, Recorder())
    assert result.ok
    assert {cell.source.group == cell.destination.group for cell in result.cells} == {True}
