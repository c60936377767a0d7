# SPDX-License-Identifier: Apache-2.0
"""Frames from fields, any of which may lie. Knows neither the oracle nor the data plane.

A field that is None is what it ought to be.
"""

from __future__ import annotations

import struct

ROUTER = bytes.fromhex("024d5a000001")
PORTS = {"geneve": 6081, "vxlan": 4789}


def summed(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(dst: bytes, src: bytes, ethertype: int, rest: bytes) -> bytes:
    return dst + src + struct.pack("!H", ethertype) + rest


def ipv4(
    src: bytes, dst: bytes, protocol: int, payload: bytes, *, ttl: int = 64, tos: int = 0, fragment: int = 0,
    identification: int = 0, options: bytes = b"", version: int = 4, ihl: int | None = None, total: int | None = None,
    check: int | None = None,
) -> bytes:  # fmt: skip
    words = 5 + len(options) // 4 if ihl is None else ihl
    length = 20 + len(options) + len(payload) if total is None else total
    fields = [version << 4 | words, tos, length & 0xFFFF, identification, fragment, ttl, protocol]
    header = struct.pack("!BBHHHBBH4s4s", *fields, 0, src, dst) + options
    right = summed(header) if check is None else check
    return header[:10] + struct.pack("!H", right) + header[12:] + payload


def ipv6(
    src: bytes, dst: bytes, protocol: int, payload: bytes, *, ttl: int = 64, version: int = 6, total: int | None = None,
    first: int = 0x12345,
) -> bytes:  # fmt: skip
    """`first`: traffic class and flow label."""
    length = len(payload) if total is None else total
    return struct.pack("!IHBB", version << 28 | first, length & 0xFFFF, protocol, ttl) + src + dst + payload


def udp(sport: int, dport: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(payload) if length is None else length, 0) + payload


def tcp(sport: int, dport: int, flags: int, options: bytes = b"", words: int | None = None) -> bytes:
    """A segment without data, whose checksum is any."""
    offset = (5 + (len(options) + 3) // 4 if words is None else words) & 15
    return struct.pack("!HHIIBBHHH", sport, dport, 1, 2, offset << 4, flags, 0xFAF0, 0x1234, 0) + options


def echo(kind: int, code: int, payload: bytes, check: int | None = None) -> bytes:
    """ICMP's; that of ICMPv6 gets its checksum from `icmpv6`."""
    message = struct.pack("!BBHHH", kind, code, 0, 7, 3) + payload
    return message[:2] + struct.pack("!H", summed(message) if check is None else check) + message[4:]


def icmpv6(src: bytes, dst: bytes, message: bytes, check: int | None = None) -> bytes:
    pseudo = src + dst + struct.pack("!II", len(message), 58)
    right = summed(pseudo + message[:2] + bytes(2) + message[4:]) if check is None else check
    return message[:2] + struct.pack("!H", right) + message[4:]


def arp(
    mac: bytes, src: bytes, dst: bytes, *, operation: int = 1, hardware: int = 1, protocol: int = 0x0800,
    sizes: int = 0x0604, target_mac: bytes = bytes(6),
) -> bytes:  # fmt: skip
    return struct.pack("!HHHH", hardware, protocol, sizes, operation) + mac + src + target_mac + dst


def option(option_class: int, kind: int, words: int, data: int | None = None) -> bytes:
    """A Geneve option that says it has `words` of data, and has `data`."""
    return struct.pack("!HBB", option_class, kind, words) + bytes(range(4 * (words & 31 if data is None else data)))


def ours(kind: int, data: bytes) -> bytes:
    """An option of the droplets' own class."""
    return struct.pack("!HBB", 0xFF01, kind, len(data) // 4) + data


def tunnel(
    kind: str, inner: bytes, *, src: bytes, dst: bytes, src_mac: bytes, dst_mac: bytes, vni: int, sport: int = 0xC123,
    tos: int = 0, ttl: int = 64, fragment: int = 0x4000, identification: int = 0, ip_options: bytes = b"",
    version: int = 4, ihl: int | None = None, total: int | None = None, protocol: int = 17, port: int | None = None,
    udp_length: int | None = None, udp_check: int = 0, options: bytes = b"", first: int | None = None, second: int = 0,
    inner_type: int | None = None, last: int = 0, ethertype: int | None = None, extension: tuple[int, bytes] = (0, b""),
) -> bytes:  # fmt: skip
    """A tunnel packet; `first`, `second`, `inner_type` and `last` are the fields of its header beside the VNI.

    In the family of `dst`: IPv6 has no header length, no options, and fragments as an `extension` header (its protocol,
    and its bytes without the first).
    """
    if kind == "vxlan":
        header = struct.pack("!BBH", 8 if first is None else first, second, inner_type or 0)
    else:
        words = len(options) // 4 if first is None else first
        header = struct.pack("!BBH", words & 0xFF, second, 0x6558 if inner_type is None else inner_type)
    body = header + struct.pack("!I", vni << 8 | last) + options + inner
    length = 8 + len(body) if udp_length is None else udp_length
    datagram = struct.pack("!HHHH", sport, PORTS[kind] if port is None else port, length & 0xFFFF, udp_check) + body
    if len(dst) == 16:
        if extension[1]:
            protocol, datagram = extension[0], bytes([protocol]) + extension[1] + datagram
        words = tos << 20 | identification
        packet = ipv6(src, dst, protocol, datagram, ttl=ttl, version=version ^ 2, total=total, first=words)
        return ethernet(dst_mac, src_mac, 0x86DD if ethertype is None else ethertype, packet)
    packet = ipv4(
        src, dst, protocol, datagram, ttl=ttl, tos=tos, fragment=fragment, identification=identification,
        options=ip_options, version=version, ihl=ihl, total=total,
    )  # fmt: skip
    return ethernet(dst_mac, src_mac, 0x0800 if ethertype is None else ethertype, packet)
