# SPDX-License-Identifier: Apache-2.0
"""What a frame shows to who reads it: outer headers if there are any, the VPC, the inner packet. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from mizar.oracle.frames import ETHERNET, IPV4, IPV6, Inner, Kind, parse_inner
from mizar.oracle.options import walk_options
from mizar.oracle.outcome import RefusedError
from mizar.oracle.tables import Droplet, Tunnel
from mizar.oracle.tunnel import Outer, Overlay, parse_tunnel
from mizar.trace.report import OUTER

_TUNNELS = {Tunnel.GENEVE: "Geneve", Tunnel.VXLAN: "VXLAN"}
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}


@dataclass(frozen=True, slots=True)
class Sight:
    """`source`, `destination`: of the outer IP header, empty without a tunnel. `vni`: number of the VPC; 0: untold."""

    source: bytes = b""
    destination: bytes = b""
    tunnel: Tunnel | None = None
    vni: int = 0
    option_bytes: int = 0
    inner: Inner | None = None
    vip: bytes = b""
    """Of a VIP option (contracts/wire.md): port, two bytes, address."""


def look(frame: bytes, here: Droplet) -> Sight:
    """Everything that can be read; what is malformed is left out."""
    outer = _outer(frame)
    try:
        if outer is None:
            return Sight(inner=parse_inner(frame))
        around, source, destination = outer
        overlay = parse_tunnel(around)
        number = _number(here, overlay)
        found = Sight(source, destination, around.tunnel, number, overlay.option_bytes)
        inner = parse_inner(overlay.rest[overlay.option_bytes :])
        vip = walk_options(overlay).vip or b""
        return Sight(found.source, destination, around.tunnel, number, overlay.option_bytes, inner, vip)
    except RefusedError:
        return Sight()


def _number(here: Droplet, overlay: Overlay) -> int:
    identity = walk_options(overlay).identity
    return here.identities.get((overlay.vni, *identity), 0) if identity else overlay.vni


def _outer(frame: bytes) -> tuple[Outer, bytes, bytes] | None:
    """The outer headers of a tunnel packet, whoever it is for."""
    if len(frame) < ETHERNET + 20:
        return None
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    ip = frame[ETHERNET:]
    if ethertype == IPV4 and ip[0] == 0x45 and ip[9] == 17:
        source, destination, rest = ip[12:16], ip[16:20], ip[20 : struct.unpack_from("!H", ip, 2)[0]]
    elif ethertype == IPV6 and len(ip) > 40 and ip[6] == 17:
        source, destination, rest = ip[8:24], ip[24:40], ip[40 : 40 + struct.unpack_from("!H", ip, 4)[0]]
    else:
        return None
    if len(rest) < 16:
        return None
    source_port, port, length = struct.unpack_from("!HHH", rest)
    if port not in (Tunnel.GENEVE.value, Tunnel.VXLAN.value) or source_port < 0xC000:
        return None
    return Outer(Tunnel(port), source, source_port, 0, False, length, rest[8:], b""), source, destination


def packet_text(inner: Inner | None) -> str:
    """An inner packet in one line."""
    if inner is None or inner.kind not in (Kind.IPV4, Kind.IPV6):
        return inner.kind.value if inner else "a frame that cannot be read"
    source, destination = str(ip_address(inner.source)), str(ip_address(inner.destination))
    protocol = _PROTOCOLS.get(inner.protocol, f"protocol {inner.protocol}")
    if inner.protocol in (6, 17) and len(inner.payload) >= 4 and not inner.fragment:
        ports = struct.unpack_from("!HH", inner.payload)
        form = "{}:{}" if inner.kind is Kind.IPV4 else "[{}]:{}"
        source, destination = form.format(source, ports[0]), form.format(destination, ports[1])
    return f"{source} → {destination} {protocol}, {len(inner.frame) - ETHERNET} bytes"


def changes(before: Sight, after: Sight) -> list[str]:
    """What a program did to a packet, in words."""
    found: list[str] = []
    if before.tunnel is None and after.tunnel is not None:
        options = f" and {after.option_bytes} bytes of options" if after.option_bytes else ""
        found.append(f"into {_TUNNELS[after.tunnel]}, VNI {after.vni & 0xFFFFFF}{options}")
    elif before.tunnel is not None and after.tunnel is None:
        found.append(f"{_TUNNELS[before.tunnel]} taken off")
    elif before.tunnel is not None and after.tunnel is not None:
        if before.tunnel is not after.tunnel:
            found.append(f"{_TUNNELS[before.tunnel]} → {_TUNNELS[after.tunnel]}")
        if before.vni != after.vni:
            found.append(f"VNI {before.vni & 0xFFFFFF} → {after.vni & 0xFFFFFF}")
        if before.option_bytes != after.option_bytes:
            found.append(f"options: {before.option_bytes} → {after.option_bytes} bytes")
    if after.tunnel is not None and after.destination != before.destination:
        found.append(f"{OUTER}{_text(after.source)} → {_text(after.destination)}")
    if before.inner is None or after.inner is None:
        return found
    one, other = before.inner, after.inner
    if one.ttl != other.ttl:
        found.append(f"TTL {one.ttl} → {other.ttl}")
    if one.source != other.source:
        found.append(f"source {_text(one.source)} → {_text(other.source)}")
    if one.destination != other.destination:
        found.append(f"destination {_text(one.destination)} → {_text(other.destination)}")
    if one.ether_destination != other.ether_destination:
        found.append(f"to MAC {other.ether_destination.hex(':')}")
    if len(one.frame) == len(other.frame) and one.protocol == 6 and one.payload[20:] != other.payload[20:]:
        found.append("TCP's MSS clamped")
    return found


def _text(address: bytes) -> str:
    return str(ip_address(address)) if len(address) in (4, 16) else "?"
