# SPDX-License-Identifier: Apache-2.0
"""YAML and Python say the same, and what is written reads back."""

from __future__ import annotations

import pytest

from mizar.model.errors import InvalidError
from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.steps import Note, Style
from mizar.pipeline.writer import write_pipeline
from tests.unit.pipeline.frames import shipped

EVERY_WORD = """
pipeline: every-word
title: All of it
tunnels:
  far: {vid: 9, source: 192.0.2.1, destination: 192.0.2.2, source_port: 777,
        source_mac: "02:00:00:00:02:01", destination_mac: "02:00:00:00:02:02"}
groups:
  - name: In
    steps:
      - switch: parse
        cases:
          - when: eth / vlan {7, 9} / ipv4 / udp / geneve
            steps:
              - set_meta: {from: vni, table: [[5, 0x55], [6, 0x66]]}
              - decap: [vlan, geneve]
              - goto: Track
          - when: eth / vlan 7-9
            label: some tags
            note: {text: look here, side: right, attention: true}
            steps:
              - set_meta: {from: vlan, add: 0x1000}
              - pop_vlan
          - when: otherwise
            steps: [count: others, drop, detach]
  - name: Neighbours
    steps:
      - limit: {name: all of it, packets_per_s: 9, burst: 3}
      - switch: metadata
        cases:
          - when: 0x1007, 0x1009
            steps: [goto: Track]
          - when: otherwise
            steps: [trap: kernel]
  - name: Track
    steps:
      - switch: parse
        cases:
          - when: eth / ip / (tcp | udp | icmp)
            steps:
              - switch: conntrack
                cases:
                  - when: new
                    steps:
                      - count: {name: new, per: meta}
                        style: future
                        label: count them
                        note: so many
                      - nat: {allocate: true}
                  - when: established | related
                    steps: [nat]
                  - when: otherwise
                    steps: [queue: 3, detach]
  - name: Out
    steps:
      - encap: {headers: [vlan, geneve], to: far}
      - set_vni: {from: meta}
      - push_vlan
      - set_vid: {from: meta, table: [[1, 2]]}
      - stop
"""


def every_word() -> Pipeline:
    """EVERY_WORD in Python."""
    track = b.conntrack(
        b.case(
            "new",
            b.shown(b.count("new", per_meta=True), "count them", Style.FUTURE, Note("so many")),
            b.nat(allocate=True),
        ),
        b.case("established | related", b.nat()),
        b.case("otherwise", b.queue(3)),
    )
    return b.pipeline(
        "every-word",
        b.tunnel("far", "192.0.2.1", "192.0.2.2", "02:00:00:00:02:01", "02:00:00:00:02:02", 9, 777),
        b.group(
            "In",
            b.parse(
                b.case(
                    "eth / vlan {7, 9} / ipv4 / udp / geneve",
                    b.set_meta("vni", table={5: 0x55, 6: 0x66}),
                    b.decap("geneve", vlan=True),
                    b.goto("Track"),
                ),
                b.case(
                    "eth / vlan 7-9",
                    b.set_meta("vlan", add=0x1000),
                    b.pop_vlan(),
                    label="some tags",
                    note=Note("look here", "right", attention=True),
                ),
                b.case("otherwise", b.count("others"), b.drop()),
            ),
        ),
        b.group(
            "Neighbours",
            b.limit("all of it", packets_per_s=9, burst=3),
            b.metadata(b.case("0x1007, 0x1009", b.goto("Track")), b.case("otherwise", b.trap())),
        ),
        b.group("Track", b.parse(b.case("eth / ip / (tcp | udp | icmp)", track))),
        b.group(
            "Out",
            b.encap("geneve", to="far", vlan=True),
            b.set_vni(),
            b.push_vlan(),
            b.set_vid(table={1: 2}),
            b.stop(),
        ),
        title="All of it",
    )


def test_python_and_yaml_give_equal_values() -> None:
    """Every word of the form, written both ways."""
    assert read_pipeline(EVERY_WORD, "every.yaml") == every_word()


@pytest.mark.parametrize(
    "pipeline", [every_word(), *map(shipped, ("gateway-trap", "gateway-queue", "gateway-inline", "gateway-masquerade"))]
)
def test_what_is_written_reads_back(pipeline: Pipeline) -> None:
    """Round trip, and the written form does not change any more."""
    text = write_pipeline(pipeline)
    again = read_pipeline(text, "again.yaml")
    assert again == pipeline
    assert write_pipeline(again) == text


def test_values_keep_their_lines() -> None:
    """A step knows the file and line that it was written in, in YAML and in Python."""
    pipeline = read_pipeline(EVERY_WORD, "every.yaml")
    drop = pipeline.groups[0].block.switch.cases[2].block.steps[0]  # type: ignore[union-attr]
    assert EVERY_WORD.splitlines()[drop.where.line - 1].strip() == "steps: [count: others, drop, detach]"
    made = every_word().groups[0].where
    assert made.file == __file__
    assert made.line > 0


def test_a_word_that_is_wrong_by_itself_is_refused_where_it_stands() -> None:
    """The builder refuses at once, with the caller's line."""
    with pytest.raises(InvalidError, match=r"test_form.py:\d+: queue: expected 0 to 65535"):
        b.queue(70000)
    with pytest.raises(InvalidError, match="a switch stands before other steps"):
        b.group("x", b.metadata(b.case("otherwise", b.drop())), b.drop())
