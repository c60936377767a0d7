# SPDX-License-Identifier: Apache-2.0
"""Policed endpoints in the programs: what rules and headers say of one packet, whichever way it comes. Their flows:
test_policy_flows.py; what is told of them: test_policy_told.py."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from .every import every_family, every_tunnel_and_family
from .frames import datagram, ip, ping, tunnel
from .plan import BOUNCER, FRONT, RED, ROUTER_MAC, A, B, R, S
from .policed import GROUPS, SYN, arriving, closed, comes, goes, segment, why
from .policies import ALLOW, DENY, MEMBER_POLICED, OF_TCP, OF_UDP, Row, flows, host_prefix, police, rules
from .test_services import MEMBER, scaled, service
from .test_substrate import OUTSIDE, come_in, from_stack, ready
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, Testbed

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
