# SPDX-License-Identifier: Apache-2.0
"""No way of asking shows a secret: every kind that has one, through the command line, a real server, and its log."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mizar._built import transit_pb2 as pb
from mizar.cli.main import app
from mizar.model.resources import KINDS
from mizar.model.secret import may_hold
from tests.api.conftest import Site, aside
from tests.api.test_events import Listener
from tests.lab.balancer import certificate
from tests.lab.conftest import wait_until
from tests.lab.far_site import signed
from tests.unit.manager.test_address_pools import pool
from tests.unit.manager.world import endpoint, manifest, network, tenant, vpc

PRIVATE, SHARED = (base64.b64encode(mark * 2).decode() for mark in (b"marker-private-k", b"marker-preshared"))
PUBLIC = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
PSK = "marker-of-a-pre-shared-key"
AUTHORITY, ((CHAIN, KEY), _) = (lambda found: (found[0], list(found[1].values())))(signed("a.example", "b.example"))
WEB_CHAIN, WEB_KEY = certificate("shop.example.com")
KINDS_WITH_SECRETS = {"VpnConnection", "HttpLoadBalancer", "NatGateway"}


def marks() -> list[str]:
    """What is looked for: secrets as they were given, and lines out of the middle of keys in PEM."""
    return [PRIVATE, SHARED, PSK, *(line for key in (KEY, WEB_KEY) for line in key.splitlines()[1:-1])]


def objects(site: Site) -> list[dict[str, Any]]:
    """One of each kind, and of each proof."""
    peer = {"address": "192.0.2.9"}
    wireguard = {"privateKey": PRIVATE, "presharedKey": SHARED, "peerPublicKey": PUBLIC}
    ids = {"localId": "a.example", "remoteId": "b.example"}
    proof = {"certificate": {"chain": CHAIN, "key": KEY, "authority": AUTHORITY}}

    def vpn(name: str, number: int, carrier: str, **spec: Any) -> dict[str, Any]:
        to = [f"192.168.{number}.0/24"]
        return manifest("VpnConnection", name, "red", vpc="main", endpoint=carrier, remotePrefixes=to, **spec)

    balancer = {
        "network": "front",
        "listeners": [{"port": 443, "tls": True}],
        "certificates": [{"name": "shop", "chain": WEB_CHAIN, "key": WEB_KEY}],
        "routes": [{"hosts": ["shop.example.com"], "backend": "web"}],
        "backends": [{"name": "web", "port": 80, "endpoints": ["e"]}],
    }
    return [
        *site.droplets(), tenant("red"), vpc("red"), network("red"), endpoint("red", "e", "d1"),
        *(endpoint("red", f"vpn-{number}", "d2", forwarding=True) for number in (1, 2, 3)),
        vpn("one", 51, "vpn-1", wireguard=wireguard),
        vpn("two", 52, "vpn-2", peer=peer, ipsec={**ids, "psk": PSK}),
        vpn("three", 53, "vpn-3", peer=peer, ipsec={**ids, **proof, "port": 4600}),
        manifest("HttpLoadBalancer", "shop", "red", **balancer),
        pool(droplets=["d1", "d2"]), manifest("NatGateway", "out", "red", network="front", pool="edge"),
    ]  # fmt: skip


def spoilt() -> dict[str, Any]:
    """One that is refused for its secrets alone."""
    wireguard = {"privateKey": PRIVATE[:-4], "presharedKey": {"text": SHARED}, "peerPublicKey": PRIVATE + PSK}
    spec = {"vpc": "main", "endpoint": "e", "remotePrefixes": ["192.168.9.0/24"], "wireguard": wireguard}
    return manifest("VpnConnection", "bad", "red", **spec, psk=PSK)


async def test_nobody_is_shown_a_secret(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Droplets get the marks, so they are in use; whatever is asked for, or refused, or logged, has none."""
    assert {kind.model.__name__ for kind in KINDS.values() if may_hold(kind.model)} == KINDS_WITH_SECRETS
    caplog.set_level(logging.DEBUG)
    good, bad = site.directory / "good.yaml", site.directory / "bad.yaml"
    good.write_text(yaml.safe_dump_all(objects(site)))
    bad.write_text(yaml.safe_dump(spoilt()))
    said = ""

    async def asked(*words: str, fails: bool = False) -> None:
        nonlocal said
        done = await aside(lambda: CliRunner().invoke(app, list(words), env={"MIZAR_SERVER": site.unix}))
        text = f"{done.output} {done.exception!r} {done.exception}"
        assert (done.exit_code != 0) == fails, text
        said += text

    listener = await aside(lambda: Listener(site.client()))
    await asked("apply", "-f", str(good), "--wait")
    await asked("apply", "-f", str(bad), fails=True)
    await asked("diff", "-f", str(good), "-o", "json")
    for kind, name in (("vpn", "two"), ("httploadbalancer", "shop"), ("nat", "out")):
        for form in ("table", "json", "yaml"):
            await asked("get", kind, "-t", "red", "-o", form)
        await asked("describe", kind, name, "-t", "red")
    for droplet in ("d1", "d2"):
        await asked("audit", droplet, "-o", "json")
    await asked("top", "--once")
    site.daemons[1].say(pb.Event(suppressed=pb.Suppressed(reason=1, packets=1)))
    await aside(lambda: wait_until(lambda: any(one["type"] == "suppressed" for one in listener.seen), 30))
    said += str(await aside(listener.end))
    held = str([local for daemon in site.daemons for local in daemon.tables.locals.values()])
    held += str([vpn for daemon in site.daemons for vpn in daemon.tables.vpns.values()])
    keys = [one.engine.nat.pair.key for daemon in site.daemons for one in daemon.tables.locals.values()]
    key = next(filter(None, keys))
    assert PSK in held
    assert WEB_KEY.splitlines()[1] in held
    assert len(said) > 5000
    for mark in (*marks(), key):
        assert mark not in said
        assert mark not in caplog.text
