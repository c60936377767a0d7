# SPDX-License-Identifier: Apache-2.0
"""The REST API and its client over a unix socket: every path, and what comes back when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import shutil
import socket
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from mizar.api.client import Client
from mizar.api.limits import BODY_BYTES
from mizar.api.serve import serve
from mizar.manager.fleet import Fleet
from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError, TemporaryError
from mizar.model.manifest import parse_resource
from mizar.model.resources import Ref, Resource
from tests.api.conftest import Site, aside
from tests.unit.manager.world import endpoint, network, tenant, until, vpc

ALL = [
    Ref("Endpoint", "red", "e1"),
    Ref("Network", "red", "front"),
    Ref("VPC", "red", "main"),
    Ref("Tenant", "", "red"),
]


def raw(site: Site) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=f"{site.directory}/server.sock"), base_url="http://mizar")


async def test_what_is_long_is_read_aside(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One manifest may have megabytes: while it is read others are served, and small ones need no thread."""
    read_in: list[bool] = []

    def reading(document: dict[str, Any], index: int) -> Resource:
        read_in.append(threading.current_thread() is threading.main_thread())
        return parse_resource(document, index)

    monkeypatch.setattr("mizar.api.app.parse_resource", reading)
    long = tenant("blue")
    long["metadata"]["labels"] = {f"l{number}": "x" * 63 for number in range(1000)}
    with site.client() as client:
        await aside(lambda: client.apply([tenant("red")]))
        with contextlib.suppress(MizarError):  # whether it may have so many is another question
            await aside(lambda: client.apply([long]))
    assert read_in == [True, False]


async def test_from_manifest_to_provisioned_and_gone(site: Site) -> None:
    """The whole life of some objects, as a person at the CLI has it."""

    def life() -> None:
        with site.client() as client:
            manifests = [*site.droplets(), tenant("red"), vpc("red"), network("red"), endpoint("red", "e1", "d1")]
            assert {r["change"] for r in client.apply(manifests, dry_run=True)} == {"created"}
            assert client.list("Tenant") == []
            results = client.apply(manifests)
            assert results[-1] == {"kind": "Endpoint", "tenant": "red", "name": "e1", "change": "created"}
            found = client.wait(ALL, 10)
            assert [o["status"]["phase"] for o in found] == ["Provisioned"] * 4
            assert client.get("ep", "e1", "red")["status"]["addresses"] == ["10.0.1.2", "fd00:10:0:1::2"]
            assert [o["metadata"]["name"] for o in client.list("droplets")] == ["d1", "d2"]
            assert client.list("endpoints", "blue") == []
            assert len(client.list("endpoints", "red")) == len(client.list("endpoints")) == 1
            with pytest.raises(ConflictError, match="Endpoint red/e1"):
                client.delete("network", "front", "red")
            deleted = client.delete("tenant", "red", cascade=True)
            assert deleted["status"]["phase"] == "Deleting"
            assert client.wait(ALL, 10, until="gone") == []
            with pytest.raises(NotFoundError):
                client.get("tenant", "red")

    await aside(life)
    assert not any(daemon.tables.vpcs for daemon in site.daemons)


async def test_all_errors_come_back_with_their_place(site: Site) -> None:
    """Errors of shape and errors between objects, of all manifests, in one answer; nothing is stored."""
    bad = vpc("red", cidrs=["10.0.0.1/16"], colour="red")
    manifests = [tenant("red"), bad, network("red"), endpoint("red", "e1", "d9"), {"kind": "Nonsense"}]

    def refused() -> InvalidError:
        with site.client() as client, pytest.raises(InvalidError) as caught:
            client.apply(manifests)
        with site.client() as client:
            assert client.list("Tenant") == []
        return caught.value

    found = await aside(refused)
    places = {(problem.index, problem.field) for problem in found.problems}
    assert {(1, "spec.cidrs[0]"), (1, "spec.colour"), (3, "spec.droplet"), (4, "kind")} <= places
    # The network is not blamed for the VPC that this request failed to make.
    assert not any(index == 2 for index, _ in places)


async def test_wait_tells_why(site: Site) -> None:
    """A failure ends the wait at once with its reason; time running out tells what each object waits for."""
    site.daemons[0].refuse_attach = lambda _: ("no such namespace", True)

    def waits() -> None:
        with site.client() as client:
            client.apply([*site.droplets(), tenant("red"), vpc("red"), network("red"), endpoint("red", "e1", "d1")])
            with pytest.raises(InvalidError, match="Endpoint red/e1: droplet d1: no such namespace"):
                client.wait(ALL, 10)
            with pytest.raises(NotFoundError):
                client.wait([Ref("VPC", "red", "none")], 10)
            with pytest.raises(TemporaryError, match="VPC red/main: is still Provisioned and not gone"):
                client.wait([Ref("VPC", "red", "main")], 0.5, until="gone")

    await aside(waits)


