# SPDX-License-Identifier: Apache-2.0
"""Every reason of contracts/drop_reasons.toml is provoked: the verdict, the frame, and every counter that moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from mizar.kernel import test_run
from mizar.model import drop_reasons

from .frames import arp_request, datagram, identity_option, option, ping, tunnel
from .plan import (
    APPLIANCE_MAC,
    BACK,
    BLUE,
    BOUNCER,
    DIVIDER,
    DIVIDERS_SLOT,
    ENDPOINT_FORWARDING,
    FAMILIES,
    FRONT,
    GHOST_HOST,
    HOST,
    ME,
    NETWORK_BOUNCED_HERE,
    NETWORK_HAS_ROUTES,
    NETWORK_ROUTED_HERE,
    NOWHERE,
    RED,
    ROUTE_BLACKHOLE,
    ROUTE_ENDPOINT,
    ROUTE_SUBSTRATE,
    ROUTE_VPC,
    ROUTER_MAC,
    STRANGER,
    THEIRS,
    TUNNELS,
    UNKNOWN_VNI,
    UNRESOLVED,
    A,
    B,
    C,
    EndpointPlan,
    R,
    S,
    V,
)
from .test_answers import LINK_LOCAL, solicitation
from .testbed import TC_SHOT, XDP_DROP, XDP_PASS, Testbed

Setup = Callable[[Testbed], None]


def host(droplet: Testbed) -> None:
    droplet.as_host()


def bouncer(droplet: Testbed) -> None:
    droplet.as_bouncer()
    droplet.agent(A, network_flags=NETWORK_BOUNCED_HERE)


def divider(droplet: Testbed) -> None:
    droplet.as_divider()


@dataclass(frozen=True)
class Case:
    """A frame, the situation that it meets, and why it is refused."""

    name: str
    reason: str
    frame: bytes
    setup: Setup = bouncer
    vpc_known: bool = True

    def __str__(self) -> str:
        return f"{self.reason}-{self.name}"


def edited(frame: Any, **at: int) -> bytes:
    """The frame with some bytes replaced: edited(frame, b14=0x55)."""
    data = bytearray(bytes(frame))
    for place, value in at.items():
        data[int(place[1:])] = value
    return bytes(data)


GOOD = {family: datagram(family, A, R.address(family)) for family in FAMILIES}
"""What a bouncer would forward."""
ON = {kind: tunnel(kind, GOOD[4], src=HOST) for kind in TUNNELS}
GENEVE = ON["geneve"]


def inside(inner: Any, kind: str = "geneve", **fields: Any) -> bytes:
    return tunnel(kind, inner, src=HOST, **fields)


def outer_ip(frame: bytes, **fields: Any) -> bytes:
    """The frame with fields of its outer IPv4 header changed and the header's checksum made right again."""
    packet = Ether(frame)
    for name, value in fields.items():
        setattr(packet[IP], name, value)
    if "chksum" not in fields:
        del packet[IP].chksum
    return bytes(packet)


def inner_ip(family: int, **fields: Any) -> Any:
    frame = GOOD[family].copy()
    for name, value in fields.items():
        setattr(frame[IP if family == 4 else IPv6], name, value)
    return frame


def retarget(endpoint_or_network: Any, host_part: int = 0, family: int = 4) -> Any:
    dst = endpoint_or_network.address(family, host_part) if host_part else endpoint_or_network.address(family)
    return datagram(family, A, dst)


def crossing(droplet: Testbed) -> None:
    droplet.as_crossing(DIVIDER)


def crossing_to_nobody(droplet: Testbed) -> None:
    crossing(droplet)
    droplet.tables.vpcs.delete(BLUE.vni)


def from_nowhere(dst: str) -> Any:
    """From an address of no network."""
    return datagram(4, EndpointPlan(NOWHERE, 11, HOST), dst)


def no_dividers(droplet: Testbed) -> None:
    bouncer(droplet)
    droplet.vpc(RED)


def no_bouncers(droplet: Testbed) -> None:
    divider(droplet)
    droplet.network(BACK, routed_here=True)


def endpoint_on(slot: int) -> Setup:
    def setup(droplet: Testbed) -> None:
        bouncer(droplet)
        droplet.endpoint(R, droplet=slot)

    return setup


def shared_vni(droplet: Testbed) -> None:
    """The identity names RED itself; its endpoint speaks VXLAN."""
    droplet.as_bouncer(tunnel="vxlan")
    droplet.identity(RED.vni, 7, 9, RED.vni)


