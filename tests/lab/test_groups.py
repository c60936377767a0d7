# SPDX-License-Identifier: Apache-2.0
"""Labels, options and the tunnel protocol of a live endpoint: connections go on, and the wire shows the change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.demo import traffic
from mizar.lab.names import LabName
from mizar.lab.substrate import INTERFACE
from mizar.model.manifest import parse_manifests, parse_resource
from mizar.model.resources import Ref
from tests.lab.screen import Recorder
from tests.lab.transfer import Capture, Numbered, Transfer
from tests.marks import first_of

EXAMPLES = Path(__file__).parents[2] / "examples"
GENEVE, VXLAN = 6081, 4789


def up(lab: LabName, example: str, name: str) -> None:
    text = (EXAMPLES / example).read_text().replace(f"metadata: {{name: {name}}}", f"metadata: {{name: {lab.name}}}")
    labs.up(parse_manifests(text, "test"))


def changed(client: Client, name: str, *, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """Applies another version of an endpoint of blue's, and waits for it."""
    ref = Ref("Endpoint", "blue", name)
    found = client.get("Endpoint", name, "blue")
    found["spec"] |= spec
    if labels is not None:
        found["metadata"]["labels"] = labels
    client.apply([parse_resource({**found, "status": {}})])
    client.wait([ref], 30.0)
    return client.get("Endpoint", name, "blue")


@pytest.fixture
def groups(lab: LabName) -> LabName:
    up(lab, "groups.yaml", "groups")
    return lab


@pytest.fixture
def options(lab: LabName) -> LabName:
    up(lab, "endpoint-options.yaml", "options")
    return lab


@pytest.fixture
def client(lab: LabName) -> Iterator[Client]:
    with Client(lab.server_url) as made:
        yield made


def test_all_traffic_flows_with_groups(groups: LabName, client: Client) -> None:
    """Every way between endpoints with and without options; members are counted."""
    found = {item["metadata"]["name"]: item["status"].get("members") for item in client.list("Network")}
    assert found == {"front": None, "back": None, "web": 2, "production": 2, "gateways": 1}
    assert traffic(groups, Recorder()).ok


def test_a_transfer_goes_on_while_labels_flip(groups: LabName, client: Client) -> None:
    """One connection through all of it. After each change what leaves the droplet bears the new set and ids."""
    address = client.get("Endpoint", "db", "blue")["status"]["addresses"][0]
    web, db = (groups.endpoint_namespace("blue", name) for name in ("web-1", "db"))
    capture = Capture(groups.droplet_namespace("d1"), INTERFACE)
    transfer = Transfer(web, db, address)
    seen = set()
    for labels in ({}, {"app": "web"}, {"stage": "test"}, {"app": "web", "stage": "test"}, {"app": "web"}):
        status = changed(client, "web-1", labels=labels)["status"]
        ids = b"".join(one.to_bytes(4, "big") for one in status["groupIds"])
        data = status["groupSet"].to_bytes(4, "big") + ids
        option = b"\xff\x01\x02" + bytes([len(data) // 4]) + data
        capture.forget()
        words = len(option) // 4
        assert any(
            port == GENEVE and first >> 24 == words and rest.startswith(option)
            for port, first, rest in capture.tunnels()
        )
        seen.add(status["groupSet"])
        assert transfer.goes_on()
    assert transfer.end()
    assert len(seen) == 5, "a number that was given back rests"
    capture.close()


def test_vxlan_bears_the_group_in_its_header(groups: LabName, client: Client) -> None:
    """After a change of the tunnel protocol, the number of the set is in the policy field. Both ends change: a droplet
    that knows where the other one lives sends in that one's tunnel."""
    changed(client, "db", tunnelProtocol="vxlan")
    status = changed(client, "web-1", tunnelProtocol="vxlan")["status"]
    address = client.get("Endpoint", "db", "blue")["status"]["addresses"][0]
    capture = Capture(groups.droplet_namespace("d1"), INTERFACE)
    web, db = (groups.endpoint_namespace("blue", name) for name in ("web-1", "db"))
    stream = Numbered(web, db, address)
    wanted = (VXLAN, 0x88000000 | status["groupSet"])
    seen = set()
    for port, first, _ in capture.tunnels():
        seen.add((port, hex(first)))
        if (port, first) == wanted:
            break
    else:
        pytest.fail(f"not among {seen}: {wanted}")
    assert stream.end() == 0
    capture.close()


@pytest.mark.long
def test_all_traffic_flows_with_options_of_endpoints(options: LabName) -> None:
    """Between endpoints with options, without, and with VXLAN; bulk too."""
    assert traffic(options, Recorder()).ok


@pytest.mark.long
def test_options_change_under_a_transfer(options: LabName, client: Client) -> None:
    """None, some, as many as there may be; what leaves the droplet bears them, and nothing of the transfer is lost."""
    address = client.get("Endpoint", "plain", "blue")["status"]["addresses"][0]
    marked, plain = (options.endpoint_namespace("blue", name) for name in ("marked", "plain"))
    capture = Capture(options.droplet_namespace("d1"), INTERFACE)
    transfer = Transfer(marked, plain, address)
    for data in (None, "", "00112233", "ab" * 124):
        wanted = b"" if data is None else b"\x01\x02\x01" + bytes([len(data) // 8]) + bytes.fromhex(data)
        changed(client, "marked", geneveOptions=[] if data is None else [{"class": 0x0102, "type": 1, "data": data}])
        capture.forget()
        assert any(first >> 24 == len(wanted) // 4 and rest.startswith(wanted) for _, first, rest in capture.tunnels())
        assert transfer.goes_on()
    assert transfer.end()
    capture.close()


@pytest.mark.parametrize("receiver", first_of(["plain", "older"]))
def test_the_tunnel_protocol_changes_without_loss(options: LabName, client: Client, receiver: str) -> None:
    """Of the sender's side and of the receiver's, to and fro, under numbered datagrams and a transfer."""
    changed(client, "marked", geneveOptions=[])
    address = client.get("Endpoint", receiver, "blue")["status"]["addresses"][0]
    source, destination = (options.endpoint_namespace("blue", name) for name in ("marked", receiver))
    stream, transfer = Numbered(source, destination, address), Transfer(source, destination, address)
    for protocol in ("vxlan", "geneve", "vxlan"):
        for name in ("marked", receiver):
            changed(client, name, tunnelProtocol=protocol)
            assert transfer.goes_on()
            assert stream.goes_on()
    assert transfer.end()
    assert stream.end() == 0
