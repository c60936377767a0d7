# SPDX-License-Identifier: Apache-2.0
"""Frames for the droplet of golden.py, one for each thing that it does or refuses, and what a sweep makes of a frame,
octet by octet. Golden frames are among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.oracle import build, golden
from tests.oracle.differential import Arrival
from tests.oracle.droplets import HOST, ME, MY_MAC, RED, address, mac_of, packed
from tests.oracle.havoc import mend

A, R = mac_of(1, 11), mac_of(1, 21)
GROUP = packed("ff02::1:ff00:b")
PLAIN_OPTIONS = bytes([60, 0, 1, 4, 0, 0, 0, 0])
SENDERS = {"agent": (11, A), "transit": (21, R)}
TARGETS = ((1, 1), (1, 11), (1, 21), (1, 31), (1, 99), (2, 11))
"""Network and host: the gateway, endpoints here and elsewhere, nobody, another network."""


def seeds() -> Iterator[Arrival]:
    """All of them, at their doors; those of transit in both tunnels, once with an option."""
    yield from (Arrival(each.door, each.comes) for each in golden.ALL)
    for door, (host, mac) in SENDERS.items():
        for frame in (*packets(host, mac), *requests(host, mac)):
            if door == "agent":
                yield Arrival(door, frame)
            else:
                yield Arrival(door, carried("vxlan", frame))
                yield Arrival(door, carried("geneve", frame, build.option(0x0102, 1, 1)))


def carried(kind: str, frame: bytes, options: bytes = b"") -> bytes:
    """In a tunnel, without DF."""
    return build.tunnel(
        kind, frame, src=HOST, dst=ME, src_mac=mac_of(2, 4), dst_mac=MY_MAC, vni=RED, fragment=0, options=options
    )


def packets(host: int, mac: bytes) -> Iterator[bytes]:
    """To all kinds of destinations, also as the last hop sends them; fragments; extension headers."""
    for number, target in TARGETS:
        for source_mac in (mac, build.ROUTER):
            body = build.udp(4001, 4002, b"mizar!")
            old = build.ipv4(address(4, 1, host), address(4, number, target), 17, body)
            new = build.ipv6(address(6, 1, host), address(6, number, target), 17, body)
            yield build.ethernet(build.ROUTER, source_mac, 0x0800, old)
            yield build.ethernet(build.ROUTER, source_mac, 0x86DD, new)
    for fragment in (0x2000, 0x0003, 0x2003):
        old = build.ipv4(address(4, 1, host), address(4, 1, 99), 17, build.udp(4001, 4002, b""), fragment=fragment)
        yield build.ethernet(build.ROUTER, mac, 0x0800, old)
    for count in (1, 7, 8):
        chain = bytes([60, *PLAIN_OPTIONS[1:]]) * (count - 1) + bytes([17, *PLAIN_OPTIONS[1:]])
        new = build.ipv6(address(6, 1, host), address(6, 1, 21), 60, chain + build.udp(4001, 4002, b""))
        yield build.ethernet(build.ROUTER, mac, 0x86DD, new)
    for units in (0, 0x0008):
        piece = bytes([58, 0]) + units.to_bytes(2, "big") + bytes(4) + bytes([136, 0, 0, 0])
        new = build.ipv6(address(6, 1, host), address(6, 1, 21), 44, piece)
        yield build.ethernet(build.ROUTER, mac, 0x86DD, new)


def requests(host: int, mac: bytes) -> Iterator[bytes]:
    """To the router: ARP, solicitations, probes, echo."""
    mine, own = address(4, 1, host), address(6, 1, host)
    for source, target in ((mine, address(4, 1, 1)), (bytes(4), mine), (bytes(4), address(4, 1, 99)), (mine, mine)):
        yield build.ethernet(b"\xff" * 6, mac, 0x0806, build.arp(mac, source, target))
    here = address(6, 1, 1)
    for source, target, options in (
        (own, here, b"\x01\x01" + mac),
        (own, address(6, 1, 99), b"\x0e\x01nonce!\x01\x01" + mac),
        (own, here, b""),
        (own, own, b"\x01\x01" + mac),
        (own, here, b"\x01\x01" + mac + b"\x01\x01" + mac_of(9, 9)),
        (own, here, b"\x0e\x01nonce!" * 6),
        (own, here, b"\x0e\x01nonce!" * 7),
        (own, here, b"\x0e\x01nonce!" * 6 + bytes(8)),
        (bytes(16), own, b""),
        (bytes(16), address(6, 1, 99), b""),
        (bytes(16), own, b"\x01\x01" + mac),
        (packed("fe80::1"), here, b"\x01\x01" + mac),
        (own, packed("::ffff:10.0.1.11"), b"\x01\x01" + mac),
    ):
        message = build.icmpv6(source, GROUP, bytes([135, 0, 0, 0]) + bytes(4) + target + options)
        yield build.ethernet(b"\x33\x33" + GROUP[12:], mac, 0x86DD, build.ipv6(source, GROUP, 58, message, ttl=255))
    old = build.ipv4(mine, address(4, 1, 1), 1, build.echo(8, 0, b"mizar!"))
    yield build.ethernet(build.ROUTER, mac, 0x0800, old)
    message = build.icmpv6(own, here, build.echo(128, 0, b"mizar!"))
    yield build.ethernet(build.ROUTER, mac, 0x86DD, build.ipv6(own, here, 58, message))


def octet_by_octet(each: Arrival, values: frozenset[int]) -> Iterator[Arrival]:
    """Each octet with other values, each length; with outer lengths and checksums as they were, and mended."""
    for at in range(len(each.frame)):
        for value in values | {each.frame[at] ^ 1, each.frame[at] ^ 0x80}:
            data = bytearray(each.frame)
            data[at] = value
            yield from as_it_is_and_mended(each, data)
    for length in range(14, len(each.frame)):
        yield from as_it_is_and_mended(each, bytearray(each.frame[:length]))


def as_it_is_and_mended(each: Arrival, data: bytearray) -> Iterator[Arrival]:
    frame = bytes(data)
    yield replace(each, frame=frame)
    mend(data)
    if data != frame:
        yield replace(each, frame=bytes(data))
