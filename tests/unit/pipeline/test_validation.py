# SPDX-License-Identifier: Apache-2.0
"""What makes no sense is refused: everything at once, each with its file, line and rule."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.model.errors import InvalidError
from mizar.pipeline import builder as b
from mizar.pipeline.description import Spot
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.ways import follow
from tests.unit.pipeline.frames import EXAMPLES

SET = "set_meta: {from: vlan, add: 0x1000}"
MACS = 'source_mac: "02:00:00:00:02:01", destination_mac: "02:00:00:00:02:02"'
END = f"  far: {{source: 192.0.2.1, destination: 192.0.2.2, {MACS}}}"


def refusal(text: str) -> list[str]:
    """The lines of the refusal of a description."""
    with pytest.raises(InvalidError) as refused:
        read_pipeline(text, "p.yaml")
    for problem in refused.value.problems:
        assert problem.file == "p.yaml"
        assert problem.line >= 1
    return str(refused.value).splitlines()


def tagged(*steps: str, before: str = "", groups: str = "") -> str:
    """A pipeline whose first group takes tagged frames through steps, then leaves; `X` marks the line of the steps."""
    lines = "\n".join(f"              - {step}" for step in steps)
    return f"""pipeline: p
{before}
groups:
  - name: In
    steps:
      - switch: parse
        cases:
          - when: eth / vlan
            steps:
{lines}
{groups}
  - name: Out
    steps: [stop]
