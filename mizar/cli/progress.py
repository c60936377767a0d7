# SPDX-License-Identifier: Apache-2.0
"""Progress of long work: each step by name while it runs, with its time when it is done. On stderr."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from mizar.cli.output import stderr
from mizar.lab.progress import Progress, silent


@contextlib.contextmanager
def steps(quiet: bool = False) -> Iterator[Progress]:
    """A progress to hand to long work."""
    if quiet:
        yield silent
        return
    console = stderr()

    @contextlib.contextmanager
    def step(words: str) -> Iterator[None]:
        begun = time.monotonic()
        waiting: AbstractContextManager[object] = (
            console.status(f"{words} …") if console.is_terminal else contextlib.nullcontext()
        )
        with waiting:
            yield
        console.print(f"  {words:<46} {time.monotonic() - begun:6.2f} s")

    yield step
