# SPDX-License-Identifier: Apache-2.0
"""What is in a VPN connection's way is told by its status, in words: what the two sides by IPsec do not agree on, and a
port that is not to be had. And mended by a change."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from tests.lab.far_site import LAN, FarSite, FarStrongswan, key
from tests.lab.test_vpn import PSK, becomes, green, pings, until
from tests.lab.test_vpn_several import connection, manifests

_PROOF = "172.31.0.200:4500 refused: are pre-shared key, localId, remoteId and proposals the same on both sides?"
_TERMS = "172.31.0.200:4500 knows this side, but agrees to none of the prefixes or proposals"
ELSEWHERE = "192.168.99.0/24"
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"psk": "quite-another-secret"}, {}, "down", _PROOF),
    ({"remoteId": "else.example"}, {}, "down", _PROOF),
    ({"localId": "else.example"}, {}, "down", _PROOF),
    ({"ikeProposals": ["aes128-sha1-modp1024"]}, {}, "down", _PROOF),
    ({"espProposals": ["camellia256-sha256"]}, {}, "down", _TERMS),
    ({}, {"remotePrefixes": [ELSEWHERE]}, "down", _TERMS),
    ({}, {"remotePrefixes": [LAN[4], ELSEWHERE]}, "up", "172.31.0.200:4500 agreed to 1 of 2 pairs of prefixes"),
    ({}, {}, "up", ""),
]
"""What this side says otherwise, of IPsec and beside it; the state; and what stands there."""


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_ipsec_does_not_agree_on_is_told(lab: LabName, tmp_path: Path) -> None:
    """Key, names, proposals, prefixes, each in its turn; the last one is right, and answers come. What the other side
    refused is tried again, and joined once that has changed."""
    labs.up(manifests(lab))
    names = {"localId": "green.example", "remoteId": "far.example", "psk": PSK, "port": 4510}
    with FarStrongswan(lab, tmp_path, PSK) as far, Client(lab.server_url) as client:
        for ipsec, spec, state, detail in REFUSED:
            told = connection("to-far", "green", far, ipsec=names | ipsec)
            client.apply([told | {"spec": told["spec"] | spec}])
            until(lab, lambda now, s=state, d=detail: (now.get("state"), now.get("detail")) == (s, d), limit_s=60)  # type: ignore[misc]
        pings(green(lab), far.hosts[4])
        agreed, far.lan = far.lan, far.lan | {6: "fd99::/64"}
        far.load()
        client.apply([connection("to-far", "green", far, ipsec=names) | {"spec": told["spec"] | {"downAfterS": 5}}])
        until(lab, lambda now: "agreed to 1 of 2" in now.get("detail", ""), limit_s=60)
        far.lan = agreed  # the other side alone changes its mind
        far.load()
        until(lab, lambda now: (now.get("state"), now.get("detail")) == ("up", ""), limit_s=60)
        pings(green(lab), far.hosts[6])


@pytest.mark.long
def test_a_port_that_the_host_itself_uses_is_told(lab: LabName) -> None:
    """Nothing is taken from who has it; once it is free, the tunnel begins."""
    labs.up(manifests(lab))
    with FarSite(lab) as far, Client(lab.server_url) as client:
        private, public = key()
        far.configure(public)
        with Namespace.by_name(lab.droplet_namespace("d1")) as droplet:
            other = droplet.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            with other:
                other.bind(("172.31.0.2", 51900))
                guard = {"privateKey": private, "port": 51900, "peerPublicKey": far.public, "keepaliveS": 1}
                client.apply([connection("to-far", "green", far, peer_port=far.port, wireguard=guard)])
                until(lab, lambda now: "UDP port 51900 of the droplet cannot be used" in now.get("detail", ""))
        becomes(lab, "up")
        pings(green(lab), far.hosts[4])
