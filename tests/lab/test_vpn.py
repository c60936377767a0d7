# SPDX-License-Identifier: Apache-2.0
"""VPN connections with real daemons, real engines and a site that is not Mizar's."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from tests.lab.exposed import exposed, holding
from tests.lab.far_site import ADDRESS, HOST, LAN, FarSite, FarStrongswan, inside, key
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
    text = text.replace("51900", other.get("own_port", "51900"))
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
    return until(lab, lambda now: now.get("state") == state, name, tenant)


def until(
    lab: LabName,
    condition: Callable[[dict[str, Any]], bool],
    name: str = "to-far",
    tenant: str = "green",
    limit_s: float = 30.0,
) -> dict[str, Any]:
    """Waits until a connection's status is as wanted; the status."""
    end = time.monotonic() + limit_s
    now: dict[str, Any] = {}
    with Client(lab.server_url) as client:
        while not condition(now):
            assert time.monotonic() < end, (now.get("state"), now.get("detail"))
            time.sleep(0.2)
            now = client.get("VpnConnection", name, tenant)["status"]
    return now


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
    (folder,) = {path.parent for path in files_of(lab) if path.name == "told"}
    return running(folder)


NET_ADMIN = 12


def rights(pid: int) -> tuple[str, int]:
    """Whether a process is root or another user, and its capabilities: all that it could ever get."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert lines["NoNewPrivs"] == "1"
    assert lines["Seccomp"] == "2"
    users = {int(one) for one in lines["Uid"].split() + lines["Gid"].split()}
    return "root" if 0 in users else "other", int(lines["CapPrm"], 16) | int(lines["CapBnd"], 16)


def test_a_site_behind_wireguard(lab: LabName, far: FarSite) -> None:
    """ICMP and TCP of both families, begun on either side; nobody is shown a key; the end leaves nothing."""
    private, public = key()
    far.configure(public)
    connect(lab, far, private, own_port="2049")
    assert "port 2049 of the droplet is not for tunnels; those are 4500-4755" in becomes(lab, "down")["detail"]
    connect(lab, far, private)
    assert status(lab)["publicKey"] == public
    found = becomes(lab, "up")
    assert found["engine"] == "wireguard-go"
    assert found["droplet"] == "d1"
    for family in (4, 6):
        pings(green(lab), HOST[family])
        pings(far.host, address(lab, "green", "web-1", family))
    stream(far.host, green(lab), HOST[6], 6)
    stream(green(lab), far.host, address(lab, "green", "web-1", 4), 4)

    with Client(lab.server_url) as client:
        traced = client.trace({"source": {"tenant": "green", "name": "web-1"}, "destination": HOST[4]})
    assert "delivered to green/vpn, which carries VpnConnection green/to-far (up), on d1" in traced["ending"]

    shown = [json.dumps(status(lab)), labs_output(lab), *(path.read_text() for path in lab.folder.glob("**/*.log"))]
    assert [text for text in shown if private in text] == []
    assert [path for path in files_of(lab) if path.name == "told" and path.stat().st_mode & 0o77] == []
    before = process_of(lab)
    assert rights(before) == ("other", 0)
    assert holding(lab, [private])
    assert exposed(lab, [private, base64.b64decode(private)], [before]) == []
    gone(lab)
    wait_until(lambda: not Path(f"/proc/{before}/exe").exists())
    assert "mzvpn" not in links(green(lab, "vpn"))


@pytest.mark.long
def test_wireguard_outlives_the_daemon_and_takes_other_keys(lab: LabName, far: FarSite) -> None:
    """No packet is lost by a restart; what was shown may be applied; a stranger's key is told, the right one mends it;
    a killed process is started again."""
    private, public = key()
    far.configure(public)
    connect(lab, far, private)
    becomes(lab, "up")
    pings(green(lab), HOST[4])
    before = process_of(lab)
    with flow(green(lab), HOST[4]) as sent:
        restart(lab, "d1")
        becomes(lab, "up")
    assert lost(sent) == 0
    again(lab)
    assert process_of(lab) == before

    connect(lab, far, private, public=key()[1])
    becomes(lab, "down")
    assert "has never answered" in status(lab)["detail"]
    connect(lab, far, private)
    becomes(lab, "up")
    pings(green(lab), HOST[6])

    os.kill(before, 9)
    wait_until(lambda: process_of(lab) not in (0, before))
    pings(green(lab), HOST[4])

    far.stop()
    wait_until(
        lambda: subprocess.run([*inside(green(lab)), "ping", "-c1", "-W1", HOST[4]], check=False).returncode != 0
    )
    becomes(lab, "down")
    assert "has not answered" in status(lab)["detail"]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_wireguard_changes_its_session_keys_without_loss(lab: LabName, far: FarSite) -> None:
    """Every two minutes, under traffic."""
    private, public = key()
    far.configure(public)
    connect(lab, far, private)
    first = becomes(lab, "up")["lastHandshake"]
    pings(green(lab), HOST[4])
    with flow(green(lab), HOST[4]) as sent:
        until(lab, lambda now: now.get("lastHandshake", first) != first, limit_s=180)
        time.sleep(3)
    assert lost(sent) == 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["vpn-wireguard", "vpn-ipsec"])
def test_two_tenants_join_their_sites(lab: LabName, name: str) -> None:
    """The examples: both ends are Mizar's, on two droplets that know nothing of one another's tenants."""
    labs.up(example(lab, name))
    becomes(lab, "up", "to-branch")
    becomes(lab, "up", "to-green", "branch")
    for family in (4, 6):
        pings(green(lab), address(lab, "branch", "desk-1", family))
        stream(lab.endpoint_namespace("branch", "desk-1"), green(lab), address(lab, "branch", "desk-1", family), family)


@contextmanager
def flow(source: str, to: str) -> Iterator[list[str]]:
    """Pings of a namespace, twenty in a second; what ping said stands in the list when the block is left."""
    said: list[str] = []
    words = [*inside(source), "ping", "-i", "0.05", "-W", "5", to]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as pinging:
        try:
            yield said
        finally:
            pinging.send_signal(signal.SIGINT)
            said.append(pinging.communicate()[0])


def lost(said: list[str]) -> int:
    """How many of a flow's packets had no answer; the last one may be on its way."""
    (sent, received) = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", said[0])[0])
    return max(0, sent - received - 1)