async def test_counters_and_state_pass_through(site: Site) -> None:
    """What a daemon tells comes as numbers and text; one that does not answer is a passing error."""

    def ask(client: Client) -> None:
        client.apply([*site.droplets(), tenant("red"), vpc("red", vni=7), network("red", bouncers=2)])
        client.wait([Ref("Network", "red", "front"), Ref("Droplet", "", "d1")], 10)
        assert client.counters("d1")["vpcs"][0] | {"sentBytes": 0} == client.counters("d1")["vpcs"][0]
        assert client.counters("d1")["vpcs"][0]["sentPackets"] == 1
        state = client.state("d1")
        assert state["networks"][0]["prefixes"][0] == {"address": "10.0.1.0", "length": 24, "gateway": "10.0.1.1"}
        assert sorted(droplet["address"] for droplet in state["droplets"]) == ["172.31.0.11", "172.31.0.12"]
        with pytest.raises(NotFoundError):
            client.counters("d9")

    def unreachable(client: Client) -> None:
        with pytest.raises(TemporaryError):
            client.counters("d2")

    with site.client() as client:
        await aside(lambda: ask(client))
        await site.daemons[1].stop()
        await aside(lambda: unreachable(client))


async def test_requests_that_are_none(site: Site) -> None:
    """Bad JSON, wrong types, unknown paths, too much: each a JSON error, never a stack trace."""

    def check() -> None:
        with raw(site) as http:
            json_type = {"content-type": "application/json"}
            cases = [
                (http.post("/v1/apply", content=b"{", headers=json_type), 422),
                (http.post("/v1/apply", json={"resources": "all"}), 422),
                (http.post("/v1/apply", json={"resources": [], "sudo": True}), 422),
                (http.post("/v1/apply", json={"resources": [[1]]}), 422),
                (http.post("/v1/apply", content=b"{}", headers={"content-type": "text/plain"}), 415),
                (http.post("/v1/apply", content=b"x" * (BODY_BYTES + 1), headers=json_type), 413),
                (http.post("/v1/apply", content=iter([b"x" * BODY_BYTES, b"x"]), headers=json_type), 413),
                (http.get("/v1/nothing"), 404),
                (http.put("/v1/apply"), 405),
                (http.get("/v1/tenants/..%2f..%2fetc/vpcs/x"), 404),
                (http.delete("/v1/droplets/none?cascade=perhaps"), 422),
            ]
            for reply, status in cases:
                assert reply.status_code == status, reply.text
                errors = json.loads(reply.text)["errors"]
                assert errors
                assert all(set(entry) == {"resource", "field", "message", "index"} for entry in errors)
                assert "Traceback" not in reply.text

    await aside(check)


async def test_openapi_describes_every_path(site: Site) -> None:
    """Each operation has a summary, and objects have a model."""

    def fetch() -> dict[str, dict[str, dict[str, object]]]:
        with raw(site) as http:
            paths: dict[str, dict[str, dict[str, object]]] = http.get("/openapi.json").json()["paths"]
            return paths

    paths = await aside(fetch)
    assert {"/v1/apply", "/v1/watch", "/v1/tenants/{tenant}/endpoints/{name}", "/v1/droplets/{name}/counters"} <= set(
        paths
    )
    assert all(operation.get("summary") for path in paths.values() for operation in path.values())
    assert {p["name"] for p in paths["/v1/droplets/{name}"]["get"]["parameters"]} == {"name"}  # type: ignore[attr-defined]


async def test_the_socket_is_the_owners_alone(site: Site) -> None:
    """Mode 0600, and gone with the server."""
    assert stat.S_IMODE(Path(f"{site.directory}/server.sock").stat().st_mode) == 0o600


