# SPDX-License-Identifier: Apache-2.0
"""The configuration of HAProxy: whatever a manifest's texts are, they are values and never words of the configuration.
HAProxy itself reads what is generated."""

from __future__ import annotations

import shutil
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.transit.engines.http_config import text
from mizar.transit.engines.http_values import checked

HOSTILE = ("'", '"', "\n", "\r", "\0", "\\", " ", "\t", "$HOME", "%[src]", "#", "é", "\u2028", "`id`", "'\n bind :1")
NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
HOSTS = st.one_of(st.just(""), st.from_regex(r"(\*\.)?[a-z0-9]([-a-z0-9.]{0,12}[a-z0-9])?", fullmatch=True))
PATHS = st.text(string.ascii_letters + string.digits + "._~!&()*+,;=:@/-", max_size=20).map(lambda rest: f"/{rest}")

ROUTES = st.lists(st.tuples(HOSTS, PATHS, st.booleans()), min_size=1, max_size=12)


def balancer(
    routes: list[tuple[str, str, bool]] | None = None, name: str = "api", check: str = "/", redirect: int = 0
) -> pb.HttpBalancer:
    server = pb.HttpServer(name="one", address=bytes([10, 0, 0, 1]), weight=1)
    other = pb.HttpServer(name="two", address=bytes(15) + b"\1", weight=2)
    checks = pb.HttpCheck(path=check, interval_ms=1000, timeout_ms=500, rise=2, fall=3)
    backend = pb.HttpBackend(name=name, port=80, balance=pb.HttpBackend.SOURCE, servers=[server, other], check=checks)
    return pb.HttpBalancer(
        tenant="blue",
        name="shop",
        instance="shop-1",
        listeners=[pb.HttpListener(port=80), pb.HttpListener(port=81, redirect=redirect)],
        routes=[pb.HttpRoute(host=h, path=p, exact=e, backend=name) for h, p, e in routes or [("", "/", False)]],
        backends=[backend],
        retries=3,
        connect_ms=100,
        client_ms=1000,
        server_ms=1000,
        connections=100,
        threads=1,
    )


def accepted(config: str, folder: Path) -> str:
    """What HAProxy has against a configuration."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("the Debian package haproxy is not installed")
    file = folder / "haproxy.cfg"
    file.write_text(config)
    done = subprocess.run([program, "-c", "-f", str(file)], capture_output=True, text=True, cwd=folder, check=False)
    return done.stderr if done.returncode else ""


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROUTES, NAMES, PATHS, st.sampled_from([0, 443, 8443]))
def test_haproxy_takes_whatever_passes_the_checks(
    tmp_path: Path, routes: list[tuple[str, str, bool]], name: str, check: str, redirect: int
) -> None:
    """And finds in it the lines that are meant, no more: a text never ends one or begins another."""
    http = checked(balancer(routes, name, check, redirect))
    config = text(http, "stats.sock", "/certificates")
    assert accepted(config, tmp_path) == ""
    plain = text(balancer([("h", "/p", exact) for _, _, exact in routes], "b", "/c", redirect), "stats.sock", "/c")
    keywords = [line.split()[0] for line in config.splitlines()]
    expected = [line.split()[0] for line in plain.splitlines()]
    bare = sum(not path.rstrip("/") and not exact for _, path, exact in routes)  # for those one condition is enough
    frontends = 1 if redirect else 2
    assert len(keywords) == len(expected) - bare * frontends
    assert set(keywords) == set(expected)


@pytest.mark.parametrize("bad", HOSTILE)
def test_no_text_can_end_its_quotes(bad: str) -> None:
    """Such a text is refused, wherever it stands."""
    for http in (
        balancer([(f"a{bad}b", "/", False)]),
        balancer([("", f"/a{bad}b", False)]),
        balancer(name=f"a{bad}b"),
        balancer(check=f"/a{bad}b"),
    ):
        with pytest.raises(InvalidError):
            checked(http)
    for field in ("tenant", "name", "instance"):
        http = balancer()
        setattr(http, field, f"a{bad}b")
        with pytest.raises(InvalidError):
            checked(http)
    http = balancer()
    http.backends[0].servers[0].name = f"a{bad}b"
    with pytest.raises(InvalidError):
        checked(http)


def test_the_more_specific_route_decides() -> None:
    """Whatever the order in which they were written."""
    routes = [
        ("", "/", False), ("", "/a", False), ("", "/a", True), ("*.x.com", "/", False), ("*.y.x.com", "/", False),
        ("z.x.com", "/", False), ("z.x.com", "/b", False),
    ]  # fmt: skip
    lines = [line for line in text(balancer(routes), "s", "c").splitlines() if "use_backend" in line]
    found = [line.partition(" if ")[2] for line in lines[: len(lines) // 2]]
    assert found == [
        "{ var(txn.host) -m str -- 'z.x.com' } { path -m beg -- '/b/' }",
        "{ var(txn.host) -m str -- 'z.x.com' } { path -m str -- '/b' }",
        "{ var(txn.host) -m str -- 'z.x.com' } { path -m beg -- '/' }",
        "{ var(txn.host) -m end -- '.y.x.com' } { path -m beg -- '/' }",
        "{ var(txn.host) -m end -- '.x.com' } { path -m beg -- '/' }",
        "{ path -m str -- '/a' }",
        "{ path -m beg -- '/a/' }",
        "{ path -m str -- '/a' }",
        "{ path -m beg -- '/' }",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda http: http.ClearField("listeners"), "needs a listener"),
        (lambda http: http.listeners.add(port=80), "80 is there twice"),
        (lambda http: http.listeners.add(port=82, tls=True), "has no certificate"),
        (lambda http: http.certificates.add(name="a", chain="é", key="k"), "is not PEM"),
        (lambda http: http.routes.add(path="/", backend="other"), "which is no backend"),
        (lambda http: http.backends[0].servers.add(name="x", address=b"1", weight=1), "has no address"),
        (lambda http: setattr(http, "threads", 0), "threads is 0"),
    ],
)
def test_what_no_haproxy_could_be_is_refused(change: object, message: str) -> None:
    """By the daemon, whatever its manager says."""
    http = balancer()
    change(http)  # type: ignore[operator]
    with pytest.raises(InvalidError, match=message):
        checked(http)
