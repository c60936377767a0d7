# SPDX-License-Identifier: Apache-2.0
"""Frames made by scapy: the inner frames that endpoints send, and the tunnel packets around them.

Knows nothing of the code under test: lengths and checksums are scapy's.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from .plan import ME, RED, ROUTER_MAC, Address, DropletPlan, EndpointPlan

PORTS = {"geneve": 6081, "vxlan": 4789}
SOURCE_PORT = 0xC123
PAYLOAD = b"the quick brown fox jumps over"
OVERHEAD = 50


def inner_of(frame: bytes) -> bytes:
    """What a tunnel packet over IPv4 without options carries."""
    return frame[OVERHEAD:]


def ip(family: int, src: Address, dst: Address, ttl: int = 64, **fields: Any) -> Any:
    """An IP header of either family."""
    return IP(src=src, dst=dst, ttl=ttl, **fields) if family == 4 else IPv6(src=src, dst=dst, hlim=ttl, **fields)


def datagram(
    family: int,
    sender: EndpointPlan,
    dst: Address,
    *,
    ttl: int = 64,
    src_mac: str | None = None,
    dst_mac: str = ROUTER_MAC,
    sport: int = 4001,
    dport: int = 4002,
    payload: bytes = PAYLOAD,
    tcp: bool = False,
) -> Any:
    """What an endpoint sends: a UDP datagram (or a TCP segment) to an address, over the virtual router."""
    transport = TCP(sport=sport, dport=dport, flags="A") if tcp else UDP(sport=sport, dport=dport)
    ether = Ether(src=src_mac or sender.mac, dst=dst_mac)
    return ether / ip(family, sender.address(family), dst, ttl) / transport / Raw(payload)


def ping(
    family: int, src: Address, dst: Address, *, src_mac: str, dst_mac: str, ttl: int = 64, reply: bool = False
) -> Any:
    """An echo request, or its reply."""
    if family == 4:
        echo = ICMP(type=0 if reply else 8, id=7, seq=3)
    else:
        echo = ICMPv6EchoReply(id=7, seq=3) if reply else ICMPv6EchoRequest(id=7, seq=3)
    return Ether(src=src_mac, dst=dst_mac) / ip(family, src, dst, ttl) / echo / Raw(PAYLOAD)


def arp_request(sender: EndpointPlan, target: Address, **fields: Any) -> Any:
    """Who has `target`?"""
    request = {"op": 1, "hwsrc": sender.mac, "psrc": sender.address(4), "hwdst": "00:00:00:00:00:00", "pdst": target}
    return Ether(src=sender.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(**(request | fields))


def arp_reply(sender: EndpointPlan, target: Address) -> Any:
    """`target` is at the router's MAC."""
    answer = ARP(op=2, hwsrc=ROUTER_MAC, psrc=target, hwdst=sender.mac, pdst=sender.address(4))
    return Ether(src=ROUTER_MAC, dst=sender.mac) / answer


def tunnel(
    kind: str,
    inner: Any,
    *,
    src: DropletPlan,
    dst: DropletPlan = ME,
    src_mac: str | None = None,
    dst_mac: str | None = None,
    vni: int = RED.vni,
    sport: int = SOURCE_PORT,
    options: bytes = b"",
    group: int = 0,
    told: DropletPlan | None = None,
    **ip_fields: Any,
) -> bytes:
    """A tunnel packet, as the wire contract wants it unless told otherwise, around an inner frame.

    `told`: where the first hop says that it set out; VXLAN has no room for that.
    """
    if told and kind == "geneve":
        options = origin_option(told) + options
    ether = Ether(src=src_mac or src.mac, dst=dst_mac or dst.mac)
    addresses = {"src": src.address, "dst": dst.address}
    if ":" in dst.address:
        ip_header = IPv6(**addresses, **({"hlim": 64, "fl": sport} | ip_fields))
    else:
        ip_header = IP(**addresses, **({"ttl": 64, "id": 0, "flags": "DF"} | ip_fields))
    outer = ether / ip_header / UDP(sport=sport, dport=PORTS[kind], chksum=0)
    if kind == "vxlan":
        header = VXLAN(flags=0x88, gpid=group, vni=vni) if group else VXLAN(flags=0x08, vni=vni)
        return bytes(outer / header / Raw(bytes(inner)))
    critical = int(has_critical(options))
    header = bytes(GENEVE(vni=vni, proto=0x6558, optionlen=len(options) // 4, critical=critical))
    return bytes(outer / Raw(header + options + bytes(inner)))


def has_critical(options: bytes) -> bool:
    """Whether Geneve's header has to have its C bit (RFC 8926 3.4)."""
    if len(options) < 4:
        return False
    return options[2] & 0x80 != 0 or has_critical(options[4 + 4 * (options[3] & 0x1F) :])


def option(option_class: int, kind: int, data: bytes = b"") -> bytes:
    """One Geneve option (RFC 8926 3.5)."""
    return option_class.to_bytes(2, "big") + bytes([kind, len(data) // 4]) + data


def identity_option(tenant: int, vpc: int) -> bytes:
    """The option that tells which VPC it is."""
    return option(0xFF01, 0x83, tenant.to_bytes(8, "big") + vpc.to_bytes(8, "big"))


def origin_option(droplet: DropletPlan) -> bytes:
    """RETURN_TO_SENDER: where a packet set out."""
    return option(0xFF01, 0x01, ip_address(droplet.address).packed)
