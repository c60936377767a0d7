# SPDX-License-Identifier: Apache-2.0
"""What endpoints of a simulation send, and what they answer: frames of octets, checksums right.

Called by mizar.simulation.reach. Pure.
"""

from __future__ import annotations

import struct

from mizar.model.addresses import ROUTER_MAC
from mizar.oracle.checksum import checksum, pseudo_header

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
PROTOCOLS = ("icmp", "udp", "tcp")
SOURCE_PORT, PORT = 40001, 80
PAYLOAD = b"mizar simulation"
_SYN, _ACK = 0x02, 0x10
_TTL = 64


def request(protocol: str, mac: bytes, source: bytes, destination: bytes, sport: int = SOURCE_PORT) -> bytes:
    """An echo request, a datagram, or the SYN of a connection; `sport`: source port, or the echo's identifier."""
    match protocol:
        case "icmp":
            body = struct.pack("!BBHHH", 8 if len(source) == 4 else 128, 0, 0, sport, 1) + PAYLOAD
            number = ICMP if len(source) == 4 else ICMPV6
        case "udp":
            body, number = struct.pack("!HHHH", sport, PORT, 8 + len(PAYLOAD), 0) + PAYLOAD, UDP
        case _:
            body, number = struct.pack("!HHIIBBHHH", sport, PORT, 1, 0, 5 << 4, _SYN, 0xFFFF, 0, 0), TCP
    return _frame(ROUTER_MAC, mac, source, destination, number, body)


def answer(frame: bytes) -> bytes:
    """What the endpoint that got such a frame sends back."""
    v4 = frame[12:14] == b"\x08\x00"
    source, destination = (frame[26:30], frame[30:34]) if v4 else (frame[22:38], frame[38:54])
    number, body = (frame[23], frame[34:]) if v4 else (frame[20], frame[54:])
    if number in (ICMP, ICMPV6):
        body = bytes([0 if v4 else 129]) + body[1:]
    elif number == UDP:
        body = body[2:4] + body[:2] + body[4:]
    else:
        body = body[2:4] + body[:2] + struct.pack("!II", 1, 2) + body[12:13] + bytes([_SYN | _ACK]) + body[14:]
    return _frame(frame[6:12], frame[:6], destination, source, number, body)


def forwarded(frame: bytes, mac: bytes) -> bytes:
    """What an endpoint that forwards sends on: one hop less, from its own MAC to the router."""
    if frame[12:14] != b"\x08\x00":
        return ROUTER_MAC + mac + frame[12:21] + bytes([frame[21] - 1]) + frame[22:]
    head = frame[14:22] + bytes([frame[22] - 1]) + frame[23:24] + bytes(2) + frame[26:34]
    return ROUTER_MAC + mac + frame[12:14] + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + frame[34:]


def destination_of(frame: bytes) -> bytes:
    """Of an IP packet in a frame."""
    return frame[30:34] if frame[12:14] == b"\x08\x00" else frame[38:54]


def source_of(frame: bytes) -> bytes:
    """Of an IP packet in a frame."""
    return frame[26:30] if frame[12:14] == b"\x08\x00" else frame[22:38]


def _frame(to: bytes, mac: bytes, source: bytes, destination: bytes, number: int, body: bytes) -> bytes:
    body = _summed(source, destination, number, body)
    if len(source) == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0x4000, _TTL, number, 0, source, destination)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        return to + mac + b"\x08\x00" + head + body
    return to + mac + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), number, _TTL) + source + destination + body


def _summed(source: bytes, destination: bytes, number: int, body: bytes) -> bytes:
    at = {ICMP: 2, ICMPV6: 2, UDP: 6, TCP: 16}[number]
    bare = body[:at] + bytes(2) + body[at + 2 :]
    v4 = struct.pack("!4s4sBBH", source, destination, 0, number, len(body)) if len(source) == 4 else b""
    pseudo = b"" if number == ICMP else v4 or pseudo_header(source, destination, len(body), number)
    return body[:at] + struct.pack("!H", checksum(pseudo + bare) or 0xFFFF) + body[at + 2 :]
