# SPDX-License-Identifier: Apache-2.0
"""A frame becomes another flow: addresses, ports, ids and checksums, in ICMP errors also those inside (RFC 5508).

Called by the machine for `nat`. Checksums are updated by difference, so that a wrong one stays wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from mizar.pipeline.interpreter.checksum import updated
from mizar.pipeline.interpreter.connection import Flow, Seen, embedded
from mizar.pipeline.interpreter.frame import Part, headers

_SUM_AT = {"tcp": 16, "udp": 6, "icmp4": 2, "icmp6": 2}


@dataclass(frozen=True, slots=True)
class _Sum:
    """A checksum field: where it is, whether 0 means none (UDP), and the checksums that cover the field itself."""

    at: int
    optional: bool = False
    covered_by: tuple[_Sum, ...] = ()


def translated(frame: bytes, seen: Seen, becomes: Flow) -> bytes:
    """The frame with its flow (`seen`) replaced."""
    parts = headers(frame)
    ip, transport = parts[1], parts[2]
    buffer = bytearray(frame)
    if seen.later:
        _addresses(buffer, ip, becomes, (), ())
    elif seen.is_error:
        _error(buffer, ip, transport, seen, becomes)
    else:
        _packet(buffer, ip, transport.begin, transport.kind, becomes, transport.limit, ())
    return bytes(buffer)


def _packet(
    buffer: bytearray, ip: Part, transport: int, protocol: str, flow: Flow, limit: int, cover: tuple[_Sum, ...]
) -> None:
    """One packet, at its IP and transport header; `cover` are the checksums of a message that carries it."""
    place = transport + _SUM_AT[protocol]
    there = place + 2 <= limit
    own = (_Sum(place, protocol == "udp", cover),) if there else ()
    sums = (*own, *cover) if protocol != "icmp4" else cover
    _addresses(buffer, ip, flow, sums, cover)
    if protocol in ("icmp4", "icmp6"):
        _put(buffer, transport + 4, flow.source_port.to_bytes(2, "big"), (*own, *cover))
    else:
        ports = flow.source_port.to_bytes(2, "big") + flow.destination_port.to_bytes(2, "big")
        _put(buffer, transport, ports, (*own, *cover))


def _addresses(buffer: bytearray, ip: Part, flow: Flow, sums: tuple[_Sum, ...], cover: tuple[_Sum, ...]) -> None:
    if ip.kind == "ipv4":
        new = flow.source.to_bytes(4, "big") + flow.destination.to_bytes(4, "big")
        _put(buffer, ip.begin + 12, new, (*sums, _Sum(ip.begin + 10, covered_by=cover)))
    else:
        _put(buffer, ip.begin + 8, flow.source.to_bytes(16, "big") + flow.destination.to_bytes(16, "big"), sums)


def _error(buffer: bytearray, ip: Part, icmp: Part, seen: Seen, becomes: Flow) -> None:
    """The packet inside travelled the other way; outside, the destination, and the source where it was hidden."""
    inner = embedded(bytes(buffer), icmp)
    assert inner is not None  # `read` found it
    own = _Sum(icmp.begin + 2)
    _packet(buffer, inner.ip, inner.transport, inner.protocol, becomes.reversed(), icmp.limit, (own,))
    width = 4 if ip.kind == "ipv4" else 16
    first = ip.begin + (12 if width == 4 else 8)
    source = int.from_bytes(buffer[first : first + width], "big")
    if becomes.source != seen.flow.source:
        source = becomes.source
    outer = Flow(0, becomes.version, icmp.kind, source, becomes.destination, 0, 0)
    _addresses(buffer, ip, outer, () if icmp.kind == "icmp4" else (own,), ())


def _put(buffer: bytearray, at: int, new: bytes, sums: tuple[_Sum, ...]) -> None:
    """Writes bytes and carries the difference into every checksum over them."""
    old = bytes(buffer[at : at + len(new)])
    buffer[at : at + len(new)] = new
    for one in sums:
        before = int.from_bytes(buffer[one.at : one.at + 2], "big")
        if one.optional and before == 0:
            continue
        after = updated(before, old, new)
        if one.optional and after == 0:
            after = 0xFFFF
        _put(buffer, one.at, after.to_bytes(2, "big"), one.covered_by)
