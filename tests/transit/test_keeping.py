# SPDX-License-Identifier: Apache-2.0
"""One keeper for functions and tunnels: what fails is tried again and told, what works rests until it is woken."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mizar.model.errors import TemporaryError
from mizar.transit import told
from mizar.transit.keeping import Keeper


def test_a_failure_is_told_and_tried_again() -> None:
    """And what was in the way is forgotten once it works; the end waits for what comes before the beginning."""
    turns: list[str] = []
    said: list[str] = []

    async def work() -> None:
        worked = asyncio.Event()
        first = asyncio.create_task(asyncio.sleep(0.01))

        async def step() -> None:
            turns.append("before" if not first.done() else "after")
            if len(turns) == 1:
                raise TemporaryError("not yet")

        def done(trouble: str) -> None:
            said.append(trouble)
            if not trouble:
                worked.set()

        keeper = Keeper("k", step, done, after=first)
        keeper.wake()
        async with asyncio.timeout(30):
            await worked.wait()
        assert said == ["not yet", ""]
        worked.clear()
        keeper.wake()
        async with asyncio.timeout(30):
            await worked.wait()
        await keeper.end()

    asyncio.run(work())
    assert turns == ["after"] * 3


def test_who_looks_again_and_again_needs_no_waking() -> None:
    """As tunnels are looked at; a failure changes nothing of that, nor does a defect, whose text is nobody's."""
    said: list[str] = []

    async def work() -> None:
        enough = asyncio.Event()

        async def step() -> None:
            if len(said) == 1:
                raise OSError(5, "odd")
            if len(said) == 3:
                raise ValueError("of a key")

        def done(trouble: str) -> None:
            said.append(trouble)
            if len(said) == 4:
                enough.set()

        keeper = Keeper("k", step, done, look_s=0.005)
        keeper.wake()
        async with asyncio.timeout(30):
            await enough.wait()
        await keeper.end()

    asyncio.run(work())
    assert [bool(one) for one in said[:4]] == [False, True, False, True]
    assert said[3] == "a defect of the daemon's (ValueError)"


def test_what_was_told_is_roots_alone(tmp_path: Path) -> None:
    """From its first moment, and whole after a change; the end leaves nothing."""
    own = told.keep(tmp_path / "all", "one", b"secret")
    assert told.keep(tmp_path / "all", "one", b"another") == own == told.folders(tmp_path / "all")[0]
    assert told.kept(own) == b"another"
    assert [one.stat().st_mode & 0o77 for one in own.iterdir()] == [0]
    assert told.remove_all(tmp_path / "all") == 1
    assert not (tmp_path / "all").exists()
