# SPDX-License-Identifier: Apache-2.0
"""Metrics are read on a unix socket and on loopback, and elsewhere with the certificate of who may see all tenants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from mizar.metrics.process import gauge
from mizar.metrics.serve import serving
from mizar.model.errors import InvalidError
from mizar.pki.authority import initialise, issue
from mizar.pki.identity import Identity, Role
from tests.api.conftest import free_port


async def read(endpoints: int) -> Iterable[Metric]:
    return [gauge("mizar_asked", "How many endpoints were asked for.", (), [((), endpoints)])]


async def test_on_a_unix_socket(tmp_path: Path) -> None:
    """Of mode 0600, which is gone afterwards; nothing else is answered."""
    path = tmp_path / "m.sock"
    async with serving(f"unix://{path}", read, None):
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            reply = await client.get("/metrics", params={"endpoints": 7})
            (family,) = text_string_to_metric_families(reply.text)
            assert (family.name, family.samples[0].value) == ("mizar_asked", 7)
            assert reply.headers["content-type"].startswith("text/plain; version=")
            answers = [("GET", "/", 404), ("POST", "/metrics", 405), ("GET", "/metrics?endpoints=1001", 400)]
            answers += [("GET", "/metrics?endpoints=-1", 400), ("HEAD", "/metrics", 200)]
            for method, what, status in answers:
                assert (await client.request(method, what)).status_code == status, what
    assert not path.exists()


async def test_on_loopback_for_this_host_alone() -> None:
    """A web page cannot read them through a name of its own."""
    port = free_port()
    async with serving(f"127.0.0.1:{port}", read, None), httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 200
        reply = await client.get(f"http://127.0.0.1:{port}/metrics", headers={"host": "evil.example"})
        assert reply.status_code == 421


async def test_elsewhere_with_certificates(tmp_path: Path) -> None:
    """A server or an administrator may read; a tenant may not, and nobody without a certificate comes in."""
    with pytest.raises(InvalidError, match="needs --pki"):
        async with serving("0.0.0.0:1", read, None):
            raise AssertionError
    await asyncio.to_thread(initialise, tmp_path)
    await asyncio.to_thread(issue, tmp_path, Identity(Role.TENANT, "red"))
    port = free_port()
    async with serving(f"https://127.0.0.1:{port}", read, (tmp_path, "server")):
        for own, status in (("server", 200), ("admin", 200), ("tenant-red", 403)):
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
            context.load_cert_chain(tmp_path / f"{own}.crt", tmp_path / f"{own}.key")
            async with httpx.AsyncClient(verify=context) as client:
                assert (await client.get(f"https://127.0.0.1:{port}/metrics")).status_code == status, own
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        async with httpx.AsyncClient(verify=context) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(f"https://127.0.0.1:{port}/metrics")


async def test_nowhere() -> None:
    """Without a place nothing listens."""
    async with serving("", read, None):
        pass
