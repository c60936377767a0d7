# SPDX-License-Identifier: Apache-2.0
"""What a change would do, over objects that exist as values alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mizar.lab.plan import plan
from mizar.manager.draft import Cursors
from mizar.manager.intake import Submission
from mizar.manager.rehearsal import Rehearsal, Snapshot, snapshot
from mizar.model.errors import InvalidError
from mizar.model.manifest import parse_resource, parse_texts
from mizar.model.nat_gateway import NatGateway
from mizar.model.resources import Ref
from mizar.preview import preview as previews
from mizar.preview.preview import Preview, preview
from mizar.preview.reach import MOST_PAIRS
from tests.unit.manager.world import endpoint, manifest, network, tenant, vpc

EXAMPLES = Path(__file__).parents[3] / "examples"


def submissions(*documents: dict[str, Any]) -> list[Submission]:
    return [Submission(index, parse_resource(document, index)) for index, document in enumerate(documents)]


def droplets(count: int) -> list[dict[str, Any]]:
    return [
        manifest("Droplet", f"d{n}", address=f"172.31.0.{10 + n}", daemon=f"unix:///run/d{n}")
        for n in range(1, count + 1)
    ]


def known(*documents: dict[str, Any]) -> Snapshot:
    """A manager that was told of these, and of three droplets."""
    rehearsal = Rehearsal(Snapshot())
    rehearsal.apply(submissions(*droplets(3)))
    rehearsal.apply(submissions(*documents))
    return snapshot(rehearsal.registry, Cursors(), (), {}, {})


def example(name: str) -> Snapshot:
    """A manager that has the objects of an example."""
    rehearsal = Rehearsal(Snapshot())
    objects = plan(parse_texts([(name, (EXAMPLES / name).read_text())]).resources).objects
    for chosen in (True, False):
        wanted = [one for one in objects if (one.kind == "Droplet") is chosen]
        rehearsal.apply([Submission(index, one) for index, one in enumerate(wanted)])
    return snapshot(rehearsal.registry, Cursors(), (), {}, {})


def again(found: Snapshot, kind: str, tenant_: str, name: str, **spec: Any) -> dict[str, Any]:
    """The manifest of an object that is there, with another spec."""
    resource = next(item.resource for item in found.items if item.ref == Ref(kind, tenant_, name))
    before = resource.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    return manifest(kind, name, tenant_, **{**before, **spec})


RED = (
    tenant("red"),
    vpc("red"),
    network("red"),
    network("red", "back", 2),
    endpoint("red", "e1", "d1"),
    endpoint("red", "e2", "d2", "back"),
)

BLUE = (
    tenant("blue"),
    vpc("blue", cidrs=["10.1.0.0/16"]),
    network("blue", cidrs=["10.1.1.0/24"]),
    endpoint("blue", "b1", "d2"),
)
HALVES = (
    manifest("VPCPeering", "to-blue", "red", vpc="main", peer={"tenant": "blue", "vpc": "main"}),
    manifest("VPCPeering", "to-red", "blue", vpc="main", peer={"tenant": "red", "vpc": "main"}),
)


def pairs(found: Preview, what: str) -> set[tuple[str, str]]:
    return {(one.source.name, one.destination.name) for one in found.reach.changes if getattr(one, what)}


def test_nothing_new_is_no_change() -> None:
    """The same manifests again."""
    found = preview(known(*RED), submissions(*RED))
    assert not found.changes
    assert {one.change for one in found.objects} == {"unchanged"}
    assert (found.steps, found.reach.changes, found.flows) == ((), (), ())


def test_a_new_endpoint_gains_reach_and_nobody_loses_it() -> None:
    """Its pairs in both directions by all protocols of both families; others are not even looked at."""
    found = preview(known(*RED), submissions(endpoint("red", "e3", "d3")))
    assert [(str(one.ref), one.change, one.asked) for one in found.objects] == [("Endpoint red/e3", "created", True)]
    assert pairs(found, "gained") == {("e3", "e1"), ("e3", "e2"), ("e1", "e3"), ("e2", "e3")}
    assert pairs(found, "lost") == set()
    assert {one.gained for one in found.reach.changes} == {("icmp4", "udp4", "tcp4", "icmp6", "udp6", "tcp6")}
    assert found.reach.pairs == found.reach.looked_at == 4
    assert found.steps
    assert any("interface: red/e3" in entry for one in found.steps if one.droplet == "d3" for _, _, entry in one.steps)


def test_a_new_route_loses_what_it_takes_away() -> None:
    """Field by field, with the reason, in both directions: answers are lost too; flows there are an estimate."""
    before = known(*RED)
    route = {"to": "10.0.1.0/25", "via": "blackhole"}
    found = preview(before, submissions(again(before, "Network", "red", "back", routes=[route])))
    (changed,) = found.objects
    assert [(one.field, one.before, one.after) for one in changed.fields] == [("spec.routes[]", None, route)]
    assert pairs(found, "lost") == {("e1", "e2"), ("e2", "e1")}
    assert {one.lost for one in found.reach.changes} == {("icmp4", "udp4", "tcp4")}
    assert all("ROUTE_BLACKHOLE" in one.reason for one in found.reach.changes)
    assert {one.certain for one in found.flows} == {False}


def test_what_follows_is_told_beside_what_was_asked_for() -> None:
    """A group that endpoints join by their labels: their status changes though nobody names them."""
    before = known(
        *RED[:4], endpoint("red", "e1", "d1") | {"metadata": {"name": "e1", "tenant": "red", "labels": {"a": "b"}}}
    )
    group = manifest("Network", "group", "red", vpc="main", type="group", selector={"matchLabels": {"a": "b"}})
    found = preview(before, submissions(group))
    follows = {str(one.ref): [(f.field, f.after) for f in one.fields] for one in found.objects if not one.asked}
    assert follows == {"Endpoint red/e1": [("status.groups[]", "group")]}


def test_a_peering_joins_two_vpcs() -> None:
    """The second half makes it: endpoints of both VPCs gain one another."""
    first, second = HALVES
    alone = preview(known(*RED, *BLUE), submissions(first))
    assert alone.reach.changes == ()
    found = preview(known(*RED, *BLUE, first), submissions(second))
    assert pairs(found, "gained") == {("b1", "e1"), ("b1", "e2"), ("e1", "b1"), ("e2", "b1")}


def test_a_proxied_endpoint_whose_grant_goes_ends_its_flows() -> None:
    """Its clients lose it, which is certain, and how many flows that are droplets have told."""
    before = example("private-link.yaml")
    vni = next(item.resource for item in before.items if item.ref == Ref("VPC", "blue", "main")).number  # type: ignore[attr-defined]
    counts = {(vni, bytes([10, 0, 1, 100])): 7}
    found = preview(before, submissions(again(before, "Endpoint", "red", "database", grants=[])), counts=counts)
    assert {("app-1", "db"), ("app-2", "db"), ("test-1", "dev-db")} <= pairs(found, "lost")
    sure = {(one.endpoint.name, one.flows) for one in found.flows if one.certain}
    assert ("db", 7) in sure


def test_a_member_that_goes_ends_the_flows_that_it_takes() -> None:
    """Others go on: the service is reached as before."""
    before = example("scaled.yaml")
    members = [{"endpoint": "web-1"}, {"endpoint": "web-3"}]
    found = preview(before, submissions(again(before, "Endpoint", "blue", "web", members=members)))
    assert found.reach.pairs > 0
    assert found.reach.changes == ()
    (ended,) = found.flows
    assert (ended.endpoint.name, ended.certain) == ("web", True)
    assert "web-2" in ended.what


def test_of_many_pairs_a_sample_is_looked_at() -> None:
    """And it is said how many there are."""
    many = [endpoint("red", f"n{number}", f"d{number % 3 + 1}") for number in range(30)]
    before = known(*RED, *many)
    route = {"to": "10.0.2.0/24", "via": "blackhole"}
    found = preview(before, submissions(again(before, "Network", "red", "front", routes=[route])))
    assert found.reach.pairs == 32 * 31
    assert 0 < found.reach.looked_at <= MOST_PAIRS
    assert found.reach.changes


def test_a_new_droplet_is_taken_for_one_that_answers() -> None:
    """It gets its share of places, and a note says what was taken for granted."""
    found = preview(known(*RED), submissions(*droplets(4)))
    assert found.notes == ("d4 is new: taken for one whose daemon answers",)
    assert pairs(found, "lost") == set()
    assert found.steps
    assert {one.droplet for one in found.steps} == {"d1", "d2", "d3", "d4"}


def test_errors_are_those_of_an_apply() -> None:
    """All of them at once, with their places."""
    with pytest.raises(InvalidError) as caught:
        preview(known(*RED), submissions(endpoint("red", "e3", "d9"), network("blue")))
    assert {(problem.index, problem.field) for problem in caught.value.problems} >= {(0, "spec.droplet")}


def test_a_tenant_is_told_of_its_own_alone() -> None:
    """No droplets' steps, no endpoint of the peer."""
    found = preview(
        known(*RED, *BLUE, *HALVES), submissions(endpoint("red", "e3", "d3")), (), lambda ref: ref.tenant == "red"
    )
    assert found.steps is None
    told = str(previews.as_data(found))
    assert "b1" not in told
    assert "blue" not in told
    assert pairs(found, "gained") == {("e3", "e1"), ("e3", "e2"), ("e1", "e3"), ("e2", "e3")}


