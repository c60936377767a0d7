# SPDX-License-Identifier: Apache-2.0
"""The end of what translates public addresses on a droplet, without a droplet."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel import interfaces, nat_way
from mizar.kernel.namespaces import Namespace
from mizar.kernel.nat_way import Way
from mizar.model.errors import MizarError
from mizar.transit.engines import nat_attracted, nat_gateway, public_balancer
from mizar.transit.engines.engine import Place
from mizar.transit.engines.nat_gateway import NatGateway
from mizar.transit.engines.public_balancer import PublicBalancer


@pytest.mark.parametrize(("kind", "work"), [(NatGateway, "_build"), (PublicBalancer, "_looked")])
async def test_what_is_at_work_when_it_ends_attracts_nothing_afterwards(
    kind: type[NatGateway | PublicBalancer], work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be cancelled: what it does is let go of once it is done, and no other begins."""
    done: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    def look(*_: object) -> pb.NatReport:
        began.set()
        go_on.wait(30)
        done.append("attracted")
        return pb.NatReport()

    for module in (nat_gateway, public_balancer):
        monkeypatch.setattr(module, "LOOK_S", 0.0)
        monkeypatch.setattr(module, "let_go", lambda *_: done.append("let go"))
    monkeypatch.setattr(nat_gateway, "forget", lambda _: None)
    engine = kind(Place("u1", tmp_path, tmp_path, "/none", lambda: None))
    monkeypatch.setattr(engine, work, look)
    engine._looking = asyncio.create_task(engine._look())
    await asyncio.to_thread(began.wait, 30)
    ending = asyncio.create_task(engine.end())
    await asyncio.sleep(0.05)
    assert done == []
    go_on.set()
    await ending
    assert done == ["attracted", "let go"]
    with pytest.raises(MizarError, match="ended"):
        await engine._do(look)  # type: ignore[arg-type]
    assert done == ["attracted", "let go"]


def test_addresses_are_announced_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever more rarely; from the beginning when they are new, or when somebody else may have been heard."""
    told: list[int] = []
    new, look = [["203.0.113.1"]], 0
    monkeypatch.setattr(nat_way, "attract", lambda _: new.pop() if new else [])
    monkeypatch.setattr(nat_attracted, "Netlink", lambda: contextlib.nullcontext())
    monkeypatch.setattr(interfaces, "get", lambda *_: None)
    monkeypatch.setattr(nat_attracted, "announce", lambda *_: told.append(look))
    heralds, way = nat_attracted.Heralds(), Way("u1", Namespace(-1, ""), "eth0", "up0", (), ())
    while look < 203:
        look += 1
        nat_attracted.attract(way, heralds)
        if look == 200:
            heralds.anew()
    assert told == [1, 2, 4, 8, 16, 32, 64, 201, 202]
    new.append(["203.0.113.1"])
    look += 1
    nat_attracted.attract(way, heralds)
    assert told[9:] == [204]
