# SPDX-License-Identifier: Apache-2.0
"""A pipeline's XDP program is equal to the interpreter, byte for byte: verdict, frame, metadata, counters."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mizar.kernel import clang, libbpf
from mizar.kernel.gateway_program import load_gateway
from mizar.kernel.test_run import run_xdp
from mizar.model.errors import InvalidError, MizarError
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.xdp.generate import MAX_QUESTIONS, generate
from tests.pipeline.corpus import corpus
from tests.pipeline.drawn import described, frames_for
from tests.pipeline.xdp_target import XDP_DROP, XDP_PASS, XDP_TX, compare, target
from tests.unit.pipeline import frames as f

pytestmark = pytest.mark.root
MS = 1_000_000


def some(examples: int) -> settings:
    """Without shrinking: each try is compiled."""
    checks = [HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large]
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(max_examples=examples, deadline=None, phases=phases, suppress_health_check=checks)


TUNNEL = """
tunnels:
  fabric:
    {vid: 2, source: 192.0.2.1, destination: 192.0.2.2,
     source_mac: "02:00:00:00:02:01", destination_mac: "02:00:00:00:02:02"}
"""
STATELESS = f"""
pipeline: stateless
{TUNNEL}
groups:
  - name: In
    steps:
      - switch: parse
        cases:
          - when: eth / vlan 2 / ipv4 / udp dst == 4789 / vxlan != 0xff0000-0xff0fff
            steps:
              - set_meta: {{from: vni, add: 0x01000000}}
              - decap: [vlan, vxlan]
          - when: eth / vlan 7
            steps: [set_meta: {{from: vlan, table: [[7, 70]]}}, pop_vlan, goto: Out]
          - when: eth / vlan != 2
            steps: [set_meta: {{from: vlan, add: 0x02000000}}, pop_vlan]
          - when: eth / ip / udp / geneve
            steps: [set_meta: {{from: vni, table: [[5, 50], [6, 60]]}}, decap: geneve]
          - when: otherwise
            steps: [count: other, drop]
  - name: Sort
    steps:
      - count: {{name: each, per: meta}}
      - limit: {{name: slow, packets_per_s: 10, burst: 4, per: meta}}
      - switch: parse
        cases:
          - when: eth / ipv6 src 2001:db8::/32 / (tcp dst {{80, 443, 8000-9000}} | udp | icmp)
            steps: [queue: 3]
          - when: eth / ip / tcp flags == 0x02
            steps: [trap: kernel]
          - when: eth / (arp | ipv6 / nd)
            steps: [limit: {{name: neighbours, packets_per_s: 1000, burst: 3}}, trap: kernel]
          - when: otherwise
            steps: []
  - name: Out
    steps:
      - switch: metadata
        cases:
          - when: 0x01000000-0x01ffffff
            steps: [encap: {{headers: [vlan, vxlan], to: fabric}}, set_vni: {{from: meta}}]
          - when: 50, 60
            steps: [push_vlan, set_vid: {{from: meta}}]
  - name: End
    steps: [stop]
"""


def test_the_corpus() -> None:
    """Every step that needs no connections, over all packets, while time passes for the buckets."""
    ends = compare(read_pipeline(STATELESS, "stateless.yaml"), corpus(), 20 * MS)
    assert ends.keys() >= {"egress", "kernel", "queue", "In, case 5, step 2: drop", "slow exceeded", "Out: no case"}


@some(10)
@given(st.data())
def test_any_pipeline(data: st.DataObject) -> None:
    """Whatever is valid, with frames that reach its cases and time that passes between them."""
    pipeline = data.draw(described())
    compare(pipeline, data.draw(frames_for(pipeline)), 100 * MS)


@pytest.mark.long
@pytest.mark.timeout(900)
@some(400)
@given(st.data())
def test_many_pipelines(data: st.DataObject) -> None:
    """The same for as long as it takes."""
    pipeline = data.draw(described())
    compare(pipeline, data.draw(frames_for(pipeline, 120)), 100 * MS)


def test_a_jumbo_frame() -> None:
    """Frames of several buffers are counted, cut and lengthened as whole ones; beyond IPv4's size they are dropped."""
    inner = bytes(f.udp()) + bytes(8000)
    inner = inner[:16] + (len(inner) - 14).to_bytes(2, "big") + inner[18:]
    ends = compare(
        read_pipeline(STATELESS, "stateless.yaml"), [("vxlan", f.in_vxlan(inner)), ("vlan", f.in_vlan(inner, 7))]
    )
    assert ends == {"egress": 1, "Out: no case": 1}