def test_a_tenant_hears_why_and_not_where() -> None:
    """The reason of a loss names a droplet to operators alone."""
    before = known(*RED)
    route = {"to": "10.0.2.0/24", "via": "blackhole"}
    change = submissions(again(before, "Network", "red", "front", routes=[route]))
    for visible, names_one in ((lambda _: True, True), (lambda ref: ref.tenant == "red", False)):
        reasons = [one.reason for one in preview(before, change, (), visible).reach.changes if one.lost]
        assert reasons
        assert all("ROUTE_BLACKHOLE" in reason for reason in reasons)
        assert all(any(name in reason for name in ("d1", "d2", "d3")) is names_one for reason in reasons)


def test_what_is_known_is_not_touched() -> None:
    """A preview works on copies: the same question gets the same answer."""
    before = known(*RED)
    resources = [item.resource for item in before.items]
    wanted = submissions(endpoint("red", "e3", "d3"), again(before, "Network", "red", "back", bouncers=2))
    first, second = (preview(before, wanted) for _ in range(2))
    assert [item.resource for item in before.items] == resources
    assert [(one.ref, one.change) for one in first.objects] == [(one.ref, one.change) for one in second.objects]
    assert first.reach == second.reach


def test_a_policy_takes_reach_and_gives_it_back() -> None:
    """Pairs that lose it, with the reason; those that gain it when a rule comes; and rules that never decide."""
    closed = manifest("Policy", "closed", "red", vpc="main", subjects={"names": ["e2"]}, ingress=[])
    found = preview(known(*RED), submissions(closed))
    assert pairs(found, "lost") == {("e1", "e2")}, "answers to what e2 asks come in"
    (lost,) = found.reach.changes
    assert lost.drop == "POLICY_INGRESS_DEFAULT"
    assert found.flows
    rules = [{"ports": [{"protocol": "tcp", "port": 80}]}, {"action": "deny"}, {"ports": [{"protocol": "udp"}]}]
    opened = manifest("Policy", "closed", "red", vpc="main", subjects={"names": ["e2"]}, ingress=rules[:1])
    assert pairs(preview(known(*RED, closed), submissions(opened)), "gained") == {("e1", "e2")}
    notes = preview(known(*RED), submissions({**opened, "spec": {**opened["spec"], "ingress": rules}})).notes
    assert len([note for note in notes if "never decides" in note]) == 2


def test_a_nat_gateway_brings_its_instances_and_its_pool_says_so() -> None:
    """The endpoints that it brings follow, on droplets of its pool alone; nobody hears what the two have in common."""
    edge = manifest("AddressPool", "edge", prefixes=["203.0.113.0/28"], tenants=["red"], droplets=["d2", "d3"])
    out = manifest("NatGateway", "out", "red", network="front", pool="edge")
    found = preview(known(*RED), submissions(edge, out))
    made = {str(one.ref): one.asked for one in found.objects if one.change == "created"}
    follow = {"Endpoint red/out-1": False, "Endpoint red/out-2": False}
    assert made == {"AddressPool edge": True, "NatGateway red/out": True, **follow}
    assert found.steps
    assert {one.droplet for one in found.steps if "red/out-" in str(one.steps)} >= {"d2", "d3"}
    assert pairs(found, "lost") == set()
    before = known(*RED, edge, out)
    (gateway,) = [item.resource for item in before.items if isinstance(item.resource, NatGateway)]
    assert gateway.status.pair_key is not None
    key = gateway.status.pair_key.reveal()
    assert key not in str(found) + str(preview(before, submissions(again(before, "NatGateway", "red", "out"))))
