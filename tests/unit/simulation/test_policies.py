# SPDX-License-Identifier: Apache-2.0
"""What policies and network ACLs mean, end to end: manifests → the planner's tables → packets through the oracle.

The first table is the published semantics of Kubernetes' NetworkPolicy (networking.k8s.io/v1) where ours overlap:
pods are endpoints, podSelector is `endpoints`, namespaceSelector a `group` or `network`, ipBlock a `cidr`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mizar.manager.policy_names import PolicyNames
from mizar.manager.rehearsal import Rehearsal, Snapshot
from mizar.manager.trace_names import RegistryNames
from mizar.model.addresses import ROUTER_MAC
from mizar.model.resources import Ref
from mizar.oracle.fleet import Way
from mizar.preview.preview import preview
from mizar.simulation import packets
from mizar.simulation.fleet import Deployed, Station, deploy
from mizar.simulation.reach import carry
from mizar.trace.explain import Explainer
from mizar.trace.predict import Prediction
from tests.oracle import build
from tests.unit.manager.world import endpoint, manifest, network, tenant, vpc
from tests.unit.preview.test_preview import BLUE, HALVES, RED, droplets, known, submissions

SYN = 2
ENDPOINTS = {
    "web": ("front", "d1", "10.0.1.11", {"app": "web", "team": "a"}),
    "api": ("front", "d2", "10.0.1.12", {"app": "api", "team": "a"}),
    "far": ("back", "d2", "10.0.2.13", {"app": "api", "team": "b"}),
}
"""web is asked and asks; api is beside it, far in another network."""
SIX = {"web": "fd00:10:0:1::11", "api": "fd00:10:0:1::12", "far": "fd00:10:0:2::13"}
TEAM_B = manifest("Network", "team-b", "red", vpc="main", type="group", selector={"matchLabels": {"team": "b"}})
WEB, API = ({"endpoints": {"matchLabels": {"app": name}}} for name in ("web", "api"))
TCP80 = [{"protocol": "tcp", "port": 80}]


def base() -> list[dict[str, Any]]:
    found = [tenant("red"), vpc("red"), network("red"), network("red", "back", 2), TEAM_B]
    for name, (inside, where, address, labels) in ENDPOINTS.items():
        made = endpoint("red", name, where, inside, addresses=[address, SIX[name]])
        made["metadata"]["labels"] = labels
        found.append(made)
    return found


class Plan:
    """What droplets hold because of manifests; each question is asked of a fleet that has seen no packet yet."""

    def __init__(self, *more: dict[str, Any], objects: list[dict[str, Any]] | None = None) -> None:
        self.rehearsal = Rehearsal(Snapshot())
        self.rehearsal.apply(submissions(*droplets(2)))
        self.rehearsal.apply(submissions(*(base() if objects is None else objects)))
        self.rehearsal.apply(submissions(*more))

    def fleet(self) -> Deployed:
        return deploy(self.rehearsal.entries())

    def station(self, fleet: Deployed, name: str, owner: str = "red") -> Station:
        item = self.rehearsal.registry.find(Ref("Endpoint", owner, name))
        assert item is not None
        return fleet.stations[item.uid]

    def passes(self, asked: Ask) -> bool:
        """Whether the packet arrives, and then the answer to it."""
        fleet = self.fleet()
        source, target = (self.station(fleet, name) for name in (asked.source, asked.target))
        way = carry(fleet, source, asked.frame(source, target))
        if way.receiver is None or way.receiver.uid != target.uid:
            return False
        if asked.alone:
            return True
        back = carry(fleet, target, packets.answer(way.frame))
        assert back.receiver is not None, "answers to what was allowed always pass"
        return back.receiver.uid == source.uid


@dataclass(frozen=True)
class Ask:
    """A packet that begins something: TCP's SYN, a datagram, or a message of ICMP by type and code."""

    source: str
    target: str
    port: int = 80
    protocol: str = "tcp"
    type: int = 8
    code: int = 0
    six: bool = False

    @property
    def alone(self) -> bool:
        """It gets no answer."""
        return self.protocol == "icmp" and self.type not in (8, 128)

    def frame(self, source: Station, target: Station) -> bytes:
        own, other = (next(a for a in one.addresses if len(a) == (16 if self.six else 4)) for one in (source, target))
        if self.protocol == "icmp":
            body = build.echo(self.type, self.code, bytes(60))
            number = 1
            if self.six:
                body, number = build.icmpv6(own, other, body), 58
        elif self.protocol == "udp":
            body, number = build.udp(4001, self.port, b"mizar!"), 17
        else:
            body, number = build.tcp(4001, self.port, SYN), 6
        packet = build.ipv6(own, other, number, body) if self.six else build.ipv4(own, other, number, body)
        return build.ethernet(ROUTER_MAC, source.mac, 0x86DD if self.six else 0x0800, packet)


