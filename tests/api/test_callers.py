# SPDX-License-Identifier: Apache-2.0
"""Who may come in, where, and what they see: real mutual TLS on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from mizar.api.client import Client
from mizar.api.listen import parse_listen
from mizar.api.serve import serve
from mizar.model.errors import ConflictError, InvalidError, MizarError, NotFoundError, TemporaryError
from mizar.pki.authority import initialise
from tests.api.conftest import Site, aside
from tests.unit.manager.world import endpoint, network, tenant, vpc


def two_tenants(site: Site) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [*site.droplets()]
    for owner in ("red", "blue"):
        found += [tenant(owner), vpc(owner), network(owner), endpoint(owner, "e1", "d1")]
    return found


async def test_a_tenant_sees_what_is_its_own_and_nothing_else(site: Site) -> None:
    """What is another's, and what never existed, answer in exactly the same words."""

    def look() -> None:
        with site.client() as admin:
            admin.apply([*two_tenants(site), vpc("blue", "secret", vni=99)])
        with site.certified("tenant-red") as red:
            assert {o["metadata"]["tenant"] for o in red.list("Endpoint")} == {"red"}
            assert red.list("Endpoint", "blue") == red.list("Droplet") == []
            assert [o["metadata"]["name"] for o in red.list("Tenant")] == ["red"]
            assert red.get("vpc", "main", "red")["metadata"]["tenant"] == "red"
            attempts: list[Callable[[str, str], object]] = [
                lambda t, n: red.get("VPC", n, t),
                lambda t, n: red.delete("VPC", n, t, cascade=True),
                lambda t, n: red.get("Tenant", t),
                lambda t, n: red.delete("Tenant", t),
            ]
            for attempt in attempts:
                answers = []
                for owner, name in (("blue", "secret"), ("nobody", "nothing")):
                    with pytest.raises(NotFoundError) as caught:
                        attempt(owner, name)
                    answers.append(str(caught.value).replace(owner, "T").replace(name, "N"))
                assert answers[0] == answers[1]
            whole: list[Callable[[str], object]] = [red.counters, red.state, red.audit]
            whole += [lambda n: red.get("Droplet", n), lambda n: red.delete("Droplet", n)]
            for call in whole:
                with pytest.raises(NotFoundError):
                    call("d1")
            with pytest.raises(ConflictError, match="somebody else") as taken:
                red.apply([vpc("red", "probe", vni=99)])
            assert "blue" not in str(taken.value)

    await aside(look)


async def test_a_tenant_changes_what_is_its_own_and_nothing_else(site: Site) -> None:
    """Its own VPCs and networks; not droplets, tenants, others' objects, nor namespaces that are not its own."""

    def change() -> None:
        with site.client() as admin:
            admin.apply(two_tenants(site))
        with site.certified("tenant-red") as red:
            applied = red.apply([network("red", "mine", 5), endpoint("red", "e2", "d1")])
            assert {result["change"] for result in applied} == {"created"}
            refused = [
                (vpc("blue", "mine"), "metadata.tenant"),
                (vpc("nobody", "mine"), "metadata.tenant"),
                (tenant("green"), "kind"),
                (site.droplets()[0], "kind"),
                (endpoint("red", "e3", "d1", workload={"pid": 1}), "spec.workload"),
                (endpoint("red", "e3", "d1", workload={"path": "/proc/1/ns/net"}), "spec.workload"),
                (endpoint("red", "e3", "d1", workload={"namespace": "blue.e1"}), "spec.workload"),
                (endpoint("red", "e3", "d1", workload={"namespace": "redder.e1"}), "spec.workload"),
                (endpoint("red", "e3", "d1", workload={"tap": {"name": "vm1"}}), "spec.workload"),
                (endpoint("red", "e3", "d1", workload={"tap": {"owner": 1000}}), "spec.workload"),
                (endpoint("red", "e3", "d1", workload={"ovs": {"bridge": "br0"}}), "spec.workload"),
            ]
            for manifest, field in refused:
                with pytest.raises(InvalidError) as caught:
                    red.apply([manifest])
                assert [problem.field for problem in caught.value.problems] == [field]
            with pytest.raises(InvalidError):
                red.delete("Tenant", "red", cascade=True)
            red.delete("Endpoint", "e2", "red")

    await aside(change)


async def test_a_tenant_hears_of_its_own_changes_only(site: Site) -> None:
    """The watch is as private as everything else."""

    def watch() -> set[str]:
        heard = set()
        with site.client() as admin, site.certified("tenant-red") as red:
            for change in red.watch(2.0):
                if change["type"] == "ready":
                    admin.apply(two_tenants(site))
                elif change["type"] != "alive":
                    heard.add(change["object"]["metadata"].get("tenant") or change["object"]["metadata"]["name"])
                elif heard:
                    break
        return heard

    assert await aside(watch) == {"red"}


