# SPDX-License-Identifier: Apache-2.0
"""Who waits for whom: a set of rules may be large, and what has nothing to do with rules goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.model.policy_rows import PEER, VERDICT
from mizar.transit import requests
from mizar.transit.ledger import Ledger
from mizar.transit.policy_values import Binding, PolicySet, PutPolicySet
from mizar.transit.servicer import Servicer
from mizar.transit.values import Droplet, Endpoint, Network, PutDroplet, PutEndpoint, PutNetwork, PutVpc, Tunnel, Vpc
from tests.unit.transit.batches import LIMITS, LOCAL, OWN, prefix4
from tests.unit.transit.fakes import FakeMaps

LIMIT_S = 30.0
FAR = bytes((172, 30, 9, 2))
ROWS = PolicySet(1, 7, PEER.pack(bytes(16), 0, 5), b"", VERDICT.pack(5, 0, 0, 0, 0, 1, 9))
AWAY = Endpoint(1, 1, (bytes((10, 0, 1, 8)),), bytes((2, 0, 0, 0, 1, 8)), FAR, Tunnel.GENEVE)


class Slow:
    """A table whose rows are written when the test says so."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def put_raw(self, rows: Any) -> None:
        self.begun.set()
        assert self.go_on.wait(LIMIT_S)
        self._table.put_raw(rows)


async def filled() -> tuple[Ledger, Slow]:
    maps: Any = FakeMaps()
    slow = Slow(maps.policy_peers)
    maps.tables["policy_peers"] = slow
    ledger = Ledger(maps, OWN, LIMITS, list)
    await ledger.apply([
        PutDroplet(Droplet(OWN)), PutDroplet(Droplet(FAR)), PutVpc(Vpc(1, (OWN,))),
        PutNetwork(Network(1, 1, (prefix4(1),), (OWN,))),
    ])  # fmt: skip
    return ledger, slow


async def test_others_go_on_while_rules_are_written() -> None:
    """Neighbours, health, other objects, endpoints without rules. What reads all waits."""
    ledger, slow = await filled()
    writing = asyncio.create_task(ledger.apply([PutPolicySet(ROWS)]))
    assert await asyncio.to_thread(slow.begun.wait, LIMIT_S)
    mac = bytes((2, 0, 0, 0, 0, 9))
    async with asyncio.timeout(LIMIT_S):
        await ledger.set_macs({FAR: mac})
        await ledger.set_down({FAR: True})
        assert await ledger.apply([PutEndpoint(AWAY)]) == 1
    async with ledger.lock_of("uid-1", LOCAL):
        ledger.put_local(LOCAL, "mz7", 7)
    whole = asyncio.create_task(ledger.snapshot())
    await asyncio.sleep(0)
    assert not writing.done()
    assert not whole.done()
    slow.go_on.set()
    async with asyncio.timeout(LIMIT_S):
        assert await writing == 1
        held = await whole
    assert (held.droplets[FAR].mac, held.droplets[FAR].down, (1, 7) in held.policy_sets) == (mac, True, True)
    assert AWAY.addresses[0] in {address for _, address in held.at}


async def test_who_is_judged_waits_for_rules() -> None:
    """An endpoint that is bound to a set, and one that was."""
    ledger, slow = await filled()
    slow.go_on.set()
    bound = replace(LOCAL, policy=Binding(7, 0))
    assert (ledger.lock_of("uid-1", LOCAL), ledger.lock_of("uid-1", bound)) == (ledger.rest, ledger.lock)
    await ledger.apply([PutPolicySet(ROWS)])
    async with ledger.lock_of("uid-1", bound):
        ledger.put_local(bound, "mz7", 7)
    assert (ledger.lock_of("uid-1", LOCAL), ledger.lock_of("uid-1")) == (ledger.lock, ledger.lock)


async def test_a_large_request_is_read_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a small one where it came in."""
    threads = []
    real = requests.change

    def change(message: pb.Change) -> Any:
        threads.append(threading.current_thread())
        return real(message)

    async def apply(_: object) -> int:
        return 0

    monkeypatch.setattr(requests, "change", change)
    nothing: Any = None
    ledger: Any = SimpleNamespace(apply=apply)
    servicer = Servicer(nothing, ledger, nothing, nothing, nothing, nothing, nothing, nothing)
    peers = b"".join(PEER.pack(number.to_bytes(16, "big"), 128, 5) for number in range(4000))
    for rows in (b"", peers):
        rules = pb.PolicySet(vni=1, id=7, peers=rows)
        request = pb.ApplyRequest(changes=[pb.Change(put_policy_set=rules)])
        await servicer.Apply(request, SimpleNamespace(auth_context=dict))
    assert [one is threading.current_thread() for one in threads] == [True, False]