def policy(name: str = "p", **spec: Any) -> dict[str, Any]:
    return manifest("Policy", name, "red", **{"vpc": "main", "subjects": WEB, **spec})


IN, OUT = Ask("api", "web"), Ask("web", "api")
FROM_FAR = Ask("far", "web")


@dataclass(frozen=True)
class Semantics:
    """Policies, and what passes and does not by them, one of both families."""

    name: str
    policies: tuple[dict[str, Any], ...]
    passes: tuple[Ask, ...] = ()
    refused: tuple[Ask, ...] = field(default=())


def ingress(*rules: dict[str, Any], name: str = "p", **more: Any) -> dict[str, Any]:
    return policy(name, ingress=list(rules), **more)


def egress(*rules: dict[str, Any], name: str = "p", **more: Any) -> dict[str, Any]:
    return policy(name, egress=list(rules), **more)


TABLE = (
    Semantics("not selected: not isolated", (policy(subjects={"names": ["api"]}, ingress=[], egress=[]),), (FROM_FAR,)),
    Semantics("isolated for ingress alone, and its own connections are answered", (ingress(),), (OUT,), (IN, FROM_FAR)),
    Semantics("isolated for egress alone, and it answers", (egress(),), (IN, FROM_FAR), (OUT,)),
    Semantics("isolated for both", (policy(ingress=[], egress=[]),), (), (IN, OUT)),
    Semantics("an empty subject selects all", (ingress(subjects={}),), (), (IN, OUT, FROM_FAR)),
    Semantics("an empty selector as subject selects all", (ingress(subjects={"endpoints": {}}),), (), (IN, OUT)),
    Semantics("an empty rule allows all", (ingress({}),), (IN, FROM_FAR, Ask("api", "web", 9, "udp")), ()),
    Semantics("podSelector", (ingress({"peers": [WEB]}),), (), (IN, FROM_FAR)),
    Semantics("podSelector of another", (ingress({"peers": [API]}),), (IN, FROM_FAR), ()),
    Semantics("an empty podSelector is all of the VPC", (ingress({"peers": [{"endpoints": {}}]}),), (IN, FROM_FAR), ()),
    Semantics("namespaceSelector, as a group", (ingress({"peers": [{"group": "team-b"}]}),), (FROM_FAR,), (IN,)),
    Semantics("namespaceSelector, as a network", (ingress({"peers": [{"network": "front"}]}),), (IN,), (FROM_FAR,)),
    Semantics(
        "both selectors in one peer: labels say both",
        (ingress({"peers": [{"endpoints": {"matchLabels": {"app": "api", "team": "b"}}}]}),),
        (FROM_FAR,), (IN,),
    ),
    Semantics(
        "matchExpressions",
        (ingress({"peers": [{"endpoints": {"matchExpressions": [
            {"key": "team", "operator": "NotIn", "values": ["a"]}]}}]}),),
        (FROM_FAR,), (IN,),
    ),
    Semantics(
        "peers of a rule are alternatives",
        (ingress({"peers": [{"group": "team-b"}, {"cidr": "10.0.1.12/32"}]}),),
        (IN, FROM_FAR), (Ask("api", "web", six=True),),
    ),
    Semantics(
        "ipBlock with except",
        (ingress({"peers": [{"cidr": "10.0.0.0/16", "except": ["10.0.2.0/24"]}]}),),
        (IN,), (FROM_FAR, Ask("api", "web", six=True)),
    ),
    Semantics(
        "what one ipBlock excepts another may allow",
        (ingress({"peers": [{"cidr": "10.0.0.0/16", "except": ["10.0.2.0/24"]}, {"cidr": "10.0.2.13/32"}]}),),
        (IN, FROM_FAR), (),
    ),
    Semantics(
        "ipBlock of IPv6",
        (ingress({"peers": [{"cidr": "fd00:10::/32", "except": ["fd00:10:0:2::/64"]}]}),),
        (Ask("api", "web", six=True),), (IN, Ask("far", "web", six=True)),
    ),
    Semantics(
        "ipBlock for egress",
        (egress({"peers": [{"cidr": "10.0.0.0/16", "except": ["10.0.1.12/32"]}]}),),
        (Ask("web", "far"),), (OUT,),
    ),
    Semantics(
        "a port is of its protocol",
        (ingress({"ports": TCP80}),),
        (IN, FROM_FAR), (Ask("api", "web", 81), Ask("api", "web", 80, "udp"), Ask("api", "web", protocol="icmp")),
    ),
    Semantics(
        "endPort, both ends included",
        (ingress({"ports": [{"protocol": "tcp", "port": 8000, "endPort": 8010}]}),),
        tuple(Ask("api", "web", port) for port in (8000, 8005, 8010)),
        tuple(Ask("api", "web", port) for port in (7999, 8011, 80)),
    ),
    Semantics("a protocol without port is all of its ports", (ingress({"ports": [{"protocol": "udp"}]}),),
              (Ask("api", "web", 53, "udp"), Ask("api", "web", 65535, "udp")), (IN,)),
    Semantics(
        "peers and ports of a rule must both match, those of two rules need not",
        (ingress({"peers": [{"group": "team-b"}], "ports": TCP80}, {"ports": [{"protocol": "udp", "port": 53}]}),),
        (FROM_FAR, Ask("api", "web", 53, "udp")), (IN, Ask("far", "web", 81)),
    ),
    Semantics(
        "policies add up",
        (ingress(), ingress({"peers": [{"group": "team-b"}]}, name="q"), ingress({"ports": TCP80}, name="r")),
        (IN, FROM_FAR, Ask("far", "web", 81)), (Ask("api", "web", 81),),
    ),
    Semantics(
        "both ends have to allow it",
        (ingress({"peers": [API]}), egress(subjects=API, name="q")),
        (), (IN, FROM_FAR),
    ),
    Semantics(
        "both ends allow it",
        (ingress({"peers": [API]}), egress({"peers": [WEB], "ports": TCP80}, subjects=API, name="q")),
        (IN, FROM_FAR), (Ask("api", "far"), Ask("api", "web", 81)),
    ),
    Semantics("who is allowed in is not asked by it", (policy(ingress=[{"peers": [API]}], egress=[]),), (IN,), (OUT,)),
    Semantics("a selector that holds for nobody", (ingress({"peers": [{"group": "nobody"}]}),), (), (IN, FROM_FAR)),
)  # fmt: skip


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_policies_mean_what_network_policies_do(case: Semantics) -> None:
    """Each packet on a fresh fleet, with its answer."""
    plan = Plan(*case.policies)
    for asked, wanted in [*((one, True) for one in case.passes), *((one, False) for one in case.refused)]:
        assert plan.passes(asked) is wanted, (case.name, asked)


