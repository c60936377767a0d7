# SPDX-License-Identifier: Apache-2.0
"""Flows of policed endpoints: who begins and confirms them, what goes on when policies change, what is older than the
first."""

from __future__ import annotations

from typing import Any

import pytest

from .every import every_family, every_tunnel_and_family
from .frames import datagram, ping
from .plan import ROUTER_MAC, A, R
from .policed import ACK, GROUPS, SYN, SYN_ACK, answer, arriving, closed, comes, goes, segment, why
from .policies import ALLOW, ANSWERED, CONFIRMED, DENY, ENDED, INGRESS, KEEP, KEPT, OF_TCP, Row, flows, police, rules
from .testbed import XDP_PASS, Testbed


@every_tunnel_and_family
def test_a_connection_is_begun_from_one_side(droplet: Testbed, kind: str, family: int) -> None:
    """Its packets pass in both directions; the peer's own connections do not."""
    droplet.as_host()
    police(droplet, A, ingress=rules(droplet, 1, Row(ALLOW, OF_TCP, 80, 16)), egress=rules(droplet, 2, Row(DENY)))
    assert not goes(droplet, answer(family, SYN_ACK))
    for inner in (segment(family, R, A.address(family), flags) for flags in (SYN, ACK)):
        assert comes(droplet, inner, kind=kind)
    assert goes(droplet, answer(family, SYN_ACK))
    assert not goes(droplet, answer(family, SYN))
    assert not comes(droplet, segment(family, R, A.address(family), SYN, dport=81), kind=kind)
    (flow,) = flows(droplet)
    assert (flow["begun"], flow["state"], flow["rule"], flow["generation"]) == (INGRESS, ANSWERED, 5, 1)
    assert flow["own_port_be"].to_bytes(2, "little") == (80).to_bytes(2, "big")


@every_family
def test_who_began_a_flow_confirms_it(droplet: Testbed, family: int) -> None:
    """By what it sends behind the answer, and not by another SYN, as a flood's: then it waits for the answer again."""
    closed(droplet, Row(ALLOW))
    states = []
    for mine, flags in ((False, SYN), (True, SYN_ACK), (False, SYN), (True, SYN_ACK), (True, ACK), (False, ACK)):
        inner = segment(family, R, A.address(family), flags)
        assert goes(droplet, answer(family, flags)) if mine else comes(droplet, inner)
        states.append(flows(droplet)[0]["state"])
    assert states == [0, ANSWERED, 0, ANSWERED, ANSWERED, ANSWERED | CONFIRMED]


@every_family
def test_a_segment_without_ack_confirms_nothing(droplet: Testbed, family: int) -> None:
    """Nobody who has seen an answer sends one, and a server says nothing to it that would end the flow."""
    closed(droplet, Row(ALLOW))
    states = []
    for mine, flags in ((False, SYN), (True, SYN_ACK), (False, ""), (False, "P"), (False, ACK)):
        inner = segment(family, R, A.address(family), flags)
        assert goes(droplet, answer(family, flags)) if mine else comes(droplet, inner)
        states.append(flows(droplet)[0]["state"])
    assert states == [0, ANSWERED, ANSWERED, ANSWERED, ANSWERED | CONFIRMED]


@every_family
def test_a_connection_whose_syn_came_twice_is_confirmed_too(droplet: Testbed, family: int) -> None:
    """By the ACK that comes right behind, though the answer met another CPU: here, what that writes. An idle connection
    would end after a minute."""
    closed(droplet, Row(ALLOW))
    table = droplet.tables.policy_flows
    syn, ack = (bytes(arriving("geneve", segment(family, R, A.address(family), flags))) for flags in (SYN, ACK))
    for _ in range(20):  # all within one tick of the clock, now and then
        for key, _value in list(table.items()):
            table.delete(key)
        assert [droplet.transit(frame).retval for frame in (syn, syn)] == [XDP_PASS] * 2
        ((key, value),) = table.items()
        table.put(key, value | {"state": ANSWERED})
        assert droplet.transit(ack).retval == XDP_PASS
        assert [flow["state"] for flow in flows(droplet)] == [ANSWERED | CONFIRMED]


