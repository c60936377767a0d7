# SPDX-License-Identifier: Apache-2.0
"""Policies: whom they select, what droplets are told and when, what is said of rules that never decide."""

from __future__ import annotations

from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.model.errors import InvalidError
from mizar.model.policy_rows import GROUP, PEER, VERDICT
from mizar.model.resources import Ref
from tests.unit.manager.test_groups import WEB, group, labelled
from tests.unit.manager.world import World, endpoint, manifest

Row = tuple[Any, ...]


def policy(name: str, owner: str = "red", **spec: Any) -> dict[str, Any]:
    return manifest("Policy", name, owner, **{"vpc": "main", **spec})


def bound(world: World, name: str, droplet: str) -> pb.PolicyBinding:
    uid = world.manager.get(Ref("Endpoint", "red", name))["metadata"]["uid"]
    return world.daemons[droplet].tables.locals[uid].policy


def rows(world: World, droplet: str, number: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Peers, groups and verdicts of a set that a droplet holds."""
    found = next(one for (_, name), one in world.daemons[droplet].tables.policy_sets.items() if name == number)
    parts = zip((PEER, GROUP, VERDICT), (found.peers, found.groups, found.verdicts), strict=True)
    peers, groups, verdicts = (list(form.iter_unpack(part)) for form, part in parts)
    return peers, groups, verdicts


def held(world: World, droplet: str) -> int:
    return len(world.daemons[droplet].tables.policy_sets)


ALLOW_WEB: dict[str, Any] = {"subjects": {"endpoints": WEB}, "ingress": [{"ports": [{"protocol": "tcp", "port": 80}]}]}


async def test_only_hosts_of_selected_endpoints_learn_a_set_and_endpoints_share_it(world: World) -> None:
    """With labels come and go the binding and the set; without policies an endpoint is bound to nothing."""
    world.apply(*world.base("red"), labelled("e1", "d1", app="web"), labelled("e2", "d1"), labelled("e3", "d2"))
    await world.settled()
    world.apply(policy("web", **ALLOW_WEB))
    await world.settled()
    first = bound(world, "e1", "d1")
    assert first.ingress
    assert (first.egress, bound(world, "e2", "d1").ingress, held(world, "d2")) == (0, 0, 0)
    _, _, verdicts = rows(world, "d1", first.ingress)
    assert [row[1:7] for row in verdicts] == [(6, 80, 24, 0, 1, 65536)]
    assert world.status("Policy", "web", "red")["endpoints"] == 1
    world.apply(labelled("e2", "d1", app="web"), labelled("e3", "d2", app="web"))
    await world.settled()
    assert bound(world, "e2", "d1").ingress == bound(world, "e3", "d2").ingress == first.ingress
    assert (held(world, "d1"), held(world, "d2"), held(world, "d3")) == (1, 1, 0)
    world.apply(*(labelled(name, droplet) for name, droplet in (("e1", "d1"), ("e2", "d1"), ("e3", "d2"))))
    await world.settled()
    assert (held(world, "d1"), held(world, "d2"), bound(world, "e1", "d1").ingress) == (0, 0, 0)


async def test_groups_stand_as_numbers_for_ingress_and_as_addresses_for_egress(world: World) -> None:
    """So another member of a group with a known number touches the policed droplet for egress alone. A member that
    sends in VXLAN stands as an address for both."""
    world.apply(*world.base("red"), labelled("e1", "d1"), labelled("c1", "d2", app="web"), group("web", selector=WEB))
    rule = [{"peers": [{"group": "web"}]}]
    world.apply(policy("both", subjects={"names": ["e1"]}, ingress=rule, egress=rule))
    await world.settled()
    binding, number = bound(world, "e1", "d1"), world.status("Endpoint", "c1", "red")["groupSet"]
    peers, groups, _ = rows(world, "d1", binding.ingress)
    assert (peers, [one[0] for one in groups]) == ([], [number])
    peers, groups, _ = rows(world, "d1", binding.egress)
    assert (len(peers), groups) == (2, [])
    vxlan = labelled("c2", "d3", app="web")
    vxlan["spec"]["tunnelProtocol"] = "vxlan"
    before = rows(world, "d1", binding.ingress)
    world.apply(labelled("c3", "d3", app="web"))
    await world.settled()
    assert rows(world, "d1", binding.ingress) == before
    assert len(rows(world, "d1", binding.egress)[0]) == 4
    world.apply(vxlan)
    await world.settled()
    assert len(rows(world, "d1", binding.ingress)[0]) == 2
    assert len(rows(world, "d1", binding.egress)[0]) == 6


async def test_an_endpoint_is_bound_from_its_first_moment_on(world: World) -> None:
    """The set is there before it; and it goes along when the endpoint moves."""
    world.apply(*world.base("red"), policy("all", ingress=[]))
    world.apply(endpoint("red", "e1", "d1"))
    await world.settled()
    binding = bound(world, "e1", "d1")
    assert rows(world, "d1", binding.ingress) == ([], [], [])
    world.manager.delete(Ref("Policy", "red", "all"))
    await world.settled()
    assert not world.exists("Policy", "all", "red")
    assert (held(world, "d1"), bound(world, "e1", "d1").ingress) == (0, 0)


async def test_a_set_survives_a_new_server_and_a_forgetful_daemon(world: World) -> None:
    """Its id follows from its policies: nothing is told anew, but what a daemon has lost."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"), policy("all", ingress=[{"ports": [{"protocol": 47}]}]))
    await world.settled()
    binding, before = bound(world, "e1", "d1"), held(world, "d1")
    await world.restart()
    await world.settled()
    assert (bound(world, "e1", "d1"), held(world, "d1")) == (binding, before)


