# SPDX-License-Identifier: Apache-2.0
"""Pipelines with connections as XDP programs: equal to the interpreter over the corpus, whatever state they are in.

Connections are begun on both sides alike: by the description itself, or, where it sends new ones elsewhere, by a second
program around the same maps and by the interpreter's own table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mizar.gateway import rules
from mizar.kernel.gateway_tables import GatewayTables
from mizar.kernel.test_run import run_xdp
from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline, State
from mizar.pipeline.interpreter.connection import read
from mizar.pipeline.interpreter.machine import Machine
from mizar.pipeline.interpreter.nat_table import NatTable
from mizar.pipeline.nat import NatRules
from mizar.pipeline.pattern import Pattern
from tests.dataplane.gateway_nat import nat_object, with_meta
from tests.marks import first_of
from tests.pipeline.corpus import corpus, whole
from tests.pipeline.xdp_target import Both, target
from tests.unit.pipeline import frames as f
from tests.unit.pipeline.stacks import pipelines, stacks

pytestmark = pytest.mark.root
SECOND = 1_000_000_000


@contextmanager
def sides(pipeline: Pipeline, rules_of: NatRules | None = None) -> Iterator[Both]:
    """Both with the pipeline's rules (or these) and no connections."""
    nat = rules_of or pipeline.nat
    assert nat is not None
    with target(pipeline, beside={"nat": nat_object()}) as loaded:
        rules.write(GatewayTables.of(loaded.loaded.programs.maps), nat)
        yield Both(loaded, Machine(pipeline, NatTable(nat)))


def begin(both: Both, frame: bytes, meta: int, now_ns: int) -> None:
    """A connection of a bare frame, in both; nothing where none begins."""
    both.loaded.loaded.set_clock(now_ns)
    run_xdp(both.loaded.loaded.programs.programs["nat"].fd, with_meta(frame, meta))
    seen = read(frame, meta)
    if seen is not None and both.machine.conntrack.look(seen, now_ns).state is State.NEW:
        both.machine.conntrack.allocate(seen, now_ns)


def answers(frame: bytes) -> list[bytes]:
    """What the world sends back for a frame of the pool, as it came and with other flags."""
    turned = bytearray(frame)
    if frame[12:14] != b"\x08\0":
        turned[22:38], turned[38:54] = frame[38:54], frame[22:38]
        l4 = 54
    else:
        turned[26:30], turned[30:34] = frame[30:34], frame[26:30]
        l4 = 34
    turned[l4 : l4 + 2], turned[l4 + 2 : l4 + 4] = frame[l4 + 2 : l4 + 4], frame[l4 : l4 + 2]
    found = [bytes(turned)]
    if frame[23 if l4 == 34 else 20] == 6:
        for flags in (0x12, 0x10, 0x11, 0x04):
            found.append(bytes(turned[: l4 + 13]) + bytes([flags]) + bytes(turned[l4 + 14 :]))
    return found


def everything(both: Both, now_ns: int, every: int = 1) -> int:
    """The corpus (every n-th frame of it), and what the world answers to what left; the time behind it."""
    for name, frame in corpus()[::every]:
        now_ns += SECOND // 100
        end = both.run(name, frame, now_ns)
        if end is None or end.verdict != "egress" or end.frame[12:16] != b"\x81\0\0\x64" or len(end.frame) < 58:
            continue
        for answer in answers(end.frame[:12] + end.frame[16:]):
            both.run(f"answer to {name}", f.in_vlan(answer), now_ns)
    both.agree_on_counters()
    return now_ns


SHORT = 7
"""Of the corpus, every so many-th frame in the short set."""


def test_connections_made_in_line() -> None:
    """New ones are translated as they come, answers come back, time runs out: verdict, frame, counters are equal."""
    with sides(f.shipped("gateway-inline")) as both:
        now_ns = everything(both, 1000 * SECOND, SHORT)
        everything(both, now_ns + 400 * SECOND, SHORT)
        assert both.ends["egress"] > 50
        assert len([end for end in both.ends if end.endswith(": no translation")]) == 1


@pytest.mark.parametrize("name", first_of(["gateway-trap", "gateway-queue"]))
def test_connections_of_someone_else(name: str) -> None:
    """Without connections, and with those of every frame of the tenants."""
    with sides(f.shipped(name)) as both:
        now_ns = everything(both, 1000 * SECOND, SHORT)
        for title, frame in whole():
            if " in " not in title:
                begin(both, frame, f.TENANT_A, now_ns)
        everything(both, now_ns, SHORT)
        assert both.ends["egress"] > 10
        assert both.ends.keys() >= {"kernel" if name == "gateway-trap" else "queue", "Decap: no case"}


ANYONE = NatRules(
    masquerade=tuple(
        b.masquerade([0x01000001, 0x01000002, 0x02FF0001, 11, 12, 21, 23], 0x02FF0064, pool)
        for pool in (f.PUBLIC, f.PUBLIC6)
    )
)
"""Translates whatever metadata the drawn pipelines make."""


def some(examples: int) -> settings:
    """Without shrinking: each try is compiled."""
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(max_examples=examples, deadline=None, phases=phases, suppress_health_check=list(HealthCheck))


def any_pipeline(data: st.DataObject) -> None:
    """A drawn one, with frames that its first case takes, each twice."""
    pipeline = data.draw(pipelines())
    first = pipeline.groups[0].block.switch
    assert first is not None
    assert isinstance(first.cases[0].when, Pattern)
    begin = first.cases[0].when.boxes[0].shape
    with sides(pipeline, ANYONE) as both:
        for turn in range(8):
            frame = data.draw(stacks(begin=begin))
            for again in range(2):
                both.run(f"drawn {turn}.{again}", frame, (1000 + turn) * SECOND)
        both.agree_on_counters()


@some(3)
@given(st.data())
def test_any_pipeline(data: st.DataObject) -> None:
    """Drawn pipelines, in some of which connections are tracked and translated."""
    any_pipeline(data)


@pytest.mark.long
@pytest.mark.timeout(900)
@some(150)
@given(st.data())
def test_many_pipelines(data: st.DataObject) -> None:
    """More of them."""
    any_pipeline(data)


@pytest.mark.long
@pytest.mark.parametrize("name", ["gateway-inline", "gateway-masquerade", "gateway-trap", "gateway-queue"])
def test_the_whole_corpus(name: str) -> None:
    """The same with every frame, three times."""
    with sides(f.shipped(name)) as both:
        now_ns = everything(both, 1000 * SECOND)
        for title, frame in whole():
            if " in " not in title:
                begin(both, frame, f.TENANT_A, now_ns)
        now_ns = everything(both, now_ns + 30 * SECOND)
        everything(both, now_ns + 400 * SECOND)
