# SPDX-License-Identifier: Apache-2.0
"""Policies in a lab with real daemons and real traffic: who may connect, what a change does to connections, and who is
told why."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mizar.api.client import Client
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab import processes
from mizar.lab.names import LabName
from mizar.model.manifest import parse_resource
from mizar.model.resources import Ref
from tests.lab.conftest import manifests, wait_until
from tests.lab.live_maps import open_policy_verdicts
from tests.lab.test_monitor import watching

pytestmark = pytest.mark.root

CONNECT_S = 1.0
WEB, PEER = {"matchLabels": {"app": "web"}}, {"matchLabels": {"role": "client"}}

# A server and a client on one droplet, and a client on another.
MANIFESTS = """
apiVersion: mizar/v1
kind: Lab
metadata: {name: NAME}
spec: {droplets: 2}
---
{apiVersion: mizar/v1, kind: Tenant, metadata: {name: blue}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {name: main, tenant: blue}
spec: {cidrs: [10.0.0.0/16, "fd00:10::/48"]}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: front, tenant: blue}
spec: {vpc: main, cidrs: [10.0.1.0/24, "fd00:10:0:1::/64"], tunnelProtocol: TUNNEL}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: back, tenant: blue}
spec: {vpc: main, cidrs: [10.0.2.0/24, "fd00:10:0:2::/64"], tunnelProtocol: OTHER}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: clients, tenant: blue}
spec: {vpc: main, type: group, selector: {matchLabels: {role: client}}}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: web, tenant: blue, labels: {app: web}}
spec: {network: front, droplet: d1}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: near, tenant: blue, labels: {role: client}}
spec: {network: front, droplet: d1}
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: far, tenant: blue, labels: {role: client}}
spec: {network: back, droplet: d2}
"""


class Bench:
    """A lab, and who listens in it."""

    def __init__(self, lab: LabName, client: Client) -> None:
        self.lab, self.client = lab, client
        self._listening: list[socket.socket] = []

    def inside(self, name: str, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        with Namespace.by_name(self.lab.endpoint_namespace("blue", name)) as namespace:
            return namespace.run(lambda: socket.socket(family, kind))

    def addresses(self, name: str) -> list[str]:
        found: list[str] = self.client.get("Endpoint", name, "blue")["status"]["addresses"]
        return found

    def serve(self, name: str, *ports: int) -> None:
        """Whoever connects gets back what it says."""
        for address in self.addresses(name):
            for port in ports:
                listener = self.inside(name, _family(address))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address, port))
                listener.listen(64)
                self._listening.append(listener)
                threading.Thread(target=_accept, args=(listener,), daemon=True).start()

    def connect(self, name: str, address: str, port: int) -> socket.socket | None:
        """A connection that has said something and got it back."""
        made = self.inside(name, _family(address))
        made.settimeout(CONNECT_S)
        try:
            made.connect((address, port))
            if _echoes(made):
                return made
        except OSError:
            pass
        made.close()
        return None

    def reaches(self, name: str, port: int, to: str = "web") -> list[bool]:
        """By each address."""
        found = [self.connect(name, address, port) for address in self.addresses(to)]
        for one in found:
            if one is not None:
                one.close()
        return [one is not None for one in found]

    def wait(self, name: str, port: int, *, reached: bool, to: str = "web") -> None:
        """Until it is so by both families."""
        wait_until(lambda: self.reaches(name, port, to) == [reached, reached])

    def apply(self, name: str, **spec: Any) -> list[str]:
        """A policy; returns what was warned of."""
        manifest = {"apiVersion": "mizar/v1", "kind": "Policy", "metadata": {"name": name, "tenant": "blue"}}
        (result,) = self.client.apply([parse_resource({**manifest, "spec": {"vpc": "main", **spec}})])
        self.client.wait([Ref("Policy", "blue", name)], 30.0)
        found: list[str] = result.get("warnings", [])
        return found

    def drop(self, name: str) -> None:
        self.client.delete("Policy", name, "blue")
        self.client.wait([Ref("Policy", "blue", name)], 30.0, until="gone")

    def label(self, name: str, **labels: str) -> None:
        found = self.client.get("Endpoint", name, "blue")
        found["metadata"]["labels"] = labels
        self.client.apply([parse_resource({**found, "status": {}})])
        self.client.wait([Ref("Endpoint", "blue", name)], 30.0)

    def trace(self, source: str, port: int, destination: str = "web", **more: Any) -> dict[str, Any]:
        ends = {"source": {"tenant": "blue", "name": source}, "destination": {"tenant": "blue", "name": destination}}
        found: dict[str, Any] = self.client.trace({**ends, "protocol": "tcp", "destinationPort": port, **more})
        return found

    def close(self) -> None:
        for listener in self._listening:
            listener.close()


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(4096):
            connection.sendall(data)


def _echoes(connection: socket.socket) -> bool:
    """Whether the other end still answers."""
    try:
        connection.sendall(b"hello")
        return connection.recv(64) != b""
    except OSError:
        return False


def _reads(connection: socket.socket) -> bytes:
    """What the other end says by itself."""
    connection.settimeout(30.0)
    return connection.recv(64)


@contextlib.contextmanager
def bench(lab: LabName, tunnel: str = "geneve", other: str = "geneve") -> Iterator[Bench]:
    text = MANIFESTS.replace("TUNNEL", tunnel).replace("OTHER", other)
    labs.up(manifests(lab, text))
    with Client(lab.server_url) as client:
        made = Bench(lab, client)
        made.serve("web", 80, 443)
        try:
            yield made
        finally:
            made.close()


def passive(here: Bench) -> list[tuple[socket.socket, socket.socket]]:
    """Connections of far to web, by both families, in which only the server speaks: its end and the client's."""
    made = []
    for address in here.addresses("web"):
        with here.inside("web", _family(address)) as listener:
            listener.bind((address, 8080))
            listener.listen()
            client = here.inside("far", _family(address))
            client.settimeout(30.0)
            client.connect((address, 8080))
            made.append((listener.accept()[0], client))
    return made


