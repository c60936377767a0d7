# SPDX-License-Identifier: Apache-2.0
"""Planning, execution and reading back, against each other: any sequence of changes, an error at any write, a death
at any write."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mizar.model.errors import ConflictError, MizarError, TemporaryError
from mizar.transit.batch import Plan
from mizar.transit.execute import execute
from mizar.transit.readback import read
from mizar.transit.values import Change, DeleteVpc, Droplet, PutDroplet, PutVpc, Vpc
from tests.unit.transit.batches import LIMITS, OWN, SHARED, START, Bench, attempt, changes, comparable, vpc
from tests.unit.transit.fakes import FakeMaps


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(changes, max_size=4), max_size=12), st.booleans())
def test_maps_are_always_the_image_of_the_state(batches: list[list[Change]], prepared: bool) -> None:
    """After any sequence of batches, each taken whole or refused whole."""
    bench = Bench(START if prepared else ())
    for batch in batches:
        attempt(bench, *batch)
        bench.check()


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, min_size=1, max_size=8))
def test_repeating_a_batch_changes_nothing(batch: list[Change]) -> None:
    """Idempotence: the second time no change counts and nothing is written, unless the batch takes back its own."""
    bench = Bench(START)
    deletes = any(type(change).__name__.startswith("Delete") for change in batch)
    if attempt(bench, *batch) and not deletes and len({type(change) for change in batch}) == len(batch):
        before = bench.maps.contents()
        plan = Plan(bench.state)
        assert sum(plan.add(change) for change in batch) == 0
        assert plan.ops == []
        assert bench.maps.contents() == before


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, min_size=1, max_size=6), st.integers(0, 20))
def test_an_error_in_the_middle_is_undone(batch: list[Change], at: int) -> None:
    """The maps and the state are as before, whatever write failed."""
    bench = Bench(START)
    bench.maps.fail_at = at
    attempt(bench, *batch)
    bench.maps.fail_at = -1
    bench.check()


@settings(max_examples=100, deadline=None)
@given(st.lists(changes, min_size=1, max_size=6), st.integers(0, 20))
def test_a_death_in_the_middle_is_repaired(batch: list[Change], at: int) -> None:
    """A daemon that dies between two writes leaves maps that the next one makes consistent, by adding no tenant's."""
    bench = Bench(START)
    plan = Plan(bench.state)
    try:
        for change in batch:
            plan.add(change)
    except MizarError:
        return
    execute(bench.maps, plan.ops[:at])
    reading = read(bench.maps, OWN, LIMITS, [])
    execute(bench.maps, reading.repairs)
    again = read(bench.maps, OWN, LIMITS, [])
    assert again.repairs == []
    assert comparable(again.state) == comparable(reading.state)
    after = Bench()
    after.maps, after.state = bench.maps, again.state
    for change in START:
        attempt(after, change)
    after.check()


def test_an_identity_names_one_vpc_for_good() -> None:
    """Neither a second VPC takes it, nor does the first one change it; once it is gone, it is free."""
    bench = Bench(START)
    bench.do(PutVpc(vpc(SHARED, ())))
    with pytest.raises(ConflictError):
        bench.do(PutVpc(replace(vpc(SHARED, ()), vni=SHARED + 1)))
    with pytest.raises(ConflictError):
        bench.do(PutVpc(replace(vpc(SHARED, ()), identity=bytes(16))))
    with pytest.raises(ConflictError):
        bench.do(PutVpc(replace(vpc(SHARED, ()), wire_vni=2)))
    bench.do(DeleteVpc(SHARED), PutVpc(replace(vpc(SHARED, ()), vni=SHARED + 1)))
    bench.check()


def test_undo_that_fails_is_told() -> None:
    """The caller learns that the tables must be read anew."""
    bench = Bench(START)

    class Dead(FakeMaps):
        def written(self) -> None:
            self.fail_at -= 1
            if self.fail_at < 0:
                raise TemporaryError("no memory")

    dead = Dead()
    dead.tables = bench.maps.tables
    for table in dead.tables.values():
        table.maps = dead
    dead.fail_at = 1
    bench.maps = dead
    with pytest.raises(MizarError, match="taking back what was done before failed as well"):
        bench.do(PutVpc(Vpc(2, (OWN,))))


def test_undo_goes_backwards() -> None:
    """An entry that is written twice in a batch gets back what it had before the first time."""
    writes = 6  # VPC 1 twice (flags of its network, hop set, entry), then droplets: fails somewhere after both
    two, three = bytes((172, 30, 9, 2)), bytes((172, 30, 9, 3))
    for at in range(2 * writes):
        bench = Bench(START)
        bench.maps.fail_at = at
        attempt(bench, PutVpc(Vpc(1, (two,))), PutDroplet(Droplet(bytes((172, 30, 9, 7)))), PutVpc(Vpc(1, (three,))))
        bench.maps.fail_at = -1
        bench.check()
