# SPDX-License-Identifier: Apache-2.0
"""Several VPN connections at once: of one endpoint, of two tenants with the same addresses, to sites of all kinds."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.manifest import parse_manifests
from mizar.model.resources import Ref
from tests.lab.far_site import ADDRESS, FarSite, FarStrongswan, ip, key, signed
from tests.lab.test_routing import example
from tests.lab.test_substrate_route import address
from tests.lab.test_vpn import PSK, becomes, flow, green, labs_output, lost, pings, until

TWIN = """
{apiVersion: mizar/v1, kind: Tenant, metadata: {name: twin}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {name: main, tenant: twin}
spec: {cidrs: [10.0.0.0/16, "fd00:10::/48"]}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: edge, tenant: twin}
spec: {vpc: main, cidrs: [10.0.9.0/24, "fd00:10:0:9::/64"]}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: vpn, tenant: twin}
spec: {network: edge, droplet: d1, forwarding: true}
---
{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: web-1, tenant: twin}, spec: {network: edge, droplet: d2}}
"""


def manifests(lab: LabName) -> list[Any]:
    """The example's lab on a substrate of both families, with one tenant more that has the addresses of the first."""
    whole = [one for one in example(lab, "vpn-wireguard") if one.ref.kind not in ("VpnConnection", "Lab")]
    text = f"""
apiVersion: mizar/v1
kind: Lab
metadata: {{name: {lab.name}}}
spec: {{droplets: 2, substrate: {{cidr: 172.31.0.0/24, secondCidr: "fd31::/64", mtu: 1500}}}}
"""
    return [*parse_manifests(text, "lab"), *whole, *parse_manifests(TWIN, "twin")]


def connection(name: str, tenant: str, site: Any, version: int = 4, **how: Any) -> dict[str, Any]:
    """A manifest."""
    port = how.pop("peer_port", None)
    peer = {"address": site.addresses[version]} | ({"port": port} if port else {})
    spec = {"vpc": "main", "endpoint": "vpn", "remotePrefixes": list(site.lan.values()), "peer": peer, "downAfterS": 4}
    metadata = {"name": name, "tenant": tenant}
    return {"apiVersion": "mizar/v1", "kind": "VpnConnection", "metadata": metadata, "spec": spec | how}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_all_at_once_and_each_its_own(lab: LabName, tmp_path: Path) -> None:
    """One endpoint with two tunnels by IPsec, by IPv4 with a pre-shared key and by IPv6 with certificates, one by
    WireGuard, and one to nobody; and a tenant with the same addresses to a site of its own from the same droplet. The
    end of one leaves the others; nothing that is shown has a key."""
    labs.up(manifests(lab))
    authority, (own, theirs) = _pairs()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    sites = (
        FarStrongswan(lab, tmp_path / "a", PSK),
        FarStrongswan(lab, tmp_path / "b", PSK, number=1, proof=(theirs[0], theirs[1], authority)),
        FarSite(lab, number=2),
        FarSite(lab, number=3),
    )
    with sites[0] as first, sites[1] as second, sites[2] as third, sites[3] as twin, Client(lab.server_url) as client:
        private, public = key()
        third.configure(public)
        twin.configure(public)
        names = {"localId": "green.example", "remoteId": "far.example"}
        certificate = {"chain": own[0], "key": own[1], "authority": authority}
        nobody = FarSite(lab, number=9)
        guard = {"privateKey": private, "port": 51900}
        twin_guard = {"peerPublicKey": twin.public, "port": 51901}
        told = [
            connection("one", "green", first, ipsec=names | {"psk": PSK, "port": 4510}),
            connection("two", "green", second, 6, ipsec=names | {"certificate": certificate, "port": 4520}),
            connection(
                "three", "green", third, 6, peer_port=third.port, wireguard=guard | {"peerPublicKey": third.public}
            ),
            connection("none", "green", nobody, ipsec=names | {"psk": PSK, "port": 4530}),
            connection("one", "twin", twin, peer_port=twin.port, wireguard=guard | twin_guard),
        ]
        client.apply(told)
        for name in ("one", "two", "three"):
            becomes(lab, "up", name)
        becomes(lab, "up", "one", "twin")
        for site in (first, second, third):
            for version in (4, 6):
                pings(green(lab), site.hosts[version])
                pings(site.host, address(lab, "green", "web-1", version))
        pings(lab.endpoint_namespace("twin", "web-1"), twin.hosts[4])
        silent = becomes(lab, "down", "none")
        assert "172.31.0.209:4500 has not answered for" in silent["detail"]
        assert silent["since"]
        assert until(lab, lambda now: now.get("state") == "down", "none")["since"] == silent["since"]
        assert until(lab, lambda now: "certificateExpires" in now, "two")["certificateExpires"]

        client.delete("VpnConnection", "one", "green")
        client.wait([Ref("VpnConnection", "green", "one")], 30, until="gone")
        with flow(green(lab), second.hosts[4]) as sent:
            pings(green(lab), third.hosts[6])
        assert lost(sent) == 0
        shown = [labs_output(lab, "two"), *(path.read_text() for path in lab.folder.glob("**/*.log"))]
        secret = own[1].splitlines()[2]
        assert [text for text in shown if secret in text or PSK in text or private in text] == []
        other = json.loads(json.dumps(told[1]))
        other["spec"]["ipsec"]["certificate"]["key"] = theirs[1]
        with pytest.raises(Exception, match="not the key of this certificate"):
            client.apply([other])


