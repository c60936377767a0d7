# SPDX-License-Identifier: Apache-2.0
"""Scaled endpoints in the programs: the choice, the translation at the member's host, and what is refused.

The service is 10.0.1.50 / fd00:10:0:1::32 in FRONT. Members may be a, b (on ME) and r (on HOST).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from mizar.kernel import layout, test_run
from mizar.kernel.layout import constant
from mizar.kernel.libbpf import check, lib, possible_cpus

from .every import every_family, every_tunnel_and_family
from .frames import PAYLOAD, datagram, ip, ping, tunnel
from .plan import (
    BLUE,
    BOUNCER,
    FAMILIES,
    FRONT,
    HOST,
    ME,
    RED,
    ROUTER_MAC,
    SERVICE_MAC,
    A,
    B,
    EndpointPlan,
    R,
    mac_bytes,
    mapped,
)
from .testbed import TC_REDIRECT, TC_SHOT, TUNNEL_NUMBERS, XDP_DROP, XDP_PASS, XDP_TX, Testbed

SERVICE_HOST, SLOT, PLACES = 50, 1, 4093
SCALED, MEMBER, DRAINING, DOWN, LISTENED = 16, 32, 64, 128, 16


def service(family: int) -> str:
    return FRONT.address(family, SERVICE_HOST)


def scaled(
    droplet: Testbed, *members: EndpointPlan, tunnel: str = "geneve", room: int = 100, flags: int = 0, near: int = 0
) -> None:
    """Makes the service known, with all places shared by its members in turn."""
    tables = droplet.tables
    slots = tuple(range(1, len(members) + 1))
    places = tuple(slots[place % len(slots)] if slots else 0 for place in range(PLACES))
    tables.services.put(SLOT, {"place": places, "near": near})
    for slot, member in zip(slots, members, strict=True):
        value = {
            "droplet": member.droplet.slot,
            "ifindex": member.ifindex,
            "slot": member.slot,
            "vpc_slot": RED.slot,
            "network": member.network.slot,
            "mac": mac_bytes(member.mac),
            "tunnel": TUNNEL_NUMBERS[tunnel],
            "flags": flags,
        }
        tables.members.put(slot, value)
        if member.ifindex:
            tables.member_slots.put({"service": SLOT, "mac": mac_bytes(member.mac)}, slot)
            droplet.agent(member, flags=MEMBER)
    entry = {"slot": SLOT, "vpc_slot": RED.slot, "network": FRONT.slot, "flags": SCALED}
    for family in FAMILIES:
        tables.endpoints.put({"vni": RED.vni, "addr": mapped(service(family))}, entry)
    tables.flow_budgets.put(RED.slot, {"until": room})


def replace_member(droplet: Testbed, slot: int, **fields: Any) -> None:
    tables = droplet.tables
    old = tables.members.get(slot)
    assert old is not None
    tables.members.put(slot, old | fields)


def rebuilt(frame: Any) -> bytes:
    """The frame with lengths and checksums as scapy computes them."""
    for layer in (IP, TCP, UDP, ICMP):
        if layer in frame and "chksum" in frame[layer].fields:
            del frame[layer].chksum
    return bytes(frame)


@every_tunnel_and_family
def test_the_agent_chooses_and_sends_to_the_members_host(droplet: Testbed, kind: str, family: int) -> None:
    """Still addressed to the service; the destination MAC is the member's, as at any last hop."""
    droplet.as_host()
    scaled(droplet, R, tunnel=kind)
    result = droplet.send(datagram(family, A, service(family)))
    inner = datagram(family, A, service(family), src_mac=ROUTER_MAC, dst_mac=R.mac)
    port = int.from_bytes(result.frame[34:36], "big")
    assert (result.retval, result.frame) == (TC_REDIRECT, tunnel(kind, inner, src=ME, dst=HOST, sport=port))


