# SPDX-License-Identifier: Apache-2.0
"""HTTP load balancers with real daemons, HAProxy, servers and clients: which server gets what, over TLS too, and what a
client sees of changes and failures."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import pytest
from pyroute2 import NetNS

from mizar.api.client import Client
from mizar.kernel import namespaces
from mizar.lab import processes
from mizar.lab.names import LabName
from mizar.model.errors import ConflictError, InvalidError, NotFoundError
from mizar.transit.options import LOG_FOLDER, RUN_FOLDER
from tests.lab.balancer import ADDRESSES, Balancer, Held, Load, ask, certificate
from tests.lab.conftest import leftovers, wait_until
from tests.lab.exposed import exposed, holding
from tests.lab.test_lab import kill

HOSTS = ("shop.example.com", "other.example.com")
CERTIFICATES = {host: certificate(host) for host in HOSTS}


def with_tls(manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]
    spec["listeners"] = [{"port": 80}, {"port": 443, "tls": True}, {"port": 8000, "redirect": 443}]
    spec["certificates"] = [
        {"name": host.partition(".")[0], "chain": chain, "key": key} for host, (chain, key) in CERTIFICATES.items()
    ]
    # Not the least busy one, as in the example: connections that stay would then keep new ones off a server for ever.
    next(one for one in spec["backends"] if one["name"] == "api")["algorithm"] = "roundRobin"
    spec["routes"] = [
        {"path": "/api", "backend": "api"},
        {"path": "/api/exact", "match": "exact", "backend": "web"},
        {"hosts": ["shop.example.com"], "path": "/api/special", "backend": "web"},
        {"hosts": ["other.example.com"], "backend": "api"},
        {"path": "/", "backend": "web"},
    ]


@pytest.fixture
def balancer(lab: LabName) -> Iterator[Balancer]:
    """The example's lab with TLS, up and ready."""
    found = Balancer(lab)
    before = {name for name in namespaces.names() if name.startswith("fn-")}
    try:
        found.up(with_tls)
        mine = {name for name in namespaces.names() if name.startswith("fn-")} - before
        wait_until(lambda: ready(found))
        yield found
    except AssertionError:
        print(found.status(), found.said())
        raise
    finally:
        found.down()
    assert leftovers(lab) == []
    assert not mine & set(namespaces.names())
    assert not list(LOG_FOLDER.glob(f"{lab.instance_prefix}*"))


def ready(balancer: Balancer) -> bool:
    status = balancer.status()
    return status["ready"] == "2/2" and not any(one["down"] for one in status["backends"])


def api(balancer: Balancer, address: str = ADDRESSES[0]) -> set[str]:
    return {balancer.who("/api/x", address=address) for _ in range(8)}


def shared(balancer: Balancer, address: str) -> bool:
    with suppress(ConnectionError):  # an instance that is just coming back
        return api(balancer, address) == {"api-1", "api-2"}
    return False


def test_requests_reach_their_servers_whatever_happens(balancer: Balancer) -> None:
    """By host and path, of both families; over TLS with the certificate of the name that was asked for; past a server
    that is gone; through changes without one request that fails; after the death of a process."""
    for address in ADDRESSES:
        wait_until(partial(shared, balancer, address))
        assert balancer.who("/", address=address) == "web-1"
        assert balancer.who("/apis", address=address) == "web-1"
        assert balancer.who("/api", address=address).startswith("api-")
        assert balancer.who("/api/exact", address=address) == "web-1"
        assert balancer.who("/api/exact/more", address=address).startswith("api-")
        assert balancer.who("/api/special", "Shop.Example.COM:80", address=address) == "web-1"
        assert balancer.who("/", "other.example.com", address).startswith("api-")
    with balancer.connection(ADDRESSES[0]) as connection:
        own = connection.sock.getsockname()[0]
        seen = ask(connection, "/", "any.example.com")[1]["headers"]
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == (own, "http")

    _tls(balancer)
    _without_a_server(balancer)
    _long_connections(balancer)
    _changes_under_load(balancer)
    _killed(balancer)
    _told(balancer)
    _deleted(balancer)


def _tls(balancer: Balancer) -> None:
    for host in HOSTS:
        trust = ssl.create_default_context(cadata=CERTIFICATES[host][0])
        with balancer.connection(ADDRESSES[0], 443, trust, host) as connection:
            status, found = ask(connection, "/", host)
        assert (status, found["server"].partition("-")[0]) == (200, "web" if host == HOSTS[0] else "api")
        assert found["headers"]["x-forwarded-proto"] == "https"
    with balancer.connection(ADDRESSES[1], 8000) as connection:
        status, found = ask(connection, "/path?a=b", "shop.example.com:8000")
    assert (status, found["location"]) == (308, "https://shop.example.com/path?a=b")