def acl(**spec: Any) -> dict[str, Any]:
    return manifest("NetworkAcl", "edge", "red", **{"vpc": "main", "networks": ["front"], **spec})


ICMP = tuple(
    Ask("far", "web", protocol="icmp", type=number, code=code) for number, code in ((8, 0), (3, 1), (3, 3), (13, 0))
)
ICMP6 = tuple(
    Ask("far", "web", protocol="icmp", six=True, type=number, code=code)
    for number, code in ((128, 0), (1, 4), (2, 0), (3, 0))
)


@pytest.mark.parametrize(
    ("ports", "passing"),
    [
        ({"protocol": "icmp", "type": 8}, {ICMP[0]}),
        ({"protocol": "icmp", "type": 3}, {ICMP[1], ICMP[2]}),
        ({"protocol": "icmp", "type": 3, "code": 1}, {ICMP[1]}),
        ({"protocol": "icmp"}, set(ICMP)),
        ({"protocol": "icmp6", "type": 128}, {ICMP6[0]}),
        ({"protocol": "icmp6", "type": 1, "code": 4}, {ICMP6[1]}),
        ({"protocol": "icmp6", "type": 1, "code": 3}, set()),
        ({"protocol": "icmp6"}, set(ICMP6)),
    ],
)
def test_an_acl_tells_icmp_by_type_and_code(ports: dict[str, Any], passing: set[Ask]) -> None:
    """Of both families, each as itself alone. It is stateless, so the answer to an echo needs no rule of what goes
    out, which nothing judges; from within the network it is not asked."""
    plan = Plan(acl(ingress=[{"ports": [ports]}]))
    assert {one for one in (*ICMP, *ICMP6) if plan.passes(one)} == passing
    assert plan.passes(Ask("api", "web", protocol="icmp", type=13))