def identity_to_vxlan(droplet: Testbed) -> None:
    droplet.as_host()
    droplet.agent(A, tunnel="vxlan", option_bytes=20, option_flags=1)


def narrow(setup: Setup) -> Setup:
    """The ways to BOUNCER and HOST have no room for what is sent there."""

    def narrowed(droplet: Testbed) -> None:
        setup(droplet)
        droplet.narrow(100, BOUNCER, HOST)

    return narrowed


SEVEN_BYTES = bytes(
    Ether(src=HOST.mac, dst=ME.mac) / IP(src=HOST.address, dst=ME.address) / UDP(dport=6081) / Raw(bytes(7))
)

OUTER_CASES = [
    Case("ethernet-only", "OUTER_TRUNCATED", GENEVE[:14], vpc_known=False),
    Case("in-ip", "OUTER_TRUNCATED", GENEVE[:33], vpc_known=False),
    Case("in-udp", "OUTER_TRUNCATED", outer_ip(GENEVE[:41], len=27), vpc_known=False),
    Case("version", "OUTER_IP_HEADER", edited(GENEVE, b14=0x65), vpc_known=False),
    Case("short-header", "OUTER_IP_HEADER", edited(GENEVE, b14=0x44), vpc_known=False),
    Case("ip-options", "OUTER_IP_HEADER", outer_ip(GENEVE, options=b"\1\1\1\1", ihl=6), vpc_known=False),
    Case("longer-than-frame", "OUTER_IP_HEADER", outer_ip(GENEVE, len=len(GENEVE) - 14 + 1), vpc_known=False),
    Case("shorter-than-header", "OUTER_IP_HEADER", outer_ip(GENEVE, len=19), vpc_known=False),
    Case("first", "OUTER_FRAGMENT", outer_ip(GENEVE, flags="MF"), vpc_known=False),
    Case("stranger", "UNKNOWN_SENDER", tunnel("vxlan", GOOD[4], src=STRANGER), vpc_known=False),
    Case("longer-than-ip", "OUTER_UDP_LENGTH", edited(GENEVE, b39=GENEVE[39] + 1), vpc_known=False),
    Case("shorter-than-ip", "OUTER_UDP_LENGTH", edited(GENEVE, b39=GENEVE[39] - 1), vpc_known=False),
    Case("shorter-than-udp", "OUTER_UDP_LENGTH", edited(GENEVE, b38=0, b39=7), vpc_known=False),
    Case("seven-bytes", "TUNNEL_TRUNCATED", SEVEN_BYTES, vpc_known=False),
    Case("version", "GENEVE_VERSION", edited(GENEVE, b42=0x40), vpc_known=False),
    Case("o-bit-and-arp", "GENEVE_CONTROL", edited(inside(arp_request(R, FRONT.address(4, 1))), b43=0x80)),
    Case("back-from-the-host", "ENDPOINT_UNKNOWN", edited(GENEVE, b43=0x80)),
    Case("by-mac", "APPLIANCE_GONE", inside(datagram(4, R, A.address(4), src_mac=APPLIANCE_MAC, dst_mac=A.mac))),
    Case(
        "o-bit-by-mac",
        "RETURNED_STRANGE",
        edited(inside(datagram(4, R, A.address(4), src_mac=APPLIANCE_MAC)), b43=0x80),
    ),
    Case("to-nobody", "RETURNED_STRANGE", edited(inside(datagram(4, R, S.address(4))), b43=0x80)),
    Case("o-bit-of-another", "UNKNOWN_VNI", edited(inside(GOOD[4], vni=UNKNOWN_VNI), b43=0x80), vpc_known=False),
    Case("option", "GENEVE_CONTROL", inside(GOOD[4], options=option(0xFF01, 0x85, b"\1\0\0\0"))),
    Case("ipv4-payload", "GENEVE_PROTOCOL", edited(GENEVE, b44=0x08, b45=0x00), vpc_known=False),
    Case("beyond-packet", "GENEVE_OPTIONS_TRUNCATED", edited(GENEVE, b42=0x3F)),
    Case("beyond-options", "GENEVE_OPTION_LENGTH", inside(GOOD[4], options=option(0x0102, 1)[:3] + b"\x01")),
    Case("critical", "GENEVE_CRITICAL_OPTION", inside(GOOD[4], options=option(0x0102, 0x81, b"abcd"))),
    Case("critical-second", "GENEVE_CRITICAL_OPTION", inside(GOOD[4], options=option(1, 1) + option(0xFF01, 0x80))),
    Case("any", "UNKNOWN_IDENTITY", inside(GOOD[4], options=option(0xFF01, 0x83, bytes(16))), vpc_known=False),
    Case("from-geneve-to-vxlan", "IDENTITY_LOST", inside(GOOD[4], options=identity_option(7, 9)), shared_vni),
    *(
        Case(f"{kind:x}-{size}", "OPTION_MALFORMED", inside(GOOD[4], options=option(0xFF01, kind, bytes(size))))
        for kind, size in ((1, 0), (1, 8), (1, 20), (2, 0), (0x83, 12), (0x83, 20), (0x85, 0))
    ),
    *(
        Case(f"{kind:x}-twice", "OPTION_MALFORMED", inside(GOOD[4], options=option(0xFF01, kind, bytes(size)) * 2))
        for kind, size in ((1, 4), (1, 16), (2, 8), (4, 8), (0x83, 16))
    ),
    Case("no-i-flag", "VXLAN_FLAGS", edited(ON["vxlan"], b42=0xF7), vpc_known=False),
    Case("geneve", "UNKNOWN_VNI", inside(GOOD[4], vni=UNKNOWN_VNI), vpc_known=False),
    Case("vxlan", "UNKNOWN_VNI", inside(GOOD[6], "vxlan", vni=UNKNOWN_VNI), vpc_known=False),
    Case("zero", "UNKNOWN_VNI", inside(GOOD[6], vni=0), vpc_known=False),
    Case("unjudged-inner", "UNKNOWN_VNI", inside(b"garbage", vni=UNKNOWN_VNI), vpc_known=False),
    Case("unjudged-option", "UNKNOWN_VNI", inside(GOOD[4], vni=0, options=option(1, 0x80)), vpc_known=False),
]

