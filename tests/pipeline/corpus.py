# SPDX-License-Identifier: Apache-2.0
"""The packets that every target of a pipeline is given: one fixed list of (name, frame), the same in each run.

`corpus()` has valid frames of both families, bare, in VLANs and in both tunnels; each of them cut at places where a
parser has to look, and with bytes changed; and frames that are made to be misread. Names are unique and say what the
frame is, so that a failure reads by itself. Targets that cannot take a kind of frame filter by name (`whole` lists
the valid ones alone). Frames are at most MAX_FRAME long. The address plan is that of tests/unit/pipeline/frames.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from scapy.all import (
    ICMP,
    IP,
    TCP,
    UDP,
    VXLAN,
    Dot1Q,
    Ether,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
)
from scapy.contrib.geneve import GENEVE

from tests.unit.pipeline import frames as f

Named = tuple[str, bytes]
MAX_FRAME = 1514 + 100
_SEED = 7348


@cache
def corpus() -> list[Named]:
    """Everything: valid, cut, changed, hostile."""
    found = [*whole(), *_cut(), *_changed(), *hostile()]
    assert len({name for name, _ in found}) == len(found)
    return found


@cache
def whole() -> list[Named]:
    """Valid frames: each inner one bare, in the fabric's VXLAN, in Geneve, in the world's VLAN and in others."""
    found: list[Named] = []
    for name, inner in _inner().items():
        data = bytes(inner)
        found += [
            (name, data),
            (f"{name} in fabric vxlan", f.in_vxlan(data)),
            (f"{name} in vlan 100", f.in_vlan(data)),
        ]
    for name in ("tcp syn", "udp", "echo", "echo6", "arp", "nd"):
        data = bytes(_inner()[name])
        found += [
            (f"{name} in fabric vxlan of tenant B", f.in_vxlan(data, vni=6)),
            (f"{name} in fabric vxlan of a vni no tenant has", f.in_vxlan(data, vni=0xFF0005)),
            (f"{name} in vxlan without a tag", _untagged(f.in_vxlan(data))),
            (f"{name} in vxlan of vlan 3", f.in_vxlan(data, vid=3)),
            (f"{name} in geneve", in_geneve(data)),
            (f"{name} in geneve of vlan 2", f.in_vlan(in_geneve(data), 2)),
            (f"{name} in geneve with options", in_geneve(data, options=bytes.fromhex("ff010001deadbeef"))),
            (f"{name} in vxlan over ipv6", in_vxlan6(data)),
            (f"{name} in vlan 2", f.in_vlan(data, 2)),
            (f"{name} in vlan 0", f.in_vlan(data, 0)),
            (f"{name} in vlan 4095", f.in_vlan(data, 4095)),
            (f"{name} in two tags", f.in_vlan(f.in_vlan(data, 100), 7)),
            (f"{name} in vxlan in vxlan", f.in_vxlan(_untagged(f.in_vxlan(data)), vni=5)),
        ]
    return found


def in_geneve(inner: bytes, vni: int = 5, options: bytes = b"", critical: bool = False) -> bytes:
    """Geneve as a foreign host would send it, without a tag."""
    outer = Ether(src=f.MAC_B, dst=f.MAC_A) / IP(src="192.0.2.2", dst="192.0.2.1")
    tunnel = GENEVE(vni=vni, proto=0x6558, optionlen=len(options) // 4, critical=critical, options=options)
    return bytes(outer / UDP(sport=50000, dport=6081, chksum=0) / tunnel / Raw(inner))


def in_vxlan6(inner: bytes, vni: int = 5) -> bytes:
    """VXLAN over IPv6, in the fabric's VLAN."""
    outer = Ether(src=f.MAC_B, dst=f.MAC_A) / Dot1Q(vlan=f.FABRIC_VLAN) / IPv6(src="2001:db8::2", dst="2001:db8::1")
    return bytes(outer / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=vni, flags=8) / Raw(inner))


