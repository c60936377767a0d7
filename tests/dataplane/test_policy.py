# SPDX-License-Identifier: Apache-2.0
"""Policed endpoints in the programs: what is refused and why, which flows go on, what is told."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel.events import EventReader
from mizar.model import drop_reasons

from .every import every_family, every_tunnel_and_family
from .frames import datagram, ip, option, ping, tunnel
from .plan import BOUNCER, FRONT, HOST, RED, ROUTER_MAC, A, B, R, S
from .policies import (
    ALLOW,
    ANSWERED,
    AUDIT,
    AUDIT_INGRESS,
    CONFIRMED,
    DENY,
    ENDED,
    INGRESS,
    KEEP,
    KEPT,
    LOG,
    MEMBER_POLICED,
    OF_TCP,
    OF_UDP,
    Row,
    flows,
    host_prefix,
    police,
    rules,
)
from .test_services import MEMBER, scaled, service
from .test_substrate import OUTSIDE, come_in, from_stack, ready
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, Testbed

SYN, SYN_ACK, ACK, FIN = "S", "SA", "A", "FA"
GROUPS = 7


def segment(family: int, sender: Any, dst: str, flags: str, sport: int = 4001, dport: int = 80, **fields: Any) -> Any:
    ether = Ether(src=sender.mac, dst=ROUTER_MAC)
    return ether / ip(family, sender.address(family), dst) / TCP(sport=sport, dport=dport, flags=flags, **fields)


def answer(family: int, flags: str) -> Any:
    """Of a to r's connection to its port 80."""
    return segment(family, A, R.address(family), flags, sport=80, dport=4001)


def arriving(kind: str, inner: Any, groups: int = 0) -> bytes:
    """From HOST, in a tunnel; the sender is in a set of groups."""
    options = option(0xFF01, 2, groups.to_bytes(4, "big") + bytes(4)) if groups and kind == "geneve" else b""
    return tunnel(kind, inner, src=HOST, options=options, group=groups if kind == "vxlan" else 0)


def comes(droplet: Testbed, inner: Any, groups: int = 0, kind: str = "geneve") -> bool:
    """Whether Transit XDP lets it in to a."""
    return {XDP_PASS: True, XDP_DROP: False}[droplet.transit(arriving(kind, inner, groups)).retval]


def goes(droplet: Testbed, frame: Any) -> bool:
    """Whether the agent of a sends it on."""
    return {TC_REDIRECT: True, TC_SHOT: False}[droplet.send(frame).retval]


def why(droplet: Testbed) -> set[str]:
    """The reasons that were counted, forgotten afterwards."""
    found = {name for kind, name in droplet.counted() if kind == "drop"}
    droplet.tables.drop_counters.zero([drop_reasons.by_name()[name].number for name in found])
    return found


def closed(droplet: Testbed, *rows: Row, **more: Any) -> None:
    """ME hosts a, which takes what the rows allow, and may send anything."""
    droplet.as_host()
    police(droplet, A, ingress=rules(droplet, 1, *rows, **more))


# ---- the rules


@every_tunnel_and_family
def test_what_no_rule_allows_does_not_come_in(droplet: Testbed, kind: str, family: int) -> None:
    """And nothing is remembered of it."""
    closed(droplet, Row(ALLOW, OF_TCP, 80, 16))
    frame = arriving(kind, datagram(family, R, A.address(family)))
    assert droplet.transit(frame).retval == XDP_DROP
    assert droplet.counted() == {
        ("drop", "POLICY_INGRESS_DEFAULT"): {"packets": 1, "bytes": len(frame)},
        ("vpc", RED.slot): {"dropped_packets": 1},
    }
    assert flows(droplet) == []


@every_family
def test_what_no_rule_allows_does_not_go_out(droplet: Testbed, family: int) -> None:
    """The virtual router is no peer: it answers as ever."""
    droplet.as_host()
    police(droplet, A, egress=rules(droplet, 1, Row(ALLOW, OF_TCP, 80, 16)))
    frame = bytes(datagram(family, A, R.address(family)))
    assert not goes(droplet, frame)
    assert droplet.counted() == {
        ("drop", "POLICY_EGRESS_DEFAULT"): {"packets": 1, "bytes": len(frame)},
        ("vpc", RED.slot): {"dropped_packets": 1},
        ("endpoint", A.slot): {"dropped_packets": 1},
    }
    own, gateway = A.address(family), FRONT.gateway(family)
    assert goes(droplet, ping(family, own, gateway, src_mac=A.mac, dst_mac=ROUTER_MAC))
    assert goes(droplet, segment(family, A, R.address(family), SYN))


