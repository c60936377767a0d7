# SPDX-License-Identifier: Apache-2.0
"""Manifests: what is right is read, and all that is wrong is said at once, with file, line, field and expectation."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mizar.model.errors import ConflictError, InvalidError, ManifestErrors, Problem
from mizar.model.manifest import MAX_CHARACTERS, parse_manifests, parse_resource, parse_texts
from mizar.model.resources import KINDS, VPC, Tenant, dump
from tests.unit.planner.budget import examples

EXAMPLE = Path(__file__).parents[3] / "examples" / "two-tenants.yaml"
TENANT = "{apiVersion: mizar/v1, kind: Tenant, metadata: {name: %s}}\n"


def problems(text: str) -> list[tuple[int, str, str]]:
    """(line, field, message) of everything that is wrong."""
    with pytest.raises(ManifestErrors) as raised:
        parse_manifests(text, "m.yaml")
    assert all(problem.file == "m.yaml" for problem in raised.value.problems)
    return [(problem.line, problem.field, problem.message) for problem in raised.value.problems]


def only(text: str) -> tuple[int, str, str]:
    (problem,) = problems(text)
    return problem


def test_the_example_is_read() -> None:
    resources = parse_manifests(EXAMPLE.read_text(), "two-tenants.yaml")
    kinds = [resource.kind for resource in resources]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "Lab": 1,
        "Tenant": 2,
        "VPC": 2,
        "Network": 4,
        "Endpoint": 12,
    }


def test_what_is_dumped_is_read_again_as_yaml_and_as_json() -> None:
    resources = parse_manifests(EXAMPLE.read_text(), "two-tenants.yaml")
    documents = [dump(resource) for resource in resources]
    assert parse_manifests(yaml.safe_dump_all(documents), "a") == resources
    assert parse_manifests(json.dumps(documents, indent="\t"), "b") == resources
    assert [parse_resource(document) for document in documents] == resources


def test_every_problem_is_reported_at_once() -> None:
    text = """\
apiVersion: mizar/v1
kind: VPC
metadata: {name: Main, tenant: blue, owner: me}
spec:
  cidrs:
    - 10.0.0.1/16
    - fd00::/8
  divider: 3
  dividers: 17
---
kind: Netwrk
---
a: [1
---
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: a}
spec: {droplet: 3, workload: {}, mac: "01:00:00:00:00:01", addresses: [10.0.0.4, 10.0.0.5], tunnelProtocol: gre}
---
# nothing but a comment
---
- {apiVersion: mizar/v1, kind: Tenant, metadata: {name: x}}
- {apiVersion: mizar/v1, kind: Tenant, metadata: {name: x}}
- 7
"""
    found = [(line, field, message.split(",")[0].split(";")[0]) for line, field, message in problems(text)]
    assert found == [
        (3, "metadata.name", "expected a DNS label (a-z"),
        (3, "metadata.owner", "unknown field"),
        (6, "spec.cidrs[0]", "expected zero host bits (10.0.0.0/16)"),
        (7, "spec.cidrs[1]", "expected an IPv6 prefix of /32 to /126"),
        (8, "spec.divider", "unknown field (did you mean dividers?)"),
        (9, "spec.dividers", "expected less than or equal to 16"),
        (11, "kind", "expected one of Lab"),
        (14, "", "expected YAML: while parsing a flow sequence"),
        (17, "metadata.tenant", "expected the tenant that it belongs to"),
        (18, "spec.network", "missing"),
        (18, "spec.droplet", "expected a valid string"),
        (18, "spec.addresses", "expected at most one per address family"),
        (18, "spec.mac", "expected a unicast MAC"),
        (18, "spec.tunnelProtocol", "expected 'geneve' or 'vxlan'"),
        (18, "spec.workload", "expected exactly one of namespace"),
        (23, "metadata.name", "expected each object once"),
        (24, "", "expected a mapping with apiVersion"),
    ]


def test_a_message_says_where_on_what_and_what_was_expected() -> None:
    with pytest.raises(ManifestErrors) as raised:
        parse_manifests(f"\n{TENANT % 'x_y'}", "dir/m.yaml")
    assert str(raised.value) == (
        "dir/m.yaml:2: Tenant x_y: metadata.name: expected a DNS label (a-z, 0-9, inner '-', at most 63), found 'x_y'"
    )


@pytest.mark.parametrize(("protocol", "limit"), [("gre", "a valid integer"), (300, "less than or equal to 255")])
def test_a_value_that_may_be_a_word_or_a_number_is_one_problem(protocol: object, limit: str) -> None:
    spec = f"{{vpc: main, subjects: {{names: [db]}}, ingress: [{{ports: [{{protocol: {protocol}}}]}}]}}"
    expected = f"expected 'tcp', 'udp', 'sctp', 'icmp' or 'icmp6', or {limit}, found {protocol!r}"
    assert only(f"{{apiVersion: mizar/v1, kind: Policy, metadata: {{name: p, tenant: t}}, spec: {spec}}}") == (
        1,
        "spec.ingress[0].ports[0].protocol",
        expected,
    )


@pytest.mark.parametrize(
    ("kind", "spec", "field", "known"),
    [
        ("Policy", {"vpc": "v", "ingress": [{"from": []}]}, "spec.ingress[0].from", "peers, ports, action, log"),
        ("NetworkAcl", {"vpc": "v", "networks": ["n"], "egress": [{"to": []}]}, "spec.egress[0].to",
         "cidrs, ports, action, log"),
        ("Function", {"source": "f.c", "maps": {"m": [{"keys": 1}]}}, "spec.maps.m[0].keys", "key, value"),
        ("Endpoint", {"network": "n", "droplet": "d", "workload": {"tap": {"nam": "t"}}}, "spec.workload.tap.nam",
         "name, owner, queues"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_told_with_those_that_are_known(
    kind: str, spec: dict[str, Any], field: str, known: str
) -> None:
    """Also of what stands in a list, or below a key of somebody's own."""
    metadata = {"name": "x"} if kind == "Function" else {"name": "x", "tenant": "t"}
    text = json.dumps({"apiVersion": "mizar/v1", "kind": kind, "metadata": metadata, "spec": spec})
    (told,) = [message for _, where, message in problems(text) if where == field]
    assert told.partition("unknown field")[2].endswith(f"; known are {known}")