INNER_CASES = [
    Case("empty", "INNER_TRUNCATED", inside(b"")),
    Case("in-ethernet", "INNER_TRUNCATED", inside(bytes(GOOD[4])[:13])),
    Case("in-ipv4", "INNER_TRUNCATED", inside(bytes(GOOD[4])[:33], "vxlan")),
    Case("in-ipv6", "INNER_TRUNCATED", inside(bytes(GOOD[6])[:53])),
    Case("in-arp", "INNER_TRUNCATED", inside(bytes(arp_request(R, FRONT.gateway(4)))[:41])),
    Case("in-icmpv6", "INNER_TRUNCATED", inside(inner_ip(6, plen=7, nh=58))),
    Case("vlan", "INNER_ETHERTYPE", inside(Ether(src=A.mac, dst=ROUTER_MAC) / Dot1Q(vlan=3) / GOOD[4][IP])),
    Case("unknown", "INNER_ETHERTYPE", inside(Ether(src=A.mac, dst=ROUTER_MAC, type=0x88CC) / Raw(bytes(46)))),
    Case("802.3", "INNER_ETHERTYPE", inside(Ether(src=A.mac, dst=ROUTER_MAC, type=46) / Raw(bytes(46)))),
    Case("ipv4-version", "INNER_IP_HEADER", inside(inner_ip(4, version=6))),
    Case("ipv4-header", "INNER_IP_HEADER", inside(inner_ip(4, ihl=4))),
    Case("ipv6-version", "INNER_IP_HEADER", inside(inner_ip(6, version=4), "vxlan")),
    Case("ipv6-mapped", "INNER_IP_HEADER", inside(inner_ip(6, dst=f"::ffff:{R.address(4)}"))),
    Case("ipv6-from-mapped", "INNER_IP_HEADER", inside(inner_ip(6, src=f"::ffff:{R.address(4)}"))),
    Case("ipv4-longer", "INNER_IP_LENGTH", inside(inner_ip(4, len=len(GOOD[4]) - 14 + 1))),
    Case("ipv4-shorter", "INNER_IP_LENGTH", inside(inner_ip(4, len=19))),
    Case("ipv4-options-longer", "INNER_IP_LENGTH", inside(inner_ip(4, ihl=15))),
    Case("ipv6-longer", "INNER_IP_LENGTH", inside(inner_ip(6, plen=len(GOOD[6]) - 54 + 1))),
    Case("padding", "INNER_IP_LENGTH", inside(inner_ip(4, len=len(GOOD[4]) - 14 + 1)) + bytes(40)),
    Case("ipv4", "INNER_MULTICAST", inside(inner_ip(4, dst="224.0.0.251"))),
    Case("limited-broadcast", "INNER_MULTICAST", inside(inner_ip(4, dst="255.255.255.255"))),
    Case("ipv4-mac", "INNER_MULTICAST", inside(datagram(4, A, R.address(4), dst_mac="ff:ff:ff:ff:ff:ff"))),
    Case("ipv6", "INNER_MULTICAST", inside(inner_ip(6, dst="ff02::fb"))),
    Case("ipv6-mac", "INNER_MULTICAST", inside(datagram(6, A, R.address(6), dst_mac="33:33:00:00:00:fb"))),
    Case("ipv4-1", "TTL_EXPIRED", inside(datagram(4, A, R.address(4), ttl=1))),
    Case("ipv4-0", "TTL_EXPIRED", inside(datagram(4, A, R.address(4), ttl=0), "vxlan")),
    Case("ipv6-1", "TTL_EXPIRED", inside(datagram(6, A, R.address(6), ttl=1))),
    Case("ipv6-0-divider", "TTL_EXPIRED", inside(datagram(6, A, S.address(6), ttl=0)), divider),
    Case("reply", "ARP_MALFORMED", inside(arp_request(R, FRONT.gateway(4), op=2))),
    Case("no-ethernet", "ARP_MALFORMED", inside(arp_request(R, FRONT.gateway(4), hwtype=6))),
    Case("no-ipv4", "ARP_MALFORMED", inside(arp_request(R, FRONT.gateway(4), ptype=0x86DD))),
    Case("sizes", "ARP_MALFORMED", inside(edited(arp_request(R, FRONT.gateway(4)), b18=8))),
    Case("other-network", "ARP_UNANSWERED", inside(arp_request(R, BACK.gateway(4)))),
    Case("stranger-to-networks", "ARP_UNANSWERED", inside(arp_request(S, BACK.gateway(4))), divider),
    Case("no-bouncer", "ARP_UNANSWERED", inside(arp_request(R, FRONT.gateway(4))), host),
    Case("other-network", "ND_UNANSWERED", inside(solicitation(R, BACK.gateway(6)))),
    Case("no-bouncer", "ND_UNANSWERED", inside(solicitation(R, FRONT.gateway(6))), host),
    Case("arp", "DUPLICATE_ADDRESS_PROBE", inside(arp_request(R, R.address(4)))),
    Case("arp-probe", "DUPLICATE_ADDRESS_PROBE", inside(arp_request(R, R.address(4), psrc="0.0.0.0"))),
    Case("nd", "DUPLICATE_ADDRESS_PROBE", inside(solicitation(R, R.address(6), Raw(b""), src="::"))),
]

