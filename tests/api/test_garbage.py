# SPDX-License-Identifier: Apache-2.0
"""The collector of a process that keeps millions of objects: what stays is set aside, what nobody uses is found."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mizar.api import garbage

TURNS = 100


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.self = self


class Held(Knot):
    """One whose end takes another process as long as it likes."""

    def __init__(self, go_on: mmap.mmap) -> None:
        super().__init__()
        self.go_on, self.home = go_on, os.getpid()

    def __del__(self) -> None:
        while os.getpid() != self.home and not self.go_on[0]:
            time.sleep(0.001)


@contextmanager
def whole_looks() -> Iterator[list[int]]:
    """Collections of this process that look at more than what is young."""
    seen: list[int] = []

    def collected(phase: str, info: Mapping[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(info["generation"])

    gc.callbacks.append(collected)
    try:
        yield seen
    finally:
        gc.callbacks.remove(collected)


async def test_what_stays_is_set_aside_and_knots_are_found() -> None:
    """A knot that was set aside before nobody used it is found when all are looked at; afterwards all is as before."""
    before = gc.get_threshold()
    with garbage.set_aside() as aside:
        kept = Knot()
        seen = weakref.ref(kept)
        gc.collect(0)
        del kept
        gc.collect(0)
        assert seen() is not None
        aside.all()
        assert seen() is None
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


async def test_a_look_at_everything_lets_others_have_their_turns() -> None:
    """The look ends after a hundred turns of the loop and not before: nothing waits for it. Some knots are not worth
    the time of all."""
    go_on = mmap.mmap(-1, 1)
    with garbage.set_aside() as aside, whole_looks() as looks:
        held = Held(go_on)
        seen = weakref.ref(held)
        gc.collect(0)
        del held
        looking = asyncio.create_task(aside.look())
        for _ in range(TURNS):
            await asyncio.sleep(0)
            assert not looking.done()
        go_on[0] = 1
        await looking
        assert looks == []
        assert seen() is not None
        aside.all()
        assert seen() is None


async def test_knots_are_ended_where_they_are_a_part_worth_having() -> None:
    """Others wait once, and the memory is free."""
    with garbage.set_aside() as aside, whole_looks() as looks:
        kept = [Knot() for _ in range(len(gc.get_objects()) + gc.get_freeze_count())]
        seen = weakref.ref(kept[0])
        gc.collect(0)
        del kept
        await aside.look()
        assert seen() is None
        assert looks == [2]


async def test_who_ends_waits_for_no_copy() -> None:
    """A server that ends while its copy looks leaves none behind."""
    with garbage.set_aside() as aside:
        held = Held(mmap.mmap(-1, 1))
        gc.collect(0)
        del held
        looking = asyncio.create_task(aside.look())
        await asyncio.sleep(0)
        assert aside.copy is not None
        child = aside.copy.process
    await asyncio.gather(looking, return_exceptions=True)
    assert not Path(f"/proc/{child}").exists()