@cache
def _inner() -> dict[str, Any]:
    """What tenants send, by name: both families, all transports, answers from the world, errors."""
    found: dict[str, Any] = {}
    for family, inside, server in (("", f.INSIDE, f.SERVER), ("6", f.INSIDE6, f.SERVER6)):
        for flags, word in (("S", "syn"), ("SA", "syn ack"), ("A", "ack"), ("FA", "fin"), ("R", "rst"), ("", "null")):
            found[f"tcp{family} {word}"] = f.tcp(inside, server, flags=flags)
        found[f"udp{family}"] = f.udp(inside, server)
        found[f"udp{family} from low ports"] = f.udp(inside, server, 1, 2)
        found[f"udp{family} to the pool"] = f.udp(server, f.PUBLIC6 if family else f.PUBLIC, 53, 40000)
        found[f"udp{family} without a checksum"] = _no_sum(f.udp(inside, server))
        found[f"tcp{family} long"] = f.tcp(inside, server, flags="A") / Raw(bytes(1400))
    found |= {
        "echo": f.echo(),
        "echo reply": f.echo(reply=True),
        "timestamp": f.eth() / IP(src=f.INSIDE, dst=f.SERVER) / ICMP(type=13, id=7),
        "echo6": f.echo6(),
        "echo6 reply": f.eth() / IPv6(src=f.SERVER6, dst=f.INSIDE6) / ICMPv6EchoReply(id=7, data=b"ping"),
        "arp": f.arp(),
        "nd": f.neighbour(),
        "another protocol": f.eth() / IP(src=f.INSIDE, dst=f.SERVER, proto=89) / Raw(bytes(30)),
        "another protocol 6": f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6, nh=89) / Raw(bytes(30)),
        "hop by hop options": f.eth()
        / IPv6(src=f.INSIDE6, dst=f.SERVER6, nh=0)
        / Raw(b"\x11\0\1\4\0\0\0\0" + bytes(8)),
        "lldp": Ether(src=f.MAC_A, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(46)),
        "ip options": f.eth() / IP(src=f.INSIDE, dst=f.SERVER, options=[b"\x94\x04\0\0"]) / UDP(sport=1, dport=2),
        "first fragment": f.eth() / IP(src=f.INSIDE, dst=f.SERVER, id=9, flags="MF") / UDP(sport=1, dport=2, len=64),
        "later fragment": f.eth() / IP(src=f.INSIDE, dst=f.SERVER, id=9, frag=5, proto=17) / Raw(bytes(40)),
        "first fragment of ipv6": _part6(1, 0) / UDP(sport=1, dport=2, len=64) / Raw(bytes(40)),
        "first fragment of ipv6, tcp": _part6(1, 0, 6) / TCP(sport=40000, dport=80, flags="S") / Raw(bytes(20)),
        "later fragment of ipv6": _part6(0, 6) / Raw(bytes(40)),
        "only fragment of ipv6": _part6(0, 0, number=2) / UDP(sport=1, dport=2),
        "padded": bytes(f.udp()) + bytes(13),
        "icmp error": _error(f.INSIDE, f.SERVER, UDP(sport=40000, dport=53) / b"odd"),
        "icmp error of tcp": _error(f.INSIDE, f.SERVER, TCP(sport=40000, dport=80, flags="S")),
        "icmp error of echo": _error(f.INSIDE, f.SERVER, ICMP(id=7) / b"ping"),
        "icmp error from a router": _error(f.INSIDE, f.SERVER, UDP(sport=40000, dport=53) / b"odd", "198.51.100.99"),
        "icmp error to someone else": _error(f.INSIDE, f.SERVER, UDP(sport=1, dport=2), to="10.0.0.77"),
        "icmp6 error": f.eth()
        / IPv6(src=f.SERVER6, dst=f.INSIDE6)
        / ICMPv6DestUnreach()
        / IPv6(src=f.INSIDE6, dst=f.SERVER6)
        / UDP(sport=40000, dport=53)
        / b"odd",
    }
    return found


def _error6(more: int, offset: int) -> bytes:
    """An ICMPv6 error about a fragment."""
    about = IPv6(src=f.INSIDE6, dst=f.SERVER6) / IPv6ExtHdrFragment(m=more, offset=offset, id=3, nh=17)
    outer = f.eth() / IPv6(src=f.SERVER6, dst=f.INSIDE6) / ICMPv6DestUnreach()
    return bytes(outer / about / UDP(sport=40000, dport=53, len=64) / b"odd")


def _part6(more: int, offset: int, protocol: int = 17, number: int = 0x12345678) -> Any:
    """IPv6 with a fragment header; the offset counts eight bytes."""
    header = IPv6ExtHdrFragment(m=more, offset=offset, id=number, nh=protocol)
    return f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6) / header