@every_tunnel_and_family
def test_a_bouncer_chooses_for_who_does_not_know(droplet: Testbed, kind: str, family: int) -> None:
    """It forwards as to any endpoint: TTL, MACs, the member's tunnel."""
    droplet.as_bouncer()
    scaled(droplet, R, tunnel=kind)
    result = droplet.transit(tunnel("geneve", datagram(family, A, service(family)), src=HOST))
    inner = datagram(family, A, service(family), ttl=63, src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert (result.retval, result.frame) == (XDP_TX, tunnel(kind, inner, src=ME, dst=HOST, told=HOST))
    assert len(list(droplet.tables.flows.items())) == 1


@every_family
def test_on_one_droplet_the_agent_translates_both_ways(droplet: Testbed, family: int) -> None:
    """b is the member: it sees its own address; its answer bears the service's again. All checksums are right."""
    droplet.as_host()
    scaled(droplet, B)
    request = droplet.send(datagram(family, A, service(family), tcp=True))
    assert request.retval == TC_REDIRECT
    expected = datagram(family, A, B.address(family), src_mac=ROUTER_MAC, dst_mac=B.mac, tcp=True)
    assert request.frame == bytes(expected)
    # The answer of b comes in at the interface of a test run when b is the endpoint there.
    droplet.agent(B, flags=MEMBER)
    b_here = droplet.tables.agents.get(B.ifindex)
    assert b_here is not None
    droplet.tables.agents.put(1, b_here)
    answer = droplet.send(datagram(family, B, A.address(family), sport=4002, dport=4001, tcp=True))
    expected = Ether(src=ROUTER_MAC, dst=A.mac) / ip(family, service(family), A.address(family))
    expected = expected / TCP(sport=4002, dport=4001, flags="A") / Raw(PAYLOAD)
    assert (answer.retval, answer.frame) == (TC_REDIRECT, bytes(expected))


@every_family
def test_what_a_member_sends_of_its_own_stays_as_it_is(droplet: Testbed, family: int) -> None:
    """Only answers to what came for the service are translated."""
    droplet.as_host()
    scaled(droplet, A)
    result = droplet.send(datagram(family, A, B.address(family)))
    assert result.frame == bytes(datagram(family, A, B.address(family), src_mac=ROUTER_MAC, dst_mac=B.mac))


@every_family
def test_a_member_reaches_itself(droplet: Testbed, family: int) -> None:
    """It sees the service as the client; its answer to that comes back as the service's."""
    droplet.as_host()
    scaled(droplet, A)
    request = droplet.send(datagram(family, A, service(family)))
    expected = Ether(src=ROUTER_MAC, dst=A.mac) / ip(family, service(family), A.address(family))
    assert request.frame == bytes(expected / UDP(sport=4001, dport=4002) / Raw(PAYLOAD))
    answer = droplet.send(datagram(family, A, service(family), sport=4002, dport=4001))
    assert answer.frame == bytes(expected / UDP(sport=4002, dport=4001) / Raw(PAYLOAD))


@every_family
def test_the_answer_of_a_member_says_on_the_wire_that_it_is_a_services(droplet: Testbed, family: int) -> None:
    """Source MAC 02:4d:5a:00:00:02, whether to a bouncer or to the client's host."""
    droplet.as_host()
    scaled(droplet, A)
    key = {
        "vni": RED.vni, "client": mapped(R.address(family)), "server": mapped(A.address(family)),
        "ports_be": int.from_bytes(bytes.fromhex("0fa10fa2"), "little"), "protocol": 17, "kind": 2,
    }  # fmt: skip
    droplet.tables.flows.put(key, {"addr": mapped(service(family))})
    result = droplet.send(datagram(family, A, R.address(family), sport=4002, dport=4001))
    inner = Ether(src=SERVICE_MAC, dst=ROUTER_MAC) / ip(family, service(family), R.address(family))
    inner = inner / UDP(sport=4002, dport=4001) / Raw(PAYLOAD)
    port = int.from_bytes(result.frame[34:36], "big")
    assert result.frame == tunnel("geneve", inner, src=ME, dst=BOUNCER, sport=port)


def as_service(droplet: Testbed, frame: Any, flags: str) -> test_run.TestRun:
    """What `deliver` hands to the agent of a: a function has answered in its stead. Nobody else can say so."""
    side = constant("SHAPED_INTERFACE") | constant("ANSWER_OF_SERVICE") | A.ifindex
    side |= constant("ANSWER_OUTSIDE") if flags == "outside" else 0
    told = side.to_bytes(4, "little") + bytes(4) if flags != "untold" else bytes(8)
    fd = droplet.programs.maps["onward_sides"]
    check(lib().bpf_map_update_elem(fd, bytes(4), told * possible_cpus(), 0), "tell the agent")
    return droplet.send(frame, cb=side)


@every_family
def test_a_functions_answer_leaves_as_the_services(droplet: Testbed, family: int) -> None:
    """Without a flow, and past what the member may send itself: into the tunnel, or, to a client outside, to the
    substrate. From the member itself the same frame is spoofed, whatever it writes."""
    droplet.as_host()
    scaled(droplet, A)

    def answer(src_mac: str = A.mac, ttl: int = 64) -> Any:
        packet = ip(family, service(family), R.address(family), ttl)
        return Ether(src=src_mac, dst=ROUTER_MAC) / packet / TCP(sport=80, dport=4001, flags="SA")

    result = as_service(droplet, answer(), "inside")
    port = int.from_bytes(result.frame[34:36], "big")
    wanted = tunnel("geneve", answer(SERVICE_MAC), src=ME, dst=BOUNCER, sport=port)
    assert (result.retval, result.frame) == (TC_REDIRECT, wanted)
    result = as_service(droplet, answer(), "outside")
    assert (result.retval, result.frame) == (TC_REDIRECT, bytes(answer(ttl=63)))
    assert as_service(droplet, answer(), "untold").retval == TC_SHOT
    assert not list(droplet.tables.flows.items())


@every_tunnel_and_family
def test_the_members_host_hands_the_frame_to_deliver_as_it_is(droplet: Testbed, kind: str, family: int) -> None:
    """The destination MAC says which member was chosen; `deliver` will translate."""
    droplet.as_host()
    scaled(droplet, B, A)
    inner = datagram(family, R, service(family), src_mac=ROUTER_MAC, dst_mac=A.mac)
    result = droplet.transit(tunnel(kind, inner, src=HOST))
    note = layout.parse("handover", result.metadata)
    assert (result.retval, note["ifindex"], note["flags"]) == (XDP_PASS, A.ifindex, 1)
    assert result.frame == bytes(inner)


@every_family
def test_an_error_about_a_members_answer_reaches_the_member(droplet: Testbed, family: int) -> None:
    """A client's `port unreachable`, addressed to the service: the packet that it is about is the member's again."""
    droplet.as_host()
    scaled(droplet, B)

    def error(about: str, to: str, mac: str, src: str) -> Any:
        answer = ip(family, about, A.address(family)) / UDP(sport=4002, dport=4001) / Raw(b"no")
        message = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
        return Ether(src=src, dst=mac) / ip(family, A.address(family), to) / message / answer

    result = droplet.send(error(service(family), service(family), ROUTER_MAC, A.mac))
    assert result.retval == TC_REDIRECT
    found = Ether(result.frame)
    network = IP if family == 4 else IPv6
    assert (found[network].src, found[network].dst) == (A.address(family), B.address(family))
    about = bytes(found[ICMP if family == 4 else ICMPv6DestUnreach].payload)
    assert (IP(about) if family == 4 else IPv6(about)).src == B.address(family)
    assert rebuilt(found.copy()) == result.frame


@every_family
def test_a_flow_stays_and_a_new_one_goes_elsewhere(droplet: Testbed, family: int) -> None:
    """A member that drains keeps its flows and gets no other; one that is down keeps TCP connections alone."""
    droplet.as_host()
    scaled(droplet, R, B)
    where = {
        port: droplet.send(datagram(family, A, service(family), sport=port, tcp=tcp)).frame[:6] == mac_bytes(B.mac)
        for tcp in (True, False)
        for port in range(5000 + 100 * tcp, 5016 + 100 * tcp)
    }
    assert set(where.values()) == {True, False}
    replace_member(droplet, 2, flags=DRAINING)
    for port, at_b in where.items():
        frame = datagram(family, A, service(family), sport=port, tcp=port >= 5100)
        assert (droplet.send(frame).frame[:6] == mac_bytes(B.mac)) == at_b
    assert not any(
        droplet.send(datagram(family, A, service(family), sport=port)).frame[:6] == mac_bytes(B.mac)
        for port in range(6000, 6016)
    )
    replace_member(droplet, 2, flags=DOWN)
    for port, at_b in where.items():
        frame = datagram(family, A, service(family), sport=port, tcp=port >= 5100)
        assert (droplet.send(frame).frame[:6] == mac_bytes(B.mac)) == (at_b and port >= 5100)


@every_family
def test_a_members_place_that_another_vpc_has_now_takes_no_flow_along(droplet: Testbed, family: int) -> None:
    """Not even if that one's member has the same MAC, which tenants may choose, and a CPU has just remembered it."""
    droplet.as_host()
    scaled(droplet, R, B)
    frames = [datagram(family, A, service(family), sport=5000 + port, tcp=port < 16) for port in range(32)]
    at_b = [frame for frame in frames for _ in range(2) if droplet.send(frame).frame[:6] == mac_bytes(B.mac)]
    assert at_b
    replace_member(droplet, 2, vpc_slot=BLUE.slot)
    droplet.tables.services.put(SLOT, {"place": (1,) * PLACES})
    for frame in at_b:
        assert droplet.send(frame).frame[:6] == mac_bytes(HOST.mac)
    assert 2 not in {flow["member"] for _, flow in droplet.tables.flows.items()}


def test_fragments_of_a_datagram_reach_one_member(droplet: Testbed) -> None:
    """They show no ports, so the pair of addresses decides, for the first as for the last."""
    droplet.as_host()
    scaled(droplet, R, B)
    whole = datagram(4, A, service(4), payload=bytes(3000))[IP]
    fragments = [Ether(src=A.mac, dst=ROUTER_MAC) / each for each in whole.fragment(1000)]
    assert len(fragments) > 2
    assert len({droplet.send(each).frame[:6] for each in fragments}) == 1


def test_without_room_packets_are_forwarded_but_not_translated(droplet: Testbed) -> None:
    """Where a member elsewhere was chosen, the flow does not stick; for one here the answer could not be translated."""
    droplet.as_host()
    scaled(droplet, R, room=0)
    assert droplet.send(datagram(4, A, service(4))).retval == TC_REDIRECT
    assert droplet.counted()["vpc", RED.slot]["unsticky_packets"] == 1
    droplet.reset()
    droplet.as_host()
    scaled(droplet, B, room=1)
    assert droplet.send(datagram(4, A, service(4))).retval == TC_SHOT
    assert droplet.counted()["drop", "FLOW_TABLE_FULL"]["packets"] == 1


@pytest.fixture(scope="module")
def telling() -> Iterator[Testbed]:
    """A droplet that sends ICMP errors."""
    testbed = Testbed(icmp_errors=1000)
    yield testbed
    testbed.close()


@every_family
def test_a_service_without_members(telling: Testbed, family: int) -> None:
    """The sender is told by its router: host or address unreachable."""
    droplet = telling
    droplet.reset()
    droplet.as_host()
    scaled(droplet)
    result = droplet.send(datagram(family, A, service(family)))
    assert droplet.counted()["drop", "SERVICE_WITHOUT_MEMBER"]["packets"] == 1
    found = Ether(result.frame)
    network, message = (found[IP], found[ICMP]) if family == 4 else (found[IPv6], found[ICMPv6DestUnreach])
    assert (found.src, found.dst, network.src, network.dst) == (
        ROUTER_MAC, A.mac, FRONT.gateway(family), A.address(family),
    )  # fmt: skip
    assert (result.retval, message.type, message.code) == (TC_REDIRECT, *((3, 1) if family == 4 else (1, 3)))


@every_family
def test_a_packet_for_a_member_that_is_not_here(droplet: Testbed, family: int) -> None:
    """It was sent to the member's host; going on, it could circle."""
    droplet.as_host()
    scaled(droplet, R)
    inner = datagram(family, A, service(family), src_mac=ROUTER_MAC, dst_mac=R.mac)
    assert droplet.transit(tunnel("geneve", inner, src=HOST)).retval == XDP_DROP
    assert droplet.counted()["drop", "MEMBER_UNKNOWN"]["packets"] == 1


@every_family
def test_what_a_service_does_not_take(droplet: Testbed, family: int) -> None:
    """An echo reply was asked for by nobody: a service sends no requests."""
    droplet.as_host()
    scaled(droplet, R)
    reply = ping(family, A.address(family), service(family), src_mac=A.mac, dst_mac=ROUTER_MAC, reply=True)
    assert droplet.send(reply).retval == TC_SHOT
    assert droplet.counted()["drop", "SERVICE_PROTOCOL"]["packets"] == 1