def gone(lab: LabName) -> None:
    """The connection ends, and its files, and its routes."""
    with Client(lab.server_url) as client:
        client.delete("VpnConnection", "to-far", "green")
        client.wait([Ref("VpnConnection", "green", "to-far")], 30, until="gone")
        assert not client.get("Network", "web", "green")["status"].get("routesRefused")
    assert files_of(lab) == []


def links(namespace: str) -> str:
    """Of a namespace."""
    return subprocess.run([*inside(namespace), "ip", "-o", "link"], capture_output=True, check=True, text=True).stdout


def labs_output(lab: LabName, name: str = "to-far") -> str:
    """All that the command line shows of it."""
    shown = ""
    for words in (["get", "vpn", "-A"], ["get", "vpn", "-A", "-o", "json"], ["describe", "vpn", f"green/{name}"]):
        argv = [sys.executable, "-m", "mizar.cli.main", *words, "--server", lab.server_url]
        shown += subprocess.run(argv, capture_output=True, check=True, text=True).stdout
    with Client(lab.server_url) as client:
        shown += json.dumps(client.state("d1"))
    assert name in shown
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


IPSEC = f"""
apiVersion: mizar/v1
kind: VpnConnection
metadata: {{name: to-far, tenant: green}}
spec:
  vpc: main
  endpoint: vpn
  remotePrefixes: [{LAN[4]}, "{LAN[6]}"]
  peer: {{address: {ADDRESS}}}
  downAfterS: 5
  ipsec: {{psk: "PSK", localId: green.example, remoteId: far.example, rekeyS: REKEY, port: 4510}}
"""
PSK = "quite-a-secret-of-this-test"


def connect_ipsec(lab: LabName, psk: str = PSK, rekey_s: int = 3600) -> None:
    with Client(lab.server_url) as client:
        client.apply(parse_manifests(IPSEC.replace("PSK", psk).replace("REKEY", str(rekey_s)), "test"))
        client.wait([Ref("VpnConnection", "green", "to-far")], 30)


@pytest.mark.long
def test_a_site_behind_ipsec(lab: LabName, tmp_path: Path) -> None:
    """As behind WireGuard: both families, begun on either side; a wrong key; the daemon's restart; the end."""
    labs.up(labs_manifest(lab))
    with FarStrongswan(lab, tmp_path, PSK) as far:
        connect_ipsec(lab)
        assert becomes(lab, "up")["engine"] == "strongswan (user-space ESP)"
        assert PSK not in labs_output(lab)
        for family in (4, 6):
            web = address(lab, "green", "web-1", family)
            pings(green(lab), HOST[family])
            pings(far.host, web)
            stream(far.host, green(lab), HOST[family], family)
            stream(green(lab), far.host, web, family)
        before = process_of(lab)
        assert rights(before) == ("other", 1 << NET_ADMIN)
        assert exposed(lab, [PSK], [before]) == []
        restart(lab, "d1")
        pings(green(lab), HOST[4])
        assert process_of(lab) == before
        again(lab)

        connect_ipsec(lab, psk="quite-another-secret")
        becomes(lab, "down")
        assert "refused" in status(lab)["detail"]
        connect_ipsec(lab)
        becomes(lab, "up")
        pings(green(lab), HOST[4])

        gone(lab)
        for namespace in (green(lab, "vpn"), lab.droplet_namespace("d1")):
            assert not any(name in links(namespace) for name in ("ipsec0", "mzouter", "mzvo"))
        assert PSK not in "".join(path.read_text() for path in lab.folder.glob("**/*.log"))


@pytest.mark.long
def test_ipsec_changes_its_keys_without_loss(lab: LabName, tmp_path: Path) -> None:
    """Every few seconds, under traffic."""
    labs.up(labs_manifest(lab))
    with FarStrongswan(lab, tmp_path, PSK):
        connect_ipsec(lab, rekey_s=6)
        becomes(lab, "up")
        pings(green(lab), HOST[4])
        with flow(green(lab), HOST[4]) as sent:
            time.sleep(20)
        assert lost(sent) == 0
        assert (tmp_path / "far.log").read_text().count("CHILD_SA c4{") >= 3


@pytest.mark.long
def test_a_peer_that_never_answers_is_told(lab: LabName) -> None:
    """By IPsec, where nobody is."""
    labs.up(labs_manifest(lab))
    connect_ipsec(lab)
    becomes(lab, "down")
    assert "has not answered" in status(lab)["detail"]
    gone(lab)