@every_family
def test_a_rule_may_deny(droplet: Testbed, family: int) -> None:
    """Of what another allows, in both directions."""
    droplet.as_host()
    rows = Row(ALLOW), Row(DENY, OF_UDP)
    police(droplet, A, ingress=rules(droplet, 1, *rows), egress=rules(droplet, 2, *rows))
    assert not comes(droplet, datagram(family, R, A.address(family)))
    assert why(droplet) == {"POLICY_INGRESS_DENIED"}
    assert not goes(droplet, datagram(family, A, R.address(family)))
    assert why(droplet) == {"POLICY_EGRESS_DENIED"}
    assert comes(droplet, segment(family, R, A.address(family), SYN))


@every_family
def test_the_lower_rank_of_two_classes_holds(droplet: Testbed, family: int) -> None:
    """By address r is denied; by its groups, which come first, allowed. And the other way round for s."""
    peers = host_prefix(R, 1) | host_prefix(S, 2)
    rows = (
        Row(DENY, class_=1, rank=4, rule=1), Row(ALLOW, class_=3, rank=2, rule=2), Row(DENY, class_=2, rank=1, rule=3),
    )  # fmt: skip
    closed(droplet, *rows, peers=peers, groups={GROUPS: 3})
    assert not comes(droplet, datagram(family, R, A.address(family)))
    assert comes(droplet, datagram(family, R, A.address(family)), GROUPS)
    assert comes(droplet, datagram(family, R, A.address(family), sport=4), GROUPS, "vxlan")
    assert not comes(droplet, datagram(family, S, A.address(family)), GROUPS)
    assert why(droplet) == {"POLICY_INGRESS_DENIED"}


@every_family
def test_ports_by_their_longest_prefix(droplet: Testbed, family: int) -> None:
    """4096 to 8191, but not 4100."""
    closed(droplet, Row(ALLOW, OF_UDP, 4096, 4), Row(DENY, OF_UDP, 4100, 16))
    expected = {4095: False, 4096: True, 4100: False, 4101: True, 8191: True, 8192: False}
    for port, allowed in expected.items():
        assert comes(droplet, datagram(family, R, A.address(family), dport=port)) == allowed, port


@every_family
def test_a_neighbour_bears_its_own_groups(droplet: Testbed, family: int) -> None:
    """On one droplet there is no tunnel that could tell."""
    droplet.as_host()
    police(droplet, B, ingress=rules(droplet, 1, Row(ALLOW, class_=1), groups={GROUPS: 1}))
    assert not goes(droplet, datagram(family, A, B.address(family)))
    droplet.agent(A, group_set=GROUPS)
    assert goes(droplet, datagram(family, A, B.address(family)))


# ---- flows


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


# ---- connections that are older than the first policy


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


# ---- errors, fragments, headers


def about(family: int, frame: Any) -> Any:
    """From nobody's router to a: the packet could not go on."""
    router = FRONT.address(family, 77)
    message = ICMP(type=3, code=4) if family == 4 else ICMPv6DestUnreach(code=1)
    return Ether(src=R.mac, dst=ROUTER_MAC) / ip(family, router, A.address(family)) / message / Raw(bytes(frame)[14:])


@every_family
def test_an_error_about_a_flow_comes_in(droplet: Testbed, family: int) -> None:
    """About anything else it does not."""
    closed(droplet)
    frame = datagram(family, A, R.address(family))
    assert not comes(droplet, about(family, frame))
    assert goes(droplet, frame)
    assert comes(droplet, about(family, frame))
    assert not comes(droplet, about(family, datagram(family, A, R.address(family), dport=9)))
    assert why(droplet) == {"POLICY_INGRESS_DEFAULT"}


@every_family
def test_an_error_goes_out_to_whom_it_is_about(droplet: Testbed, family: int) -> None:
    """To anybody else it is judged as what it is: a flow with one opens no way to all."""
    droplet.as_host()
    rows = (Row(ALLOW, OF_UDP, 4002, 16),)
    police(droplet, A, ingress=rules(droplet, 1, *rows), egress=rules(droplet, 2))
    frame = datagram(family, R, A.address(family))
    assert comes(droplet, frame)
    message = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    for to, passes in ((R, True), (B, False)):
        ether = Ether(src=A.mac, dst=ROUTER_MAC)
        error = ether / ip(family, A.address(family), to.address(family)) / message / Raw(bytes(frame)[14:])
        assert goes(droplet, error) == passes
    assert why(droplet) == {"POLICY_EGRESS_DEFAULT"}