def _without_a_server(balancer: Balancer) -> None:
    """A request that it would have got is given to another one, before a check has found out."""
    balancer.end("api-1")
    assert {balancer.who("/api/x") for _ in range(10)} == {"api-2"}
    wait_until(lambda: any(one["down"] for one in balancer.status()["backends"]))
    down = next(one["down"] for one in balancer.status()["backends"] if one["name"] == "api")
    assert [one["endpoint"] for one in down] == ["api-1"]
    balancer.serve("api-1")
    wait_until(lambda: ready(balancer))


def _long_connections(balancer: Balancer) -> None:
    """They go on, whatever changes: servers by their weights and labels and certificates in the worker that runs, and
    anything else in a new one. Without that, the second assertion about reloads fails."""
    host = HOSTS[0]
    held = Held(balancer, "/api", ssl.create_default_context(cadata=CERTIFICATES[host][0]), host)
    before = _reloads(balancer)
    for weights, takes in (({"api-1": 0}, {"api-2"}), ({"api-1": 3}, {"api-1", "api-2"}), ({"api-2": 0}, {"api-1"})):
        balancer.apply(partial(set_weights, weights=weights))
        wait_until(partial(served_by, balancer, takes))
        held.check()
    balancer.apply(partial(set_weights, weights={}))
    balancer.label("api-1", {})
    wait_until(partial(served_by, balancer, {"api-2"}))
    held.check()
    balancer.label("api-1", {"app": "api"})
    wait_until(partial(served_by, balancer, {"api-1", "api-2"}))
    held.check()
    CERTIFICATES[host] = certificate(host)
    balancer.apply(set_certificates)
    for address in ADDRESSES:
        wait_until(partial(trusted, balancer, address, host))
    held.check()
    assert _reloads(balancer) == before
    balancer.apply(partial(add_route, path="/in-a-new-worker"))
    wait_until(partial(reached, balancer, "/in-a-new-worker"))
    wait_until(lambda: _reloads(balancer) > before)
    held.check()
    held.close()
    wait_until(lambda: ready(balancer))


def set_weights(manifest: dict[str, Any], weights: dict[str, int]) -> None:
    next(one for one in manifest["spec"]["backends"] if one["name"] == "api")["weights"] = weights


def set_certificates(manifest: dict[str, Any]) -> None:
    manifest["spec"]["certificates"] = [
        {"name": host.partition(".")[0], "chain": chain, "key": key} for host, (chain, key) in CERTIFICATES.items()
    ]


def served_by(balancer: Balancer, names: set[str]) -> bool:
    """By both instances, as far as 16 connections tell."""
    return {balancer.who("/api/x", address=address) for _ in range(8) for address in ADDRESSES} == names


def trusted(balancer: Balancer, address: str, host: str) -> bool:
    """Each of some connections, to whichever instance, gets the certificate that is wanted now."""
    trust = ssl.create_default_context(cadata=CERTIFICATES[host][0])
    try:
        for _ in range(8):
            with balancer.connection(address, 443, trust, host) as connection:
                ask(connection, "/", host)
    except ssl.SSLCertVerificationError:
        return False
    return True


def _reloads(balancer: Balancer) -> int:
    counted = "".join(fetched(balancer.name.metrics_url(host)) for host in ("d1", "d2", "d3"))
    found = re.findall(r"mizar_http_balancer_changes_total\{(.*)\} (\d+)", counted)
    return sum(int(count) for labels, count in found if 'how="reload"' in labels)


def _changes_under_load(balancer: Balancer) -> None:
    """The last change is seen, and no request fails: short ones, slow ones, and those of connections that stay."""
    with Load(balancer, {"new": "/api/x", "new slow": "/slow", "kept": "/", "kept too": "/api/y"}) as load:
        for number in range(3):
            balancer.apply(partial(add_route, path=f"/changed-{number}"))
            wait_until(partial(reached, balancer, f"/changed-{number}"))
    assert load.failures == []
    assert load.done > 50


def reached(balancer: Balancer, path: str) -> bool:
    return all(balancer.who(path) != "web-1" for _ in range(4))


def fetched(url: str) -> str:
    transport = httpx.HTTPTransport(uds=url.removeprefix("unix://"))
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        return client.get("/metrics").text


def add_route(manifest: dict[str, Any], path: str) -> None:
    manifest["spec"]["routes"].append({"path": path, "backend": "api"})


def _killed(balancer: Balancer) -> None:
    """A process that dies is started again, and what it would have got is served meanwhile or soon."""
    uid, pid = next(iter(sorted(balancer.pids().items())))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: balancer.pids().get(uid) not in (None, pid))
    wait_until(lambda: sum(one["restarts"] for one in balancer.status()["instances"]) == 1)
    wait_until(lambda: ready(balancer))
    wait_until(partial(shared, balancer, ADDRESSES[0]))


def _counted(balancer: Balancer) -> bool:
    """Requests at the first instance, since it read its configuration last; some are sent meanwhile."""
    shared(balancer, ADDRESSES[0])
    counted = "".join(fetched(balancer.name.metrics_url(host)) for host in ("d1", "d2"))
    labels = 'function="shop",instance="shop-1",listener="80",tenant="blue"'
    requests = re.search(rf"mizar_http_balancer_requests_total\{{{labels}\}} (\d+)", counted)
    return requests is not None and int(requests[1]) > 0


