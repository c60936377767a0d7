# SPDX-License-Identifier: Apache-2.0
"""The `nat:` section: YAML and Python say the same, it reads back, and what makes no sense is refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from mizar.model.errors import InvalidError
from mizar.pipeline import builder as b
from mizar.pipeline.description import Pipeline
from mizar.pipeline.nat import MAX_POOL, Filtering, Mapping, NatRules, Timeouts
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.writer import write_pipeline

GROUPS = """groups:
  - name: In
    steps:
      - switch: parse
        cases:
          - when: eth / vlan 1-100
            steps: [{set_meta: {from: vlan, add: 0x1000}}, pop_vlan]
  - name: Nat
    steps:
      - switch: parse
        cases:
          - when: eth / ip / (tcp | udp | icmp)
            steps:
              - switch: conntrack
                cases:
                  - when: new | established | related
                    steps: [{nat: {allocate: true}}, stop]
"""

SECTION = """pipeline: every-rule
nat:
  masquerade:
    - inside: 0x1001-0x1003, 0x1005
      outside: 0x1064
      addresses: [203.0.113.1, 203.0.113.8/30]
      ports: 2000-3000
    - inside: [0x1001, "0x1002"]
      outside: 0x1064
      addresses: 2001:db8:ff::1-2001:db8:ff::2
      mapping: endpoint-independent
      filtering: address
  static:
    - {inside: 0x1001, inside_address: 10.0.0.9, outside: 0x1064, outside_address: 203.0.113.9}
  forward:
    - {inside: 0x1001, inside_address: 10.0.0.2, inside_ports: 80, outside: 0x1064, outside_address: 203.0.113.1,
       outside_ports: 8080, protocol: tcp}
    - {inside: 0x1002, inside_address: 10.0.0.2, outside: 0x1064, outside_address: 203.0.113.1,
       outside_ports: 5000-5009}
  quotas:
    - {inside: 0x1001-0x1003, connections: 1000}
  timeouts: {udp_s: 120, fragment_s: 2}