ND = solicitation(R, FRONT.gateway(6))


def nd_message(message: Any) -> Any:
    return Ether(src=R.mac, dst=ROUTER_MAC) / IPv6(src=R.address(6), dst=FRONT.gateway(6), hlim=255) / message


def ns_with_hops(hops: int) -> Any:
    message = ND.copy()
    message[IPv6].hlim = hops
    return message


def ns_bytes(cut: int = 0, extra: bytes = b"") -> Any:
    """A solicitation whose message is shortened or has more options, its lengths and checksum right."""
    from scapy.layers.inet6 import in6_chksum

    body = bytes(ND["ICMPv6ND_NS"])
    body = body[: len(body) - cut] + extra
    header = IPv6(src=R.address(6), dst=ND[IPv6].dst, hlim=255, nh=58, plen=len(body))
    body = body[:2] + b"\0\0" + body[4:]
    body = body[:2] + in6_chksum(58, header, body).to_bytes(2, "big") + body[4:]
    return Ether(src=R.mac, dst=ND[Ether].dst) / header / Raw(body)


ND_CASES = [
    Case("hop-limit", "ND_MALFORMED", inside(ns_with_hops(254))),
    Case("advertisement", "ND_MALFORMED", inside(nd_message(ICMPv6ND_NA(tgt=R.address(6))))),
    Case("router-solicitation", "ND_MALFORMED", inside(nd_message(ICMPv6ND_RS()))),
    Case("checksum", "ND_MALFORMED", inside(edited(ND, b57=bytes(ND)[57] ^ 1))),
    Case("code", "ND_MALFORMED", inside(edited(ND, b55=1))),
    Case("target-multicast", "ND_MALFORMED", inside(edited(ND, b62=0xFF))),
    Case("short", "ND_MALFORMED", inside(ns_bytes(cut=12))),
    Case("half-option", "ND_MALFORMED", inside(ns_bytes(cut=4))),
    Case("option-of-length-0", "ND_MALFORMED", inside(ns_bytes(extra=bytes(8)))),
    Case("option-beyond-end", "ND_MALFORMED", inside(ns_bytes(extra=b"\x0e\x02" + bytes(6)))),
    Case("too-many-options", "ND_MALFORMED", inside(ns_bytes(extra=(b"\x0e\x01" + bytes(6)) * 6))),
]

