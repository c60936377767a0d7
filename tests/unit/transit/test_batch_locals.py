# SPDX-License-Identifier: Apache-2.0
"""Local endpoints through planning, execution and reading back: what they ask for, and what changes around them."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mizar.model.errors import MizarError
from mizar.transit.batch import Plan
from mizar.transit.execute import execute
from mizar.transit.readback import Found, read
from mizar.transit.values import Change, DeleteEndpoint, PutEndpoint, Route, RouteAction
from tests.unit.transit.batches import LIMITS, LOCAL, OWN, ROOM, START, WORKLOAD, Bench, attempt, changes

MARKS = bytes.fromhex("0102 01 01 61626364")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([b"", MARKS, MARKS * 3]), st.sampled_from([0, 7]), st.integers(77, 78)), min_size=1
    )
)
def test_options_of_an_agent_come_and_go(ways: list[tuple[bytes, int, int]]) -> None:
    """Its entry never speaks of options that are not there."""
    bench = Bench(START)
    for options, group_set, ifindex in ways:
        bench.attach(replace(LOCAL, options=options, group_set=group_set), ifindex)
        bench.check()


@pytest.mark.parametrize("standby", [False, True])
def test_bypass_is_kept_and_can_be_changed(standby: bool) -> None:
    """The entries tell it, whatever else they say; the interface's size is then no wish of anybody's."""
    bench = Bench(START)
    for bypass in (True, False, True):
        bench.attach(replace(LOCAL, bypass=bypass, standby=standby), 77)
        bench.check()
    ((_, agent),) = bench.maps.agents.items()
    assert agent["flags"] == 1 + 2 * standby + 4
    assert all(row["flags"] == 1 + 4 for _, row in bench.maps.endpoints.items() if row["ifindex"])
    found = Found("mz77", 77, ROOM + 50, (ROOM,), "uid-1", WORKLOAD)
    wanted = read(bench.maps, OWN, LIMITS, [found]).state.locals["uid-1"].wanted
    assert wanted == replace(LOCAL, bypass=True, standby=standby)


SOURCES = Route(bytes(4), 0, RouteAction.VPC), Route(bytes((10, 9, 0, 0)), 16, RouteAction.BLACKHOLE)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(changes, st.tuples(st.booleans(), st.integers(0, 2), st.booleans())), max_size=8))
def test_an_appliance_is_known_by_its_mac(steps: list[Change | tuple[bool, int, bool]]) -> None:
    """It forwards or not, from more or fewer sources, lives here or stands by, while routes lead to it or not."""
    bench = Bench(START)
    for step in steps:
        if isinstance(step, tuple):
            forwarding, sources, standby = step
            allowed = SOURCES[:sources] if forwarding else ()
            wanted = replace(LOCAL, forwarding=forwarding, sources=allowed, standby=standby)
            with contextlib.suppress(MizarError):
                bench.attach(wanted, 77)
        else:
            attempt(bench, step)
        bench.check()


@settings(max_examples=80, deadline=None)
@given(st.lists(changes, max_size=6))
def test_local_endpoints_follow_every_change(batch: list[Change]) -> None:
    """Roles, gateways and prefixes change under a local endpoint; its agent's entry is always the state's image."""
    bench = Bench(START)
    bench.attach(LOCAL, 77)
    for change in batch:
        attempt(bench, change)
        bench.check()
    assert bench.state.locals["uid-1"].wanted == LOCAL


@pytest.mark.parametrize("at", range(4))
def test_local_endpoint_half_made_or_half_gone(at: int) -> None:
    """The agent's entry decides: with it the endpoint is completed, without it everything else goes."""
    bench = Bench(START)
    plan = Plan(bench.state)
    plan.put_local(LOCAL, "mz77", 77)
    execute(bench.maps, plan.ops[:at])
    found = Found("mz77", 77, ROOM, (ROOM,), "uid-1", WORKLOAD)
    committed = any(op.table == "agents" for op in plan.ops[:at])
    reading = read(bench.maps, OWN, LIMITS, [found])
    assert (list(reading.state.locals) == ["uid-1"]) == committed
    assert (reading.strays == [found]) == (not committed)
    execute(bench.maps, reading.repairs)
    assert read(bench.maps, OWN, LIMITS, [found]).repairs == []
    gone = read(bench.maps, OWN, LIMITS, [])
    execute(bench.maps, gone.repairs)
    assert not bench.maps.contents()["agents"]
    assert not bench.maps.contents()["endpoints"]


def test_endpoint_that_moves_here_replaces_the_remote_one() -> None:
    """What is local is taken by no other endpoint; the same one, with another host, stands by here from then on."""
    bench = Bench(START)
    remote = replace(LOCAL.endpoint, host=bytes((172, 30, 9, 2)))
    bench.do(PutEndpoint(remote))
    bench.attach(LOCAL, 77)
    bench.check()
    assert list(bench.state.remotes()) == []
    with pytest.raises(MizarError, match="taken by local endpoint uid-1"):
        bench.do(PutEndpoint(replace(remote, mac=bytes((2, 0, 0, 0, 0, 99)))))
    with pytest.raises(MizarError, match="end it by Detach"):
        bench.do(DeleteEndpoint(1, remote.addresses))
    bench.do(PutEndpoint(remote))
    bench.check()
    assert list(bench.state.remotes()) == [remote]
    assert bench.state.locals["uid-1"].wanted.standby