@every_family
def test_an_endpoint_that_only_one_direction_selects_gets_its_answers(droplet: Testbed, family: int) -> None:
    """Nothing may come in; what a begins itself is answered: UDP, TCP, echo."""
    closed(droplet)
    for frame, back in (
        (datagram(family, A, R.address(family)), datagram(family, R, A.address(family), sport=4002, dport=4001)),
        (
            segment(family, A, R.address(family), SYN),
            segment(family, R, A.address(family), SYN_ACK, sport=80, dport=4001),
        ),
        (
            ping(family, A.address(family), R.address(family), src_mac=A.mac, dst_mac=ROUTER_MAC),
            ping(family, R.address(family), A.address(family), src_mac=R.mac, dst_mac=ROUTER_MAC, reply=True),
        ),
    ):
        assert not comes(droplet, back)
        assert goes(droplet, frame)
        assert comes(droplet, back)
    request = ping(family, R.address(family), A.address(family), src_mac=R.mac, dst_mac=ROUTER_MAC)
    assert not comes(droplet, request), "the same identifier does not make a request an answer"


@every_family
def test_a_changed_policy_ends_what_it_does_not_allow(droplet: Testbed, family: int) -> None:
    """Both ways, though a may send anything; what is still allowed goes on; allowed again, it is begun again."""
    closed(droplet, Row(ALLOW, OF_TCP, rule=8))
    http, dns = segment(family, R, A.address(family), ACK), segment(family, R, A.address(family), ACK, dport=53)
    assert comes(droplet, http)
    assert comes(droplet, dns)
    police(droplet, A, ingress=rules(droplet, 2, Row(ALLOW, OF_TCP, 53, 16, rule=9)), generation=2)
    assert goes(droplet, segment(family, A, R.address(family), ACK, sport=53, dport=4001))
    assert comes(droplet, dns)
    assert not comes(droplet, http)
    assert why(droplet) == {"POLICY_INGRESS_DEFAULT"}
    assert not goes(droplet, answer(family, ACK))
    assert not comes(droplet, http)
    assert why(droplet) == {"POLICY_FLOW_ENDED"}
    assert sorted((flow["begun"], flow["rule"], flow["generation"]) for flow in flows(droplet)) == [
        (INGRESS, 9, 2), (INGRESS | ENDED, 0, 2),
    ]  # fmt: skip
    police(droplet, A, ingress=1, generation=3)
    assert comes(droplet, segment(family, R, A.address(family), SYN))
    assert goes(droplet, answer(family, ACK))


@every_family
def test_the_first_packet_after_the_change_may_be_the_endpoints_own(droplet: Testbed, family: int) -> None:
    """The flow is judged by the direction in which it began."""
    closed(droplet, Row(ALLOW))
    assert comes(droplet, segment(family, R, A.address(family), SYN))
    police(droplet, A, ingress=2, generation=2)
    assert not goes(droplet, answer(family, ACK))
    assert why(droplet) == {"POLICY_INGRESS_DEFAULT"}


def passive(droplet: Testbed, grace_s: int, **more: Any) -> None:
    """A serves port 80 to anybody, and may begin nothing."""
    droplet.as_host()
    ingress, egress = rules(droplet, 1, Row(ALLOW, OF_TCP, 80, 16, rule=5)), rules(droplet, 2)
    police(droplet, A, ingress=ingress, egress=egress, grace_s=grace_s, **more)


@every_family
def test_what_a_server_says_in_an_older_connection_is_an_answer(droplet: Testbed, family: int) -> None:
    """While the policy is young. It begins the flow from the client's side, by the rule about that."""
    passive(droplet, grace_s=60)
    assert goes(droplet, answer(family, "PA"))
    (flow,) = flows(droplet)
    assert (flow["begun"], flow["state"], flow["rule"], flow["group_set"]) == (INGRESS, ANSWERED, 5, 0)
    assert comes(droplet, segment(family, R, A.address(family), ACK))
    for refused in (answer(family, SYN), segment(family, A, R.address(family), "PA", sport=81, dport=4001)):
        assert not goes(droplet, refused)
    assert not goes(droplet, datagram(family, A, R.address(family)))
    assert why(droplet) == {"POLICY_EGRESS_DEFAULT"}
    assert len(flows(droplet)) == 1


@every_family
@pytest.mark.parametrize("grace_s", [0, -2])
def test_afterwards_it_is_refused(droplet: Testbed, family: int, grace_s: int) -> None:
    """An endpoint that was never without a policy has no such time."""
    passive(droplet, grace_s)
    assert not goes(droplet, answer(family, "PA"))
    assert why(droplet) == {"POLICY_EGRESS_DEFAULT"}
    assert flows(droplet) == []


