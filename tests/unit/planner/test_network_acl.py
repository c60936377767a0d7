# SPDX-License-Identifier: Apache-2.0
"""Rules of a network's ACL, compiled, say of every packet what a reader who goes through them in their order says; and
which of them never decide is told."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mizar.model.errors import InvalidError
from mizar.model.manifest import parse_resource
from mizar.model.network_acl import AclRule, NetworkAcl, NetworkAclSpec
from mizar.planner.network_acl import LAST, AclView, matchers, sets_of, warnings
from mizar.planner.policy import ALLOW, compile_rules, rule_of
from tests.unit.planner.test_policy import ADDRESSES, PORTS, PREFIXES, Packet, looked_up

CIDRS = st.lists(st.sampled_from(PREFIXES), max_size=2).map(tuple)
PLACES = st.one_of(
    st.sampled_from(["tcp", "udp", 47]).map(lambda protocol: {"protocol": protocol}),
    st.tuples(st.sampled_from(["tcp", "udp"]), PORTS, PORTS).map(
        lambda one: {"protocol": one[0], "port": min(one[1:]), "endPort": max(one[1:])}
    ),
)
RULES = st.builds(
    lambda cidrs, ports, action: AclRule.model_validate({"cidrs": cidrs, "ports": ports, "action": action}),
    CIDRS, st.lists(PLACES, max_size=2), st.sampled_from(["allow", "deny"]),
)  # fmt: skip
PACKETS = st.builds(Packet, st.sampled_from(list(map(str, ADDRESSES))), st.just(0), st.sampled_from([6, 17, 47]), PORTS)


def view(*rules: AclRule, **spec: Any) -> AclView:
    made = NetworkAclSpec.model_validate({"vpc": "main", "networks": ["web"], "ingress": rules, **spec})
    return AclView("uid-1", 7, "edge", made)


def first(rules: tuple[AclRule, ...], packet: Packet, *, later: bool) -> tuple[int, bool]:
    """Place of the rule that decides, and whether it allows. `later`: as a fragment that shows no ports."""
    peer = ip_address(packet.peer)
    for place, rule in enumerate(rules):
        if rule.cidrs and not any(peer in ip_network(text) for text in rule.cidrs):
            continue
        allows = rule.action.value == "allow"
        for one in rule.ports:
            low, high = one.range
            some = (low, high) != (0, 65535)
            fits = low <= packet.port <= high if not later else allows or not some
            if one.number == packet.protocol and fits:
                return place, allows
        if not rule.ports:
            return place, allows
    return LAST, False


@settings(max_examples=300, deadline=None)
@given(st.lists(RULES, max_size=6).map(tuple), st.lists(PACKETS, min_size=1, max_size=20), st.booleans())
def test_the_first_rule_that_matches_decides_and_the_last_denies(
    rules: tuple[AclRule, ...], packets: list[Packet], later: bool
) -> None:
    tables = compile_rules(matchers(view(*rules), egress=False, later=later))
    for packet in packets:
        asked = Packet(packet.peer, 0, packet.protocol, 0) if later else packet
        found = looked_up(tables, asked)
        assert found is not None, "the last rule is about everything"
        place, allows = first(rules, packet, later=later)
        assert (rule_of(found.rule), bool(found.action & ALLOW)) == ((7, False, place), allows)


def test_each_direction_that_is_judged_has_two_sets() -> None:
    """One for packets that show their ports, one for fragments behind the first; by ids that stay."""
    one = list(sets_of(1, view(AclRule())))
    assert len({entry.id for entry in one}) == len(one) == 2
    both = list(sets_of(1, view(egress=())))
    assert len({entry.id for entry in both}) == 4
    assert {entry.id for entry in one} <= {entry.id for entry in both}


def test_a_rule_behind_one_that_says_all_of_it_is_told() -> None:
    wide = AclRule.model_validate({"cidrs": ["10.0.0.0/8"]})
    narrow = AclRule.model_validate({"cidrs": ["10.0.1.0/24"], "action": "deny", "ports": [{"protocol": "tcp"}]})
    other = AclRule.model_validate({"cidrs": ["192.0.2.0/24"], "action": "deny"})
    name = "network ACL edge ingress rule"
    shadowed = f"{name} 2 never decides: {name} 1 stands before it and allows what it matches"
    assert warnings(view(wide, narrow, other)) == [shadowed]
    assert warnings(view(narrow, wide, other)) == []
    assert warnings(view(wide, wide)) == [f"{name} 2 never decides: {name} 1 stands before it and says the same"]


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"networks": ["web"]}, "spec", "expected ingress, egress or both"),
        ({"networks": ["web", "web"], "ingress": []}, "spec.networks", "network web is there twice"),
        ({"networks": [], "ingress": []}, "spec.networks", "at least 1"),
        ({"networks": ["web"], "ingress": [{"cidrs": ["10.0.0.1/8"]}]}, "spec.ingress[0].cidrs[0]", "host bits"),
        ({"networks": ["web"], "ingress": [{"ports": [{"protocol": "icmp", "port": 1}]}]}, "", "has no ports"),
    ],
)
def test_what_is_wrong_is_told_at_its_field(spec: dict[str, Any], field: str, message: str) -> None:
    document = {"apiVersion": "mizar/v1", "kind": "NetworkAcl", "metadata": {"name": "edge", "tenant": "red"}}
    with pytest.raises(InvalidError) as caught:
        parse_resource({**document, "spec": {"vpc": "main", **spec}})
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.field.startswith(field)


def test_a_manifest_is_an_acl() -> None:
    document = {"apiVersion": "mizar/v1", "kind": "NetworkAcl", "metadata": {"name": "edge", "tenant": "red"}}
    found = parse_resource({**document, "spec": {"vpc": "main", "networks": ["web"], "egress": []}})
    assert isinstance(found, NetworkAcl)
    assert found.spec.ingress is None