def test_a_policy_that_shadows_another_is_told_named_and_seen(lab: LabName) -> None:
    """At apply, in status, by trace and in the monitor; what it leaves is still allowed. Removed, all is as before.

    And who only listens in a connection that is older than his first policy still hears (the first `_reads`)."""
    both = [{"peers": [{"endpoints": PEER}], "ports": [{"protocol": "tcp", "port": port}]} for port in (443, 80)]
    with bench(lab) as here:
        older = passive(here)
        here.apply("listens", subjects={"names": ["far"]}, ingress=[])
        for server, reader in older:
            server.sendall(b"older")
            assert _reads(reader) == b"older"
            server.close()
            reader.close()
        here.drop("listens")
        assert here.apply("allow-web", subjects={"endpoints": WEB}, ingress=both) == []
        for client in ("near", "far"):
            here.wait(client, 80, reached=True)
        deny = [{"action": "deny", "ports": [{"protocol": "tcp", "port": 80}]}]
        (warning,) = here.apply("deny-web", priority=100, subjects={"endpoints": WEB}, ingress=deny)
        first = "policy deny-web ingress rule 1 (priority 100)"
        second = "policy allow-web ingress rule 2 (priority 1000)"
        assert warning == f"{second} never decides: {first} stands before it and denies what it matches"
        assert here.client.get("Policy", "allow-web", "blue")["status"]["warnings"] == [warning]
        with watching(lab, "--policy", "blue/deny-web") as watcher:
            for client in ("near", "far"):
                here.wait(client, 80, reached=False)
                here.wait(client, 443, reached=True)
                found = here.trace(client, 80)
                assert not found["ok"]
                assert f"ingress of blue/web: denied by {first}, which stands before {second}" in found["ending"]
                assert here.trace(client, 443)["ok"]
            seen = watcher.until(lambda events: [one for one in events if one["type"] == "drop"])
            drop = next(one for one in seen if one["type"] == "drop")
            assert (drop["reason"], drop["rule"], drop["policed"]) == ("POLICY_INGRESS_DENIED", first, "blue/web")
        here.drop("deny-web")
        for client in ("near", "far"):
            here.wait(client, 80, reached=True)
        assert here.client.get("Policy", "allow-web", "blue")["status"]["warnings"] == []
        live = here.trace("far", 80, live=True)
        assert live["ok"], live


@pytest.mark.long
@pytest.mark.parametrize(("tunnel", "other"), [("geneve", "geneve"), ("vxlan", "vxlan"), ("geneve", "vxlan")])
def test_groups_default_deny_labels_and_connections(lab: LabName, tunnel: str, other: str) -> None:
    """Whatever the tunnels: default deny in both directions, answers to what is allowed, a change of labels that leaves
    others' connections alone, and the end of those that are not allowed any more."""
    with bench(lab, tunnel, other) as here:
        here.apply("web", subjects={"names": ["web"]}, ingress=[{"peers": [{"group": "clients"}]}], egress=[])
        connections = {}
        for client in ("near", "far"):
            here.wait(client, 80, reached=True)
            for address in here.addresses("web"):
                made = here.connect(client, address, 80)
                assert made is not None
                connections[client, address] = made
        here.serve("far", 80)
        assert here.reaches("web", 80, "far") == [False, False], "it may answer, and begin nothing"
        assert "denied by default: no rule of policy web allows it" in here.trace("web", 80, "far")["ending"]
        here.label("far")
        here.wait("far", 80, reached=False)
        for (client, _), made in connections.items():
            assert _echoes(made) == (client == "near")
        here.label("far", role="client")
        here.wait("far", 80, reached=True)
        for made in connections.values():
            made.close()