@cache
def hostile() -> list[Named]:
    """Frames that are made to be misread: lengths that lie, headers that contradict themselves, tiny frames."""
    udp, udp6, tcp, vxlan = bytes(f.udp()), bytes(f.udp(f.INSIDE6, f.SERVER6)), bytes(f.tcp()), f.in_vxlan(f.tcp())
    geneve = in_geneve(tcp)
    return [
        ("one byte", b"\xff"),
        ("13 bytes", bytes(13)),
        ("14 bytes of nothing", bytes(14)),
        ("14 bytes of ipv4", bytes(12) + b"\x08\0"),
        ("tag alone", bytes(12) + b"\x81\0\0\x64"),
        ("nine tags", bytes(12) + b"\x81\0\0\x02" * 9 + b"\x08\0" + udp[14:]),
        ("service tag", udp[:12] + b"\x88\xa8\0\x64" + udp[12:]),
        ("total length 0", _at(udp, 16, b"\0\0")),
        ("total length below the header", _at(udp, 16, b"\0\x13")),
        ("total length above the frame", _at(udp, 16, b"\xff\xff")),
        ("ihl 0", _at(udp, 14, b"\x40")),
        ("ihl 15", _at(udp, 14, b"\x4f")),
        ("version 5", _at(udp, 14, b"\x55")),
        ("version 6 as ipv4", _at(udp, 14, b"\x65")),
        ("version 4 as ipv6", _at(udp6, 14, b"\x45")),
        ("ipv6 payload 0", _at(udp6, 18, b"\0\0")),
        ("ipv6 payload too long", _at(udp6, 18, b"\xff\xff")),
        ("udp length 0", _at(udp, 38, b"\0\0")),
        ("udp length 7", _at(udp, 38, b"\0\x07")),
        ("udp length too long", _at(udp, 38, b"\x01\0")),
        ("udp length shorter than the packet", _at(udp, 38, b"\0\x08")),
        ("tcp offset 0", _at(tcp, 46, b"\x00")),
        ("tcp offset beyond the end", _at(tcp, 46, b"\xf0")),
        ("tcp all flags", _at(tcp, 47, b"\xff")),
        ("reserved fragment flag", _at(udp, 20, b"\x80\0")),
        ("vxlan without its flag", _at(vxlan, 46, b"\0")),
        ("vxlan with all flags", _at(vxlan, 46, b"\xff\xff\xff\xff")),
        ("vxlan with reserved bytes", _at(vxlan, 53, b"\xaa")),
        ("vxlan with an outer id of a fragment", _at(vxlan, 24, b"\0\x01")),
        ("vxlan udp length cuts the inner ethernet", _at(vxlan, 42, (8 + 8 + 13).to_bytes(2, "big"))),
        ("vxlan udp length leaves just ethernet", _at(vxlan, 42, (8 + 8 + 14).to_bytes(2, "big"))),
        ("vxlan udp length leaves nothing", _at(vxlan, 42, (8 + 8).to_bytes(2, "big"))),
        ("vxlan with outer ip options", _outer_options(vxlan)),
        ("vxlan behind padding", vxlan + bytes(7)),
        ("geneve version 1", _at(geneve, 42, b"\x40")),
        ("geneve critical", _at(geneve, 43, b"\x40")),
        ("geneve control", _at(geneve, 43, b"\x80")),
        ("geneve of ip", _at(geneve, 44, b"\x08\0")),
        ("geneve with options beyond the end", _at(geneve, 42, b"\x3f")),
        ("geneve with the most options", in_geneve(tcp, options=bytes(252))),
        ("arp of another hardware", _at(bytes(f.arp()), 14, b"\0\x06")),
        ("arp with long addresses", _at(bytes(f.arp()), 18, b"\x08\x08")),
        ("arp reply", _at(bytes(f.arp()), 20, b"\0\x02")),
        ("icmp too short", bytes(f.eth() / IP(src=f.INSIDE, dst=f.SERVER, proto=1) / Raw(b"\x08\0\0\0\0\0\0"))),
        ("icmp error with nothing inside", bytes(f.eth() / IP(src=f.SERVER, dst=f.INSIDE) / ICMP(type=3))),
        ("icmp error with a lie inside", _at(bytes(_error(f.INSIDE, f.SERVER, UDP())), 42, b"\x4f")),
        ("icmp error of an error", bytes(_error(f.INSIDE, f.SERVER, ICMP(type=3)))),
        ("icmp error of a later fragment", _at(bytes(_error(f.INSIDE, f.SERVER, UDP())), 48, b"\0\x05")),
        ("icmp6 error of a fragment", _error6(1, 0)),
        ("icmp6 error of a later fragment of ipv6", _error6(1, 5)),
        ("first fragment of icmp6 error", bytes(_part6(1, 0, 58) / Raw(_error6(1, 0)[54:]))),
        ("only fragment of ipv6 with a udp length too long", bytes(_part6(0, 0) / UDP(len=64))),
        ("only fragment of ipv6 with vxlan", bytes(_part6(0, 0) / Raw(vxlan[38:]))),
        ("first fragment of ipv6 with vxlan", bytes(_part6(1, 0) / Raw(vxlan[38:]))),
        ("fragment header of ipv6 cut off", bytes(f.eth() / IPv6(src=f.INSIDE6, dst=f.SERVER6, nh=44) / Raw(bytes(7)))),
        ("fragment header of ipv6 alone", bytes(_part6(0, 0))),
        ("fragment header of ipv6 twice", bytes(_part6(0, 0, 44) / IPv6ExtHdrFragment(nh=17) / UDP())),
        ("fragment of ipv6 with reserved bits", _at(bytes(_part6(1, 0) / UDP()), 55, b"\xff\0\x07")),
        ("fragment of ipv6 of icmp4", bytes(_part6(0, 2, 1) / Raw(bytes(16)))),
        ("land", bytes(f.udp(f.INSIDE, f.INSIDE, 7, 7))),
        ("checksum 0xffff", _at(udp, 40, b"\xff\xff")),
        ("full size in vxlan", f.in_vxlan(f.tcp(flags="A") / Raw(bytes(1400)))),
    ]


