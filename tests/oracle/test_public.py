# SPDX-License-Identifier: Apache-2.0
"""Public addresses of a load balancer in the oracle and in the programs: both agree on whatever comes for them from the
substrate, and on what members answer."""

from __future__ import annotations

import itertools
import socket
import struct
from dataclasses import replace
from typing import Any

import pytest

from mizar.oracle.outcome import Verdict
from mizar.oracle.tables import (
    AnsweredAs,
    Droplet,
    Endpoint,
    FlowKey,
    FlowKind,
    Flows,
    Member,
    PublicAddress,
    Service,
    Tunnel,
)
from mizar.oracle.transit import transit
from tests.oracle import build
from tests.oracle.differential import Arrival, check
from tests.oracle.droplets import HOST, ME, MY_MAC, RED, address, mac_of
from tests.oracle.golden_droplet import droplet
from tests.oracle.real import RealDroplet
from tests.oracle.services import spread

FAMILIES = (4, 6)
PUBLIC = {4: bytes((203, 0, 113, 10)), 6: bytes.fromhex("20010db8000100000000000000" + "00000a")}
CLIENT = {4: bytes((198, 51, 100, 7)), 6: bytes.fromhex("20010db8000200000000000000" + "000007")}
GUEST = {4: address(4, 1, 78), 6: address(6, 1, 78)}
"""Inside: its flows to the address are known."""
MARTIAN = {4: bytes((127, 0, 0, 1)), 6: bytes.fromhex("ff02") + bytes(13) + b"\x01"}
CLIENT_MAC, PUBLIC_MAC = bytes.fromhex("020000007707"), bytes.fromhex("024d5a000006")
PORT, TARGET = 80, 8080


def attracting(
    *,
    here_alone: bool = False,
    by_client: bool = False,
    room: int = 100,
    down: bool = False,
    mtu: int = 0,
    foreign: bool = False,
    option: bool = False,
    lacks: bool = False,
) -> Droplet:
    """ME attracts the addresses of a load balancer whose members are its own endpoint a, and r on HOST over VXLAN, to
    which packets may have `mtu` bytes, and which has no address (yet) that is known here, where it `lacks` one."""
    own = Member(Endpoint(1, mac_of(1, 11), ME, Tunnel.GENEVE, 1, "a"), listened=True, addresses=own_addresses(11))
    addresses = () if lacks else own_addresses(21)
    far = Member(Endpoint(1, mac_of(1, 21), HOST, Tunnel.VXLAN), listened=True, addresses=addresses)
    members = tuple(replace(one, down=down) for one in ((own,) if here_alone else (own, far)))
    service = Service(members, spread(len(members), 7), (), True, by_client)
    before = replace(droplet(), mtus={HOST: mtu} if mtu else {}, icmp_errors=True)
    listeners = {
        (RED, PUBLIC[family], protocol, struct.pack("!H", PORT)): struct.pack("!H", TARGET)
        for family, protocol in itertools.product(FAMILIES, (6, 17))
    }
    inside = ((address(4, 1, 0), 24), (address(6, 1, 0), 64))
    flows = Flows({RED: room})
    for family, protocol in itertools.product(FAMILIES, (6, 17)):
        key = FlowKey(FlowKind.SERVICE, RED, CLIENT[family], address(family, 1, 11),
                      struct.pack("!HH", 4001, TARGET), protocol)  # fmt: skip
        flows[key] = AnsweredAs(PUBLIC[family], struct.pack("!H", PORT), outside=True)
        for port in (6081, 4789):
            ports = struct.pack("!HH", port, TARGET)
            flows[replace(key, ports=ports)] = AnsweredAs(PUBLIC[family], struct.pack("!H", PORT), outside=True)
        ports = struct.pack("!HH", 4001, PORT)
        flows[FlowKey(FlowKind.CHOICE, RED, GUEST[family], PUBLIC[family], ports, protocol)] = members[0]
    agents = {number: replace(one, member=True) for number, one in before.agents.items()}
    ends = dict(before.endpoints) | {(RED, one): Endpoint(1, bytes(6), b"", service=service) for one in PUBLIC.values()}
    public = {one: PublicAddress(RED, service, inside, vip_option=option) for one in PUBLIC.values()}
    before = replace(before, foreign=frozenset({HOST}) if foreign else frozenset())
    return replace(before, listeners=listeners, flows=flows, endpoints=ends, public=public, agents=agents)


