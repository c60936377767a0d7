# SPDX-License-Identifier: Apache-2.0
"""Load balancers in the programs: what listeners take, ports that are others at the members, and choice by client.

The service is that of test_services.py; its port 4002 is port 8080 of its members.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel import layout

from .every import every_family
from .frames import PAYLOAD, datagram, ip, ping, tunnel
from .plan import FAMILIES, HOST, RED, ROUTER_MAC, A, B, EndpointPlan, R, mac_bytes, mapped
from .policies import ALLOW, OF_TCP, OF_UDP, Row, police, rules
from .test_services import LISTENED, SLOT, rebuilt, replace_member, scaled, service
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, Testbed

PORT, TARGET = 4002, 8080
TCP_NUMBER, UDP_NUMBER = 6, 17
LISTENERS, BY_CLIENT = 1, 2
both_protocols = pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])


def balanced(droplet: Testbed, *members: EndpointPlan, target: int = TARGET, by_client: bool = False) -> None:
    """The service with one listener for each protocol."""
    droplet.as_host()
    scaled(droplet, *members, flags=LISTENED)
    tables = droplet.tables
    flags = LISTENERS | (BY_CLIENT if by_client else 0)
    tables.services.put(SLOT, (tables.services.get(SLOT) or {}) | {"flags": flags})
    for family in FAMILIES:
        for protocol in (TCP_NUMBER, UDP_NUMBER):
            key = {"vni": RED.vni, "addr": mapped(service(family)), "port_be": socket.htons(PORT), "protocol": protocol}
            tables.listeners.put(key, {"target_be": socket.htons(target)})


def refused(droplet: Testbed) -> bool:
    """Whether exactly one packet was refused, because no listener takes it."""
    return droplet.counted()["drop", "NO_LISTENER"]["packets"] == 1


@every_family
@both_protocols
def test_the_port_is_the_members_both_ways(droplet: Testbed, family: int, tcp: bool) -> None:
    """On one droplet: b sees its own address and port; its answer bears the service's. All checksums are right."""
    balanced(droplet, B)
    request = droplet.send(datagram(family, A, service(family), tcp=tcp))
    expected = datagram(family, A, B.address(family), src_mac=ROUTER_MAC, dst_mac=B.mac, dport=TARGET, tcp=tcp)
    assert (request.retval, request.frame) == (TC_REDIRECT, bytes(expected))
    droplet.agent(B, flags=32)
    droplet.tables.agents.put(1, droplet.tables.agents.get(B.ifindex) or {})
    answer = droplet.send(datagram(family, B, A.address(family), sport=TARGET, dport=4001, tcp=tcp))
    upper = TCP(sport=PORT, dport=4001, flags="A") if tcp else UDP(sport=PORT, dport=4001)
    back = Ether(src=ROUTER_MAC, dst=A.mac) / ip(family, service(family), A.address(family)) / upper / Raw(PAYLOAD)
    assert (answer.retval, answer.frame) == (TC_REDIRECT, bytes(back))


@every_family
@pytest.mark.parametrize("what", ["members port", "other port", "ping"])
def test_what_no_listener_takes_is_refused(droplet: Testbed, family: int, what: str) -> None:
    """Another port, and the members' own; a ping; nothing is remembered of any."""
    balanced(droplet, B)
    frame = {
        "members port": datagram(family, A, service(family), dport=TARGET),
        "other port": datagram(family, A, service(family), dport=PORT + 1, tcp=True),
        "ping": ping(family, A.address(family), service(family), src_mac=A.mac, dst_mac=ROUTER_MAC),
    }[what]
    assert droplet.send(frame).retval == TC_SHOT
    assert refused(droplet)
    assert list(droplet.tables.flows.items()) == []


