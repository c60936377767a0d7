# SPDX-License-Identifier: Apache-2.0
"""VPN connections with real daemons, real engines and a site that is not Mizar's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Ref
from mizar.transit.options import RUN_FOLDER
from mizar.transit.processes import running
from tests.lab.conftest import wait_until
from tests.lab.far_site import ADDRESS, HOST, LAN, FarSite, inside, key
from tests.lab.test_appliance import repeat
from tests.lab.test_routing import example
from tests.lab.test_substrate_route import address, stream

PORT = 7020
SITE = f"""
apiVersion: mizar/v1
kind: VpnConnection
metadata: {{name: to-far, tenant: green}}
spec:
  vpc: main
  endpoint: vpn
  remotePrefixes: [{LAN[4]}, "{LAN[6]}"]
  peer: {{address: {ADDRESS}, port: PEER_PORT}}
  downAfterS: 3
  wireguard: {{privateKey: "PRIVATE", peerPublicKey: "PUBLIC", port: 51900, keepaliveS: 1}}
"""


@pytest.fixture
def far(lab: LabName) -> Iterator[FarSite]:
    """The example's lab without its branch, and a site on the same substrate."""
    labs.up([one for one in example(lab, "vpn-wireguard") if one.ref.kind != "VpnConnection"])
    with FarSite(lab) as site:
        yield site


def connect(lab: LabName, site: FarSite, private: str, **other: str) -> None:
    """Applies the connection to the site."""
    text = SITE.replace("PRIVATE", private).replace("PUBLIC", other.get("public", site.public))
    text = text.replace("PEER_PORT", other.get("port", str(site.port)))
    with Client(lab.server_url) as client:
        client.apply(parse_manifests(text, "test"))
        client.wait([Ref("VpnConnection", "green", "to-far")], 30)


def status(lab: LabName, name: str = "to-far", tenant: str = "green") -> dict[str, Any]:
    with Client(lab.server_url) as client:
        found: dict[str, Any] = client.get("VpnConnection", name, tenant)["status"]
    return found


def becomes(lab: LabName, state: str, name: str = "to-far", tenant: str = "green") -> dict[str, Any]:
    """Waits until a connection is in a state; its status."""
    wait_until(lambda: status(lab, name, tenant).get("state") == state)
    return status(lab, name, tenant)


def green(lab: LabName, name: str = "web-1") -> str:
    return lab.endpoint_namespace("green", name)


def pings(source: str, to: str) -> None:
    """ICMP from a namespace, with an answer."""
    words = [*inside(source), "ping", "-c1", "-W1", to]
    repeat(lambda: subprocess.run(words, capture_output=True, check=False).returncode == 0)


def files_of(lab: LabName) -> list[Path]:
    return [path for folder in RUN_FOLDER.glob(f"{lab.instance_prefix}*.vpn") for path in folder.rglob("*")]


def process_of(lab: LabName) -> int:
    """The number of the one process that carries a tunnel."""
    (folder,) = {path.parent for path in files_of(lab) if path.name == "vpn"}
    return running(folder)


def test_a_site_behind_wireguard(lab: LabName, far: FarSite) -> None:
    """ICMP and bulk TCP of both families, begun on either side; nobody is shown a key; the daemon's restart loses
    nothing; a wrong key is told, and the right one brings it back; the end leaves nothing."""
    private, public = key()
    connect(lab, far, private)
    assert status(lab)["publicKey"] == public
    far.configure(public)
    found = becomes(lab, "up")
    assert found["engine"] == "wireguard-go"
    assert found["droplet"] == "d1"
    web = {family: address(lab, "green", "web-1", family) for family in (4, 6)}
    for family in (4, 6):
        pings(green(lab), HOST[family])
        pings(far.host, web[family])
        stream(far.host, green(lab), HOST[family], family)
        stream(green(lab), far.host, web[family], family)

    shown = [json.dumps(status(lab)), labs_output(lab), *(path.read_text() for path in lab.folder.glob("**/*.log"))]
    assert [text for text in shown if private in text] == []
    assert [path for path in files_of(lab) if path.name == "vpn" and path.stat().st_mode & 0o77] == []

    before = process_of(lab)
    restart(lab, "d1")
    assert process_of(lab) == before
    pings(green(lab), HOST[4])
    again(lab)
    assert process_of(lab) == before

    _, stranger = key()
    connect(lab, far, private, public=stranger)
    wait_until(lambda: status(lab)["state"] == "down")
    assert "has never answered" in status(lab)["detail"]
    connect(lab, far, private)
    becomes(lab, "up")
    pings(green(lab), HOST[6])

    with Client(lab.server_url) as client:
        client.delete("VpnConnection", "to-far", "green")
        client.wait([Ref("VpnConnection", "green", "to-far")], 30, until="gone")
        assert "routesRefused" not in {k for k, v in client.get("Network", "web", "green")["status"].items() if v}
    assert files_of(lab) == []
    wait_until(lambda: not Path(f"/proc/{before}/exe").exists())
    links = subprocess.run([*inside(green(lab, "vpn")), "ip", "-o", "link"], capture_output=True, check=True, text=True)
    assert "mzvpn" not in links.stdout


def labs_output(lab: LabName) -> str:
    """All that the command line shows of it."""
    shown = ""
    for words in (["get", "vpn", "-A"], ["get", "vpn", "-A", "-o", "json"], ["describe", "vpn", "green/to-far"]):
        argv = [sys.executable, "-m", "mizar.cli.main", *words, "--server", lab.server_url]
        shown += subprocess.run(argv, capture_output=True, check=True, text=True).stdout
    with Client(lab.server_url) as client:
        shown += json.dumps(client.state("d1"))
    assert "to-far" in shown
    return shown


def restart(lab: LabName, droplet: str) -> None:
    """The daemon of a droplet ends, and another one begins."""
    (pid,) = [one["pid"] for one in labs.status(lab)["processes"] if one["name"] == droplet]
    os.kill(pid, 15)
    wait_until(lambda: pid not in {one.pid for one in processes.marked(lab.name)})
    labs.up(labs_manifest(lab))


def labs_manifest(lab: LabName) -> list[Any]:
    return [one for one in example(lab, "vpn-wireguard") if one.ref.kind != "VpnConnection"]


def again(lab: LabName) -> None:
    """What was shown is applied: the key that is masked in it stays."""
    with Client(lab.server_url) as client:
        shown = client.get("VpnConnection", "to-far", "green")
        (result,) = client.apply([{name: shown[name] for name in ("apiVersion", "kind", "metadata", "spec")}])
    assert result["change"] == "unchanged"