"""


STEPS = [
    # what one step gets wrong where it stands: steps, line of the first one is 10, message
    (["pop_vlan", "pop_vlan"], 11, "pop_vlan: expected a vlan right behind eth, a way leads here with eth …"),
    (["decap: vxlan"], 10, "decap vxlan: expected vxlan, a way leads here with eth / vlan …"),
    (["set_meta: {from: vni}"], 10, "set_meta from vni: expected a vxlan or geneve header"),
    (["pop_vlan", SET], 11, "set_meta from vlan: expected a vlan right behind eth"),
    (["set_vid: {from: meta}"], 10, "set_vid needs metadata"),
    ([SET, "set_vni: {from: meta}"], 11, "set_vni: expected a vxlan or geneve header"),
    (["pop_vlan", "set_vid: {from: meta}"], 11, "set_vid: expected a vlan right behind eth"),
    ([SET, "nat"], 11, "nat: expected eth / ip / (tcp | udp | icmp | fragment)"),
    (["count: {name: x, per: meta}"], 10, "'x' is per metadata, which a way leads here without setting"),
    (["limit: {name: x, packets_per_s: 1, burst: 1, per: meta}"], 10, "'x' is per metadata"),
    ([SET, "set_vid: {from: meta, table: [[1, 2]]}"], 11, "set_vid: no metadata that comes here is in the table"),
    (["drop", "count: late"], 11, "cannot be reached: the step before it ends the way"),
    (["drop", "switch: metadata\n                cases: [{when: otherwise}]"], 11, "switch cannot be reached"),
    (["switch: metadata\n                cases: [{when: otherwise}]"], 10, "switch on metadata, which a way leads"),
    (["switch: conntrack\n                cases: [{when: otherwise}]"], 10, "switch on conntrack: expected eth / ip"),
    (["goto: In"], 10, "leads back to group 'In'"),
    (["goto: Outt"], 10, "no group 'Outt' (did you mean Out?)"),
    (["count: x", "limit: {name: x, packets_per_s: 1, burst: 1}"], 11, "'x' is something else in line 10"),
    (["encap: {headers: vxlan, to: nowhere}"], 10, "no tunnel 'nowhere'; there are none"),
    (["push_vlan"], 13, "a pushed VLAN tag whose vid was never set"),
    # what cannot be read
    (["popvlan"], 10, "unknown step (did you mean pop_vlan?)"),
    (["pop_vlan: 5"], 10, "expected nothing behind pop_vlan, found 5"),
    (["{pop_vlan: , drop: }"], 10, "expected one step, found pop_vlan and drop"),
    (["{label: x}"], 10, "expected a step beside label, style and note"),
    (["{drop: , style: loud}"], 10, "expected action or future, found 'loud'"),
    (["{drop: , note: {text: x, side: up}}"], 10, "expected left or right, found 'up'"),
    (["{drop: , note: {side: left}}"], 10, "text is missing"),
    (["{drop: , label: 5}"], 10, "expected text, found 5"),
    (['{drop: , label: "a\\nb"}'], 10, "expected one printable line"),
    (["[drop]"], 10, "expected a step, found a list"),
    (["trap: user"], 10, "expected kernel, found 'user'"),
    (["queue: many"], 10, "expected a whole number, found 'many'"),
    (["queue: 70000"], 10, "queue: expected 0 to 65535"),
    (["queue: true"], 10, "expected a whole number, found True"),
    (["set_meta: {from: mac}"], 10, "expected vni or vlan, found 'mac'"),
    (["set_meta: {from: vni, add: 5}"], 10, "add: expected a multiple of 0x1000000"),
    (["set_meta: {from: vlan, add: 0x100000000}"], 10, "add: expected a multiple of 0x1000 of 32 bits"),
    (["set_meta: {from: vlan, add: 0x1000, table: [[1, 2]]}"], 10, "expected add or a table, found both"),
    (["set_meta: {from: vlan, table: [[4096, 2]]}"], 10, "expected a table from numbers up to 4095"),
    (["set_meta: {from: vlan, table: []}"], 10, "expected at least one entry in the table"),
    (["set_meta: {from: vlan, table: [[1, 2], [1, 3]]}"], 10, "expected each key once in the table"),
    (["set_meta: {from: vlan, table: [1]}"], 10, "expected pairs of numbers"),
    (["set_vni: {from: vni}"], 10, "expected meta, found 'vni'"),
    (["set_vni: {}"], 10, "from is missing"),
    (["decap: [vxlan, vlan]"], 10, "expected one of vxlan, geneve, or [vlan, one of them]"),
    (["encap: {headers: gre, to: far}"], 10, "expected one of vxlan, geneve"),
    (["encap: vxlan"], 10, "expected a mapping with headers, to, found 'vxlan'"),
    (["count: {name: x, per: port}"], 10, "expected meta, found 'port'"),
    (["count: '$'"], 10, "expected a name of letters"),
    (["limit: {name: x, packets_per_s: 0, burst: 1}"], 10, "packets_per_s: expected 1 to 1000000000, found 0"),
    (["limit: {name: x, packets_per_s: 1}"], 10, "burst is missing"),
    (["nat: {allocate: 1}"], 10, "expected true or false, found 1"),
    (["detach"], 10, "detach ends a way that is decided"),
    (["switch: parse\n                cases: []"], 10, "expected at least one case"),
    (["switch: colour\n                cases: [{when: otherwise}]"], 10, "expected parse, conntrack, metadata"),
    (["switch: metadata\n                cases: [{steps: [drop]}]"], 11, "when is missing"),
    (["switch: metadata\n                cases: [{when: 5-3}]"], 11, "expected numbers from 0 to 4294967295 in order"),
    (["switch: metadata\n                cases: [{when: five}]"], 11, "expected a whole number, found 'five'"),
    (["switch: conntrack\n                cases: [{when: old}]"], 11, "found 'old'"),
    (["switch: conntrack\n                cases: [{when: new | new}]"], 11, "expected each state once"),
    (["switch: parse\n                cases: [{when: ip}]"], 11, "expected eth as the first header"),
    (["switch: parse\n                cases: [{when: otherwise}]", "drop"], 12, "stands behind a switch"),
]


@pytest.mark.parametrize(("steps", "line", "message"), STEPS)
def test_a_step_that_makes_no_sense(steps: list[str], line: int, message: str) -> None:
    """Each refusal is in the line of what is wrong, and says what was expected."""
    found = refusal(tagged(*steps))
    assert [one for one in found if one.startswith(f"p.yaml:{line}: ") and message in one], found


TRACKED = """
      - switch: parse
        cases:
          - when: eth / ip / (tcp | udp | icmp)
            steps:
              - switch: conntrack
                cases: [{when: %s, steps: [%s]}, {when: otherwise}]