@pytest.mark.parametrize("stem", ["server"])
async def test_certificates_of_the_machinery_may_not_use_the_api(site: Site, stem: str) -> None:
    """A server's certificate is for daemons; here it opens nothing but the health probe."""

    def use() -> None:
        with site.certified(stem) as client:
            assert client.health()["status"] == "ok"
            calls = (lambda: client.list("VPC"), lambda: client.apply([]), lambda: next(client.watch(1.0)))
            for call in calls:
                with pytest.raises(MizarError, match="may not use the API"):
                    call()

    await aside(use)


async def test_a_daemons_certificate_does_not_even_connect(site: Site) -> None:
    """It is for being called, not for calling."""

    def use() -> None:
        with site.certified("daemon") as client, pytest.raises(TemporaryError):
            client.health()

    await aside(use)


async def test_no_certificate_or_a_strangers_is_refused_by_tls(site: Site, tmp_path: Path) -> None:
    """Before anything is asked."""
    other = tmp_path / "other"
    initialise(other)

    def use() -> None:
        url = f"https://127.0.0.1:{site.tls_port}"
        with httpx.Client(verify=False) as client, pytest.raises(httpx.HTTPError):
            client.get(f"{url}/healthz")
        stranger = Client(url, ca=site.pki / "ca.crt", certificate=other / "admin.crt", key=other / "admin.key")
        with stranger, pytest.raises(TemporaryError):
            stranger.health()
        mistaken = Client(url, ca=other / "ca.crt", certificate=site.pki / "admin.crt", key=site.pki / "admin.key")
        with mistaken, pytest.raises(TemporaryError):
            mistaken.health()
        with site.certified("admin") as admin:
            assert admin.list("Droplet") == []

    await aside(use)


async def test_loopback_is_an_administrators_and_not_a_web_pages(site: Site) -> None:
    """A request that was meant for another host name does not come from a user of this machine."""

    def use() -> None:
        url = f"http://127.0.0.1:{site.plain_port}"
        with Client(url) as client:
            assert client.list("Droplet") == []
        assert httpx.get(f"{url}/v1/droplets", headers={"host": "evil.example"}).status_code == 421

    await aside(use)


@pytest.mark.parametrize("text", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "https://127.0.0.1:80"])
def test_other_places_need_certificates(text: str) -> None:
    """One sentence at the start, before anything is opened."""
    with pytest.raises(InvalidError, match="--pki"):
        parse_listen(text, certificates=False)
    assert parse_listen(text, certificates=True).tls


@pytest.mark.parametrize(
    "text", ["", "80", "unix://", "unix:relative", "host:80", "127.0.0.1:x", "127.0.0.1:99999", "::1"]
)
def test_places_that_are_none(text: str) -> None:
    """The message says what was expected."""
    with pytest.raises(InvalidError, match="expected unix:///path or address:port"):
        parse_listen(text, certificates=True)


@pytest.mark.parametrize("text", ["unix:///tmp/x", "127.0.0.1:0", "[::1]:80", "localhost:80", "127.0.0.53:80"])
def test_places_that_need_none(text: str) -> None:
    """Unix sockets and loopback."""
    assert not parse_listen(text, certificates=False).tls


async def test_a_second_server_is_kept_out(site: Site, tmp_path: Path) -> None:
    """From the socket, and from the database; the first is not disturbed."""
    with pytest.raises(ConflictError, match="another server listens"):
        await serve(tmp_path / "other.db", [site.unix])
    with pytest.raises(ConflictError, match="another process uses the database"):
        await serve(tmp_path / "db", [f"unix://{tmp_path}/other.sock"])
    with site.client() as client:
        assert (await aside(client.health))["status"] == "ok"


async def test_a_socket_left_behind_is_taken_over(tmp_path: Path) -> None:
    """A server that was killed leaves a socket that nobody answers; the next one takes its place."""
    import socket as sockets

    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "server.sock"))
    ready, stop = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serve(tmp_path / "db", [f"unix://{tmp_path}/server.sock"], ready=ready, stop=stop))
    async with asyncio.timeout(10):
        await ready.wait()
    stop.set()
    await task
    assert not (tmp_path / "server.sock").exists()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
async def test_what_is_no_socket_is_never_taken_away(tmp_path: Path, kind: str) -> None:
    """A mistyped --listen costs nobody a file."""
    path, other = tmp_path / "precious", tmp_path / "other"
    other.write_text("precious")
    match kind:
        case "file":
            path.write_text("precious")
        case "link":
            path.symlink_to(other)
        case "folder":
            path.mkdir()
    with pytest.raises(InvalidError, match="no socket"):
        await serve(tmp_path / "db", [f"unix://{path}"])
    assert path.is_dir() if kind == "folder" else path.read_text() == "precious"


