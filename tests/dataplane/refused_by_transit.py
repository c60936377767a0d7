# SPDX-License-Identifier: Apache-2.0
"""All that Transit refuses, at each header and at each step of the procedure."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from .frames import arp_request, datagram, identity_option, option, tunnel
from .plan import (
    APPLIANCE_MAC,
    BACK,
    FRONT,
    GHOST_HOST,
    HOST,
    ME,
    NOWHERE,
    RED,
    ROUTER_MAC,
    STRANGER,
    THEIRS,
    TUNNELS,
    UNKNOWN_VNI,
    UNRESOLVED,
    A,
    EndpointPlan,
    R,
    S,
    V,
)
from .refusals import (
    GOOD,
    Case,
    Setup,
    bouncer,
    crossing,
    crossing_to_nobody,
    divider,
    edited,
    host,
    inner_ip,
    narrow,
    retarget,
)
from .test_answers import solicitation
from .testbed import Testbed

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
