# SPDX-License-Identifier: Apache-2.0
"""Public addresses of a load balancer in the programs: what comes for them without a tunnel, and how members answer.

The load balancer is that of test_load_balancer.py; its public addresses are 203.0.113.10 and 2001:db8:1::a, clients are
198.51.100.7 and 2001:db8:2::7.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from mizar.kernel import layout

from .every import every_family
from .frames import PAYLOAD, ip, tunnel
from .plan import FAMILIES, FRONT, HOST, ME, RED, ROUTER_MAC, A, B, EndpointPlan, R, mapped
from .policies import ALLOW, OF_UDP, Row, police, rules
from .test_limits import UPLINK, full
from .test_load_balancer import PORT, TARGET, TCP_NUMBER, UDP_NUMBER, balanced
from .test_services import LISTENED, SCALED, SLOT, rebuilt, replace_member, service
from .testbed import TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, XDP_TX, Testbed

PUBLIC = {4: "203.0.113.10", 6: "2001:db8:1::a"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:2::7"}
OTHER = {4: "198.51.100.8", 6: "2001:db8:2::8"}
CLIENT_MAC, PUBLIC_MAC = "02:00:00:00:77:07", "02:4d:5a:00:00:06"


def attracted(droplet: Testbed, *members: EndpointPlan, switch: int = 1) -> None:
    """ME attracts the addresses; what FRONT has, nobody outside can have."""
    balanced(droplet, *members)
    tables = droplet.tables
    value = {"vni": RED.vni, "wire_vni": RED.vni, "service": SLOT, "vpc_slot": RED.slot}
    entry = {"slot": SLOT, "vpc_slot": RED.slot, "network": FRONT.slot, "flags": SCALED}
    table_be = int.from_bytes(SLOT.to_bytes(4, "big"), sys.byteorder)
    tables.public_switch.put(0, switch)
    for family, length in ((4, 120), (6, 64)):
        tables.public_addresses.put({"addr": mapped(PUBLIC[family])}, value)
        tables.endpoints.put({"vni": RED.vni, "addr": mapped(PUBLIC[family])}, entry)
        inside = {"prefix_bits": 32 + length, "table_be": table_be, "addr": mapped(FRONT.address(family, 0))}
        tables.public_inside.put(inside, 1)
        for protocol in (TCP_NUMBER, UDP_NUMBER):
            key = {"vni": RED.vni, "addr": mapped(PUBLIC[family]), "port_be": socket.htons(PORT), "protocol": protocol}
            tables.listeners.put(key, {"target_be": socket.htons(TARGET)})


def request(family: int, src: str = "", *, tcp: bool = False, ttl: int = 64, macs: tuple[str, str] = ("", "")) -> Any:
    """From the client, as it is on the substrate."""
    upper = TCP(sport=4001, dport=PORT, flags="S") if tcp else UDP(sport=4001, dport=PORT)
    ether = Ether(src=macs[0] or CLIENT_MAC, dst=macs[1] or ME.mac)
    return ether / ip(family, src or CLIENT[family], PUBLIC[family], ttl) / upper / Raw(PAYLOAD)


@every_family
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
def test_it_goes_to_the_members_host_as_it_is(droplet: Testbed, family: int, tcp: bool) -> None:
    """One hop, in Geneve; the source MAC says that a client on the substrate sent it."""
    attracted(droplet, R)
    result = droplet.transit(bytes(request(family, tcp=tcp)))
    inner = request(family, tcp=tcp, ttl=63, macs=(PUBLIC_MAC, R.mac))
    port = int.from_bytes(result.frame[34:36], "big")
    assert (result.retval, result.frame) == (XDP_TX, tunnel("geneve", inner, src=ME, dst=HOST, sport=port))
    again = droplet.transit(bytes(request(family, tcp=tcp)))
    assert again.frame == result.frame


@every_family
def test_a_member_on_the_droplet_itself_gets_it(droplet: Testbed, family: int) -> None:
    """With the note that it is from outside."""
    attracted(droplet, B)
    result = droplet.transit(bytes(request(family)))
    note = layout.parse("handover", result.metadata)
    assert (result.retval, note["ifindex"], note["flags"]) == (XDP_PASS, B.ifindex, 7)
    assert result.frame == bytes(request(family, ttl=63, macs=(ROUTER_MAC, B.mac)))


@every_family
def test_the_members_host_is_told_that_it_is_from_outside(droplet: Testbed, family: int) -> None:
    """The droplet that took it has chosen; a frame from any other than a known droplet is left to the host."""
    attracted(droplet, B)
    inner = request(family, macs=(PUBLIC_MAC, B.mac))
    result = droplet.transit(tunnel("geneve", inner, src=HOST))
    note = layout.parse("handover", result.metadata)
    assert (result.retval, note["ifindex"], note["flags"]) == (XDP_PASS, B.ifindex, 7)
    stranger = tunnel("geneve", inner, src=HOST)
    stranger = stranger[:26] + socket.inet_aton("198.51.100.99") + stranger[30:]
    assert droplet.transit(stranger).metadata == b""


@every_family
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
def test_the_answer_leaves_without_a_tunnel(droplet: Testbed, family: int, tcp: bool) -> None:
    """From the public address and the listener's port, one hop less, all checksums right."""
    attracted(droplet, A)
    key = {
        "vni": RED.vni, "client": mapped(CLIENT[family]), "server": mapped(A.address(family)),
        "ports_be": int.from_bytes((4001).to_bytes(2, "big") + TARGET.to_bytes(2, "big"), sys.byteorder),
        "protocol": TCP_NUMBER if tcp else UDP_NUMBER, "kind": 2,
    }  # fmt: skip
    droplet.tables.flows.put(key, {"addr": mapped(PUBLIC[family]), "member": socket.htons(PORT), "outside": 1})

    def answer(src: str, sport: int, mac: str, ttl: int) -> Any:
        upper = TCP(sport=sport, dport=4001, flags="SA") if tcp else UDP(sport=sport, dport=4001)
        return Ether(src=mac, dst=ROUTER_MAC) / ip(family, src, CLIENT[family], ttl) / upper / Raw(PAYLOAD)

    result = droplet.send(answer(A.address(family), TARGET, A.mac, 64))
    assert (result.retval, result.frame) == (TC_REDIRECT, bytes(answer(PUBLIC[family], PORT, A.mac, 63)))


