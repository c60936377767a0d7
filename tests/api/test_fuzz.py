# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked of the API: an answer that the OpenAPI document knows, in JSON, and a refusal that stores nothing.

Manifests are valid ones that were spoilt in one to four places; paths, methods, queries and bodies are arbitrary.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from mizar.api.app import make_app
from mizar.api.caller import ADMINISTRATOR
from mizar.manager.manager import Manager
from mizar.model.resources import KINDS
from mizar.store.sqlite import SqliteStore
from tests.unit.planner.budget import examples

PLURALS = [kind.plural for kind in KINDS.values()]

# Values that each have broken some parser: types, ends of ranges, names, addresses of every form, control characters.
JUNK = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    st.sampled_from([[], {}, [[]], [{}], {"": None}, [None], 2**63, 2**64, 10**40, -1, 0, 16777216, 1e308, ""]),
    st.sampled_from(["a" * 63, "a" * 64, "-a", "a-", "A", "ä", "😀", "a b", "a/b", "..", "\x00", "\x1b[31m", "\ud800"]),
    st.sampled_from(["main", "front", "back", "blue", "red", "d1", "d9", "none", "unix://", "unix:///x", "[::1]:1"]),
    st.sampled_from(["10.0.0.0/8", "10.0.1.0/31", "10.0.1.0/32", "10.0.1.0/30", "fd00:10::/127", "fd00:10::/126"]),
    st.sampled_from(["10.0.0.0/33", "10.0.0.0/08", "::ffff:10.0.1.0/120", "fd00::%eth0/64", "0.0.0.0/0", "1.2.3.4"]),
    st.sampled_from(["10.0.1.5", "010.0.1.5", "fd00:10:0:1::5", "FD00:10:0:1:0:0:0:5", "fd00:10:0:1::10.0.0.1"]),
    st.lists(st.sampled_from(["10.0.1.0/24", "10.0.0.0/16", "fd00:10:0:1::/64", 1, None]), max_size=3),
)


def valid(kind: str, name: str, tenant: str | None = None, **spec: Any) -> dict[str, Any]:
    """A manifest."""
    metadata = {"name": name} | ({"tenant": tenant} if tenant else {})
    return {"apiVersion": "mizar/v1", "kind": kind, "metadata": metadata, "spec": spec}


VALID = [
    valid("Droplet", "d1", address="172.31.0.1", daemon="unix:///nonexistent/d1.sock"),
    valid("Droplet", "d2", address="172.31.0.2", daemon="none"),
    valid("Tenant", "blue"),
    valid("VPC", "main", "blue", cidrs=["10.0.0.0/16", "fd00:10::/48"], dividers=2, vni=7),
    valid("Network", "front", "blue", vpc="main", cidrs=["10.0.1.0/24", "fd00:10:0:1::/64"], bouncers=2),
    valid("Network", "back", "blue", vpc="main", cidrs=["10.0.2.0/24"], tunnelProtocol="vxlan"),
    valid("Endpoint", "front-1", "blue", network="front", droplet="d1", workload={"namespace": "n", "interface": "i"}),
    valid("Endpoint", "back-1", "blue", network="back", droplet="d1", addresses=["10.0.2.9"], workload={"pid": 1}),
    valid("Endpoint", "far", "blue", network="back", droplet="d2", mac="02:00:00:00:00:01"),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside of a value."""
    children: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The example with something deleted, replaced, added, repeated or moved."""
    documents = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 4))):
        number = draw(st.integers(0, len(documents) - 1))
        path = draw(st.sampled_from(list(places(documents[number])) or [()]))
        way = draw(st.sampled_from(["replace", "delete", "add", "twice", "shuffle", "exchange"]))
        if way == "twice":
            documents.append(copy.deepcopy(documents[number]))
        elif way == "shuffle":
            documents = draw(st.permutations(documents))
        elif path:
            parent: Any = documents[number]
            for part in path[:-1]:
                parent = parent[part]
            if way == "replace":
                parent[path[-1]] = draw(JUNK)
            elif way == "delete":
                del parent[path[-1]]
            elif way == "add" and isinstance(parent, dict):
                parent[draw(st.text(max_size=10))] = draw(JUNK)
            elif way == "exchange":
                other = draw(st.sampled_from(VALID))
                for part in path[:-1]:
                    other = other.get(part) if isinstance(other, dict) else None
                if isinstance(other, dict) and path[-1] in other:
                    parent[path[-1]] = copy.deepcopy(other[path[-1]])
    return documents


class _Trusted:
    """The app, with the caller that the server would have put into each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "state": {"caller": ADMINISTRATOR, "hosts": None}}, receive, send)


class _Current:
    """Whichever manager serves now, for one app: to make all routes takes longer than an example."""

    manager: Manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self.manager, name)


class Asked:
    """A server in this process, and how it is asked; one event loop for both."""

    def __init__(self, runner: asyncio.Runner, http: httpx.AsyncClient, manager: Manager) -> None:
        self._runner = runner
        self._http = http
        self._manager = manager

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._http.request(method, path, **more))

    def stored(self) -> list[Any]:
        """Names of everything that is stored."""
        kinds = [kind.name for kind in KINDS.values() if kind.served]
        return [
            (item["kind"], item["metadata"].get("tenant"), item["metadata"]["name"], item["metadata"]["generation"])
            for kind in kinds
            for item in self._manager.all(kind, None)
        ]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all servers: grpc.aio wants no more."""
    with asyncio.Runner() as found:
        yield found