def own_addresses(host: int) -> tuple[bytes, ...]:
    """Of a member."""
    return tuple(address(family, 1, host) for family in FAMILIES)


def optioned(family: int) -> list[Arrival]:
    """What a droplet that chose sends to the member here, and what it may not: another member, address, port, family,
    MAC or listener, a length or padding that the option cannot have, twice, with the O bit, and each byte of it
    changed."""
    own, far, number = address(family, 1, 11), address(family, 1, 21), 1 if family == 4 else 58
    found = []

    def vip(port: int = PORT, to: bytes = PUBLIC[family], pad: int = 0) -> bytes:
        return option_of(struct.pack("!HH", port, pad) + to)

    def add(options: bytes, packet: bytes, second: int = 0x40, macs: bytes = mac_of(1, 11) + PUBLIC_MAC) -> None:
        inner = framed(family, packet, macs)
        found.append(Arrival("transit", build.tunnel(
            "geneve", inner, src=HOST, dst=ME, src_mac=MY_MAC, dst_mac=MY_MAC, vni=RED, options=options, second=second,
        )))  # fmt: skip

    def to(member: bytes, protocol: int = 17, port: int = TARGET) -> bytes:
        make = build.ipv4 if family == 4 else build.ipv6
        return make(CLIENT[family], member, *upper(protocol, 4001, port))

    for protocol in (17, 6, 47):
        add(vip(), to(own, protocol))
    for options in (vip(PORT + 1), vip(0), vip(to=CLIENT[family]), vip(to=PUBLIC[10 - family]), vip(to=own), vip(pad=1),
                    vip() * 2, option_of(bytes(4)), option_of(bytes(12)), vip()[:-4],
                    bytes.fromhex("00070100") + vip()):  # fmt: skip
        add(options, to(own))
    add(vip(), to(far))
    add(vip(), to(own, port=PORT))
    add(vip(), to(own), second=0xC0)
    add(vip(), to(own), macs=mac_of(1, 11) + build.ROUTER)
    add(vip(), to(own), macs=mac_of(1, 21) + PUBLIC_MAC)
    for offset, more in ((1, 1), (0, 1), (1, 0)):
        for port in (0, PORT):
            add(vip(port), part(family, 17, (CLIENT[family], own, 4001, TARGET), offset, more))
    message = about(family, own, CLIENT[family], GUEST[family], own)
    message = message.replace(struct.pack("!HH", PORT, 4001), struct.pack("!HH", TARGET, 4001))
    make = build.ipv4 if family == 4 else build.ipv6
    add(vip(), make(GUEST[family], own, number, message))
    whole = found[0].frame
    begin = len(whole) - len(framed(family, to(own), bytes(12))) - len(vip())
    for at in range(begin - 8, begin + len(vip())):
        found.append(Arrival("transit", whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :]))
    return found