def in_option(droplet: Testbed, member: EndpointPlan) -> None:
    """The load balancer's packets bear its addresses in an option."""
    attracted(droplet, member)
    own = {f"addr{family}": mapped(member.address(family)) for family in FAMILIES}
    mac = bytes.fromhex(member.mac.replace(":", ""))
    droplet.tables.member_notes.put(1, {"service": SLOT, "mac": mac} | own)
    for family in FAMILIES:
        key = {"addr": mapped(PUBLIC[family])}
        value = droplet.tables.public_addresses.get(key)
        assert value is not None
        droplet.tables.public_addresses.put(key, value | {"flags": layout.constant("SERVICE_VIP_OPTION")})


def vip(family: int, port: int = PORT) -> bytes:
    """The option, by contracts/wire.md."""
    address = socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, PUBLIC[family])
    return bytes((0xFF, 1, 0x86, 1 + len(address) // 4)) + port.to_bytes(2, "big") + bytes(2) + address


def to_member(family: int, member: EndpointPlan, ttl: int = 64, dport: int = TARGET, *, tcp: bool = False) -> Any:
    """The request as the member's own, from a client outside."""
    found = request(family, tcp=tcp, ttl=ttl, macs=(PUBLIC_MAC, member.mac))
    found[IP if family == 4 else IPv6].dst = member.address(family)
    found[TCP if tcp else UDP].dport = dport
    return found


@every_family
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
def test_the_member_inside_and_the_public_address_in_an_option(droplet: Testbed, family: int, tcp: bool) -> None:
    """Where the load balancer says so. The header says that the option is critical; all checksums are right. At the
    member's droplet it is as it came."""
    in_option(droplet, R)
    result = droplet.transit(bytes(request(family, tcp=tcp)))
    port = int.from_bytes(result.frame[34:36], "big")
    inner = to_member(family, R, 63, tcp=tcp)
    expected = bytearray(tunnel("geneve", inner, src=ME, dst=HOST, sport=port, options=vip(family)))
    expected[43] = 0x40
    assert (result.retval, result.frame) == (XDP_TX, bytes(expected))
    in_option(droplet, B)
    result = droplet.transit(tunnel("geneve", to_member(family, B, tcp=tcp), src=HOST, options=vip(family)))
    assert (result.retval, layout.parse("handover", result.metadata)["flags"]) == (XDP_PASS, 7)
    assert result.frame == bytes(request(family, tcp=tcp, macs=(ROUTER_MAC, B.mac)))


@every_family
def test_an_option_that_none_could_have_written_is_refused(droplet: Testbed, family: int) -> None:
    """Another's address or port, what is from nobody outside, and what a tunnel end without a daemon says."""
    in_option(droplet, B)
    others = to_member(family, A)
    others[Ether].dst = B.mac
    inside = to_member(family, B)
    inside[Ether].src = ROUTER_MAC
    for inner, option in (
        (to_member(family, A), vip(family)),
        (others, vip(family)),
        (inside, vip(family)),
        (to_member(family, B, dport=TARGET + 1), vip(family)),
        (to_member(family, B), vip(family, PORT + 1)),
        (to_member(family, B), vip(10 - family)),
    ):
        assert droplet.transit(tunnel("geneve", inner, src=HOST, options=option)).retval == XDP_DROP
    droplet.tables.droplets.put(HOST.slot, (droplet.tables.droplets.get(HOST.slot) or {}) | {"foreign": 1})
    frame = tunnel("geneve", to_member(family, B), src=HOST, options=vip(family))
    assert droplet.transit(frame).retval == XDP_DROP
    assert droplet.counted()["drop", "VIP_OPTION"]["packets"] == 7


@every_family
def test_what_the_vpc_has_nobody_outside_can_be(droplet: Testbed, family: int) -> None:
    """Or policies would take him for who has the address."""
    attracted(droplet, R)
    assert droplet.transit(bytes(request(family, FRONT.address(family, 77)))).retval == XDP_DROP
    assert droplet.counted()["drop", "PUBLIC_SOURCE"]["packets"] == 1
    assert list(droplet.tables.flows.items()) == []


@every_family
@pytest.mark.parametrize("who", ["droplet", "load balancer"])
def test_who_never_asks_is_not_answered(droplet: Testbed, family: int, who: str) -> None:
    """Whose address somebody has forged: a droplet, or a load balancer whose members would answer the answer."""
    attracted(droplet, R)
    source = CLIENT[family] if who == "droplet" else PUBLIC[family]
    if who == "droplet":
        droplet.tables.droplet_slots.put({"addr": mapped(source)}, {"slot": HOST.slot})
    assert droplet.transit(bytes(request(family, source))).retval == XDP_DROP
    assert droplet.counted()["drop", "PUBLIC_SOURCE"]["packets"] == 1
    assert list(droplet.tables.flows.items()) == []


@pytest.mark.parametrize(
    "source", ["127.0.0.1", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::7", "ff02::1"]
)
def test_who_cannot_be_answered_is_nobody(droplet: Testbed, source: str) -> None:
    """A member's answer would go to all stations of the link, or to the droplet itself."""
    attracted(droplet, R)
    assert droplet.transit(bytes(request(6 if ":" in source else 4, source))).retval == XDP_DROP
    assert droplet.counted()["drop", "PUBLIC_SOURCE"]["packets"] == 1


@every_family
def test_what_no_listener_takes_goes_no_further(droplet: Testbed, family: int) -> None:
    """Another port: dropped and counted, not left to the host."""
    attracted(droplet, R)
    frame = request(family)
    frame[UDP].dport = 9
    assert droplet.transit(rebuilt(frame)).retval == XDP_DROP
    assert droplet.counted()["drop", "NO_LISTENER"]["packets"] == 1


@every_family
def test_policies_of_the_member_are_asked(droplet: Testbed, family: int) -> None:
    """For who is outside, and for the member's port."""
    for port, verdict in ((TARGET, XDP_PASS), (PORT, XDP_DROP)):
        attracted(droplet, B)
        police(droplet, B, ingress=rules(droplet, 1, Row(ALLOW, OF_UDP, port, 16)))
        replace_member(droplet, 1, flags=LISTENED | 2)
        assert droplet.transit(bytes(request(family))).retval == verdict
        droplet.reset()
        droplet.tables.policy_flows.delete_many([key for key, _ in droplet.tables.policy_flows.items()])


@every_family
def test_without_public_addresses_nothing_is_taken(droplet: Testbed, family: int) -> None:
    """The switch alone keeps it, and what is for any other address is the host's."""
    attracted(droplet, R, switch=0)
    frame = bytes(request(family))
    assert (droplet.transit(frame).retval, droplet.transit(frame).frame) == (XDP_PASS, frame)
    attracted(droplet, R)
    other = request(family)
    other[IP if family == 4 else IPv6].dst = service(family)
    assert droplet.transit(rebuilt(other)).retval == XDP_PASS


def test_who_is_on_the_link_is_answered() -> None:
    """ARP and neighbour discovery: the MAC of the droplet's interface. Requests for others are the host's."""
    droplet = Testbed()
    try:
        attracted(droplet, R)
        asked = Ether(src=CLIENT_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(
            op=1, hwsrc=CLIENT_MAC, psrc=CLIENT[4], hwdst="00:00:00:00:00:00", pdst=PUBLIC[4]
        )
        result = droplet.transit(bytes(asked))
        expected = Ether(src=ME.mac, dst=CLIENT_MAC) / ARP(
            op=2, hwsrc=ME.mac, psrc=PUBLIC[4], hwdst=CLIENT_MAC, pdst=CLIENT[4]
        )
        assert (result.retval, result.frame) == (XDP_TX, bytes(expected))
        asked[ARP].pdst = "203.0.113.11"
        assert droplet.transit(bytes(asked)).retval == XDP_PASS
        solicitation = (
            Ether(src=CLIENT_MAC, dst="33:33:ff:00:00:0a")
            / IPv6(src=CLIENT[6], dst="ff02::1:ff00:a", hlim=255)
            / ICMPv6ND_NS(tgt=PUBLIC[6])
            / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT_MAC)
        )
        answer = Ether(droplet.transit(bytes(solicitation)).frame)
        assert (answer.src, answer.dst, answer[IPv6].src, answer[IPv6].dst) == (
            ME.mac,
            CLIENT_MAC,
            PUBLIC[6],
            CLIENT[6],
        )
        assert answer.lastlayer().lladdr == ME.mac
        sent = bytes(answer)
        del answer[IPv6].payload.cksum
        assert bytes(answer) == sent
    finally:
        droplet.close()


@every_family
def test_an_error_about_an_answer_reaches_its_member(droplet: Testbed, family: int) -> None:
    """`Packet too big` of a router out there: it goes where the flow is."""
    attracted(droplet, B, R)
    chosen = droplet.transit(bytes(request(family))).frame
    if family == 6:
        from scapy.layers.inet6 import ICMPv6PacketTooBig as Message

        message = Message(mtu=1300)
    else:
        message = ICMP(type=3, code=4, nexthopmtu=1300)
    about = ip(family, PUBLIC[family], CLIENT[family]) / UDP(sport=PORT, dport=4001) / Raw(PAYLOAD)
    error = Ether(src=CLIENT_MAC, dst=ME.mac) / ip(family, CLIENT[family], PUBLIC[family]) / message / about
    result = droplet.transit(bytes(error))
    assert len(result.frame) > 0
    local, error_local = chosen[:6] == bytes.fromhex(B.mac.replace(":", "")), result.retval == XDP_PASS
    assert local == error_local


def flow_of(family: int, kind: int, client: str, port: int, **value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A flow over UDP: at the member A (kind 2), or as it was chosen (kind 1)."""
    server, at = (A.address(family), TARGET) if kind == 2 else (PUBLIC[family], PORT)
    key = {
        "vni": RED.vni, "client": mapped(client), "server": mapped(server),
        "ports_be": int.from_bytes(port.to_bytes(2, "big") + at.to_bytes(2, "big"), sys.byteorder),
        "protocol": UDP_NUMBER, "kind": kind,
    }  # fmt: skip
    return key, value


def unreachable(family: int, source: str, to: str, about: Any) -> Any:
    """An ICMP error."""
    if family == 6:
        from scapy.layers.inet6 import ICMPv6DestUnreach

        return ip(family, source, to) / ICMPv6DestUnreach(code=4) / about
    return ip(family, source, to) / ICMP(type=3, code=3) / about


@every_family
def test_nobody_outside_goes_on_with_an_endpoints_flow(droplet: Testbed, family: int) -> None:
    """Its client is in the VPC, and came to the address from inside, over this same droplet."""
    attracted(droplet, R)
    endpoint = FRONT.address(family, 77)
    key, value = flow_of(family, 1, endpoint, 4001, member=1, mac=bytes.fromhex(R.mac.replace(":", "")))
    droplet.tables.flows.put(key, value)
    assert droplet.transit(bytes(request(family, endpoint))).retval == XDP_DROP
    about = ip(family, PUBLIC[family], endpoint) / UDP(sport=PORT, dport=4001) / Raw(PAYLOAD)
    error = Ether(src=CLIENT_MAC, dst=ME.mac) / unreachable(family, CLIENT[family], PUBLIC[family], about)
    assert droplet.transit(bytes(error)).retval == XDP_DROP
    assert droplet.counted()["drop", "PUBLIC_SOURCE"]["packets"] == 2
    other = request(family)
    assert droplet.transit(bytes(other)).retval == XDP_TX
    assert droplet.transit(bytes(other)).retval == XDP_TX


@every_family
def test_a_members_error_goes_to_its_client_alone(droplet: Testbed, family: int) -> None:
    """To any other address it is the member's own, and goes to the substrate no more than anything else of it does."""
    attracted(droplet, A)
    droplet.tables.flows.put(*flow_of(family, 2, CLIENT[family], 4001, addr=mapped(PUBLIC[family]), outside=1))
    about = ip(family, CLIENT[family], A.address(family)) / UDP(sport=4001, dport=TARGET) / Raw(PAYLOAD)
    ether = Ether(src=A.mac, dst=ROUTER_MAC)
    told = Ether(droplet.send(ether / unreachable(family, A.address(family), CLIENT[family], about)).frame)
    assert told[IP if family == 4 else IPv6].src == PUBLIC[family]
    for victim in (ME.on(family).address, OTHER[family], B.address(family)):
        sent = droplet.send(ether / unreachable(family, A.address(family), victim, about)).frame
        assert socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, PUBLIC[family]) not in sent[:62]


@every_family
def test_no_answer_is_a_tunnels_packet(droplet: Testbed, family: int) -> None:
    """Nor the first fragment of one, which its flow's port does not bind."""
    attracted(droplet, A)
    for port in (4001, 6081, 4789, 0):
        key, value = flow_of(family, 2, CLIENT[family], port, addr=mapped(PUBLIC[family]), outside=1)
        droplet.tables.flows.put(key if port else key | {"ports_be": 0}, value)

    def answer(port: int, *, part: bool) -> Any:
        packet = ip(family, A.address(family), CLIENT[family])
        if part and family == 4:
            packet.flags = "MF"
        elif part:
            from scapy.layers.inet6 import IPv6ExtHdrFragment

            packet /= IPv6ExtHdrFragment(m=1, id=1)
        return Ether(src=A.mac, dst=ROUTER_MAC) / packet / UDP(sport=TARGET, dport=port) / Raw(PAYLOAD[:16])

    for part in (False, True):
        assert droplet.send(answer(4001, part=part)).retval == TC_REDIRECT
        for port in (6081, 4789):
            assert droplet.send(answer(port, part=part)).retval == TC_SHOT
    assert droplet.counted()["drop", "SUBSTRATE_TUNNEL"]["packets"] == 4


@every_family
def test_a_foreign_tunnel_end_cannot_say_who_is_outside(droplet: Testbed, family: int) -> None:
    """Or its endpoints could have members answer whom they like on the substrate."""
    attracted(droplet, B)
    found = droplet.tables.droplets.get(HOST.slot)
    assert found is not None
    droplet.tables.droplets.put(HOST.slot, found | {"foreign": 1})
    result = droplet.transit(tunnel("geneve", request(family, macs=(PUBLIC_MAC, B.mac)), src=HOST))
    assert (result.retval, layout.parse("handover", result.metadata)["flags"]) == (XDP_PASS, 3)


@every_family
def test_what_is_for_another_station_is_left_to_it(droplet: Testbed, family: int) -> None:
    """Which attracts the address too, and a link may show both what is for one."""
    attracted(droplet, R)
    frame = bytes(request(family, macs=("", "02:00:00:00:77:08")))
    assert (droplet.transit(frame).retval, droplet.transit(frame).frame) == (XDP_PASS, frame)


def test_answers_leave_within_what_the_interface_may_send() -> None:
    """As what is in a tunnel: nobody else's share is used up."""
    droplet = Testbed(uplink=1)
    try:
        attracted(droplet, A)
        droplet.tables.flows.put(*flow_of(4, 2, CLIENT[4], 4001, addr=mapped(PUBLIC[4]), outside=1))
        answer = Ether(src=A.mac, dst=ROUTER_MAC) / ip(4, A.address(4), CLIENT[4]) / UDP(sport=TARGET, dport=4001)
        assert droplet.send(answer).retval == TC_REDIRECT
        full(droplet, UPLINK)
        assert droplet.send(answer).retval == TC_SHOT
        assert droplet.counted()["drop", "UPLINK_FULL"]["packets"] == 1
    finally:
        droplet.close()
