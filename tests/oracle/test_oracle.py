# SPDX-License-Identifier: Apache-2.0
"""The oracle on its own: what no test run of a program can show, and that it has an answer to everything."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.oracle.agent import agent
from mizar.oracle.checksum import checksum, ones_sum, updated
from mizar.oracle.deliver import deliver
from mizar.oracle.fleet import End, Fleet
from mizar.oracle.icmp import TOLD
from mizar.oracle.outcome import Handover, Verdict
from mizar.oracle.tables import Droplet, Vpc
from mizar.oracle.transit import transit
from tests.oracle import golden
from tests.oracle.differential import Case, cases, predict
from tests.oracle.droplets import HOST, KNOWN, ME, MY_MAC, RED, droplets, even, mac_of
from tests.oracle.golden_droplet import droplet
from tests.unit.planner.budget import examples

NOTE = Handover(1, RED, "a")


def has_an_outcome(here: Droplet, frame: bytes) -> None:
    for outcome in (transit(here, frame), agent(here, 1, frame), agent(here, 2, frame)):
        assert (outcome.verdict is Verdict.DROP) <= bool(outcome.reason)
        assert not outcome.reason or outcome.frame == frame or outcome.reason in TOLD


@examples(100)
@given(droplets(), st.binary(max_size=200))
def test_any_bytes_have_an_outcome(here: Droplet, frame: bytes) -> None:
    """Also those too short for a test run."""
    has_an_outcome(here, frame)


@pytest.mark.long
@examples(1000)
@given(droplets(), st.binary(max_size=200))
def test_many_bytes_have_an_outcome(here: Droplet, frame: bytes) -> None:
    """The same, ten times as often."""
    has_an_outcome(here, frame)


def is_counted_once(case: Case) -> None:
    for arrival in case.arrivals:
        outcome = predict(case.here, arrival)
        drops = [key for kind, key in outcome.counted if kind == "drop"]
        if outcome.reason in TOLD and outcome.verdict is Verdict.DROP:  # or the message to the sender was refused too
            assert drops[0] == outcome.reason
            assert len(drops) <= 2
        else:
            assert drops == ([outcome.reason] if outcome.reason else [])
        vpcs = [fields for (kind, _), fields in outcome.counted.items() if kind == "vpc"]
        assert len(vpcs) <= 1 + any("peered_packets" in fields for fields in vpcs)
        assert (outcome.next_hop is not None) == (outcome.verdict is Verdict.SEND)
        assert (outcome.handover is not None) == (outcome.verdict is Verdict.DELIVER)


@examples(70)
@given(cases())
def test_exactly_one_end_is_counted(case: Case) -> None:
    """A packet is refused for one reason, or served; never both, and counted for two VPCs only where it crossed."""
    is_counted_once(case)


@pytest.mark.long
@examples(700)
@given(cases())
def test_exactly_one_end_is_counted_of_many(case: Case) -> None:
    """The same, ten times as often."""
    is_counted_once(case)


def test_the_oracle_needs_no_linux() -> None:
    """Only Python's own modules and the model: it runs where no program could be loaded."""
    code = "import sys, mizar.oracle.fleet; print(*(name for name in sys.modules if not name.startswith('mizar.')))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"cffi", "pyroute2", "grpc", "pydantic"} & set(done.stdout.split())


def test_deliver_hands_over_to_the_endpoint_that_the_note_names() -> None:
    outcome = deliver(droplet(), b"frame", NOTE)
    assert (outcome.verdict, outcome.handover, outcome.counted) == (Verdict.DELIVER, NOTE, {})


def test_deliver_leaves_frames_without_a_note_alone() -> None:
    assert deliver(droplet(), b"frame", None).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "note", [replace(NOTE, ifindex=7), replace(NOTE, vni=RED + 1), replace(NOTE, uid="b")], ids=["gone", "vni", "uid"]
)
def test_deliver_refuses_a_note_whose_endpoint_left(note: Handover) -> None:
    """Its number may be another endpoint's by now."""
    outcome = deliver(droplet(), bytes(60), note, segments=2)
    known = {("vpc", RED): {"dropped_packets": 2}} if note.vni == RED else {}
    assert (outcome.verdict, outcome.reason) == (Verdict.DROP, "DELIVERY_FAILED")
    assert outcome.counted == {("drop", "DELIVERY_FAILED"): {"packets": 2, "bytes": 60}} | known


def test_tables_that_contradict_one_another_end_by_ttl() -> None:
    """Each takes the other for the divider: the packet goes back and forth 63 times, and no further."""
    one = Droplet(ME, MY_MAC, KNOWN, {RED: Vpc(even(HOST))})
    other = Droplet(HOST, mac_of(2, 4), KNOWN, {RED: Vpc(even(ME))})
    way = Fleet([one, other]).inject(ME, golden.GENEVE_DELIVERED.comes)
    assert (way.end, way.reason, len(way.hops)) == (End.DROPPED, "TTL_EXPIRED", 64)


@given(
    st.binary(min_size=20, max_size=20), st.integers(0, 9).map(lambda word: 2 * word), st.binary(min_size=2, max_size=2)
)
def test_a_right_checksum_stays_right(header: bytes, at: int, after: bytes) -> None:
    """RFC 1624: updating for a word gives what computing it anew gives, but for the two zeros of one's complement."""
    header = header[:10] + bytes(2) + header[12:]
    right = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    assert ones_sum(right) == 0xFFFF
    if at != 10:
        changed = right[:at] + after + right[at + 2 :]
        new = updated(checksum(header), int.from_bytes(right[at : at + 2], "big"), int.from_bytes(after, "big"))
        summed = ones_sum(changed[:10] + new.to_bytes(2, "big") + changed[12:])
        assert summed == 0xFFFF or not any(changed[:10] + changed[12:])