@pytest.mark.parametrize(
    ("qos", "field", "message"),
    [
        ({"egress": {}}, "egress", "expected bitsPerSecond, packetsPerSecond or both"),
        ({"egress": {"bitsPerSecond": "1.5M"}}, "egress.bitsPerSecond",
         "expected a number such as 1500, 10k, 100M or 1G, found '1.5M'"),
        ({"egress": {"packetsPerSecond": True}}, "egress.packetsPerSecond", "expected a valid integer, found true"),
        ({"dscp": "af99"}, "dscp", "expected 0 to 63, or one of default, ef, cs0 to cs7, af11 to af43, found 'af99'"),
    ],
)  # fmt: skip
def test_a_rate_that_is_none(qos: dict[str, Any], field: str, message: str) -> None:
    """Told once, and true is no rate of one packet a second."""
    spec = {"network": "n", "droplet": "d", "workload": {"namespace": "n"}, "qos": qos}
    metadata = {"name": "x", "tenant": "t"}
    text = json.dumps({"apiVersion": "mizar/v1", "kind": "Endpoint", "metadata": metadata, "spec": spec})
    assert only(text) == (1, f"spec.qos.{field}", message)


def test_a_mapping_where_a_word_may_stand_is_one_of_its_own_fields() -> None:
    """And nobody is told by what name the model calls it."""
    routes = [{"to": "10.1.0.0/16", "via": {"endpoin": "fw"}}]
    spec = {"vpc": "v", "cidrs": ["10.0.0.0/24"], "routes": routes}
    metadata = {"name": "n", "tenant": "t"}
    text = json.dumps({"apiVersion": "mizar/v1", "kind": "Network", "metadata": metadata, "spec": spec})
    assert problems(text) == [
        (1, "spec.routes[0].via.endpoint", "missing"),
        (1, "spec.routes[0].via.endpoin", "unknown field (did you mean endpoint?); known are endpoint"),
    ]


def test_an_object_may_stand_once_in_all_files_together() -> None:
    with pytest.raises(ManifestErrors) as raised:
        parse_texts([("a.yaml", TENANT % "x"), ("b.yaml", "---\n" + TENANT % "x")])
    assert "b.yaml:2: Tenant x: metadata.name: expected each object once, it stands at a.yaml:1 already" in str(
        raised.value
    )