"""


@pytest.mark.parametrize(
    ("state", "step", "message"),
    [
        ("new", "nat", "nat of a new connection has no translation yet"),
        ("established | invalid", "nat", "nat cannot translate an invalid packet"),
    ],
)
def test_nat_needs_a_connection(state: str, step: str, message: str) -> None:
    """NAT of a packet that has no translation is refused."""
    groups = "  - name: Track\n    steps:" + TRACKED % (state, step)
    assert any(message in line for line in refusal(tagged(SET, "pop_vlan", groups=groups)))


def test_behind_nat_nothing_is_known_of_addresses_and_ports() -> None:
    """What a case before it asked for does not hold any more: the translation may be anything."""
    made = b.pipeline(
        "p",
        b.group("In", b.parse(b.case("eth / vlan / ipv4 / udp src 1-2", b.set_meta("vlan"), b.pop_vlan()))),
        b.group(
            "NAT",
            b.parse(
                b.case("eth / ip / udp", b.conntrack(b.case("established", b.nat()), b.case("otherwise", b.drop())))
            ),
        ),
        b.group("Out", b.parse(b.case("eth / ip / udp src 1-2", b.stop()), b.case("otherwise", b.stop()))),
    )
    assert follow(made).before[Spot("Out", (2,), 1)]


def test_nat_without_a_switch_on_conntrack() -> None:
    """NAT where nobody asked for the connection's state is refused."""
    groups = "  - name: Track\n    steps:\n      - switch: parse\n        cases: [{when: eth / ip / udp, steps: [nat]}]"
    found = refusal(tagged(SET, "pop_vlan", groups=groups))
    assert any("nat needs the connection's state" in line for line in found)


def test_encapsulation_needs_a_bare_frame_of_a_tenant() -> None:
    """Not with a tag, not in a tunnel, not without metadata; and what was put on has to be filled in."""
    encap, before = "encap: {headers: vxlan, to: far}", f"tunnels:\n{END}"
    found = "\n".join(refusal(tagged(SET, encap, before=before)))
    assert "encap vxlan: the frame has a VLAN tag still" in found
    assert "no tenant to encapsulate for" in "\n".join(refusal(tagged("pop_vlan", encap, before=before)))
    found = "\n".join(refusal(tagged(SET, "pop_vlan", encap, encap, before=before)))
    assert "encap vxlan: the frame is in a tunnel already" in found
    found = "\n".join(refusal(tagged(SET, "pop_vlan", encap, before=before)))
    assert "a new tunnel header whose vni was never set: expected set_vni before" in found
    found = "\n".join(refusal(tagged(SET, "pop_vlan", "encap: {headers: [vlan, vxlan], to: far}", before=before)))
    assert "tunnel 'far' has no vid for the tag" in found


@pytest.mark.parametrize(
    ("headers", "decap", "message"),
    [
        ("eth / vlan / ipv4 / udp / vxlan", "vxlan", "decap vxlan: expected [vlan, vxlan]"),
        ("eth / ipv4 / udp / vxlan", "[vlan, vxlan]", "decap vlan + vxlan: 0 tags stand in front of it"),
        ("eth / vlan / vlan / ipv4 / udp / vxlan", "[vlan, vxlan]", "2 tags stand in front of it"),
        ("eth / ipv4 / udp / geneve", "vxlan", "decap vxlan: expected vxlan"),
    ],
)
def test_decapsulation_takes_off_what_is_there(headers: str, decap: str, message: str) -> None:
    """The headers that a raw decap names have to be those in front of the inner frame."""
    steps = f"switch: parse, cases: [{{when: {headers}, steps: [decap: {decap}, drop]}}]"
    text = f"pipeline: p\ngroups:\n  - {{name: In, steps: [{{{steps}}}]}}\n"
    assert any(message in line for line in refusal(text))


