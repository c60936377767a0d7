# SPDX-License-Identifier: Apache-2.0
"""Reading functions' own maps, without a kernel's: what becomes of the descriptors."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.transit import function_contents


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_who_gives_up_takes_no_descriptor_from_the_thread_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number could be another map's by then, of larger values. All are closed behind it."""
    began, go_on, over = threading.Event(), threading.Event(), threading.Event()
    kept = os.memfd_create("kept")
    named: list[str] = []

    def told(_function: Any, maps: Mapping[str, int], _request: Any) -> pb.FunctionMaps:
        began.set()
        go_on.wait(30)
        named.extend(str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in maps.values() if _is_open(fd))
        over.set()
        return pb.FunctionMaps()

    monkeypatch.setattr(function_contents, "_told", told)
    functions: Any = SimpleNamespace(
        lock=asyncio.Lock(),
        held={"one": SimpleNamespace(name="one")},
        own=SimpleNamespace(of=lambda _: {"map": kept}),
    )
    try:
        before = open_files()
        asking = asyncio.create_task(function_contents.read(functions, pb.GetFunctionMapsRequest(function="one")))
        assert await asyncio.to_thread(began.wait, 30)
        asking.cancel()
        await asyncio.wait([asking])
        go_on.set()
        assert await asyncio.to_thread(over.wait, 30)
        assert ["kept" in one for one in named] == [True]
        async with asyncio.timeout(30):
            while open_files() != before:
                await asyncio.sleep(0.01)
    finally:
        os.close(kept)


def _is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")