PROCEDURE_CASES = [
    Case("bounced-4", "ENDPOINT_UNKNOWN", inside(retarget(FRONT, GHOST_HOST))),
    Case("bounced-6", "ENDPOINT_UNKNOWN", inside(retarget(FRONT, GHOST_HOST, 6), "vxlan")),
    Case("gateway-tcp", "ENDPOINT_UNKNOWN", inside(datagram(4, R, FRONT.gateway(4), tcp=True)), host),
    Case("gateway-udp", "ENDPOINT_UNKNOWN", inside(datagram(6, R, FRONT.gateway(6))), divider),
    Case("came-from-a-peer", "PEERING_NOT_TRANSITIVE", inside(datagram(4, V, THEIRS.address(4, 32))), crossing),
    Case("came-from-nowhere", "PEERING_NOT_TRANSITIVE", inside(from_nowhere(V.address(4))), crossing),
    Case("ipv6", "PEER_UNKNOWN", inside(retarget(V, family=6)), crossing_to_nobody),
    Case("ipv4", "NETWORK_UNKNOWN", inside(retarget(NOWHERE, 5)), divider),
    Case("ipv6", "NETWORK_UNKNOWN", inside(retarget(NOWHERE, 5, 6), "vxlan"), divider),
    Case("empty", "NO_DIVIDER", inside(retarget(S)), no_dividers),
    Case("empty", "NO_BOUNCER", inside(retarget(S)), no_bouncers),
    Case("bounce", "NEXT_HOP_UNRESOLVED", inside(GOOD[4]), endpoint_on(UNRESOLVED.slot)),
    Case("no-slot", "NEXT_HOP_UNRESOLVED", inside(GOOD[4]), endpoint_on(9999)),
    Case("bounce", "PACKET_TOO_BIG", inside(GOOD[4]), narrow(bouncer)),
    Case("divide", "PACKET_TOO_BIG", inside(retarget(S, family=6), "vxlan"), narrow(divider)),
    Case("bounce", "FORWARD_TO_SELF", inside(GOOD[6]), endpoint_on(ME.slot)),
]

TRANSIT_CASES = [*OUTER_CASES, *INNER_CASES, *ND_CASES, *PROCEDURE_CASES]


@pytest.mark.parametrize("case", TRANSIT_CASES, ids=str)
def test_transit_refuses(droplet: Testbed, case: Case) -> None:
    """Refused for this reason and no other; passed frames are untouched, and nothing else is counted."""
    case.setup(droplet)
    result = droplet.transit(case.frame)
    passes = drop_reasons.by_name()[case.reason].verdict == "pass"
    assert droplet.counted() == {("drop", case.reason): {"packets": 1, "bytes": len(case.frame)}} | (
        {("vpc", RED.slot): {"dropped_packets": 1}} if case.vpc_known else {}
    )
    assert result.retval == (XDP_PASS if passes else XDP_DROP)
    if passes:
        assert (result.frame, result.metadata) == (case.frame, b"")


# ---- the agent

FROM_A = {family: datagram(family, A, R.address(family)) for family in FAMILIES}


def no_agent(droplet: Testbed) -> None:
    droplet.as_host()
    droplet.tables.agents.delete(A.ifindex)


def agent_without(**fields: Any) -> Setup:
    def setup(droplet: Testbed) -> None:
        droplet.as_host()
        droplet.agent(A, **fields)

    return setup


def agent_no_bouncer(droplet: Testbed) -> None:
    droplet.as_host()
    droplet.network(FRONT)


def agent_no_divider(droplet: Testbed) -> None:
    bouncer(droplet)
    droplet.hop_set(DIVIDERS_SLOT, ())


def agent_unresolved(droplet: Testbed) -> None:
    droplet.as_host()
    droplet.network(FRONT, UNRESOLVED)


def agent_to_self(droplet: Testbed) -> None:
    droplet.as_host()
    droplet.network(FRONT, ME)


def agent_unknown_vpc(droplet: Testbed) -> None:
    bouncer(droplet)
    droplet.tables.vpcs.delete(RED.vni)


def agent_with_routes(droplet: Testbed) -> None:
    droplet.as_host()
    droplet.agent(A, network_flags=NETWORK_HAS_ROUTES)
    droplet.route(FRONT, "::", 0, ROUTE_BLACKHOLE)