def test_actions_are_those_of_xdp() -> None:
    """Not watched, a frame goes back, up the stack, or ends; a queue that nobody serves is counted as such."""
    pipeline = read_pipeline(STATELESS, "stateless.yaml")
    program = generate(pipeline)
    loaded = load_gateway(clang.compile_program(program.text, "stateless"), "stateless")
    try:
        assert run_xdp(loaded.fd, f.in_vxlan(f.udp())).retval == XDP_TX
        assert run_xdp(loaded.fd, f.in_vxlan(f.tcp())).retval == XDP_PASS
        assert run_xdp(loaded.fd, bytes(f.udp())).retval == XDP_DROP
        assert run_xdp(loaded.fd, f.in_vxlan(f.udp(f.INSIDE6, f.SERVER6))).retval == XDP_DROP
        counted = {program.counters[number] for number, _ in loaded.counters.items()}
        assert counted == {"other", "In, case 5, step 2: drop", "queue 3: no socket"}
    finally:
        loaded.close()


def test_metadata_values_that_find_no_room() -> None:
    """A full table of counters is an overflow that is counted; values without a bucket of their own share one."""
    with target(read_pipeline(STATELESS, "stateless.yaml")) as loaded:
        for vni in range(300):
            loaded.run(f.in_vxlan(f.udp(), vni=vni), 1)
        counts = loaded.counts()
        assert sum(packets for (name, meta), (packets, _) in counts.items() if name == "each" and meta) == 256
        assert counts["each overflow", None][0] == 44
        assert counts["slow exceeded", None][0] == 44 - 4


def test_a_number_stays_with_its_name() -> None:
    """The program of a changed description counts under the numbers of the one before."""
    before = generate(read_pipeline(STATELESS, "stateless.yaml"))
    text = STATELESS.replace("count: other", "count: strangers").replace("name: slow", "name: slower")
    after = generate(read_pipeline(text, "stateless.yaml"), before)
    assert after.counters[: len(before.counters)] == before.counters
    assert set(after.counters) - set(before.counters) == {
        "strangers",
        "slower exceeded",
        "slower exceeded overflow",
    }
    assert after.limits == (*before.limits, "slower")
    assert "COUNT_OTHER" not in after.text


def test_what_is_not_used_is_not_compiled() -> None:
    """A pipeline without limits, counters of tenants, queues and tables has no such maps."""
    text = "pipeline: tiny\ngroups: [{name: G, steps: [{switch: parse, cases: [{when: eth / arp, steps: [drop]}]}]}]"
    with target(read_pipeline(text, "tiny.yaml")) as loaded:
        assert set(loaded.loaded.programs.maps) == {"gateway_clock", "gateway_outcomes", "gateway_counters"}


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by its size before anything is compiled, in words; so is what the verifier refuses all the same."""
    pipeline = read_pipeline(STATELESS, "stateless.yaml")
    assert generate(pipeline).questions < MAX_QUESTIONS / 20
    monkeypatch.setattr("mizar.pipeline.xdp.generate.MAX_QUESTIONS", 20)
    with pytest.raises(
        InvalidError, match=r"stateless: too large for XDP: its switches ask [0-9]+ questions, at most 20"
    ):
        generate(pipeline)

    def refuse(*_: object, **__: object) -> None:
        raise libbpf.error_of(errno.E2BIG, "load the program", "BPF program is too large. Processed 1000001 insn\n")

    monkeypatch.setattr("mizar.kernel.gateway_program.load", refuse)
    with pytest.raises(InvalidError, match=r"pipeline endless is too large for this kernel's verifier") as refused:
        load_gateway(b"", "endless")
    assert "\n" not in str(refused.value)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names what is missing and how to get it."""
    clang.find_clang.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    try:
        with pytest.raises(MizarError, match=r"needs clang 14 or newer .*apt install clang"):
            clang.compile_program("", "none")
    finally:
        clang.find_clang.cache_clear()
