# SPDX-License-Identifier: Apache-2.0
"""What the validator follows is what packets are: it never promises a header that is not there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline, Spot
from mizar.pipeline.effects import Known
from mizar.pipeline.interpreter import edit
from mizar.pipeline.interpreter.connection import read
from mizar.pipeline.interpreter.frame import field, headers, shape
from mizar.pipeline.interpreter.machine import Machine, Packet
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.interpreter.translate import translated
from mizar.pipeline.nat import NatRules
from mizar.pipeline.pattern import Pattern
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.steps import Encap
from mizar.pipeline.ways import follow
from mizar.pipeline.writer import write_pipeline
from tests.unit.pipeline import frames as f
from tests.unit.pipeline.stacks import NEAR, pipelines, stacks

SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


def contains(known: Known, packet: Packet) -> bool:
    """Whether a packet is one of those that a state stands for."""
    parts = headers(packet.frame)
    kinds = tuple(part.kind for part in parts)
    if kinds[: len(known.box.shape)] != known.box.shape:
        return False
    if any(field(packet.frame, parts[index], name) not in ranges for (index, name), ranges in known.box.limits):
        return False
    if known.meta is not None and packet.meta not in known.meta:  # type: ignore[operator]
        return False
    return known.connection is None or (packet.answer is not None and packet.answer.state in known.connection)


def watched(pipeline: Pipeline) -> Callable[[Spot, Packet], None]:
    """Asserts before each step that one of the validator's states has the packet."""
    before = follow(pipeline).before

    def watch(spot: Spot, packet: Packet) -> None:
        states = before[spot]
        assert any(contains(known, packet) for known in states), (spot, shape(packet.frame), packet.meta)

    return watch


def anyone() -> NatTable:
    """Translates whatever metadata the drawn pipelines make."""
    metas = [0x01000001, 0x01000002, 0x02FF0001, 11, 12, 21, 23]
    rules = tuple(b.masquerade(metas, 0x02FF0064, pool) for pool in (f.PUBLIC, f.PUBLIC6))
    return NatTable(NatRules(masquerade=rules))


@SLOW
@given(pipelines(), st.data())
def test_the_validator_knows_what_packets_are(pipeline: Pipeline, data: st.DataObject) -> None:
    """For any valid pipeline and frames, most of which its first case takes: every step meets what was expected."""
    first = pipeline.groups[0].block.switch
    assert first is not None
    pattern = first.cases[0].when
    assert isinstance(pattern, Pattern)
    machine = Machine(pipeline, anyone(), watch=watched(pipeline))
    for now in range(data.draw(st.integers(1, 4))):
        frame = data.draw(stacks(begin=data.draw(st.sampled_from([pattern.boxes[0].shape, ("eth",)]))))
        machine.run(frame, now)
        machine.run(frame, now)


@pytest.mark.parametrize("name", ["gateway-trap", "gateway-queue", "gateway-inline"])
@SLOW
@given(drawn=st.lists(stacks(), min_size=1, max_size=4))
def test_the_same_for_the_shipped_pipelines(name: str, drawn: list[bytes]) -> None:
    """With the frames as they are, and as the fabric and a VLAN carry them."""
    pipeline = f.shipped(name)
    machine = Machine(pipeline, anyone(), watch=watched(pipeline))
    for frame in drawn:
        for entering in (frame, f.in_vxlan(frame, vni=1), f.in_vlan(frame, vid=1) if len(frame) > 13 else frame):
            machine.run(entering)
            seen = None if len(frame) < 14 else read(frame, 0x01000001)
            if seen is not None and not seen.is_error:
                machine.conntrack.allocate(seen, 0)
            machine.run(entering)


@given(pipelines())
@SLOW
def test_any_valid_pipeline_reads_back(pipeline: Pipeline) -> None:
    """Writing and reading a drawn pipeline gives an equal one; a tunnel that nothing uses is refused by the reader."""
    text = write_pipeline(pipeline)
    if "to: near" in text:
        assert read_pipeline(text, "drawn.yaml") == pipeline


@given(stacks(), st.sampled_from(["vxlan", "geneve"]), st.booleans())
def test_decapsulation_undoes_encapsulation(frame: bytes, tunnel: str, vlan: bool) -> None:
    """Whatever the frame, as long as it has an Ethernet header."""
    if len(frame) < 14:
        return
    around = edit.encap(frame, Encap(tunnel=tunnel, to="near", vlan=vlan), NEAR)
    assert around is not None
    expected = ("eth", *(("vlan",) if vlan else ()), "ipv4", "udp", tunnel, "eth")
    assert shape(around)[: len(expected)] == expected
    assert edit.decap(around) == frame


@given(stacks())
def test_popping_undoes_pushing(frame: bytes) -> None:
    """A pushed tag leaves no trace."""
    if len(frame) >= 14:
        assert shape(edit.push_vlan(frame))[:2] == ("eth", "vlan")
        assert edit.pop_vlan(edit.push_vlan(frame)) == frame


@given(stacks())
def test_translating_there_and_back_changes_nothing(frame: bytes) -> None:
    """By difference, so also a checksum that is wrong stays exactly as wrong."""
    seen = read(frame, 5)
    if seen is None or seen.is_error or seen.later:
        return
    becomes = anyone().allocate(read(frame, 0x01000001), 0)  # type: ignore[arg-type]
    if becomes is None:
        return
    changed = translated(frame, seen, becomes)
    again = read(changed, becomes.meta)
    assert again is not None
    assert again.flow == becomes
    back = translated(changed, again, seen.flow)
    assert back == frame or _zero_sums(back) == _zero_sums(frame)


def _zero_sums(frame: bytes) -> bytes:
    """0 and 0xffff are the same number in one's complement: a checksum may come back as the other (RFC 1624, 3)."""
    return frame.replace(b"\xff\xff", b"\0\0")