def agent_to_substrate(link: int) -> Callable[[Testbed], None]:
    """Everything goes there; `link`: the interface, 0 for none."""

    def setup(droplet: Testbed) -> None:
        droplet.as_host()
        droplet.agent(A, network_flags=NETWORK_HAS_ROUTES)
        droplet.route(FRONT, "0.0.0.0", 0, ROUTE_SUBSTRATE)
        droplet.route(FRONT, "::", 0, ROUTE_SUBSTRATE)
        droplet.tables.substrate_link.put(0, link)

    return setup


def agent_routed_to_nobody(droplet: Testbed) -> None:
    droplet.as_host()
    droplet.agent(A, network_flags=NETWORK_HAS_ROUTES)
    droplet.route(FRONT, "0.0.0.0", 0, ROUTE_ENDPOINT, S.mac)


def agent_forwarding(action: int, bits: int = 24) -> Callable[[Testbed], None]:
    """It may forward from BACK, or may not; everything goes into the substrate."""

    def setup(droplet: Testbed) -> None:
        agent_to_substrate(link=7)(droplet)
        droplet.agent(A, network_flags=NETWORK_HAS_ROUTES, flags=ENDPOINT_FORWARDING)
        droplet.source(A, "0.0.0.0", 0, action)
        droplet.source(A, "::", 0, action)

    return setup


def of_tunnel(port: int) -> Any:
    """A tunnel's packet that an endpoint makes itself."""
    frame = retarget(S)
    frame[UDP].dport = port
    return frame


def agent_crossing_to_nobody(droplet: Testbed) -> None:
    crossing_to_nobody(droplet)
    droplet.agent(A, network_flags=NETWORK_ROUTED_HERE)


def agent_divider(droplet: Testbed) -> None:
    divider(droplet)
    droplet.agent(A, network_flags=2)


