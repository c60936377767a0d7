# SPDX-License-Identifier: Apache-2.0
"""What nobody waits for: agents attached for good, and the pool filled, whatever goes wrong in between."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mizar.model.errors import TemporaryError
from mizar.transit import attachments
from mizar.transit.attachments import Attachments


class Installer:
    """Its pool takes two namespaces; `failures` come first, one for each try."""

    def __init__(self, *_: object) -> None:
        self.failures: list[Exception] = []
        self.ready = 0

    @property
    def pool_is_short(self) -> bool:
        return self.ready < 2

    def refill(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.ready += 1

    def close(self) -> None:
        pass


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Attachments, Installer]]:
    monkeypatch.setattr(attachments, "Installer", Installer)
    monkeypatch.setattr(attachments, "RETRY_S", 0.01)
    nothing = cast(Any, SimpleNamespace(mtu=lambda: 1500, whole=lambda: 1500, xdp=""))
    ledger = cast(Any, SimpleNamespace(whole=lambda work: work))
    found = Attachments(ledger, 0, nothing, nothing, nothing, nothing, nothing)
    yield found, cast(Installer, found._installer)
    found.close()


async def test_the_pool_is_filled_after_any_failure(made: tuple[Attachments, Installer]) -> None:
    """Of Mizar's own, of a socket whose answer the kernel had no room for, and of a thread that cannot be started."""
    one, installer = made
    installer.failures = [
        TemporaryError("busy"),
        OSError(errno.ENOBUFS, "No buffer space available"),
        RuntimeError("can't start new thread"),
    ]
    one.settle_later()
    await _until(lambda: not installer.pool_is_short)
    installer.ready = 0
    one.settle_later()
    await _until(lambda: not installer.pool_is_short)


async def test_the_pool_is_filled_after_an_endpoint_that_failed(
    made: tuple[Attachments, Installer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have taken a namespace before."""
    one, installer = made

    async def fails(_: object) -> str:
        installer.ready = 0
        raise TemporaryError("no room")

    monkeypatch.setattr(one, "_attach", fails)
    (outcome,) = await one.attach([cast(Any, SimpleNamespace(uid="u1"))])
    assert outcome.error is not None
    await _until(lambda: not installer.pool_is_short)


async def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