def option_of(data: bytes) -> bytes:
    """A VIP option."""
    return struct.pack("!HBB", 0xFF01, 0x86, len(data) // 4) + data


def frame(family: int, source: bytes, to: bytes, upper: tuple[int, bytes], ttl: int = 64, macs: bytes = b"") -> bytes:
    make = build.ipv4 if family == 4 else build.ipv6
    packet = make(source, to, *upper, ttl=ttl)
    macs = macs or MY_MAC + CLIENT_MAC
    return build.ethernet(macs[:6], macs[6:], 0x0800 if family == 4 else 0x86DD, packet)


def upper(protocol: int, sport: int, dport: int) -> tuple[int, bytes]:
    udp = build.udp(sport, dport, b"hello")
    tcp = struct.pack("!HHIIBBHHH", sport, dport, 1, 2, 5 << 4, 2, 1000, 0, 0) + b"hello"
    return protocol, udp if protocol == 17 else tcp


def arrivals(family: int) -> list[Arrival]:
    """Requests from several ports and clients, some of which are nobody's or somebody's inside; answers; noise."""
    found = []
    other = PUBLIC[family][:-1] + b"\x63"
    for protocol, sport in itertools.product((6, 17, 47), range(4001, 4009)):
        for source, to, dport, ttl in (
            (CLIENT[family], PUBLIC[family], PORT, 64),
            (CLIENT[family], PUBLIC[family], TARGET, 64),
            (CLIENT[family], PUBLIC[family], PORT, 1),
            (CLIENT[family], other, PORT, 64),
            (address(family, 1, 77), PUBLIC[family], PORT, 64),
            (GUEST[family], PUBLIC[family], PORT, 64),
            (MARTIAN[family], PUBLIC[family], PORT, 64),
            (HOST if family == 4 else PUBLIC[family], PUBLIC[family], PORT, 64),
        ):
            found.append(Arrival("transit", frame(family, source, to, upper(protocol, sport, dport), ttl)))
        for size, ttl in itertools.product((0, 30, 31, 100, 600, 1400), (64, 1)):
            long = (protocol, upper(protocol, sport, PORT)[1] + bytes(size))
            found.append(Arrival("transit", frame(family, CLIENT[family], PUBLIC[family], long, ttl)))
        inner = frame(
            family, CLIENT[family], PUBLIC[family], upper(protocol, sport, PORT), 63, mac_of(1, 11) + PUBLIC_MAC
        )
        found.append(
            Arrival("transit", build.tunnel("geneve", inner, src=HOST, dst=ME, src_mac=MY_MAC, dst_mac=MY_MAC, vni=RED))
        )
        answer = upper(protocol, TARGET, sport)
        for ttl in (64, 1):
            sent = frame(family, address(family, 1, 11), CLIENT[family], answer, ttl, build.ROUTER + mac_of(1, 11))
            found.append(Arrival("agent", sent))
    found += errors(family)
    for port, parts in itertools.product((4001, 6081, 4789), (0, 0x2000)):
        sent = frame(
            family, address(family, 1, 11), CLIENT[family], upper(17, TARGET, port), 64, build.ROUTER + mac_of(1, 11)
        )
        if family == 4 and parts:
            part = build.ipv4(address(4, 1, 11), CLIENT[4], *upper(17, TARGET, port), fragment=parts)
            sent = build.ethernet(build.ROUTER, mac_of(1, 11), 0x0800, part)
        found.append(Arrival("agent", sent))
    found.append(
        Arrival(
            "transit",
            frame(family, CLIENT[family], PUBLIC[family], upper(6, 4001, PORT), macs=mac_of(9, 9) + CLIENT_MAC),
        )
    )
    whole = found[0].frame
    for asked in (PUBLIC[family], other):
        if family == 4:
            ask = build.arp(CLIENT_MAC, CLIENT[4], asked)
            found.append(Arrival("transit", build.ethernet(b"\xff" * 6, CLIENT_MAC, 0x0806, ask)))
        else:
            solicitation = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + asked + bytes([1, 1]) + CLIENT_MAC
            group = bytes.fromhex("ff0200000000000000000001ff") + asked[13:]
            message = build.icmpv6(CLIENT[6], group, solicitation)
            packet = bytearray(build.ipv6(CLIENT[6], group, 58, message))
            packet[7] = 255
            found.append(
                Arrival("transit", build.ethernet(b"\x33\x33" + group[12:], CLIENT_MAC, 0x86DD, bytes(packet)))
            )
    found += fragments(family)
    found += optioned(family)
    found += [Arrival("transit", whole[:length]) for length in range(14, len(whole))]
    found += [
        Arrival("transit", whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]) for at in range(12, len(whole))
    ]
    return found


def fragments(family: int) -> list[Arrival]:
    """Later ones before and after a first one that a listener takes, and one that none does: from the substrate, as
    answers of a member, and from an endpoint beside it."""
    own = address(family, 1, 11)
    found = []
    for protocol, port in itertools.product((17, 6), (PORT, PORT + 1)):
        for offset, more in ((1, 1), (0, 1), (1, 1), (1, 0)):
            request, answer = (
                part(family, protocol, one, offset, more) for one in ((CLIENT[family], PUBLIC[family], 4444, port),
                                                                      (own, CLIENT[family], TARGET, 4001))
            )  # fmt: skip
            found.append(Arrival("transit", framed(family, request, MY_MAC + CLIENT_MAC)))
            inside = part(family, protocol, (own, PUBLIC[family], 4444, port), offset, more)
            for sent in (answer, inside):
                found.append(Arrival("agent", framed(family, sent, build.ROUTER + mac_of(1, 11))))
    return found


