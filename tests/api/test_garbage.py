# SPDX-License-Identifier: Apache-2.0
"""The collector of a process that keeps millions of objects: what stays is set aside, what nobody uses is found."""

from __future__ import annotations

import gc
import weakref

from mizar.api import garbage


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.self = self


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