async def test_audit_tells_and_never_weakens_what_enforces(world: World) -> None:
    """Where an enforcing policy selects an endpoint too, that alone decides; what both would say is told beside it. The
    set of both goes with the policy that audits."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"), policy("look", mode="audit", ingress=[]))
    await world.settled()
    assert bound(world, "e1", "d1").audit_ingress
    world.apply(policy("real", ingress=[{"ports": [{"protocol": "tcp"}]}]))
    await world.settled()
    binding = bound(world, "e1", "d1")
    assert not binding.audit_ingress
    assert len(rows(world, "d1", binding.ingress)[2]) == 1
    assert len(rows(world, "d1", binding.beside_ingress)[2]) == 1
    assert (binding.beside_egress, world.status("Policy", "look", "red")["warnings"]) == (0, [])
    denies = [{"action": "deny", "ports": [{"protocol": "tcp", "port": 23}]}]
    world.apply(policy("look", mode="audit", priority=5, ingress=denies))
    await world.settled()
    assert (bound(world, "e1", "d1"), len(rows(world, "d1", binding.beside_ingress)[2])) == (binding, 2)
    assert len(rows(world, "d1", binding.ingress)[2]) == 1
    world.manager.delete(Ref("Policy", "red", "look"))
    await world.settled()
    assert (bound(world, "e1", "d1").beside_ingress, held(world, "d1")) == (0, 1)


async def test_who_applies_hears_of_rules_that_never_decide(world: World) -> None:
    """Whichever of both comes second: the one that stands behind is named with the one before it."""
    world.apply(*world.base("red"), labelled("e1", "d1", app="web"), labelled("c1", "d2"))
    both = [{"ports": [{"protocol": "tcp", "port": 443}]}, {"ports": [{"protocol": "tcp", "port": 80}]}]
    (first,) = world.apply(policy("allow-web", subjects={"endpoints": WEB}, ingress=both))
    assert first.warnings == ()
    deny = policy("deny-web", priority=100, ingress=[{"action": "deny", "ports": [{"protocol": "tcp", "port": 80}]}])
    (second,) = world.apply(deny)
    text = (
        "policy allow-web ingress rule 2 (priority 1000) never decides: "
        "policy deny-web ingress rule 1 (priority 100) stands before it and denies what it matches"
    )
    assert second.warnings == (text,)
    assert world.status("Policy", "allow-web", "red")["warnings"] == [text]
    assert world.status("Policy", "deny-web", "red")["warnings"] == []


async def test_contradictions_and_missing_names_are_told(world: World) -> None:
    """At the same priority deny wins, and a group that is not there matches nobody."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d1"))
    rules = [
        {"action": "deny", "peers": [{"cidr": "10.0.0.0/16"}]},
        {"peers": [{"cidr": "10.0.0.0/8"}, {"group": "nobody"}]},
    ]
    (result,) = world.apply(policy("mixed", ingress=rules))
    assert [text.split(":")[0] for text in result.warnings] == [
        "there is no group nobody",
        "policy mixed ingress rule 2 (priority 1000) allows what policy mixed ingress rule 1 (priority 1000) "
        "of the same priority denies",
    ]


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({}, "spec", "expected ingress, egress or both"),
        ({"ingress": [{"peers": [{}]}]}, "spec.ingress[0].peers[0]", "expected one of"),
        (
            {"ingress": [{"peers": [{"group": "a", "cidr": "10.0.0.0/8"}]}]},
            "spec.ingress[0].peers[0]",
            "expected one of",
        ),
        ({"ingress": [{"peers": [{"cidr": "10.0.0.1/8"}]}]}, "spec.ingress[0].peers[0].cidr", "zero host bits"),
        (
            {"ingress": [{"peers": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/24"]}]}]},
            "spec.ingress[0].peers[0].except",
            "within 10.0.0.0/8",
        ),
        ({"egress": [{"ports": [{"protocol": "icmp", "port": 1}]}]}, "spec.egress[0].ports[0].port", "has no ports"),
        ({"egress": [{"ports": [{"protocol": "tcp", "endPort": 9}]}]}, "spec.egress[0].ports[0].endPort", "beside it"),
        (
            {"egress": [{"ports": [{"protocol": "tcp", "port": 9, "endPort": 8}]}]},
            "spec.egress[0].ports[0].endPort",
            "8",
        ),
        ({"egress": [{"ports": [{"protocol": "icmp", "code": 1}]}]}, "spec.egress[0].ports[0].code", "type beside"),
        ({"ingress": [], "priority": 70000}, "spec.priority", "65535"),
        ({"ingress": [], "vpc": "other"}, "spec.vpc", "there is no VPC"),
    ],
)
async def test_what_no_policy_can_say_is_refused(world: World, spec: dict[str, Any], field: str, message: str) -> None:
    """With the field, and what is expected there."""
    world.apply(*world.base("red"))
    with pytest.raises(InvalidError) as caught:
        world.apply(policy("bad", **spec))
    (problem,) = caught.value.problems
    assert problem.field == field
    assert message in problem.message