def part(family: int, protocol: int, way: tuple[bytes, bytes, int, int], offset: int, more: int) -> bytes:
    """A fragment of a packet; `offset` in units of 8 octets."""
    source, to, sport, dport = way
    body = upper(protocol, sport, dport)[1]
    if family == 4:
        return build.ipv4(source, to, protocol, body, fragment=more << 13 | offset)
    header = struct.pack("!BBHI", protocol, 0, offset << 3 | more, 7)
    return build.ipv6(source, to, 44, header + body)


def framed(family: int, packet: bytes, macs: bytes) -> bytes:
    return macs + (b"\x08\x00" if family == 4 else b"\x86\xdd") + packet


def errors(family: int) -> list[Arrival]:
    """About known flows, from where they may come and may not; and of a member, to its client and to others."""
    found = []
    own, number = address(family, 1, 11), 1 if family == 4 else 58
    for client, source in itertools.product((CLIENT[family], GUEST[family]), (CLIENT[family], GUEST[family])):
        found.append(
            Arrival(
                "transit",
                frame(family, source, PUBLIC[family], (number, about(family, PUBLIC[family], client, source))),
            )
        )
    for to in (CLIENT[family], GUEST[family], CLIENT[family][:-1] + b"\x08"):
        message = about(family, CLIENT[family], own, own, to)
        found.append(Arrival("agent", frame(family, own, to, (number, message), macs=build.ROUTER + mac_of(1, 11))))
    return found


def about(family: int, sender: bytes, receiver: bytes, source: bytes, to: bytes = b"") -> bytes:
    """`Port unreachable` about what `sender` sent to `receiver`, one of which is at port 4001."""
    inbound = receiver == source
    ports = (4001, TARGET) if inbound else (PORT, 4001)
    make = build.ipv4 if family == 4 else build.ipv6
    packet = make(sender, receiver, 17, build.udp(*ports, b"hello"))
    if family == 4:
        message = bytes((3, 3, 0, 0, 0, 0, 0, 0)) + packet
        return message[:2] + struct.pack("!H", build.summed(message)) + message[4:]
    return build.icmpv6(source, to or PUBLIC[6], bytes((1, 4, 0, 0, 0, 0, 0, 0)) + packet)