AGENT_CASES = [
    Case("none", "AGENT_UNCONFIGURED", bytes(FROM_A[4]), no_agent, vpc_known=False),
    Case("ipv4", "SPOOFED_MAC", bytes(datagram(4, A, R.address(4), src_mac=B.mac)), host),
    Case("arp", "SPOOFED_MAC", bytes(arp_request(B, FRONT.gateway(4))), host),
    Case("nd", "SPOOFED_MAC", bytes(solicitation(B, FRONT.gateway(6))), host),
    Case("ipv4", "SPOOFED_ADDRESS", bytes(datagram(4, B, R.address(4), src_mac=A.mac)), host),
    Case("ipv6", "SPOOFED_ADDRESS", bytes(datagram(6, B, R.address(6), src_mac=A.mac)), host),
    Case("link-local", "SPOOFED_ADDRESS", bytes(inner_ip(6, src=LINK_LOCAL)), host),
    Case("mapped", "INNER_IP_HEADER", bytes(inner_ip(6, src=f"::ffff:{A.address(4)}")), host),
    Case("ipv4-not-given", "SPOOFED_ADDRESS", bytes(FROM_A[4]), agent_without(addr4=bytes(16))),
    Case("ipv6-not-given", "SPOOFED_ADDRESS", bytes(inner_ip(6, src="::")), agent_without(addr6=bytes(16))),
    Case(
        "ping-of-gateway",
        "SPOOFED_ADDRESS",
        bytes(ping(4, B.address(4), FRONT.gateway(4), src_mac=A.mac, dst_mac=ROUTER_MAC)),
        host,
    ),
    Case("mac", "SPOOFED_ARP", bytes(arp_request(A, FRONT.gateway(4), hwsrc=B.mac)), host),
    Case("address", "SPOOFED_ARP", bytes(arp_request(A, FRONT.gateway(4), psrc=B.address(4))), host),
    Case("probe", "SPOOFED_ARP", bytes(arp_request(A, B.address(4), psrc="0.0.0.0")), host),
    Case("address", "SPOOFED_ND", bytes(solicitation(A, FRONT.gateway(6), src=B.address(6))), host),
    Case("mac", "SPOOFED_ND", bytes(solicitation(A, FRONT.gateway(6), ICMPv6NDOptSrcLLAddr(lladdr=B.mac))), host),
    Case("probe", "SPOOFED_ND", bytes(solicitation(A, B.address(6), Raw(b""), src="::")), host),
    Case("announcement", "DUPLICATE_ADDRESS_PROBE", bytes(arp_request(A, A.address(4))), host),
    Case("arp-probe", "DUPLICATE_ADDRESS_PROBE", bytes(arp_request(A, A.address(4), psrc="0.0.0.0")), host),
    Case("nd-probe", "DUPLICATE_ADDRESS_PROBE", bytes(solicitation(A, A.address(6), Raw(b""), src="::")), host),
    Case("nd-link-local", "DUPLICATE_ADDRESS_PROBE", bytes(solicitation(A, LINK_LOCAL, Raw(b""), src="::")), host),
    Case("other-network", "ARP_UNANSWERED", bytes(arp_request(A, BACK.gateway(4))), host),
    Case("other-network", "ND_UNANSWERED", bytes(solicitation(A, BACK.gateway(6))), host),
    Case(
        "no-ipv6",
        "ND_UNANSWERED",
        bytes(solicitation(A, FRONT.gateway(6), src=LINK_LOCAL)),
        agent_without(addr6=bytes(16), gateway6=bytes(16), prefix6=0),
    ),
    Case("reply", "ARP_MALFORMED", bytes(arp_request(A, FRONT.gateway(4), op=2)), host),
    Case(
        "router-solicitation",
        "ND_MALFORMED",
        bytes(
            Ether(src=A.mac, dst="33:33:00:00:00:02") / IPv6(src=LINK_LOCAL, dst="ff02::2", hlim=255) / ICMPv6ND_RS()
        ),
        host,
    ),
    Case("mdns", "INNER_MULTICAST", bytes(inner_ip(4, dst="224.0.0.251")), host),
    Case("lldp", "INNER_ETHERTYPE", bytes(Ether(src=A.mac, dst=ROUTER_MAC, type=0x88CC) / Raw(bytes(46))), host),
    Case("vlan", "INNER_ETHERTYPE", bytes(Ether(src=A.mac, dst=ROUTER_MAC) / Dot1Q(vlan=3) / FROM_A[4][IP]), host),
    Case("truncated", "INNER_TRUNCATED", bytes(arp_request(A, FRONT.gateway(4)))[:41], host),
    Case("header", "INNER_IP_HEADER", bytes(inner_ip(4, ihl=4)), host),
    Case("length", "INNER_IP_LENGTH", bytes(FROM_A[6])[:-1], host),
    Case("into-other-network", "TTL_EXPIRED", bytes(datagram(4, A, C.address(4), ttl=1)), host),
    Case("gateway-tcp", "ENDPOINT_UNKNOWN", bytes(datagram(4, A, FRONT.gateway(4), tcp=True)), host),
    Case("bounced", "ENDPOINT_UNKNOWN", bytes(retarget(FRONT, GHOST_HOST)), bouncer),
    Case("route", "ROUTE_BLACKHOLE", bytes(retarget(S, family=6)), agent_with_routes),
    Case("no-link", "SUBSTRATE_UNREADY", bytes(FROM_A[6]), agent_to_substrate(link=0)),
    Case("geneve", "SUBSTRATE_TUNNEL", bytes(of_tunnel(6081)), agent_to_substrate(link=7)),
    Case("vxlan", "SUBSTRATE_TUNNEL", bytes(of_tunnel(4789)), agent_to_substrate(link=7)),
    Case("hidden", "SUBSTRATE_TUNNEL", bytes(inner_ip(6, nh=135)), agent_to_substrate(link=7)),
    Case("route", "APPLIANCE_GONE", bytes(retarget(S)), agent_routed_to_nobody),
    Case("untold", "FOREIGN_SOURCE", bytes(inner_ip(4, src=S.address(4))), agent_forwarding(0)),
    Case("peers", "FOREIGN_SOURCE", bytes(inner_ip(6, src=S.address(6))), agent_forwarding(ROUTE_BLACKHOLE)),
    *(
        Case(
            source,
            "FOREIGN_SOURCE",
            bytes(inner_ip(6 if ":" in source else 4, src=source)),
            agent_forwarding(ROUTE_VPC),
        )
        for source in (
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "255.1.2.3",
            "::1",
            "fe80::2",
            "ff02::1",
        )
    ),
    Case("foreign", "FOREIGN_SUBSTRATE", bytes(inner_ip(4, src=S.address(4))), agent_forwarding(ROUTE_VPC)),
    Case("peer-untold", "PEER_UNKNOWN", bytes(retarget(V)), agent_crossing_to_nobody),
    Case("divided", "NETWORK_UNKNOWN", bytes(retarget(NOWHERE, 5)), agent_divider),
    Case("bouncer-alone", "NO_DIVIDER", bytes(retarget(S)), agent_no_divider),
    Case("none", "NO_BOUNCER", bytes(FROM_A[4]), agent_no_bouncer),
    Case("into-vxlan", "IDENTITY_LOST", bytes(FROM_A[4]), identity_to_vxlan),
    Case("silent", "NEXT_HOP_UNRESOLVED", bytes(FROM_A[6]), agent_unresolved),
    Case("own", "FORWARD_TO_SELF", bytes(FROM_A[4]), agent_to_self),
    Case("ipv4", "PACKET_TOO_BIG", bytes(FROM_A[4]), narrow(host)),
    Case("ipv6", "PACKET_TOO_BIG", bytes(FROM_A[6]), narrow(host)),
    Case("never-to-the-hosts-stack", "UNKNOWN_VNI", bytes(retarget(S)), agent_unknown_vpc),
]


