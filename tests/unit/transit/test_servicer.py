# SPDX-License-Identifier: Apache-2.0
"""What the service does beside its work."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.transit import counters
from mizar.transit.servicer import Servicer


async def test_counters_are_read_beside_the_daemons_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any tenant may look at traffic, again and again; a droplet with many endpoints has more to do meanwhile."""
    threads = []

    def read(*_: object) -> pb.Counters:
        threads.append(threading.current_thread())
        return pb.Counters()

    monkeypatch.setattr(counters, "read", read)
    ledger: Any = SimpleNamespace(rest=asyncio.Lock(), maps=None, state=None)
    nothing: Any = None
    servicer = Servicer(nothing, ledger, nothing, nothing, nothing, nothing, nothing, nothing)
    await servicer.GetCounters(pb.GetCountersRequest(), SimpleNamespace(auth_context=dict))
    assert threads != [threading.current_thread()]