async def test_a_server_whose_manager_is_broken_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not go on answering while nothing is carried out."""

    async def defective(fleet: Fleet) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Fleet, "_work", defective)
    with pytest.raises(RuntimeError, match="a defect"):
        async with asyncio.timeout(10):
            await serve(tmp_path / "db", [f"unix://{tmp_path}/server.sock"])
    assert not (tmp_path / "server.sock").exists()


def test_another_users_socket_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not help to start a server."""

    def refuse(_socket: socket.socket, _address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(MizarError, match="another user's: run this as root"):
        Client(f"unix://{tmp_path}/server.sock").health()


async def test_nobody_there_is_a_passing_error(tmp_path: Path) -> None:
    """The message says what to start."""
    with pytest.raises(TemporaryError, match="mizar server"), Client(f"unix://{tmp_path}/none.sock") as client:
        client.health()
    with pytest.raises(InvalidError, match="no address of a server"):
        Client("ftp://x")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"resources": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"resources": [{"apiVersion": "mizar/v1", "kind": "Tenant", "metadata": {"name": "\\ud800"}}]}',
        b'{"resources": [{"apiVersion": "mizar/v1", "kind": "Tenant", "metadata": {"name": "a", "labels": {"x": "\\ud800"}}}]}',  # noqa: E501
        b'{"resources": [{"apiVersion": "mizar/v1", "kind": "Tenant", "metadata": {"name": "a", "\\ud800": 1}}]}',
        b'{"resources": [{"apiVersion": "mizar/v1", "kind": "\\ud800", "metadata": {"name": "a"}}]}',
        b'{"resources": [{"apiVersion": "mizar/v1", "kind": ["VPC"], "metadata": "x"}]}',
        b'{"resources": [{"kind": "VPC", "metadata": {"name": "a", "tenant": "t"}, "spec": {"cidrs": [1], "vni": 1e400}}]}',  # noqa: E501
        b'{"resources": [{"kind": "Tenant", "metadata": {"name": 7, "tenant": []}, "spec": [null], "status": 0}]}',
        b"\xff\xfe",
    ],
)
async def test_hostile_bodies_are_refused_in_json(site: Site, body: bytes) -> None:
    """Depth, half a surrogate, wrong types: a refusal, nothing stored, and the server goes on."""

    def check() -> None:
        with raw(site) as http:
            reply = http.post("/v1/apply", content=body, headers={"content-type": "application/json"})
            assert 400 <= reply.status_code < 500, reply.text
            assert reply.json()["errors"]
            assert http.get("/v1/tenants").json() == {"items": []}

    await aside(check)


def kept_by_store(site: Site) -> list[tuple[object, ...]]:
    """All but status, which is written late. Of a copy: the store is its server's alone."""
    copy = site.directory / "copy"
    for end in ("", "-wal"):
        shutil.copy(site.directory / f"db{end}", f"{copy}{end}")
    with contextlib.closing(sqlite3.connect(copy)) as store:
        rows = store.execute("SELECT uid, generation, manifest FROM objects ORDER BY uid").fetchall()
        rows += store.execute("SELECT scope, value, uid FROM allocations ORDER BY scope, value").fetchall()
        return rows + store.execute("SELECT uid, position, droplet FROM placements ORDER BY uid, position").fetchall()


async def test_a_preview_tells_and_touches_nothing(site: Site) -> None:
    """Objects, steps and reach of what an apply would do; the store and every droplet's tables stay as they are."""

    base = [*site.droplets(), tenant("red"), vpc("red"), network("red"), endpoint("red", "e1", "d1")]

    def prepare() -> None:
        with site.client() as client:
            client.apply(base)
            client.wait(ALL, 10)

    def ask() -> None:
        with site.client() as client:
            stored, held = kept_by_store(site), [daemon.tables.copy() for daemon in site.daemons]
            kept = [client.list(kind) for kind in ("Tenant", "VPC", "Network", "Endpoint", "Droplet")]
            assert client.preview(base)["changes"] is False
            found = client.preview([endpoint("red", "e2", "d2")])
            assert [(one["name"], one["change"]) for one in found["objects"]] == [("e2", "created")]
            assert "d2" in {one["name"] for one in found["droplets"]}  # and the bouncer, wherever that is
            assert {(one["from"], one["to"]) for one in found["reach"]["gained"]} == {
                ("red/e1", "red/e2"),
                ("red/e2", "red/e1"),
            }
            with pytest.raises(InvalidError, match="d9") as caught:
                client.preview([endpoint("red", "e2", "d9")])
            assert caught.value.problems[0].index == 0
            assert [client.list(kind) for kind in ("Tenant", "VPC", "Network", "Endpoint", "Droplet")] == kept
            assert [daemon.tables for daemon in site.daemons] == held
            assert kept_by_store(site) == stored

    await aside(prepare)  # the last that droplets hear by themselves is what MTU the others have
    await until(lambda: all(one.mtu for daemon in site.daemons for one in daemon.tables.droplets.values()))
    await aside(ask)