@pytest.mark.parametrize("case", AGENT_CASES, ids=str)
def test_agent_refuses(droplet: Testbed, case: Case) -> None:
    """Always dropped, whatever the verdict of the reason: nothing of an endpoint reaches the host's stack."""
    case.setup(droplet)
    result = droplet.send(case.frame)
    expected: dict[tuple[str, Any], dict[str, int]] = {("drop", case.reason): {"packets": 1, "bytes": len(case.frame)}}
    if case.vpc_known:
        expected |= {("vpc", RED.slot): {"dropped_packets": 1}, ("endpoint", A.slot): {"dropped_packets": 1}}
    assert droplet.counted() == expected
    assert result.retval == TC_SHOT


def test_agent_refuses_what_the_kernel_will_not_encapsulate(droplet: Testbed) -> None:
    """A GSO packet of no known type, which only a test run can make."""
    droplet.as_host()
    result = droplet.send(FROM_A[4], gso_size=20)
    assert result.retval == TC_SHOT
    assert droplet.counted()["drop", "REWRITE_FAILED"]["packets"] == 1


def test_a_frame_whose_note_finds_no_room_is_dropped() -> None:
    """XDP: what is in front of the frame is full already. It must not go on to the host's stack without its note."""
    droplet = Testbed(send_by_tc=1)
    try:
        droplet.as_bouncer()
        frame = tunnel("geneve", datagram(4, A, R.address(4)), src=HOST)
        result = test_run.run_xdp(droplet.programs.transit.fd, frame, metadata=bytes(208))
        assert result.retval == XDP_DROP
        assert droplet.counted() == {
            ("drop", "REWRITE_FAILED"): {"packets": 1, "bytes": len(frame)},
            ("vpc", RED.slot): {"dropped_packets": 1},
        }
    finally:
        droplet.close()


SEPARATE = {
    "REQUEST_LIMITED": "test_traps.py",
    "REWRITE_FAILED": "above",
    "DELIVERY_FAILED": "test_live.py",
    "BYPASS_SUBSTRATE": "test_bypass.py",
    "SUBSTRATE_SOURCE": "test_substrate.py",
    "SUBSTRATE_DESTINATION": "test_substrate.py",
    "OUTER_EXTENSION": "test_ipv6_substrate.py",
    "NO_COMMON_FAMILY": "test_ipv6_substrate.py",
} | {f"PROXY_{name}": "test_proxy.py" for name in ("NO_FLOW", "PROTOCOL", "FRAGMENT", "FULL", "GONE")}
SEPARATE |= {
    f"POLICY_{name}": "test_policy.py"
    for name in ("UNREADABLE", "INGRESS_DENIED", "INGRESS_DEFAULT", "EGRESS_DENIED", "EGRESS_DEFAULT")
}
SEPARATE |= {f"NETWORK_ACL_{name}": "test_network_acl.py" for name in ("DENIED", "DEFAULT")}
SEPARATE |= {
    "POLICY_FLOWS_FULL": "test_policy.py",
    "POLICY_FLOW_ENDED": "test_policy.py",
    "SERVICE_WITHOUT_MEMBER": "test_services.py",
    "MEMBER_UNKNOWN": "test_services.py",
    "SERVICE_PROTOCOL": "test_services.py",
    "FLOW_TABLE_FULL": "test_services.py",
    "NO_LISTENER": "test_load_balancer.py",
    "PUBLIC_SOURCE": "test_public.py",
    "VIP_OPTION": "test_public.py",
    "LIMIT_EGRESS": "test_limits.py",
    "LIMIT_INGRESS": "test_limits.py",
    "UPLINK_FULL": "test_limits.py",
    "FUNCTION_REFUSED": "test_functions.py",
    "FUNCTION_MISSING": "tests/transit/test_network_functions.py",
}


def test_every_reason_is_provoked() -> None:
    """The list above is complete."""
    provoked = {case.reason for case in (*TRANSIT_CASES, *AGENT_CASES)} | SEPARATE.keys()
    assert provoked == set(drop_reasons.by_name())