async def test_missing_certificates_are_named(tmp_path: Path) -> None:
    """A folder without certificates ends in a sentence that says how to make them."""
    with pytest.raises(InvalidError, match="mizar pki init"):
        await serve(tmp_path / "db", ["https://127.0.0.1:0"], tmp_path)


async def test_loopback_in_the_clear_beside_certificates_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Or whoever gave --pki would take it for asked for there."""
    initialise(tmp_path / "pki")
    listens, stop = ["https://127.0.0.1:0", f"unix://{tmp_path}/s", "127.0.0.1:0"], asyncio.Event()
    stop.set()
    await serve(tmp_path / "db", listens, tmp_path / "pki", stop=stop)
    told = [one.getMessage() for one in caplog.records if "administrator" in one.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("at http://127.0.0.1:0 ")


async def test_daemons_over_tcp_are_reached_with_certificates(site: Site, tmp_path: Path) -> None:
    """The server shows its certificate and checks the daemon's; one of another authority is never spoken to."""
    initialise(tmp_path / "other")
    ours, theirs = site.remote_daemon(3, site.pki), site.remote_daemon(4, tmp_path / "other")
    for daemon in (ours, theirs):
        await daemon.start()

    def connect() -> None:
        with site.client() as client:
            for name, daemon in (("ours", ours), ("theirs", theirs)):
                spec = {"address": daemon.address, "daemon": daemon.target}
                client.apply([{"apiVersion": "mizar/v1", "kind": "Droplet", "metadata": {"name": name}, "spec": spec}])
            for change in client.watch(10.0):
                phases = {o["metadata"]["name"]: o["status"] for o in client.list("Droplet")}
                reason = phases["theirs"]["message"]
                known = phases["ours"]["connected"] and phases["ours"]["phase"] == "Provisioned"
                if known and "UNAVAILABLE" in reason and change["type"] != "ready":
                    break
            assert not phases["theirs"]["connected"]

    try:
        await aside(connect)
        assert ours.tables.droplets
        assert theirs.tables.empty
        assert theirs.calls == []
    finally:
        for daemon in (ours, theirs):
            await daemon.stop()


async def test_functions_are_the_operators(site: Site) -> None:
    """A tenant's attempt is refused in words; it sees none, and nothing of what droplets have loaded."""

    def look() -> None:
        function = {"apiVersion": "mizar/v1", "kind": "Function", "metadata": {"name": "f"}}
        with site.client() as admin:
            admin.apply(two_tenants(site))
            with pytest.raises(InvalidError, match=r"spec\.object: the server reads no file of its client"):
                admin.apply([{**function, "spec": {"object": "f.o"}}])
        with site.certified("tenant-red") as red:
            with pytest.raises(InvalidError, match="kind: only an administrator can apply this kind"):
                red.apply([{**function, "spec": {"object": "f.o"}}])
            assert red.list("Function") == []
            attempts: list[Callable[[], object]] = [
                lambda: red.get("Function", "f"),
                lambda: red.delete("Function", "f"),
                lambda: red.functions("d1"),
                lambda: red.function_maps("d1", "f"),
                lambda: red.function_map("d1", "f", "seen", 1),
            ]
            for attempt in attempts:
                with pytest.raises(NotFoundError):
                    attempt()

    await aside(look)


async def test_an_access_log_is_its_tenants(site: Site) -> None:
    """Each instance's lines behind the place that was given; what is another's is not there, nor is what never was."""
    backends = [{"name": "web", "port": 80, "endpoints": ["e1"]}]
    spec = {"network": "front", "instances": 1, "listeners": [{"port": 80}], "routes": [{"backend": "web"}]}
    balancer = {"apiVersion": "mizar/v1", "kind": "HttpLoadBalancer", "metadata": {"name": "shop", "tenant": "blue"}}

    def look() -> None:
        with site.client() as admin:
            admin.apply([*two_tenants(site), {**balancer, "spec": {**spec, "backends": backends}}])
            for _ in admin.watch(10.0):
                if all(droplet["status"]["connected"] for droplet in admin.list("Droplet")):
                    break
        with site.certified("tenant-blue") as blue:
            (told,) = blue.logs("blue", "shop", {"shop-1": "1-2:3"}, 7)["instances"]
            assert (told["instance"], told["next"], told["reason"]) == ("shop-1", "1-2:3", "")
            assert told["lines"][0].endswith(" 1-2:3 7")
        with site.certified("tenant-red") as red:
            for name in ("shop", "nothing"):
                with pytest.raises(NotFoundError, match="no such object"):
                    red.logs("blue", name, {}, 7)

    await aside(look)