def _told(balancer: Balancer) -> None:
    """Each request in a log; keys in nobody's sight; endpoints that are nobody else's to change; metrics."""
    wait_until(lambda: {one["server"] for one in balancer.logged()} >= {"web-1", "api-1", "api-2"})
    line = next(one for one in balancer.logged() if one["path"] == "/api/special")
    assert (line["host"], line["status"], line["backend"]) == ("Shop.Example.COM:80", 200, "to-web")
    argv = [sys.executable, "-m", "mizar.cli.main", "logs", "httploadbalancer", "blue/shop", "-n", "1000"]
    argv += ["-o", "json", "--server", balancer.name.server_url]
    said = subprocess.run(argv, capture_output=True, check=True, text=True).stdout
    known = [json.loads(one) for one in said.splitlines()]
    assert {one["instance"] for one in known} >= {"shop-1", "shop-2"}
    assert "Shop.Example.COM:80" in {one["host"] for one in known}
    assert [one["time"] for one in known] == sorted(one["time"] for one in known)
    assert "PRIVATE KEY" not in said
    with Client(balancer.name.server_url) as client:
        with pytest.raises(NotFoundError):
            client.logs("green", "shop", {}, 10)
        shown = str(client.get("HttpLoadBalancer", "shop", "blue"))
        assert "PRIVATE KEY" not in shown
        assert "BEGIN CERTIFICATE" in shown
        with pytest.raises(ConflictError, match="endpoint of HttpLoadBalancer blue/shop"):
            client.delete("Endpoint", "shop-1", "blue")
        found = client.get("Endpoint", "shop-1", "blue")
        found["metadata"]["labels"] = {"mine": "now"}
        with pytest.raises(InvalidError, match="change that instead"):
            client.apply([{key: found[key] for key in ("apiVersion", "kind", "metadata", "spec")}])
    wait_until(partial(_counted, balancer))
    for process in processes.marked(balancer.name.name):
        assert "PRIVATE KEY" not in balancer.name.log(process.name).read_text()
    keys = [line for _, key in CERTIFICATES.values() for line in key.splitlines()[1:-1]]
    assert holding(balancer.name, keys)
    assert exposed(balancer.name, keys, balancer.pids().values()) == []


def _deleted(balancer: Balancer) -> None:
    """Nothing is left of it."""
    with Client(balancer.name.server_url) as client:
        client.delete("HttpLoadBalancer", "shop", "blue")
        wait_until(lambda: not [one for one in client.list("Endpoint") if one["metadata"]["name"].startswith("shop")])
        assert client.list("HttpLoadBalancer") == []
    wait_until(lambda: not list(RUN_FOLDER.glob(f"{balancer.name.instance_prefix}*.engines/*")))
    assert not list(LOG_FOLDER.glob(f"{balancer.name.instance_prefix}*/*/*"))


@pytest.mark.long
def test_daemons_come_and_go_and_no_request_fails(balancer: Balancer) -> None:
    """They are killed and started again under load, one after the other: processes are the same as before, and what
    changes meanwhile reaches them. A server that comes by its labels gets requests, one that loses them none."""
    before = balancer.pids()
    assert len(before) == 2
    with Load(balancer, {"new": "/api/x", "kept": "/"}) as load:
        for host in ("d1", "d2"):
            kill(balancer.name, host)
            balancer.apply(partial(add_route, path=f"/while-{host}-was-away"))
            balancer.start_daemons()
            wait_until(partial(reached, balancer, f"/while-{host}-was-away"))
    assert load.failures == []
    assert load.done > 50
    assert balancer.pids() == before
    balancer.label("web-1", {"app": "api"})
    wait_until(lambda: api(balancer) == {"api-1", "api-2", "web-1"})
    balancer.label("api-1", {})
    wait_until(lambda: api(balancer) == {"api-2", "web-1"})


@pytest.mark.long
def test_a_droplet_that_dies_is_replaced(balancer: Balancer) -> None:
    """Its instance is made anew where there was none; the two that are left serve."""
    victim = next(one["droplet"] for one in balancer.status()["instances"] if one["droplet"] != "d3")
    with NetNS(balancer.name.droplet_namespace(victim)) as inside:
        inside.link("set", index=inside.link_lookup(ifname="eth0")[0], state="down")
    kill(balancer.name, victim)
    wait_until(lambda: victim not in {one["droplet"] for one in balancer.status()["instances"]}, 60)
    wait_until(lambda: balancer.status()["ready"] == "2/2", 60)
    wait_until(lambda: balancer.status()["phase"] == "Provisioned", 60)
    for _ in range(20):
        assert balancer.get("/")[0] in (200, 503)  # its server may have been on the droplet that died