def test_equal_names_of_other_tenants_and_kinds_are_no_duplicates() -> None:
    vpc = "{apiVersion: mizar/v1, kind: VPC, metadata: {name: x, tenant: %s}, spec: {cidrs: [10.0.0.0/16]}}\n"
    assert len(parse_manifests("---\n".join([TENANT % "x", vpc % "x", vpc % "y"]), "m")) == 3


@pytest.mark.parametrize("text", ["", "\n\n", "# comment\n", "---\n---\n# comment\n---\n", "\ufeff", "---\n...\n"])
def test_no_documents_no_resources(text: str) -> None:
    assert parse_manifests(text, "m") == []


def test_crlf_a_byte_order_mark_and_an_end_marker_are_accepted() -> None:
    text = "\ufeff---\r\n" + (TENANT % "a").strip() + "\r\n...\r\n---\r\n" + TENANT % "b"
    assert [resource.name for resource in parse_manifests(text, "m")] == ["a", "b"]


def test_scalars_are_those_of_yaml_1_2() -> None:
    """YAML 1.1 would read a number of base 60, and a boolean."""
    text = """\
apiVersion: mizar/v1
kind: Endpoint
metadata: {name: no, tenant: "on"}
spec: {network: a, droplet: d1, mac: 12:34:56:10:20:30}
"""
    (endpoint,) = parse_manifests(text, "m")
    assert (endpoint.name, endpoint.tenant, endpoint.spec.mac) == ("no", "on", "12:34:56:10:20:30")


@pytest.mark.parametrize("dividers", ["true", "'2'", "2.0", "2.5", "0", "-1", "17", "[1]", "99999999999999999999"])
def test_a_count_is_a_number_and_nothing_like_it(dividers: str) -> None:
    text = (
        "{apiVersion: mizar/v1, kind: VPC, metadata: {name: a, tenant: b}, spec: {cidrs: [10.0.0.0/8], dividers: %s}}"
    )
    assert only(text % dividers)[:2] == (1, "spec.dividers")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\na: 2\n", 2, "key 'a' stands twice"),
        ("a: !!python/object/apply:os.system [id]\n", 1, "expected no tag"),
        ("a: !local x\n", 1, "expected no tag"),
        ("a: *b\n", 1, "alias *b stands before"),
        ("a: &x [*x]\n", 1, "alias *x stands before"),
        ("{1: 2}\n", 1, "expected text as a key"),
        ("{[a]: 2}\n", 1, "expected text as a key"),
        ("a:\n  - b\n c: d\n", 3, "expected YAML"),
        ("a: 'b\n", 2, "expected YAML"),
        ("a: \x00\n", 1, "expected YAML"),
        ("a: b\n\ud800\n", 2, "expected text that can be written as UTF-8"),
        ("[" * 40 + "]" * 40, 1, "levels of nesting"),
        ("[" * 100_000, 1, "levels of nesting"),
    ],
)
def test_what_is_no_yaml_or_too_much_of_it_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    found = only(text)
    assert found[0] == line
    assert message in found[2]


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    """Nine levels of ten: a billion values out of nine lines, which no memory would hold."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    line, _, message = only("\n".join(lines))
    assert "aliases counted for what they stand for" in message
    assert line == 7


def test_an_alias_in_its_place_is_fine() -> None:
    text = """\
