# SPDX-License-Identifier: Apache-2.0
"""Frames for pipeline tests, built by scapy, and the one address plan that they use.

Tenant A is VNI 5 on the fabric, tenant B is VNI 6 and has the same addresses; the outside world is VLAN 100. The
gateway's fabric address is 192.0.2.1, its peer 192.0.2.2 (RFC 5737); inside 10.0.0.0/24 and 2001:db8:a::/64, the
public pool 203.0.113.0/24 and 2001:db8:ff::/64, a server in the world 198.51.100.7 and 2001:db8:9::7.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scapy.all import ARP, ICMP, IP, TCP, UDP, VXLAN, Dot1Q, Ether, ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, Raw

from mizar.pipeline.description import Pipeline
from mizar.pipeline.reader import read_pipeline

EXAMPLES = Path(__file__).parents[3] / "examples" / "pipelines"
TENANT_A, TENANT_B, WORLD = 0x01000005, 0x01000006, 0x02FF0064
FABRIC_VLAN, WORLD_VLAN = 2, 100
INSIDE, SERVER, PUBLIC = "10.0.0.1", "198.51.100.7", "203.0.113.1"
INSIDE6, SERVER6, PUBLIC6 = "2001:db8:a::1", "2001:db8:9::7", "2001:db8:ff::1"
MAC_A, MAC_B = "02:00:00:00:0a:01", "02:00:00:00:0a:02"


def shipped(name: str) -> Pipeline:
    """A pipeline of examples/pipelines."""
    path = EXAMPLES / f"{name}.yaml"
    return read_pipeline(path.read_text(), str(path))


def eth() -> Any:
    """An inner Ethernet header."""
    return Ether(src=MAC_A, dst=MAC_B)


def in_vxlan(inner: Any, vni: int = 5, vid: int = FABRIC_VLAN) -> bytes:
    """As the fabric carries it."""
    outer = Ether(src=MAC_B, dst=MAC_A) / Dot1Q(vlan=vid) / IP(src="192.0.2.2", dst="192.0.2.1")
    return bytes(outer / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=vni, flags=8) / inner)


def in_vlan(inner: Any, vid: int = WORLD_VLAN) -> bytes:
    """The same frame with a tag."""
    data = bytes(inner)
    return data[:12] + b"\x81\x00" + vid.to_bytes(2, "big") + data[12:]


def tcp(source: str = INSIDE, target: str = SERVER, sport: int = 40000, dport: int = 80, flags: str = "S") -> Any:
    """A TCP segment with some data."""
    return eth() / _ip(source, target) / TCP(sport=sport, dport=dport, flags=flags) / Raw(b"mizar")


def udp(source: str = INSIDE, target: str = SERVER, sport: int = 40000, dport: int = 53) -> Any:
    """A UDP datagram of odd length."""
    return eth() / _ip(source, target) / UDP(sport=sport, dport=dport) / Raw(b"odd")


def echo(source: str = INSIDE, target: str = SERVER, number: int = 7, reply: bool = False) -> Any:
    """A ping."""
    return eth() / IP(src=source, dst=target) / ICMP(type=0 if reply else 8, id=number) / Raw(b"ping")


def echo6(source: str = INSIDE6, target: str = SERVER6) -> Any:
    """A ping over IPv6."""
    return eth() / IPv6(src=source, dst=target) / ICMPv6EchoRequest(id=7, data=b"ping")


def arp() -> Any:
    """A request."""
    return Ether(src=MAC_A, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=INSIDE, pdst="10.0.0.254", hwsrc=MAC_A)


def neighbour() -> Any:
    """A neighbour solicitation."""
    return eth() / IPv6(src=INSIDE6, dst="ff02::1:ff00:fe") / ICMPv6ND_NS(tgt="2001:db8:a::fe")


def _ip(source: str, target: str) -> Any:
    return IPv6(src=source, dst=target) if ":" in source else IP(src=source, dst=target)


def same(frame: bytes) -> bytes:
    """The frame as scapy writes it after computing every length and checksum anew."""
    packet = Ether(frame)
    layer = packet
    while layer:
        for name in ("chksum", "cksum", "len", "plen"):
            if name in getattr(layer, "fields", {}) and not (name == "chksum" and _unset(layer)):
                delattr(layer, name)
        layer = layer.payload
    return bytes(packet)


def _unset(layer: Any) -> bool:
    """A UDP checksum of 0 means none."""
    return bool(layer.name == "UDP" and layer.fields.get("chksum") == 0)