def _pairs() -> tuple[str, tuple[tuple[str, str], tuple[str, str]]]:
    authority, found = signed("green.example", "far.example")
    assert load_pem_private_key(found["far.example"][1].encode(), None)
    return authority, (found["green.example"], found["far.example"])


@pytest.mark.long
def test_a_peer_that_moves_is_followed(lab: LabName) -> None:
    """By WireGuard: it speaks from another address, and is answered there, without a loss from then on."""
    whole = manifests(lab)
    labs.up(whole)
    with FarSite(lab) as far, Client(lab.server_url) as client:
        private, public = key()
        far.configure(public, endpoint="172.31.0.2:51900")
        guard = {"privateKey": private, "port": 51900, "peerPublicKey": far.public}
        client.apply([connection("one", "green", far, peer_port=far.port, wireguard=guard)])
        becomes(lab, "up", "one")
        pings(green(lab), far.hosts[4])
        ip("-n", far.gateway, "addr", "add", "172.31.0.222/24", "dev", "wan")
        ip("-n", far.gateway, "addr", "del", f"{ADDRESS}/24", "dev", "wan")
        ip("-n", far.gateway, "addr", "replace", "172.31.0.222/24", "dev", "wan")
        pings(far.host, address(lab, "green", "web-1", 4))
        with flow(green(lab), far.hosts[4]) as sent:
            for _ in range(3):
                pings(green(lab), far.hosts[4])
        assert lost(sent) == 0


@pytest.mark.long
def test_a_droplet_that_dies_gives_its_connection_to_another(lab: LabName) -> None:
    """Found by the server in the first place; the far side hears from the next droplet and follows it."""
    labs.up(manifests(lab))
    with FarSite(lab) as far, Client(lab.server_url) as client:
        private, public = key()
        far.configure(public)
        guard = {"privateKey": private, "port": 51900, "peerPublicKey": far.public, "keepaliveS": 1}
        told = connection("one", "green", far, peer_port=far.port, wireguard=guard)
        del told["spec"]["endpoint"]
        client.apply([told | {"spec": told["spec"] | {"network": "edge"}}])
        first = becomes(lab, "up", "one")
        assert first["endpoint"] == "one-1"
        pings(lab.endpoint_namespace("green", "web-1"), far.hosts[4])
        (pid,) = [one["pid"] for one in labs.status(lab)["processes"] if one["name"] == first["droplet"]]
        os.kill(pid, signal.SIGKILL)
        ip("-n", lab.droplet_namespace(first["droplet"]), "link", "set", "eth0", "down")
        second = until(lab, lambda now: (now.get("endpoint"), now.get("state")) == ("one-2", "up"), "one", limit_s=60)
        assert second["droplet"] not in ("", first["droplet"])
        if first["droplet"] == "d1":  # else the client's host is the dead one
            pings(lab.endpoint_namespace("green", "web-1"), far.hosts[4])