def parts(family: int, sport: int, dport: int, source: str, to: str) -> list[Any]:
    """The fragments of a datagram, as its sender makes them, without Ethernet."""
    whole = ip(family, source, to) / UDP(sport=sport, dport=dport) / Raw(b"m" * 3000)
    if family == 4:
        return list(IP(bytes(whole)).fragment(1000))
    whole[UDP].chksum = None
    datagram_ = bytes(IPv6(bytes(whole))[UDP])
    cuts = [datagram_[at : at + 1000] for at in range(0, len(datagram_), 1000)]
    head = {"nh": 17, "id": 7}
    return [
        IPv6(src=source, dst=to) / IPv6ExtHdrFragment(offset=125 * n, m=n < len(cuts) - 1, **head) / Raw(cut)
        for n, cut in enumerate(cuts)
    ]


def joined(family: int, frames: list[bytes]) -> Any:
    """What the receiver makes of fragments: addresses, ports, and whether UDP's checksum is right."""
    heads = [IP(frame[14:]) if family == 4 else IPv6(frame[14:]) for frame in frames]
    skip = 20 if family == 4 else 48
    body = b"".join(frame[14 + skip :] for frame in frames)
    whole = ip(family, heads[0].src, heads[0].dst) / UDP(body)
    found = bytes(whole[UDP])
    whole[UDP].chksum = None
    fresh = (IP if family == 4 else IPv6)(bytes(whole))[UDP]
    same = {(head.src, head.dst) for head in heads} == {(heads[0].src, heads[0].dst)}
    return heads[0].src, heads[0].dst, fresh.sport, fresh.dport, same and bytes(fresh) == found


@every_family
def test_fragments_follow_the_first_one(droplet: Testbed, family: int) -> None:
    """To one member, whose port the first bears; the answer may be whole or in fragments. Without a first one that a
    listener takes, the others are refused, whatever came before."""
    balanced(droplet, B)
    out = Ether(src=A.mac, dst=ROUTER_MAC)
    first, *later = (out / part for part in parts(family, 4001, PORT, A.address(family), service(family)))
    assert droplet.send(bytes(later[0])).retval == TC_SHOT
    sent = [droplet.send(bytes(part)) for part in (first, *later)]
    assert {one.retval for one in sent} == {TC_REDIRECT}
    expected = (A.address(family), B.address(family), 4001, TARGET, True)
    assert joined(family, [one.frame for one in sent]) == expected
    other = out / parts(family, 4001, PORT + 1, A.address(family), service(family))[0]
    assert droplet.send(bytes(other)).retval == TC_SHOT
    assert droplet.counted()["drop", "NO_LISTENER"]["packets"] == 2
    droplet.agent(B, flags=32)
    droplet.tables.agents.put(1, droplet.tables.agents.get(B.ifindex) or {})
    answer = droplet.send(datagram(family, B, A.address(family), sport=TARGET, dport=4001))
    assert Ether(answer.frame)[UDP].sport == PORT
    back = [
        droplet.send(bytes(Ether(src=B.mac, dst=ROUTER_MAC) / part))
        for part in parts(family, TARGET, 4001, B.address(family), A.address(family))
    ]
    expected = (service(family), A.address(family), PORT, 4001, True)
    assert joined(family, [one.frame for one in back]) == expected


@every_family
def test_fragments_from_a_tunnel_follow_the_first_one(droplet: Testbed, family: int) -> None:
    """At the member's host, where its policy judges by the member's port."""
    balanced(droplet, B)
    police(droplet, B, ingress=rules(droplet, 1, Row(ALLOW, OF_UDP, TARGET, 16)))
    replace_member(droplet, 1, flags=LISTENED | 2)
    inner = Ether(src=ROUTER_MAC, dst=B.mac)
    first, later, *_ = (inner / part for part in parts(family, 4001, PORT, R.address(family), service(family)))
    verdicts = [droplet.transit(tunnel("geneve", one, src=HOST)).retval for one in (later, first, later)]
    assert verdicts == [XDP_DROP, XDP_PASS, XDP_PASS]
    other = inner / parts(family, 4001, PORT + 1, R.address(family), service(family))[0]
    assert droplet.transit(tunnel("geneve", other, src=HOST)).retval == XDP_DROP
    assert droplet.counted()["drop", "NO_LISTENER"]["packets"] == 1