@every_family
def test_a_client_that_only_listens_goes_on(droplet: Testbed, family: int) -> None:
    """Nothing may come in, and what goes out is nobody's business: what comes from a server's port is an answer, and
    nothing else. Who had connected to a does not go on."""
    droplet.as_host()
    police(droplet, A, ingress=rules(droplet, 1), grace_s=60)
    assert comes(droplet, segment(family, R, A.address(family), "PA", sport=80, dport=4001))
    for refused in (
        segment(family, R, A.address(family), "PA", sport=4001, dport=22),
        segment(family, R, A.address(family), SYN, sport=81, dport=4001),
        datagram(family, R, A.address(family)),
    ):
        assert not comes(droplet, refused)
    assert why(droplet) == {"POLICY_INGRESS_DEFAULT"}
    assert len(flows(droplet)) == 1


@every_family
def test_what_a_policy_has_ended_does_not_begin_again_as_an_answer(droplet: Testbed, family: int) -> None:
    """A known flow is judged by how it began, however young the policy."""
    passive(droplet, grace_s=60)
    assert comes(droplet, segment(family, R, A.address(family), SYN))
    police(droplet, A, ingress=rules(droplet, 3), egress=2, generation=2, grace_s=60)
    assert not goes(droplet, answer(family, "PA"))
    police(droplet, A, ingress=1, egress=2, generation=2, grace_s=60)
    assert not goes(droplet, answer(family, "PA"))
    assert why(droplet) == {"POLICY_INGRESS_DEFAULT", "POLICY_FLOW_ENDED"}


@every_family
def test_a_rule_may_keep_what_it_began(droplet: Testbed, family: int) -> None:
    """New connections are refused."""
    closed(droplet, Row(ALLOW | KEEP))
    assert comes(droplet, segment(family, R, A.address(family), SYN))
    police(droplet, A, ingress=2, generation=2)
    assert comes(droplet, segment(family, R, A.address(family), ACK))
    assert goes(droplet, answer(family, ACK))
    assert [flow["begun"] for flow in flows(droplet)] == [INGRESS | KEPT]
    assert not comes(droplet, segment(family, R, A.address(family), SYN, sport=4004))


@every_family
def test_a_peer_that_leaves_its_group_loses_its_flows(droplet: Testbed, family: int) -> None:
    """Nothing is written to this droplet: the packets tell."""
    closed(droplet, Row(ALLOW, class_=1), groups={GROUPS: 1, GROUPS + 1: 1})
    inner = segment(family, R, A.address(family), ACK)
    assert comes(droplet, inner, GROUPS)
    assert comes(droplet, inner, GROUPS + 1)
    assert not comes(droplet, inner, 3)
    assert not goes(droplet, answer(family, ACK))
    assert comes(droplet, inner, GROUPS)


@every_family
def test_flows_of_who_had_the_slot_before_are_void(droplet: Testbed, family: int) -> None:
    """Even kept ones."""
    closed(droplet, Row(ALLOW | KEEP))
    assert comes(droplet, segment(family, R, A.address(family), ACK))
    police(droplet, A, ingress=2, generation=7, since=7)
    assert not comes(droplet, segment(family, R, A.address(family), ACK))


@every_family
def test_without_room_nothing_begins_and_all_goes_on(droplet: Testbed, family: int) -> None:
    """The budget is the VPC's."""
    closed(droplet, Row(ALLOW))
    police(droplet, A, ingress=1, room=1)
    assert comes(droplet, datagram(family, R, A.address(family)))
    assert not comes(droplet, datagram(family, R, A.address(family), sport=9))
    assert why(droplet) == {"POLICY_FLOWS_FULL"}
    assert comes(droplet, datagram(family, R, A.address(family)))
    assert len(flows(droplet)) == 1


@every_family
def test_what_an_unselected_direction_begins_is_remembered_too(droplet: Testbed, family: int) -> None:
    """So that its answers pass in the direction that is selected."""
    droplet.as_host()
    police(droplet, A, egress=rules(droplet, 1, Row(DENY)))
    assert comes(droplet, datagram(family, R, A.address(family)))
    assert goes(droplet, datagram(family, A, R.address(family), sport=4002, dport=4001))
    assert [flow["begun"] for flow in flows(droplet)] == [INGRESS]