def test_a_preview_tells_what_an_acl_takes_and_gives_back() -> None:
    """By pairs and ways, with the reason, and that rules never decide; what is inside of the network is not touched.
    Nothing has changed by the question."""
    before = known(*base())
    closed = acl(ingress=[{"ports": TCP80}])
    found = preview(before, submissions(closed))
    lost = {(one.source.name, one.destination.name): one for one in found.reach.changes}
    into = {one for one in lost if one[0] == "far"}
    assert into == {("far", "web"), ("far", "api")}
    assert all(set(lost[one].lost) == {"icmp4", "udp4", "icmp6", "udp6"} for one in into)
    assert all(lost[one].drop == "NETWORK_ACL_DEFAULT" for one in into)
    assert not any({"web", "api"} == set(one) for one in lost)
    opened = acl(ingress=[{}, {"ports": TCP80}])
    again = preview(known(*base(), closed), submissions(opened))
    assert {(one.source.name, one.destination.name) for one in again.reach.changes if one.gained} >= into
    assert any("ingress rule 2 never decides" in note for note in again.notes)
    (row,) = (one for one in preview(before, submissions(closed)).objects if one.asked)
    assert (str(row.ref), row.change) == ("NetworkAcl red/edge", "created")


def explained(plan: Plan, way: Way, fleet: Deployed, source: Station) -> list[str]:
    """What hops say of policies."""
    names = PolicyNames(plan.rehearsal.registry, plan.rehearsal._desired.policies)
    told = RegistryNames(plan.rehearsal.registry, lambda _: None, names)
    found = Prediction(way, dict(fleet.fleet.droplets), {}, {})
    return [text for hop in Explainer(found, told, source.ifindex).hops() for text in hop.policy]


def test_rules_keep_their_names_across_a_peering() -> None:
    """Each VPC counts its policies from 1: a rule is called as in the VPC of the endpoint that it judges, whoever
    sends. Both have rule 1 of policy 1 here."""
    own = manifest("Policy", "way-out", "red", vpc="main", egress=[{}])
    other = manifest("Policy", "way-in", "blue", vpc="main", ingress=[{"ports": [{"protocol": "udp"}]}], priority=7)
    plan = Plan(own, other, objects=[*RED, *BLUE, *HALVES])
    fleet = plan.fleet()
    source, target = plan.station(fleet, "e1"), plan.station(fleet, "b1", "blue")
    datagram = carry(fleet, source, Ask("e1", "b1", protocol="udp").frame(source, target))
    assert explained(plan, datagram, fleet, source) == [
        "egress of red/e1: allowed by policy way-out egress rule 1 (priority 1000)",
        "ingress of blue/b1: allowed by policy way-in ingress rule 1 (priority 7)",
    ]
    syn = carry(fleet, source, Ask("e1", "b1").frame(source, target))
    assert explained(plan, syn, fleet, source)[1:] == [
        "ingress of blue/b1: denied by default: no rule of policy way-in allows it"
    ]
