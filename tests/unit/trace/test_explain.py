# SPDX-License-Identifier: Apache-2.0
"""A predicted way in sentences: which table decided, and what contradicts the desired state."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from mizar.oracle.fleet import Fleet
from mizar.oracle.policies import Direction, EndpointPolicy, PolicyFlows, PolicyRow, PolicySet, RuleVerdict
from mizar.oracle.tables import Agent, Droplet, Endpoint, Leg, Network, Vpc
from mizar.trace.explain import Explainer
from mizar.trace.names import Known
from mizar.trace.packet import Asked, build
from mizar.trace.predict import Prediction
from mizar.trace.report import Ending, HopReport


def packed(text: str) -> bytes:
    return ip_address(text).packed


VNI, WEB, DB, IFINDEX = 7, packed("10.0.1.2"), packed("10.0.2.3"), 5
D1, D2, D3 = (packed(f"192.0.2.{number}") for number in (1, 2, 3))
MACS = {one: bytes([2, 0, 0, 0, 0, one[3]]) for one in (D1, D2, D3)}
WEB_MAC, DB_MAC = b"\x02aaaaa", b"\x02bbbbb"
GATEWAY = packed("10.0.1.1")


class World:
    """What the management plane wants: web on d1, db on d3, d2 bounces and divides everything."""

    def droplet(self, address: bytes) -> str:
        return f"d{address[3]}"

    def vpc(self, number: int) -> str:
        return "red/main" if number == VNI else ""

    def network(self, number: int, network: int) -> str:
        return {1: "red/web", 2: "red/data"}[network]

    def endpoint(self, number: int, address: bytes) -> Known | None:
        return {WEB: Known("red/web", "simple", D1, WEB_MAC), DB: Known("red/db", "simple", D3, DB_MAC)}.get(address)

    def members(self, number: int, network: int) -> frozenset[bytes]:
        return frozenset({D2})

    def mtu(self, one: bytes, other: bytes) -> int:
        return 1500

    def verdict(self, number: int, address: bytes, rule: int, *, egress: bool) -> str:
        return f"policy p {'egress' if egress else 'ingress'} rule {rule}" if rule else "no rule of policy p"

    def member(self, number: int, mac: bytes) -> str:
        return {WEB_MAC: "red/web", DB_MAC: "red/db"}.get(mac, "")

    def attracting(self, address: bytes) -> tuple[str, ...]:
        return ("d2", "d4")

    def carrier(self, number: int, address: bytes) -> str:
        return ""

    def behind(self, number: int, address: bytes, rule: int, peer: bytes, protocol: int, port: int) -> str:
        return f"policy q rule 2 about port {port}" if rule == 1 else ""


def droplets(*, host: bytes | None = D3, mac: bytes = DB_MAC, bouncer: bytes = D2, mtu: int = 1500) -> list[Droplet]:
    """d1, d2, d3; `host` and `mac`: of db, as its bouncer has them; `bouncer` and `mtu`: as d1 has them."""
    web = Agent("1", VNI, 1, WEB_MAC, bouncers=(bouncer,) * 16, ipv4=Leg(WEB, GATEWAY, 24))
    data = Network(2, packed("10.0.2.1"), (D2,) * 16, bounced_here=True)
    held = {(VNI, DB): Endpoint(2, mac, host)} if host else {}
    here = Endpoint(2, DB_MAC, D3, ifindex=9, uid="1")
    return [
        Droplet(D1, MACS[D1], dict(MACS), {VNI: Vpc()}, agents={IFINDEX: web}, mtus={D2: mtu, D3: mtu}),
        Droplet(D2, MACS[D2], dict(MACS), {VNI: Vpc((D2,) * 16, True)}, {(VNI, packed("10.0.2.0"), 24): data}, held),
        Droplet(
            D3, MACS[D3], dict(MACS), {VNI: Vpc()}, endpoints={(VNI, DB): here}, agents={9: Agent("1", VNI, 2, DB_MAC)}
        ),
    ]


def explained(found: list[Droplet], to: bytes = DB, size: int = 100) -> tuple[list[HopReport], Ending]:
    way = Fleet(found).send(D1, IFINDEX, build(Asked("udp", size=size), WEB_MAC, WEB, to))
    explainer = Explainer(Prediction(way, {one.address: one for one in found}, {}, {}), World(), IFINDEX)
    return explainer.hops(), explainer.ending()


def test_a_way_that_is_sound_has_a_table_for_each_hop_and_no_note() -> None:
    """Who decides, where it goes, what is left."""
    hops, ending = explained(droplets())
    assert [(hop.droplet, hop.program, hop.next) for hop in hops] == [
        ("d1", "agent", "d2"), ("d2", "transit", "d3"), ("d3", "transit", ""), ("d3", "deliver", ""),
    ]  # fmt: skip
    assert "red/web is bounced by d2" in hops[0].table
    assert hops[0].room == 1500 - 50 - 100
    assert hops[1].table == "endpoints: 10.0.2.3 is red/db, on d3"
    assert "TTL 64 → 63" in hops[1].rewrite
    assert not any(hop.notes for hop in hops)
    assert (ending.arrives, ending.endpoint, ending.sentence) == (True, "red/db", "delivered to red/db on d3")


@pytest.mark.parametrize(
    ("found", "size", "said"),
    [
        (droplets(host=None), 100, "10.0.2.3 is red/db, but its entry is missing in the tables of d2"),
        (droplets(host=D1), 100, "the entry of red/db leads to d1, but it lives on d3"),
        (droplets(mac=WEB_MAC), 100, "the entry of red/db has MAC 02:61:61:61:61:61, not 02:62:62:62:62:62"),
        (droplets(bouncer=D3), 100, "d3 is none of the bouncers of red/web"),
        (droplets(mtu=600), 1000, "way to d2 takes IP packets of 600 bytes, but both interfaces have 1500"),
        (droplets(mtu=600), 100, "`droplets` says 600 bytes to d2, but both interfaces have 1500"),
    ],
)
def test_what_contradicts_the_desired_state_is_named(found: list[Droplet], size: int, said: str) -> None:
    """Whatever table it is in, whether or not the packet arrives."""
    hops, _ = explained(found, size=size)
    assert any(said in note for hop in hops for note in hop.notes), hops


def test_an_address_that_nobody_has_is_said_to_be_nobodys() -> None:
    """In a network, and in none."""
    assert "red/data has no endpoint with the address 10.0.2.9" in explained(droplets(), packed("10.0.2.9"))[1].sentence
    assert "nobody in red/main has the address 10.9.9.9" in explained(droplets(), packed("10.9.9.9"))[1].sentence


def test_a_packet_whose_sender_is_told_does_not_arrive() -> None:
    """Its hops run out on the way: what comes back to the sender is a message, and no delivery."""
    found = droplets()
    frame = bytearray(build(Asked("udp"), WEB_MAC, WEB, DB))
    frame[22] = 1
    way = Fleet(found).send(D1, IFINDEX, bytes(frame))
    explainer = Explainer(Prediction(way, {one.address: one for one in found}, {}, {}), World(), IFINDEX)
    ending = explainer.ending()
    assert not ending.arrives
    assert ending.sentence.startswith("dropped on d2 by transit, TTL_EXPIRED")


BEHIND = "denied by policy p ingress rule 1, which stands before policy q rule 2 about port 80"


@pytest.mark.parametrize(
    ("verdicts", "audit", "sentence"),
    [
        ({PolicyRow(0): RuleVerdict(0, allow=False, rule=1)}, False, BEHIND),
        ({PolicyRow(0): RuleVerdict(0, allow=False, rule=3)}, False, "denied by policy p ingress rule 3"),
        ({}, False, "denied by default: no rule of policy p allows it"),
        ({}, True, "would be denied by default: no rule of policy p allows it; audit mode lets it pass"),
        ({PolicyRow(0, 17): RuleVerdict(0, allow=True, rule=2)}, False, "allowed by policy p ingress rule 2"),
    ],
)
def test_what_a_policy_says_is_told_with_its_rule(
    verdicts: dict[PolicyRow, RuleVerdict], audit: bool, sentence: str
) -> None:
    """Which rule decides, which one stands behind it, and where none allows anything, so."""
    *others, last = droplets()
    record = EndpointPolicy(PolicySet(verdicts=verdicts), audit=frozenset({Direction.INGRESS} if audit else ()))
    policed = replace(last, policies={"1": record}, policy_flows=PolicyFlows({VNI: 9}))
    hops, ending = explained([*others, policed])
    told = f"ingress of red/db: {sentence}"
    assert told in [text for hop in hops for text in hop.policy]
    assert ending.arrives == (audit or sentence.startswith("allowed"))
    assert ending.arrives or told in ending.sentence