@contextmanager
def server(runner: asyncio.Runner) -> Iterator[Asked]:
    """An empty server, one at a time."""
    current, app = _app()
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore(Path(directory) / "db")

        async def make() -> tuple[Manager, httpx.AsyncClient]:
            manager = Manager(store)
            await manager.start()
            transport = httpx.ASGITransport(_Trusted(app), raise_app_exceptions=True)
            return manager, httpx.AsyncClient(transport=transport, base_url="http://mizar")

        current.manager, http = runner.run(make())
        try:
            yield Asked(runner, http, current.manager)
        finally:
            runner.run(current.manager.stop())
            store.close()


@functools.cache
def _app() -> tuple[_Current, FastAPI]:
    """What answers, and for whom."""
    current = _Current()
    return current, make_app(cast(Manager, current))


def told(reply: httpx.Response) -> list[dict[str, Any]]:
    """What a refusal says is wrong, at least one thing."""
    errors: list[dict[str, Any]] = reply.json()["errors"]
    for error in errors:
        assert error["message"]
        assert set(error) == {"resource", "field", "message", "index"}
    assert errors
    return errors


def printable(errors: list[dict[str, Any]]) -> bool:
    """Whether nothing in it can move a terminal's cursor."""
    return all(str(part).isprintable() for error in errors for part in error.values())


@given(documents=spoilt())
@examples(60)
def test_spoilt_manifests_are_taken_whole_or_refused_whole(
    runner: asyncio.Runner, documents: list[dict[str, Any]]
) -> None:
    """200 and all of it is stored, or a refusal that names every culprit and nothing is; again gives the same."""
    with server(runner) as ask:
        body = json.dumps({"resources": documents})
        reply = ask("POST", "/v1/apply", content=body, headers={"content-type": "application/json"})
        if reply.status_code == 200:
            assert len(ask.stored()) == len(documents)
            again = ask("POST", "/v1/apply", content=body, headers={"content-type": "application/json"})
            assert {result["change"] for result in again.json()["results"]} == {"unchanged"}
            for kind, tenant, name, _ in ask.stored():  # what is shown can be applied again
                place = f"tenants/{tenant}/" if tenant else ""
                shown = ask("GET", f"/v1/{place}{KINDS[kind].plural}/{name}").json()
                result = ask("POST", "/v1/apply", json={"resources": [shown]}).json()["results"]
                assert result == [{"kind": kind, "tenant": tenant, "name": name, "change": "unchanged"}]
        else:
            assert reply.status_code in (409, 422, 507), reply.text
            assert printable(told(reply))
            assert ask.stored() == []


@given(documents=spoilt())
@examples(60)
def test_a_spoilt_change_changes_nothing(runner: asyncio.Runner, documents: list[dict[str, Any]]) -> None:
    """The same over a server that holds the example already."""
    with server(runner) as ask:
        assert ask("POST", "/v1/apply", json={"resources": VALID}).status_code == 200
        before = ask.stored()
        body = json.dumps({"resources": documents})
        reply = ask("POST", "/v1/apply", content=body, headers={"content-type": "application/json"})
        if reply.status_code != 200:
            assert reply.status_code in (409, 422, 507), reply.text
            assert printable(told(reply))
            assert ask.stored() == before


@pytest.fixture(scope="module")
def asked(runner: asyncio.Runner) -> Iterator[Asked]:
    """A server for all requests of a test."""
    with server(runner) as ask:
        yield ask


WORD = st.sampled_from(["blue", "red", "d1", "main", "front", "front-1", "nobody", "..", "%00", "%2f", "ä", "a" * 300])
PATHS = st.one_of(
    st.builds("/v1/{}/{}".format, st.sampled_from(PLURALS), WORD),
    st.builds("/v1/tenants/{}/{}/{}".format, WORD, st.sampled_from(PLURALS), WORD),
    st.builds("/v1/droplets/{}/{}".format, WORD, st.sampled_from(["counters", "state", "x"])),
    st.sampled_from(["/", "/v1", "/v1/", "/v1/apply", "/healthz", "/docs", "/openapi.json", "/v1/tenants?tenant=x"]),
    st.builds("/v1/{}".format, st.sampled_from(PLURALS)),
)
QUERIES = st.dictionaries(
    st.sampled_from(["cascade", "force", "tenant", "x"]), st.sampled_from(["true", "false", "1", "maybe", "", "blue"])
)


@given(
    method=st.sampled_from(["GET", "DELETE", "POST", "PUT", "PATCH", "HEAD", "OPTIONS"]),
    path=PATHS,
    query=QUERIES,
    body=st.one_of(st.binary(max_size=40), st.sampled_from([b"{}", b"[]", b"null", b'{"resources": {}}'])),
    kind=st.sampled_from(["application/json", "text/plain", "", "application/json; charset=utf-16"]),
)
@examples(150)
def test_any_request_has_an_answer(
    asked: Asked, method: str, path: str, query: dict[str, str], body: bytes, kind: str
) -> None:
    """No path, method, query or body makes the server fail; what is refused is refused in JSON."""
    asked("POST", "/v1/apply", json={"resources": VALID})  # makes what an example before has deleted
    reply = asked(method, path, params=query, content=body, headers={"content-type": kind} if kind else {})
    assert reply.status_code in (200, 404, 405, 409, 413, 415, 422, 503), (method, path, reply.text)
    if reply.status_code != 200 and method != "HEAD":
        assert told(reply)
        assert "Traceback" not in reply.text