- {apiVersion: mizar/v1, kind: VPC, metadata: {name: a, tenant: t}, spec: &spec {cidrs: [10.0.0.0/16]}}
- {apiVersion: mizar/v1, kind: VPC, metadata: {name: b, tenant: t}, spec: *spec}
"""
    one, other = parse_manifests(text, "m")
    assert one.spec == other.spec


def test_a_text_that_is_far_too_long_is_refused_unread() -> None:
    assert "characters" in only("#" * (MAX_CHARACTERS + 1))[2]


def test_a_field_is_written_in_camel_case_only() -> None:
    text = (
        "{apiVersion: mizar/v1, kind: Endpoint, metadata: {name: a, tenant: b}, "
        "spec: {network: n, droplet: d, tunnel_protocol: vxlan}}"
    )
    line, field, message = only(text)
    assert (line, field) == (1, "spec.tunnel_protocol")
    assert "did you mean tunnelProtocol?" in message


def test_a_json_object_is_refused_with_its_place_in_the_request() -> None:
    with pytest.raises(InvalidError) as raised:
        parse_resource(
            {"apiVersion": "mizar/v2", "kind": "Tenant", "metadata": {"name": "a"}, "spec": {"x": 1}}, index=4
        )
    assert [(p.index, p.resource, p.field) for p in raised.value.problems] == [
        (4, "Tenant a", "apiVersion"),
        (4, "Tenant a", "spec.x"),
    ]


@pytest.mark.parametrize("document", [{}, {"kind": None}, {"kind": ["VPC"]}, {"kind": {"a": 1}}])
def test_without_a_known_kind_nothing_else_is_judged(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidError) as raised:
        parse_resource(document)
    assert [problem.field for problem in raised.value.problems] == ["kind"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@examples()
@given(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["Lab", "Droplet", "Tenant", "VPC", "Network", "Endpoint"])},
        optional={"apiVersion": JSON, "metadata": JSON, "spec": JSON, "status": JSON},
    )
)
def test_any_json_is_a_resource_or_a_list_of_problems(document: dict[str, Any]) -> None:
    with suppress(InvalidError):
        parse_resource(document)


@examples()
@given(st.text(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"#%@` \n\tab1", max_size=60))
def test_any_text_is_resources_or_a_list_of_problems(text: str) -> None:
    with suppress(ManifestErrors):
        parse_manifests(text, "m")


def test_status_and_server_fields_may_stand_in_a_manifest() -> None:
    """What `get -o yaml` prints can be applied again."""
    vpc = VPC.model_validate(
        {
            "metadata": {"name": "a", "tenant": "t", "uid": "u", "generation": 3, "created_at": "2026-01-01T00:00:00Z"},
            "spec": {"cidrs": ["10.0.0.0/16"]},
            "status": {"phase": "Provisioned", "vni": 7},
        }
    )
    assert parse_resource(dump(vpc)) == vpc
    assert isinstance(parse_manifests(TENANT % "a", "m")[0], Tenant)


def test_every_example_of_the_reference_is_right_and_every_kind_and_field_is_in_it() -> None:
    page = (Path(__file__).parents[3] / "docs" / "manifests.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    resources = parse_texts([(f"example {number}", block) for number, block in enumerate(blocks)]).resources
    assert {resource.kind for resource in resources} == set(KINDS)
    for kind in KINDS.values():
        section = page.split(f"\n## {kind.name}\n")[1].split("\n## ")[0]
        spec = kind.model.model_fields["spec"].annotation
        assert spec is not None
        for name, field in spec.model_fields.items():
            assert f"`{field.alias or name}" in section, f"{kind.name}: {name}"


def test_what_a_manifest_says_cannot_write_on_the_terminal() -> None:
    """Keys and names with control characters are quoted in the problem that they are part of."""
    document = {"kind": "Tenant", "metadata": {"name": "a\x1b[2J", "": 1}, "spec": {"\n": 1, "k" * 500: 1}}
    with pytest.raises(InvalidError) as caught:
        parse_resource(document, 0)
    for problem in caught.value.problems:
        assert problem.resource == r"Tenant 'a\x1b[2J'"
        assert str(problem).isprintable()
        assert len(problem.field) < 100


def test_what_others_find_wrong_gets_its_file_and_line() -> None:
    """A server knows objects and fields; who applies them wants to know where they stand."""
    text = "---\n" + TENANT % "x" + "\n---\nkind: Network\napiVersion: mizar/v1\nmetadata: {name: n, tenant: x}\n"
    text += "spec:\n  vpc: v\n  cidrs:\n  - 10.0.0.0/24\n  - fd00::/64\n"
    manifests = parse_texts([("a.yaml", text)])
    problems = [
        Problem("bad", "spec.cidrs[1]", "Network x/n"),
        Problem("bad", "spec.bouncers", "Network x/n"),
        Problem("bad", resource="Network x/n"),
        Problem("bad", resource="Network x/other"),
        Problem("bad"),
    ]
    with pytest.raises(ConflictError) as caught, manifests.blamed():
        raise ConflictError(problems)
    begin = text.splitlines().index("kind: Network") + 1
    assert [(p.file, p.line) for p in caught.value.problems] == [
        ("a.yaml", begin + 7), ("a.yaml", begin + 3), ("a.yaml", begin), ("", 0), ("", 0),
    ]  # fmt: skip
