# SPDX-License-Identifier: Apache-2.0
"""All that an agent refuses of what its endpoint sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from .frames import arp_request, datagram, ping
from .plan import (
    BACK,
    DIVIDERS_SLOT,
    ENDPOINT_FORWARDING,
    FAMILIES,
    FRONT,
    GHOST_HOST,
    ME,
    NETWORK_HAS_ROUTES,
    NETWORK_ROUTED_HERE,
    NOWHERE,
    RED,
    ROUTE_BLACKHOLE,
    ROUTE_ENDPOINT,
    ROUTE_SUBSTRATE,
    ROUTE_VPC,
    ROUTER_MAC,
    UNRESOLVED,
    A,
    B,
    C,
    R,
    S,
    V,
)
from .refusals import Case, Setup, bouncer, crossing_to_nobody, divider, host, inner_ip, narrow, retarget
from .test_answers import LINK_LOCAL, solicitation
from .testbed import Testbed

FROM_A = {family: datagram(family, A, R.address(family)) for family in FAMILIES}


def identity_to_vxlan(droplet: Testbed) -> None:
    droplet.as_host()
    droplet.agent(A, tunnel="vxlan", option_bytes=20, option_flags=1)


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