def fragments_of(family: int, frame: Any) -> list[bytes]:
    if family == 4:
        return [bytes(Ether(bytes(frame)[:14]) / piece) for piece in fragment(frame[IP], fragsize=800)]
    body = bytes(frame[IPv6].payload)
    header = bytes(frame)[:14], IPv6(src=frame[IPv6].src, dst=frame[IPv6].dst, hlim=64)
    pieces = [(0, 1, body[:800]), (100, 0, body[800:])]
    return [
        bytes(Ether(header[0]) / header[1] / IPv6ExtHdrFragment(nh=17, offset=at, m=more, id=9) / Raw(part))
        for at, more, part in pieces
    ]


@every_family
def test_fragments_follow_their_first(droplet: Testbed, family: int) -> None:
    """By its ports; those behind it show none."""
    closed(droplet, Row(ALLOW, OF_UDP, 4002, 16))
    first, last = fragments_of(family, datagram(family, R, A.address(family), payload=bytes(1400)))
    refused, _ = fragments_of(family, datagram(family, R, A.address(family), dport=9, payload=bytes(1400)))
    assert not comes(droplet, last)
    assert not comes(droplet, refused)
    assert not comes(droplet, last)
    assert comes(droplet, first)
    assert comes(droplet, last)
    assert sorted(flow["later"] for flow in flows(droplet)) == [0, 1]
    police(droplet, A, ingress=2, generation=2)
    assert not comes(droplet, last)


def test_headers_that_hide_the_transport(droplet: Testbed) -> None:
    """Where a policy selects the endpoint for the direction; and a packet that ends before its ports."""
    closed(droplet, Row(ALLOW))
    inner = datagram(6, R, A.address(6))
    hidden = Ether(bytes(inner)[:14]) / IPv6(src=R.address(6), dst=A.address(6)) / IPv6ExtHdrDestOpt() / inner[UDP]
    assert not comes(droplet, hidden)
    assert why(droplet) == {"POLICY_UNREADABLE"}
    assert not comes(
        droplet, Ether(src=R.mac, dst=ROUTER_MAC) / ip(4, R.address(4), A.address(4), proto=6) / Raw(b"1234")
    )
    assert why(droplet) == {"POLICY_UNREADABLE"}
    back = (
        Ether(src=A.mac, dst=ROUTER_MAC) / IPv6(src=A.address(6), dst=R.address(6)) / IPv6ExtHdrDestOpt() / inner[UDP]
    )
    assert goes(droplet, back)


# ---- by other ways


@every_family
def test_a_member_is_policed_as_itself(droplet: Testbed, family: int) -> None:
    """In the tunnel the packet is addressed to the service; its answer bears the service's address."""
    droplet.as_host()
    scaled(droplet, A, flags=MEMBER_POLICED)
    police(droplet, A, ingress=rules(droplet, 1, Row(ALLOW, OF_UDP, 4002, 16)), egress=rules(droplet, 2))
    droplet.agent(A, flags=MEMBER | 64)
    to_member: dict[str, Any] = {"src_mac": ROUTER_MAC, "dst_mac": A.mac}
    frame = tunnel("geneve", datagram(family, R, service(family), **to_member), src=BOUNCER)
    assert droplet.transit(frame).retval == XDP_PASS
    assert goes(droplet, datagram(family, A, R.address(family), sport=4002, dport=4001))
    frame = tunnel("geneve", datagram(family, R, service(family), dport=9, **to_member), src=BOUNCER)
    assert droplet.transit(frame).retval == XDP_DROP
    assert why(droplet) == {"POLICY_INGRESS_DEFAULT"}


@every_family
def test_what_comes_from_the_hosts_own_stack_is_policed(droplet: Testbed, family: int) -> None:
    """As what comes from anywhere."""
    ready(droplet)
    police(droplet, A, ingress=rules(droplet, 1))
    assert come_in(droplet, from_stack(family, OUTSIDE[family], A.address(family))).retval == TC_SHOT
    assert why(droplet) == {"POLICY_INGRESS_DEFAULT"}
    rules(droplet, 1, Row(ALLOW))
    assert come_in(droplet, from_stack(family, OUTSIDE[family], A.address(family))).retval == TC_REDIRECT


# ---- what is told


def told(droplet: Testbed) -> EventReader:
    droplet.tables.droplet_switches.put(0, {"events": 1})
    reader = EventReader(droplet.programs.maps["events"])
    reader.read()
    return reader


