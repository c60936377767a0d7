# SPDX-License-Identifier: Apache-2.0
"""No key of a certificate is on the disk once an instance of an HTTP balancer has ended, whatever it was at. Without an
HAProxy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.model.errors import MizarError
from mizar.transit.engines import host, http_balancer, http_certificates
from mizar.transit.engines.engine import Kind, Place
from mizar.transit.engines.http_balancer import HttpBalancer
from mizar.transit.processes import Program
from mizar.transit.values import Wanted
from mizar.transit.workloads import InNamespace, NamespaceBy
from tests.unit.transit.batches import OWN
from tests.unit.transit.test_audit import end

KEY = "the key of a certificate"


class Here:
    """A namespace whose work is done where it is asked for."""

    @staticmethod
    def open_spec(_: str) -> contextlib.AbstractContextManager[Here]:
        return contextlib.nullcontext(Here())

    def run(self, work: Callable[[], Any]) -> None:
        work()


def balancer() -> pb.Engine:
    """One that has a certificate."""
    certificate = pb.HttpCertificate(name="a", chain="chain", key=KEY)
    return pb.Engine(
        http=pb.HttpBalancer(
            tenant="blue", name="shop", instance="shop-1", listeners=[pb.HttpListener(port=443, tls=True)],
            certificates=[certificate], connections=10, threads=1, connect_ms=100, client_ms=100, server_ms=100,
        )
    )  # fmt: skip


def kept(folder: Path) -> list[Path]:
    """The files that hold the key."""
    return [one for one in folder.rglob("*") if one.is_file() and KEY.encode() in one.read_bytes()]


class AtWork:
    """An instance that has begun to write its files, and waits for the word to go on."""

    def __init__(self) -> None:
        self.began, self.go_on, self.over = threading.Event(), threading.Event(), threading.Event()

    def wait(self) -> None:
        self.began.set()
        self.go_on.wait(30)


@pytest.fixture
def at_work(monkeypatch: pytest.MonkeyPatch) -> AtWork:
    """While namespaces are none, folders the user's own, and HAProxy finds no fault."""
    found, write = AtWork(), HttpBalancer._write

    def written(*arguments: Any) -> None:
        try:
            write(*arguments)
        finally:
            found.over.set()

    monkeypatch.setattr(http_balancer, "Namespace", Here)
    monkeypatch.setattr(http_balancer, "_open_low_ports", found.wait)
    monkeypatch.setattr(HttpBalancer, "_write", written)
    monkeypatch.setattr(HttpBalancer, "_try", lambda *_: None)
    monkeypatch.setattr(HttpBalancer, "_program", lambda *_: Program(("none",), "none"))
    for module in (http_balancer, http_certificates):
        monkeypatch.setattr(module, "own_folder", lambda path, *_, **__: path.mkdir(parents=True, exist_ok=True))
        monkeypatch.setattr(module, "own_file", lambda path, content, _: path.write_text(content))
    return found


async def test_files_that_are_just_written_go_with_the_instance(tmp_path: Path, at_work: AtWork) -> None:
    """A thread cannot be cancelled: what it wrote is taken away behind it, and no other begins."""
    engine = HttpBalancer(Place("u1", tmp_path / "u1", tmp_path / "logs", "none", lambda: None))
    putting = asyncio.create_task(engine.put(balancer()))
    assert await asyncio.to_thread(at_work.began.wait, 30)
    putting.cancel()
    await asyncio.wait([putting])
    ending = asyncio.create_task(engine.end())
    await asyncio.wait([ending], timeout=0.2)
    at_work.go_on.set()
    await ending
    assert await asyncio.to_thread(at_work.over.wait, 30)
    assert kept(tmp_path) == []
    with pytest.raises(MizarError, match="ended"):
        await engine.put(balancer())
    assert kept(tmp_path) == []


class Stubborn(HttpBalancer):
    """An instance that cannot be ended."""

    async def put(self, function: pb.Engine) -> None:
        """Does nothing."""

    async def end(self) -> None:
        """Fails."""
        raise OSError("no")


async def test_what_cannot_be_ended_leaves_no_key_either(tmp_path: Path) -> None:
    """What it was told is a file, too."""
    engines = host.Engines(tmp_path, tmp_path / "logs", {"http": Kind(Stubborn, lambda _: None)}, lambda _: None)
    place = InNamespace(NamespaceBy.NAME, "here1", "eth0")
    engines.put(Wanted("uid-1", end(1, OWN), place, 0, engine=balancer().SerializeToString()))
    assert kept(tmp_path) == [tmp_path / "uid-1" / "told"]
    engines.remove("uid-1")
    await engines.drain(30)
    assert kept(tmp_path) == []