@pytest.mark.long
@pytest.mark.parametrize("kept", [False, True])
def test_a_connection_ends_or_is_kept_when_its_rule_goes(lab: LabName, kept: bool) -> None:
    """By choice of the policy; no new one begins in either case."""
    with bench(lab) as here:
        change = {"onChange": "keep" if kept else "end", "subjects": {"names": ["web"]}}
        here.apply("web", **change, ingress=[{"peers": [{"cidr": "10.0.0.0/8"}, {"cidr": "fd00::/8"}]}])
        here.wait("far", 80, reached=True)
        made = [here.connect("far", address, 80) for address in here.addresses("web")]
        here.apply("web", **change, ingress=[{"peers": [{"network": "front"}]}])
        here.wait("far", 80, reached=False)
        here.wait("near", 80, reached=True)
        for one in made:
            assert one is not None
            assert _echoes(one) == kept
            one.close()


@pytest.mark.long
def test_audit_mode_lets_pass_and_tells(lab: LabName) -> None:
    """With the rule, or that none allows it; what a rule logs is told too."""
    with bench(lab) as here:
        rules = [
            {"action": "deny", "ports": [{"protocol": "tcp", "port": 80}]},
            {"ports": [{"protocol": "tcp", "port": 443}], "log": True},
        ]
        here.apply("look", mode="audit", subjects={"names": ["web"]}, ingress=rules)
        with watching(lab, "--type", "verdict", "--policy", "blue/look") as watcher:
            for port in (80, 443):
                here.wait("far", port, reached=True)
            seen = watcher.until(lambda events: {"allowed", "audited"} <= {one.get("outcome") for one in events})
            told = {one["outcome"]: one["rule"] for one in seen if one["type"] == "verdict"}
            assert told["audited"] == "policy look ingress rule 1 (priority 1000)"
            assert told["allowed"] == "policy look ingress rule 2 (priority 1000)"


def restart(lab: LabName, name: str) -> None:
    """Kills the daemon of a droplet, or the server; `mizar lab up` starts it again."""
    for process in processes.marked(lab.name):
        if process.name == name:
            os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(one.name == name for one in processes.marked(lab.name)))
    labs.up(manifests(lab, MANIFESTS.replace("TUNNEL", "geneve").replace("OTHER", "geneve")))


@pytest.mark.long
def test_policies_outlive_daemons_and_server_and_an_audit_finds_what_is_altered(lab: LabName) -> None:
    """What is allowed and what is not stays so all the time, and a row that was changed by hand is named and mended."""
    with bench(lab) as here:
        here.apply("web", subjects={"names": ["web"]}, ingress=[{"ports": [{"protocol": "tcp", "port": 443}]}])
        here.wait("far", 443, reached=True)
        made = here.connect("far", here.addresses("web")[0], 443)
        assert made is not None
        for name in ("d1", "server"):
            restart(lab, name)
            assert _echoes(made)
            here.wait("near", 443, reached=True)
            here.wait("near", 80, reached=False)
            assert here.client.audit("d1")["findings"] == []
        with open_policy_verdicts(lab, "d1") as rows:
            ((key, verdict),) = rows.items()
            rows.put(key, {**verdict, "action": 0})
            here.wait("far", 443, reached=False)
            (altered,) = here.client.audit("d1")["findings"]
            assert (altered["table"], altered["kind"], altered["vpc"]) == ("policy_verdicts", "altered", "blue/main")
            here.client.audit("d1", repair=True)
        here.wait("far", 443, reached=True)
        made.close()


@pytest.mark.long
def test_an_endpoint_is_policed_wherever_it_moves(lab: LabName) -> None:
    """From its first moment there; the droplet that it leaves holds its rules no more."""
    with bench(lab) as here:
        here.apply("web", subjects={"names": ["web"]}, ingress=[{"ports": [{"protocol": "tcp", "port": 443}]}])
        here.wait("far", 443, reached=True)
        here.client.move("web", "blue", "d2")
        refused = []

        def moved() -> bool:
            refused.append(here.connect("far", here.addresses("web")[0], 80) is None)
            return bool(here.client.get("Endpoint", "web", "blue")["status"]["move"]["stage"] == "Done")

        wait_until(moved)
        assert all(refused)
        for client in ("near", "far"):
            here.wait(client, 443, reached=True)
            here.wait(client, 80, reached=False)
        with open_policy_verdicts(lab, "d1") as rows:
            wait_until(lambda: list(rows.items()) == [])
