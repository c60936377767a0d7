# SPDX-License-Identifier: Apache-2.0
"""A tunnel packet as a function in user space gets it: what its headers and options say, and the plain frames by which
it is answered or sent on. Pure; anything that is no whole tunnel packet is None.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from mizar.model.addresses import ROUTER_MAC
from mizar.model.errors import InvalidError
from mizar.oracle.checksum import adjusted, checksum, ones_sum

GENEVE, VXLAN = 6081, 4789
_TCP, _UDP, _ICMP = 6, 17, 1
_ETHERNET = 14
_SUMS = {_TCP: 16, _UDP: 6, 58: 2}
"""Where the checksum stands that covers the addresses, by protocol."""
Address = IPv4Address | IPv6Address


class Option(NamedTuple):
    """A Geneve option: class, type and data."""

    of: int
    type: int
    data: bytes


class _Layout(NamedTuple):
    source: int
    size: int
    header: int
    protocol: int


_FAMILIES = {0x0800: _Layout(12, 4, 20, 9), 0x86DD: _Layout(8, 16, 40, 6)}


@dataclass(frozen=True, slots=True)
class Inner:
    """The inner packet, as far as it is IPv4 or IPv6. Ports are those of TCP and UDP, else 0."""

    frame: bytes
    source: Address
    destination: Address
    protocol: int
    transport: int
    """Where the header behind IP's begins in the frame; 0 for a fragment behind the first."""

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination port."""
        if self.protocol not in (_TCP, _UDP) or not self.transport or len(self.frame) < self.transport + 4:
            return 0, 0
        return struct.unpack_from("!HH", self.frame, self.transport)

    @property
    def payload(self) -> bytes:
        """Of a UDP datagram, else all behind the IP header."""
        at = self.transport + (8 if self.protocol == _UDP else 0)
        return self.frame[at:] if self.transport else b""

    def back(self) -> bytes:
        """The packet on its way back to who sent it: addresses and ports change places, which leaves checksums
        right."""
        answer = bytearray(self._sent(self.destination, self.source))
        if self.protocol in (_TCP, _UDP) and self.transport:
            ports = self.frame[self.transport : self.transport + 4]
            answer[self.transport : self.transport + 4] = ports[2:] + ports[:2]
        return bytes(answer)

    def forward(self, to: Address | str) -> bytes:
        """The packet on to another address, from the one it was sent to: an endpoint's agent lets it send from no
        other. Raises InvalidError for an address of the other family."""
        to = ip_address(to) if isinstance(to, str) else to
        if to.version != self.destination.version:
            raise InvalidError(f"a packet of IPv{self.destination.version} cannot go on to {to}")
        return self._sent(self.destination, to)

    def _sent(self, source: Address, to: Address) -> bytes:
        """A plain frame from the function's endpoint, whose MAC the inner frame bears, to its router."""
        frame = bytearray(self.frame)
        at, size, _, _ = _FAMILIES[int.from_bytes(frame[12:14], "big")]
        frame[:12] = ROUTER_MAC + self.frame[:6]
        before, after = bytes(frame[_ETHERNET + at : _ETHERNET + at + 2 * size]), source.packed + to.packed
        frame[_ETHERNET + at : _ETHERNET + at + 2 * size] = after
        if size == 4:
            _mend(frame, _ETHERNET + 10, before, after)
        place = _SUMS.get(self.protocol)
        if (
            place is not None
            and self.transport
            and not (self.protocol == _UDP and not any(frame[self.transport + 6 : self.transport + 8]))
        ):
            _mend(frame, self.transport + place, before, after)
        return bytes(frame)


@dataclass(frozen=True, slots=True)
class TunnelPacket:
    """Whole, as it came. `inner` is None where the inner frame is not IP."""

    frame: bytes
    outer_source: Address
    outer_destination: Address
    tunnel: str
    vni: int
    options: tuple[Option, ...]
    inner_frame: bytes
    inner: Inner | None