@every_family
def test_audit_mode_tells_and_lets_pass(droplet: Testbed, family: int) -> None:
    """Once for a flow: of rules that would deny, and of what none would allow."""
    closed(droplet, Row(DENY | AUDIT, OF_UDP, rule=11))
    police(droplet, A, ingress=1, flags=AUDIT_INGRESS)
    reader = told(droplet)
    for _ in range(2):
        assert comes(droplet, datagram(family, R, A.address(family)))
        assert comes(droplet, segment(family, R, A.address(family), ACK))
    numbers = {name: drop_reasons.by_name()[f"POLICY_INGRESS_{name}"].number for name in ("DENIED", "DEFAULT")}
    seen = [(one["outcome"], one["reason"], one["rule"], one["policed_slot"], one["hook"]) for one in reader.read()]
    reader.close()
    assert seen == [(2, numbers["DENIED"], 11, A.slot, 2), (2, numbers["DEFAULT"], 0, A.slot, 2)]
    assert droplet.counted()["vpc", RED.slot]["audited_packets"] == 2


@every_family
def test_an_audited_set_beside_the_rules_tells_and_changes_nothing(droplet: Testbed, family: int) -> None:
    """Once for each flow, of what the rules allow and it would not, with its own rule; the flow has the rule that
    allows. What the rules refuse is refused with theirs, whatever it says. The same for what the endpoint sends."""
    droplet.as_host()
    enforced = rules(droplet, 1, Row(ALLOW, OF_UDP, rule=3), Row(ALLOW, OF_TCP, 80, 16, rule=4))
    beside = rules(droplet, 2, Row(DENY | AUDIT, OF_UDP, rank=0, rule=11), Row(ALLOW, OF_TCP, rule=12))
    sets = {"ingress": enforced, "egress": enforced, "beside_ingress": beside, "beside_egress": beside}
    police(droplet, A, **sets)
    reader = told(droplet)
    for _ in range(2):
        assert comes(droplet, datagram(family, R, A.address(family), sport=7))
        assert comes(droplet, segment(family, R, A.address(family), SYN))
        assert goes(droplet, datagram(family, A, R.address(family), sport=8))
    assert not comes(droplet, segment(family, R, A.address(family), SYN, dport=81))
    seen = [(one["outcome"], one["reason"], one["rule"], one["policed_slot"], one["hook"]) for one in reader.read()]
    numbers = {name: drop_reasons.by_name()[f"POLICY_{name}"].number for name in (
        "INGRESS_DENIED", "EGRESS_DENIED", "INGRESS_DEFAULT",
    )}  # fmt: skip
    reader.close()
    assert seen == [
        (2, numbers["INGRESS_DENIED"], 11, A.slot, 2),
        (2, numbers["EGRESS_DENIED"], 11, A.slot, 1),
        (0, numbers["INGRESS_DEFAULT"], 0, A.slot, 2),
    ]
    assert droplet.counted()["vpc", RED.slot]["audited_packets"] == 2
    assert {flow["rule"] for flow in flows(droplet)} == {3, 4}
    police(droplet, A, generation=2, **sets)
    assert comes(droplet, datagram(family, R, A.address(family), sport=7))
    assert droplet.counted()["vpc", RED.slot]["audited_packets"] == 3, "judged anew, told anew"


@every_family
def test_rules_that_log_tell_of_each_flow_once(droplet: Testbed, family: int) -> None:
    """And of what is refused as ever, with the rule."""
    droplet.as_host()
    police(droplet, A, egress=rules(droplet, 1, Row(ALLOW | LOG, rule=3), Row(DENY, OF_TCP, rule=4)))
    reader = told(droplet)
    for _ in range(2):
        assert goes(droplet, datagram(family, A, R.address(family)))
    assert not goes(droplet, segment(family, A, R.address(family), SYN))
    seen = [(one["outcome"], one["reason"], one["rule"], one["policed_slot"], one["hook"]) for one in reader.read()]
    reader.close()
    denied = drop_reasons.by_name()["POLICY_EGRESS_DENIED"].number
    assert seen == [(1, 0, 3, A.slot, 1), (0, denied, 4, A.slot, 1)]


@every_family
def test_what_an_unselected_direction_begins_is_remembered_too(droplet: Testbed, family: int) -> None:
    """So that its answers pass in the direction that is selected."""
    droplet.as_host()
    police(droplet, A, egress=rules(droplet, 1, Row(DENY)))
    assert comes(droplet, datagram(family, R, A.address(family)))
    assert goes(droplet, datagram(family, A, R.address(family), sport=4002, dport=4001))
    assert [flow["begun"] for flow in flows(droplet)] == [INGRESS]