CASES = [
    (["eth / vlan 2", "eth / vlan 2"], "asks for eth / vlan 2 as the case in line"),
    (["eth / vlan", "eth / vlan 2 / ipv4"], "cannot be reached: earlier cases take all of eth / vlan 2 / ipv4"),
    (["eth / vlan 2", "eth / vlan != 2", "eth / vlan / arp"], "earlier cases take all of eth / vlan / arp"),
    (["eth / ipv4", "eth / ipv6", "eth / ip / tcp"], "earlier cases take all of eth / ip / tcp"),
    (["otherwise", "eth"], "earlier cases take all of eth"),
]


@pytest.mark.parametrize(("whens", "message"), CASES)
def test_cases_that_nothing_is_left_for(whens: list[str], message: str) -> None:
    """A case behind others that take everything, together or alone, is refused."""
    cases = "\n".join(f"          - {{when: '{when}', steps: [drop]}}" for when in whens)
    text = f"pipeline: p\ngroups:\n  - name: In\n    steps:\n      - switch: parse\n        cases:\n{cases}\n"
    found = refusal(text)
    assert found[0].startswith(f"p.yaml:{6 + len(whens)}: ")
    assert message in found[0]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("on", "whens"),
    [("metadata", ["0-10", "5"]), ("metadata", ["0-0xffffffff", "otherwise"]), ("conntrack", ["new | invalid", "new"])],
)
def test_cases_of_other_switches(on: str, whens: list[str]) -> None:
    """The same for metadata and for states."""
    cases = ", ".join(f"{{when: {when}, steps: [drop]}}" for when in whens)
    inner = f"{{switch: {on}, cases: [{cases}]}}"
    groups = f"  - name: Last\n    steps: [{{switch: parse, cases: [{{when: eth / ip / udp, steps: [{inner}]}}]}}]"
    found = "\n".join(refusal(tagged(SET, "pop_vlan", groups=groups)))
    assert "cannot be reached: earlier cases take all of" in found


def test_a_case_that_no_way_leads_to() -> None:
    """What no packet can be where the switch stands is refused, with an example of what comes there."""
    text = tagged("pop_vlan", "switch: parse\n                cases: [{when: eth / arp}]").replace(
        "pop_vlan", "drop", 0
    )
    text = text.replace("- pop_vlan\n", "- count: x\n")
    found = refusal(text)
    assert "cannot be reached: no frame that comes here is eth / arp; for example eth / vlan …" in found[0]


def test_groups_that_cannot_end_or_be_reached() -> None:
    """The last group has to end every way; a group behind which nothing leads is refused."""
    found = refusal("pipeline: p\ngroups:\n  - name: In\n    steps: [count: all]\n")
    assert found == [
        "p.yaml:3: pipeline p: In: cannot end: expected stop, trap, queue or drop, there is no group behind this one"
    ]
    found = refusal("pipeline: p\ngroups:\n  - {name: In, steps: [drop]}\n  - {name: Out, steps: [stop]}\n")
    assert found == ["p.yaml:4: pipeline p: Out: cannot be reached: no way leads to this group"]


def test_names_stand_once() -> None:
    """Groups, tunnels and the use of both."""
    text = f"pipeline: p\ntunnels:\n{END}\ngroups:\n  - {{name: In, steps: []}}\n  - {{name: In, steps: [stop]}}\n"
    found = "\n".join(refusal(text))
    assert "p.yaml:6: pipeline p: In: expected each group's name once, it stands in line 5 already" in found
    assert "no step uses tunnel 'far'" in found


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "expected one pipeline, found 0 documents"),
        ("pipeline: p\n---\npipeline: q\n", 1, "expected one pipeline, found 2 documents"),
        ("- a\n", 1, "expected a mapping with pipeline, title, tunnels, nat, kernel, groups"),
        ("pipeline: [\n", 2, "expected YAML"),
        ("pipeline: p\ngroups: []\n", 1, "expected at least one group"),
        ("pipeline: p\ngroups: many\n", 2, "expected a list of groups, found 'many'"),
        ("pipeline: p\nfoo: 1\ngroups: [{name: a, steps: [stop]}]\n", 2, "unknown; known are"),
        ("pipeline: p\ntunnels: 5\ngroups: [{name: a, steps: [stop]}]\n", 2, "expected a mapping of names, found 5"),
        ("pipeline: p\ngroups: [{name: '', steps: [stop]}]\n", 2, "expected a name of letters"),
        ("pipeline: p\ngroups: [{steps: [stop]}]\n", 2, "name is missing"),
        ("pipeline: p\ngroups: [5]\n", 2, "expected a mapping with name, steps, found 5"),
        ("x" * (2**20 + 1), 0, "expected at most"),
    ],
)
def test_documents(text: str, line: int, message: str) -> None:
    """What is no pipeline at all."""
    with pytest.raises(InvalidError, match=re.escape(message)) as refused:
        read_pipeline(text, "p.yaml")
    assert refused.value.problems[0].line == line


