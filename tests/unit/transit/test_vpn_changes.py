# SPDX-License-Identifier: Apache-2.0
"""A tunnel that is told something else: while it is being looked at, and to be of the other kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mizar.kernel.namespaces import Namespace
from mizar.transit import vpns
from mizar.transit.cgroups import NONE
from mizar.transit.vpn_engines import Found
from mizar.transit.vpn_values import Vpn


def _vpn(revision: int) -> Vpn:
    tunnel: Any = SimpleNamespace(port=51900)
    return Vpn("u1", revision, "e1", "to-far", tunnel, 30)


class Engine:
    """Notes what it is asked to do. Another thread calls `settling`."""

    name = "none"

    def __init__(self, revision: int, done: list[str], settling: Callable[[], None] = lambda: None) -> None:
        self._revision, self._done, self._settling = revision, done, settling

    def program(self, _place: object) -> None:
        """None."""

    def settle(self, _place: object, _namespace: object) -> bool:
        """As it should be."""
        self._settling()
        return True

    def configure(self) -> None:
        """Noted."""
        self._done.append(f"{self._revision} configured")

    def look(self) -> Found:
        """Up."""
        return Found("up")

    def clear(self) -> None:
        """Noted."""
        self._done.append(f"{self._revision} cleared")


def _tunnel(folder: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[Vpn], Engine]) -> vpns._Tunnel:
    """The first revision, of which nobody takes care but the test."""
    owner: Any = SimpleNamespace(groups=NONE, ports={51900}, place_of=lambda _: SimpleNamespace(spec="path:none"))
    monkeypatch.setattr(vpns, "engine_of", lambda _owner, _folder, wanted: made(wanted))
    monkeypatch.setattr(Namespace, "open_spec", lambda _: contextlib.nullcontext())
    tunnel = vpns._Tunnel(owner, folder, _vpn(1))
    monkeypatch.setattr(tunnel, "_keeper", SimpleNamespace(wake=lambda: None))
    return tunnel


async def test_a_change_in_the_middle_of_a_look_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was configured is noted by its own revision. By that of the change, the next look would find it done, and
    the former keys and peer would stay."""
    done: list[str] = []
    changes = [_vpn(2)]

    def settling() -> None:
        if changes:
            tunnel.change(changes.pop())

    tunnel = _tunnel(tmp_path, monkeypatch, lambda wanted: Engine(wanted.revision, done, settling))
    for _ in range(3):
        await tunnel._settled()
    assert done == ["1 configured", "2 configured"]


async def test_of_the_other_kind_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's WireGuard has no process that ends: its device would go on with the former keys and peer. A change
    of the same kind clears nothing."""

    class Other(Engine):
        """Of another kind."""

    done: list[str] = []
    kinds = {1: Engine, 2: Engine, 3: Other}
    tunnel = _tunnel(tmp_path, monkeypatch, lambda wanted: kinds[wanted.revision](wanted.revision, done))
    await tunnel._settled()
    for revision in (2, 3):
        tunnel.change(_vpn(revision))
        await tunnel._settled()
        await tunnel._settled()
    assert done == ["1 configured", "2 configured", "2 cleared", "3 configured"]