def read(frame: bytes) -> TunnelPacket | None:
    """None for a frame that is none, or is cut short."""
    try:
        layout = _FAMILIES[int.from_bytes(frame[12:14], "big")]
        if frame[_ETHERNET + layout.protocol] != _UDP:
            return None
        source, to = _ends(frame, layout)
        udp = _ETHERNET + _header(frame, layout)
        (port,) = struct.unpack_from("!H", frame, udp + 2)
        tunnel = {GENEVE: "geneve", VXLAN: "vxlan"}[port]
        first, _, _, last = struct.unpack_from("!BBHI", frame, udp + 8)
        begin = udp + 16
        end = begin + (4 * (first & 0x3F) if port == GENEVE else 0)
        options, inner = tuple(_options(frame[begin:end])), frame[end:]
        if len(inner) < _ETHERNET:
            return None
        return TunnelPacket(frame, source, to, tunnel, last >> 8, options, inner, read_inner(inner))
    except (KeyError, IndexError, struct.error, ValueError):
        return None


def read_inner(frame: bytes) -> Inner | None:
    """The same of a frame without a tunnel."""
    layout = _FAMILIES.get(int.from_bytes(frame[12:14], "big"))
    if layout is None or len(frame) < _ETHERNET + layout.header:
        return None
    source, to = _ends(frame, layout)
    later = layout.size == 4 and struct.unpack_from("!H", frame, _ETHERNET + 6)[0] & 0x1FFF
    at = 0 if later else _ETHERNET + _header(frame, layout)
    return Inner(frame, source, to, frame[_ETHERNET + layout.protocol], at)


def completed(frame: bytes) -> bytes:
    """The frame with its checksum, where the sender's kernel has left that to hardware (CHECKSUM_PARTIAL: the sum over
    addresses, protocol and length stands in its place). Any other stays as it is, right or wrong."""
    inner = read_inner(frame)
    place = _SUMS.get(inner.protocol) if inner is not None and inner.transport else None
    if inner is None or place is None:
        return frame
    layout = _FAMILIES[int.from_bytes(frame[12:14], "big")]
    (length,) = struct.unpack_from("!H", frame, _ETHERNET + (2 if layout.size == 4 else 4))
    end = _ETHERNET + length + (0 if layout.size == 4 else layout.header)
    data = frame[inner.transport : end]
    if len(data) < place + 2:
        return frame
    ends = inner.source.packed + inner.destination.packed
    pseudo = ends + struct.pack("!II", len(data), inner.protocol)
    if data[place : place + 2] != struct.pack("!H", ones_sum(pseudo)):
        return frame
    whole = checksum(pseudo + data[:place] + b"\0\0" + data[place + 2 :]) or 0xFFFF
    at = inner.transport + place
    return frame[:at] + struct.pack("!H", whole) + frame[at + 2 :]


def _header(frame: bytes, layout: _Layout) -> int:
    return (frame[_ETHERNET] & 15) * 4 if layout.size == 4 else layout.header


def _ends(frame: bytes, layout: _Layout) -> tuple[Address, Address]:
    at, size = _ETHERNET + layout.source, layout.size
    return ip_address(frame[at : at + size]), ip_address(frame[at + size : at + 2 * size])


def _options(raw: bytes) -> list[Option]:
    found, at = [], 0
    while at + 4 <= len(raw):
        of, kind, words = struct.unpack_from("!HBB", raw, at)
        end = at + 4 + 4 * (words & 0x1F)
        found.append(Option(of, kind, raw[at + 4 : end]))
        at = end
    return found


def _mend(frame: bytearray, at: int, before: bytes, after: bytes) -> None:
    """RFC 1624."""
    if at + 2 <= len(frame):
        (old,) = struct.unpack_from("!H", frame, at)
        struct.pack_into("!H", frame, at, adjusted(old, before, after))