@every_family
def test_a_listener_that_is_gone_ends_its_flows(droplet: Testbed, family: int) -> None:
    """The member's host asks with every packet, so that what is not taken any more stops."""
    balanced(droplet, B)
    frame = datagram(family, A, service(family))
    assert droplet.send(frame).retval == TC_REDIRECT
    for key, _ in list(droplet.tables.listeners.items()):
        droplet.tables.listeners.delete(key)
    assert droplet.send(frame).retval == TC_SHOT
    assert refused(droplet)


@every_family
def test_the_members_host_is_told_that_it_is_a_load_balancers(droplet: Testbed, family: int) -> None:
    """In the note for `deliver`, which writes the port."""
    balanced(droplet, B)
    inner = datagram(family, R, service(family), src_mac=ROUTER_MAC, dst_mac=B.mac)
    result = droplet.transit(tunnel("geneve", inner, src=HOST))
    assert (result.retval, layout.parse("handover", result.metadata)["flags"]) == (XDP_PASS, 3)


@every_family
def test_by_client_all_flows_of_a_client_have_one_member(droplet: Testbed, family: int) -> None:
    """Whatever their ports and protocol; without it, flows go to both."""

    def hosts() -> set[bytes]:
        sent = [
            droplet.send(datagram(family, A, service(family), sport=port, tcp=tcp))
            for port in range(5000, 5010)
            for tcp in (True, False)
        ]
        assert {one.retval for one in sent} == {TC_REDIRECT}
        return {one.frame[:6] for one in sent}

    balanced(droplet, B, R)
    assert mac_bytes(B.mac) in hosts()
    assert len(hosts()) > 1
    droplet.reset()
    balanced(droplet, B, R, by_client=True)
    replace_member(droplet, 2, ifindex=0)
    chosen = hosts()
    assert len({one == mac_bytes(B.mac) for one in chosen}) == 1


@every_family
def test_an_error_about_an_answer_is_about_the_members_port(droplet: Testbed, family: int) -> None:
    """A client's `port unreachable` names the service's port; the member reads its own. The checksum is right."""
    balanced(droplet, B)
    answer = ip(family, service(family), A.address(family)) / UDP(sport=PORT, dport=4001) / Raw(b"no")
    message = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    error = Ether(src=A.mac, dst=ROUTER_MAC) / ip(family, A.address(family), service(family)) / message / answer
    result = droplet.send(error)
    assert result.retval == TC_REDIRECT
    found = Ether(result.frame)
    about = bytes(found[ICMP if family == 4 else ICMPv6DestUnreach].payload)
    inside = IP(about) if family == 4 else IPv6(about)
    assert (inside.src, inside[UDP].sport, inside[UDP].dport) == (B.address(family), TARGET, 4001)
    assert rebuilt(found.copy()) == result.frame


@every_family
@pytest.mark.parametrize(("port", "passes"), [(TARGET, True), (PORT, False)])
def test_a_policy_is_about_the_members_port(droplet: Testbed, family: int, port: int, passes: bool) -> None:
    """From the tunnel and on one droplet."""
    balanced(droplet, B)
    police(droplet, B, ingress=rules(droplet, 1, Row(ALLOW, OF_UDP, port, 16), Row(ALLOW, OF_TCP, port, 16)))
    replace_member(droplet, 1, flags=LISTENED | 2)
    inner = datagram(family, R, service(family), src_mac=ROUTER_MAC, dst_mac=B.mac)
    assert droplet.transit(tunnel("geneve", inner, src=HOST)).retval == (XDP_PASS if passes else XDP_DROP)
    sent = droplet.send(datagram(family, A, service(family), tcp=True))
    assert sent.retval == (TC_REDIRECT if passes else TC_SHOT)