def _cut() -> Iterator[Named]:
    """Frames that end where a parser has to look: short of a header's end, and one byte around."""
    for name, frame in _bases():
        edges = {12, 14, 16, 18, 22, 33, 34, 38, 42, 46, 50, 53, 54, 58, 62, 66, 67, 68, 70, 78, 82, 86, 94, 104, 118}
        for size in sorted(edges | {len(frame) - 1}):
            if size < len(frame):
                yield f"{name} cut to {size}", frame[:size]


def _changed() -> Iterator[Named]:
    """Frames with one to three bytes changed within their headers, by a fixed seed."""
    rng = random.Random(_SEED)
    for name, frame in _bases():
        for turn in range(12):
            changed = bytearray(frame)
            for _ in range(rng.randint(1, 3)):
                changed[rng.randrange(min(len(frame), 120))] = rng.randrange(256)
            yield f"{name} changed {turn}", bytes(changed)


def _bases() -> Iterator[Named]:
    wanted = ("tcp syn", "udp", "echo", "udp6", "echo6", "tcp6 syn", "arp", "nd", "icmp error", "icmp6 error")
    for name in wanted:
        data = bytes(_inner()[name])
        yield f"{name} in fabric vxlan", f.in_vxlan(data)
        yield f"{name} in vlan 100", f.in_vlan(data)
    for name in ("tcp syn", "udp6"):
        data = bytes(_inner()[name])
        yield name, data
        yield f"{name} in geneve", in_geneve(data, options=bytes(8))


def _error(source: str, target: str, inner: Any, router: str = "", to: str = "") -> Any:
    """What comes back for a packet from `source` to `target`."""
    around = f.eth() / IP(src=router or target, dst=to or source) / ICMP(type=3, code=1)
    return around / IP(src=source, dst=target) / inner


def _no_sum(packet: Any) -> Any:
    packet[UDP].chksum = 0
    return packet


def _untagged(frame: bytes) -> bytes:
    return frame[:12] + frame[16:]


def _at(frame: bytes, place: int, new: bytes) -> bytes:
    return frame[:place] + new + frame[place + len(new) :]


def _outer_options(vxlan: bytes) -> bytes:
    """Four bytes of IPv4 options in front of the tagged frame's UDP header; the header's checksum is left wrong."""
    total = int.from_bytes(vxlan[20:22], "big") + 4
    return vxlan[:18] + b"\x46" + vxlan[19:20] + total.to_bytes(2, "big") + vxlan[22:38] + b"\1\1\1\0" + vxlan[38:]