"""


def built() -> Pipeline:
    """The same in Python."""
    return b.pipeline(
        "every-rule",
        b.masquerade("0x1001-0x1003, 0x1005", 0x1064, "203.0.113.1", "203.0.113.12/30", ports="2000-3000"),
        b.masquerade(
            "0x1001-0x1002",
            0x1064,
            "2001:db8:ff::1-2001:db8:ff::2",
            mapping="endpoint-independent",
            filtering="address",
        ),
        b.static(0x1001, "10.0.0.9", 0x1064, "203.0.113.9"),
        b.forward(0x1064, "203.0.113.1", 8080, 0x1001, "10.0.0.2", 80, ("tcp",)),
        b.forward(0x1064, "203.0.113.1", "5000-5009", 0x1002, "10.0.0.2"),
        b.quota("0x1001-0x1003", 1000),
        b.timeouts(udp_s=120, fragment_s=2),
        b.group("In", b.parse(b.case("eth / vlan 1-100", b.set_meta("vlan", add=0x1000), b.pop_vlan()))),
        b.group(
            "Nat",
            b.parse(
                b.case(
                    "eth / ip / (tcp | udp | icmp)",
                    b.conntrack(b.case("new | established | related", b.nat(allocate=True), b.stop())),
                )
            ),
        ),
    )


def test_yaml_and_python_say_the_same_and_read_back() -> None:
    """Every kind of rule; the pool is written out in the order of writing."""
    pipeline = read_pipeline((SECTION + GROUPS).replace(".8/30", ".12/30"), "p.yaml")
    assert pipeline == built()
    assert read_pipeline(write_pipeline(pipeline), "again.yaml") == pipeline
    nat = pipeline.nat
    assert nat is not None
    assert nat.masquerade[0].addresses == tuple(IPv4Address(f"203.0.113.{last}") for last in (1, 12, 13, 14, 15))
    assert nat.masquerade[1].addresses[1] == IPv6Address("2001:db8:ff::2")
    assert (nat.masquerade[1].mapping, nat.masquerade[1].filtering) == (Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS)
    assert nat.forward[1].inside_ports == (5000, 5009)
    assert nat.quota(0x1002) == 1000
    assert nat.quota(0x1005) is None
    assert nat.timeouts == Timeouts(udp_s=120, fragment_s=2)


def test_a_pipeline_without_a_section_has_none() -> None:
    """An empty one is one: it translates nothing that is new."""
    assert read_pipeline("pipeline: p\n" + GROUPS, "p.yaml").nat is None
    assert read_pipeline("pipeline: p\nnat: {}\n" + GROUPS, "p.yaml").nat == NatRules()


M = "{inside: 0x1001, outside: 0x1064, addresses: 203.0.113.1%s}"
S = "{inside: 0x1001, inside_address: %s, outside: 0x1064, outside_address: %s}"
F = "{inside: 0x1001, inside_address: 10.0.0.2, outside: 0x1064, outside_address: 203.0.113.1, outside_ports: %s}"
REFUSED = [
    ("masquerade", [M % ", ports: 70000"], 4, "ports: expected ports from 1 to 65535 in order, found 70000-70000"),
    ("masquerade", [M % ", ports: 9-3"], 4, "found 9-3"),
    ("masquerade", [M % ", ports: many"], 4, "expected ports as a number or first-last, found 'many'"),
    ("masquerade", [M % ", mapping: endpoint"], 4, "expected endpoint-independent or per-destination"),
    ("masquerade", [M % ", filtering: address"], 4, "filtering address needs mapping endpoint-independent"),
    ("masquerade", [M % ", pool: 3"], 4, "unknown; known are inside"),
    ("masquerade", ["{inside: 0x1001, outside: 0x1064, addresses: []}"], 4, "at least one address"),
    ("masquerade", ["{inside: 0x1001, outside: 0x1064, addresses: [203.0.113.1, 2001:db8::1]}"], 4, "one family"),
    (
        "masquerade",
        ["{inside: 0x1001, outside: 0x1064, addresses: [203.0.113.1, 203.0.113.1]}"],
        4,
        "each address once",
    ),
    ("masquerade", ["{inside: 0x1001, outside: 0x1064, addresses: 203.0.113.1/24}"], 4, "without host bits"),
    ("masquerade", ["{inside: 0x1001, outside: 0x1064, addresses: 10.0.0.0/8}"], 4, f"at most {MAX_POOL} addresses"),
    ("masquerade", ["{inside: 0x1001, outside: 0x1064, addresses: 224.0.0.1}"], 4, "the address of one station"),
    ("masquerade", ["{inside: 0x1001, outside: 0x1064, addresses: fe80::1%eth0}"], 4, "without a scope"),
    ("masquerade", ["{inside: 0x1001-0x1064, outside: 0x1064, addresses: 203.0.113.1}"], 4, "0x1064 is both"),
    ("masquerade", ["{inside: 0-0xffffffff, outside: 0x1064, addresses: 203.0.113.1}"], 4, "expected 1 to 65536"),
    ("masquerade", ["{inside: 0x1001, addresses: 203.0.113.1}"], 4, "outside is missing"),
    ("masquerade", [M % "", M % ""], 5, "203.0.113.1 outside has port 1024-65535 in masquerade 1 in line 4 already"),
    (
        "masquerade",
        [M % ", ports: 2000-3000", "{inside: 0x1002, outside: 0x1064, addresses: 203.0.113.0/30, ports: 3000-4000}"],
        5,
        "203.0.113.1 outside has port 3000 in masquerade 1",
    ),
    (
        "masquerade",
        [M % "", "{inside: 0x1001-0x1002, outside: 0x1064, addresses: 203.0.113.2}"],
        5,
        "inside 0x1001 has IPv4 in masquerade 1 already",
    ),
    ("masquerade", ["{inside: 0x2001, outside: 0x1064, addresses: 203.0.113.1}"], 4, "no frame comes to nat"),
    ("masquerade", ["{inside: 0x1001, outside: 0x1065, addresses: 203.0.113.1}"], 4, "with metadata 0x1065; there are"),
    ("static", [S % ("10.0.0.1", "2001:db8::1")], 4, "addresses of one family, found 10.0.0.1 and 2001:db8::1"),
    ("static", [S % ("10.0.0.1", "10.1")], 4, "expected an address, found 10.1"),
    ("static", [S % ("10.0.0.1", "203.0.113.5")] * 2, 5, "203.0.113.5 outside has all ports in static 1 in line 4"),
    (
        "static",
        [S % ("10.0.0.1", "203.0.113.5"), S % ("10.0.0.1", "203.0.113.6")],
        5,
        "10.0.0.1 inside is static 1's already",
    ),
    ("forward", [F % "80, inside_ports: 80-81"], 4, "as many ports inside as outside, found 2 and 1"),
    ("forward", [F % "80, protocol: icmp"], 4, "expected tcp or udp, found 'icmp'"),
    ("forward", [F % "0"], 4, "outside_ports: expected ports from 1"),
    ("forward", [F % "80-90, protocol: tcp", F % "90-99"], 5, "203.0.113.1 outside has port 90 in forward 1 in line 4"),
    ("quotas", ["{inside: 0x1001, connections: -1}"], 4, "connections: expected 0 to"),
    (
        "quotas",
        ["{inside: 0x1001-0x1002, connections: 1}", "{inside: 0x1002, connections: 1}"],
        5,
        "has a quota already",
    ),
]


@pytest.mark.parametrize(("kind", "rules", "line", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_makes_no_sense_is_refused(kind: str, rules: list[str], line: int, message: str) -> None:
    """With file, line and rule."""
    text = "\n".join(["pipeline: p", "nat:", f"  {kind}:", *(f"    - {rule}" for rule in rules), GROUPS])
    with pytest.raises(InvalidError) as refused:
        read_pipeline(text, "p.yaml")
    assert any(f"p.yaml:{line}:" in one and message in one for one in str(refused.value).splitlines()), refused.value


def test_one_address_has_one_owner() -> None:
    """In a pool and static; in a pool and forwarded. Forwards beside the pool's ports, and another's, are fine."""
    pool = b.masquerade(0x1001, 0x1064, "203.0.113.1")
    groups = built().groups
    for other in (
        b.static(0x1002, "10.0.0.1", 0x1064, "203.0.113.1"),
        b.forward(0x1064, "203.0.113.1", 1024, 0x1002, "10.0.0.1"),
    ):
        with pytest.raises(InvalidError, match=r"203\.0\.113\.1 outside has port .* already"):
            b.pipeline("p", pool, other, *groups)
    b.pipeline("p", pool, b.forward(0x1064, "203.0.113.1", "1-1023", 0x1002, "10.0.0.1"), *groups)


def test_a_section_needs_a_step_that_uses_it() -> None:
    """Else it would be obeyed by nothing."""
    with pytest.raises(InvalidError, match="no step translates"):
        b.pipeline("p", b.quota(1, 1), b.group("In", b.stop()))
    with pytest.raises(InvalidError, match="time-outs once"):
        b.pipeline("p", b.timeouts(udp_s=9), b.timeouts(udp_s=9), *built().groups)
    with pytest.raises(InvalidError, match="tcp_s: expected 1 to"):
        b.timeouts(tcp_s=0)