@pytest.mark.root
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"here_alone": True},
        {"by_client": True},
        {"room": 0},
        {"down": True},
        {"mtu": 100},
        {"foreign": True},
        {"option": True},
        {"option": True, "mtu": 100},
        {"option": True, "lacks": True},
    ],
    ids=["both", "here", "by client", "no room", "all down", "tight", "foreign", "option", "option, tight", "lacks"],
)
def test_the_programs_do_what_the_oracle_says(real: RealDroplet, family: int, how: dict[str, Any]) -> None:
    """Byte for byte, with all counters, whatever comes."""
    here = attracting(**how)
    real.fill(here)
    outcomes = check(real, here, arrivals(family))
    seen = {one.reason for one in outcomes}
    assert {"NO_LISTENER", "PUBLIC_SOURCE", "SUBSTRATE_TUNNEL", "VIP_OPTION", "OPTION_MALFORMED"} <= seen
    told = {"down": "SERVICE_WITHOUT_MEMBER", "lacks": "SERVICE_WITHOUT_MEMBER", "mtu": "PACKET_TOO_BIG"}
    assert {told[each] for each in how if each in told} <= seen
    said = {one.reason for one in outcomes if one.verdict is Verdict.SEND}  # to the client
    assert said >= {*({"TTL_EXPIRED"} if "down" not in how else ()), *(set(told.values()) & seen)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_public_address_is_the_inner_destination_and_in_no_option(family: int) -> None:
    """As somebody reads it who knows Geneve and nothing of us (scapy): it goes on addressed as it came."""
    from scapy.contrib.geneve import GENEVE
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    here = attracting()
    found = 0
    for port in range(4001, 4033):  # until one goes to the other droplet
        came = frame(family, CLIENT[family], PUBLIC[family], upper(17, port, PORT))
        outcome = transit(here, came)
        if outcome.verdict is not Verdict.SEND:
            continue
        outer = Ether(outcome.frame)
        tunnel, packet = outer[GENEVE], outer[GENEVE][IP if family == 4 else IPv6]
        assert (tunnel.optionlen, tunnel.critical) == (0, 0)
        assert (tunnel[Ether].src, tunnel[Ether].dst) == (PUBLIC_MAC.hex(":"), mac_of(1, 21).hex(":"))
        name = socket.AF_INET if family == 4 else socket.AF_INET6
        assert socket.inet_pton(name, packet.dst) == PUBLIC[family]
        assert bytes(packet.payload) == came[14 + (20 if family == 4 else 40) :]
        found += 1
    assert found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_public_address_is_in_an_option_where_the_load_balancer_says_so(family: int) -> None:
    """As scapy reads it, with a parser of its own for the option: the member inside, with checksums that are right when
    they are summed anew, and public address and port beside it. The member's droplet makes of it what came."""
    from scapy.contrib.geneve import GENEVE
    from scapy.layers.inet import IP, TCP, UDP, IPerror
    from scapy.layers.inet6 import IPerror6, IPv6
    from scapy.layers.l2 import Ether

    here, name = attracting(option=True), socket.AF_INET if family == 4 else socket.AF_INET6
    number, far = 1 if family == 4 else 58, address(family, 1, 21)
    sent: list[tuple[bytes, int]] = [
        (frame(family, CLIENT[family], PUBLIC[family], upper(protocol, port, PORT)), PORT)
        for protocol, port in itertools.product((6, 17), range(4001, 4033))
    ]
    for port in range(4001, 4033):
        parts = (part(family, 17, (CLIENT[family], PUBLIC[family], port, PORT), *one) for one in ((0, 1), (1, 0)))
        sent += [(framed(family, one, MY_MAC + CLIENT_MAC), PORT * (not at)) for at, one in enumerate(parts)]
    for host in range(1, 17):
        client, router = CLIENT[family][:-1] + bytes([host]), CLIENT[family][:-1] + b"\x63"
        lost = about(family, PUBLIC[family], client, router)
        sent.append((frame(family, router, PUBLIC[family], (number, lost)), PORT))
    seen: set[object] = set()
    for each, port in sent:
        outcome = transit(here, _anew(each))
        if outcome.verdict is not Verdict.SEND:
            continue
        tunnel = Ether(outcome.frame)[GENEVE]
        inner = bytes(tunnel[Ether])
        assert inner == _anew(inner)
        packet, raw = tunnel[IP if family == 4 else IPv6], bytes(tunnel)[8:]
        kind, words = raw[2], raw[3] & 0x1F
        assert (tunnel.critical, raw[:2], kind, words) == (1, b"\xff\x01", 0x86, 2 if family == 4 else 5)
        assert tunnel.optionlen == 1 + words
        assert raw[4:8] == struct.pack("!HH", port, 0)
        assert raw[8 : 4 + 4 * words] == PUBLIC[family]
        assert (tunnel[Ether].src, tunnel[Ether].dst) == (PUBLIC_MAC.hex(":"), mac_of(1, 21).hex(":"))
        assert socket.inet_pton(name, packet.dst) == far
        seen.update(layer for layer in (TCP, UDP) if layer in packet and packet[layer].dport == TARGET)
        quoted = packet.getlayer(IPerror if family == 4 else IPerror6)
        if quoted is not None:
            assert (socket.inet_pton(name, quoted.src), quoted.sport) == (far, TARGET)
            seen.add("error")
        seen.add(port)
    assert {TCP, UDP, 0, PORT, "error"} <= seen


def _anew(frame: bytes) -> bytes:
    """The same with all checksums as scapy makes them."""
    from scapy.layers.l2 import Ether

    again = Ether(frame)
    for layer in (again.payload, again.payload.payload):
        for field in {"chksum", "cksum"} & set(layer.fields):
            delattr(layer, field)
    return bytes(again)