TUNNELS = [
    ("source: here", "expected an IPv4 address, found 'here'"),
    ("vid: 0", "vid: expected 1 to 4094"),
    ("source_port: 4789", "source_port: expected 1 to 65535 and no tunnel's port"),
    ("source_mac: 1:2", "expected a MAC address"),
    ('source_mac: "ff:ff:ff:ff:ff:ff"', "expected a MAC address of one station"),
    ("colour: red", "unknown; known are source"),
]


@pytest.mark.parametrize(("entry", "message"), TUNNELS)
def test_tunnel_ends(entry: str, message: str) -> None:
    """Addresses that no frame may carry."""
    key = entry.split(":")[0]
    given_ = {
        "source": "192.0.2.1",
        "destination": "192.0.2.2",
        "source_mac": '"02:00:00:00:02:01"',
        "destination_mac": '"02:00:00:00:02:02"',
    }
    lines = [f"    {name}: {value}" for name, value in given_.items() if name != key] + [f"    {entry}"]
    text = "pipeline: p\ntunnels:\n  far:\n" + "\n".join(lines) + "\ngroups: [{name: a, steps: [stop]}]\n"
    assert any(message in line for line in refusal(text))


def test_everything_at_once() -> None:
    """One reading reports mistakes of the text and of the pipeline together, in the order of lines."""
    text = (EXAMPLES / "gateway-trap.yaml").read_text()
    text = text.replace("goto: Decap", "goto: Decapp").replace("- pop_vlan", "- pop_vlam")
    text = text.replace("count: invalid", "count: {name: new}")
    found = refusal(text)
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)
    assert [word for word in ("Decapp", "pop_vlam", "something else") if word in "\n".join(found)] == [
        "Decapp",
        "pop_vlam",
        "something else",
    ]


def test_one_mistake_on_a_way_does_not_hide_the_next() -> None:
    """After a refusal the way goes on as if the step had done what was meant."""
    text = (EXAMPLES / "gateway-trap.yaml").read_text()
    text = text.replace("decap: [vlan, vxlan]", "decap: vxlan").replace("              - set_vid: {from: meta}\n", "")
    text = text.replace("established | related", "established | related | invalid")
    found = "\n".join(refusal(text))
    for part in ("decap vxlan: expected [vlan, vxlan]", "nat cannot translate", "whose vid was never set"):
        assert part in found


def test_the_builder_points_at_lines_of_python() -> None:
    """A pipeline made in Python is refused with the file and line of the call."""
    with pytest.raises(InvalidError) as refused:
        b.pipeline(
            "p",
            b.group(
                "In",
                b.pop_vlan(),
                b.stop(),
            ),
        )
    problem = refused.value.problems[0]
    assert problem.file == __file__
    assert b"b.pop_vlan()" in open(__file__, "rb").read().splitlines()[problem.line - 1]  # noqa: PTH123, SIM115


@given(
    st.recursive(st.one_of(st.none(), st.integers(), st.text(max_size=9)), lambda inner: st.lists(inner, max_size=3))
)
def test_any_document_is_read_or_refused(value: object) -> None:
    """No document ends in anything but a pipeline or a refusal."""
    text = f"pipeline: p\ngroups:\n  - name: a\n    steps: {value!r}\n"
    with pytest.raises(InvalidError):
        read_pipeline(text, "p.yaml")
