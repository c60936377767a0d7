#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A function over AF_XDP: reads tunnel packets as they are, says what is in them, and answers datagrams.

    ip netns exec NAMESPACE python examples/tunnel_echo.py [--interface eth0] [--count N]     (as root)

Runs in the namespace of an endpoint with `bypassDecapsulation: true` (docs/endpoint-options.md). For each tunnel packet
it writes a line of JSON with the outer addresses, VNI, Geneve options and inner addresses. A UDP datagram of IPv4 or
IPv6 goes back as it came, as a plain frame from the endpoint: what a function sends is in no tunnel.
"""

from __future__ import annotations

import argparse
import json
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from mizar.kernel.xsk import XskSocket
from mizar.kernel.xsk_redirect import Redirect

ROUTER = bytes.fromhex("024d5a000001")  # every network's virtual router (contracts/wire.md)
GENEVE, VXLAN, UDP = 6081, 4789, 17
ADDRESSES = {
    0x0800: (12, 4, 20, 9),
    0x86DD: (8, 16, 40, 6),
}  # where they stand, bytes; header's bytes; the protocol's place


@dataclass(frozen=True)
class Tunnelled:
    """What a tunnel packet says."""

    outer: tuple[str, str]
    tunnel: str
    vni: int
    options: list[tuple[int, int, bytes]]
    inner: bytes


def read(frame: bytes) -> Tunnelled | None:
    """None for a frame that is none, or is cut short."""
    try:
        kind = struct.unpack_from("!H", frame, 12)[0]
        at, size, header, _ = ADDRESSES[kind]
        source, to = (str(ip_address(frame[14 + at + n * size : 14 + at + (n + 1) * size])) for n in (0, 1))
        (port,) = struct.unpack_from("!H", frame, 14 + header + 2)
        first, _, _, last = struct.unpack_from("!BBHI", frame, 14 + header + 8)
        begin = 14 + header + 16
        end = begin + (4 * (first & 0x3F) if port == GENEVE else 0)
        name = {GENEVE: "geneve", VXLAN: "vxlan"}[port]
        return Tunnelled((source, to), name, last >> 8, list(options(frame[begin:end])), frame[end:])
    except (KeyError, struct.error, ValueError):
        return None


def options(raw: bytes) -> list[tuple[int, int, bytes]]:
    """Class, type and data of each Geneve option."""
    found, at = [], 0
    while at + 4 <= len(raw):
        of, kind, words = struct.unpack_from("!HBB", raw, at)
        end = at + 4 + 4 * (words & 0x1F)
        found.append((of, kind, raw[at + 4 : end]))
        at = end
    return found


def addresses(inner: bytes) -> tuple[bytes, bytes] | None:
    """Source and destination of a UDP datagram in an inner frame; None for anything else."""
    place = ADDRESSES.get(int.from_bytes(inner[12:14], "big"))
    if place is None:
        return None
    at, size, header, protocol = place
    if len(inner) < 14 + header + 8 or inner[14 + protocol] != UDP or (size == 4 and inner[14] != 0x45):
        return None
    return inner[14 + at : 14 + at + size], inner[14 + at + size : 14 + at + 2 * size]


def echo(inner: bytes) -> bytes | None:
    """The datagram on its way back: addresses and ports change places, which leaves all checksums right."""
    found = addresses(inner)
    if found is None:
        return None
    at, size, header, _ = ADDRESSES[int.from_bytes(inner[12:14], "big")]
    answer = bytearray(inner)
    answer[:12] = ROUTER + inner[:6]
    answer[14 + at : 14 + at + 2 * size] = found[1] + found[0]
    udp = 14 + header
    answer[udp : udp + 4] = inner[udp + 2 : udp + 4] + inner[udp : udp + 2]
    return bytes(answer)


def main() -> None:
    """Works until it has seen enough, or is interrupted."""
    parser = argparse.ArgumentParser(description="Answers datagrams that come in tunnel packets, over AF_XDP.")
    parser.add_argument("--interface", default="eth0")
    parser.add_argument("--count", type=int, default=0, help="packets to read; 0: no end")
    wanted = parser.parse_args()
    read_so_far = 0
    with XskSocket(wanted.interface) as sock, Redirect(wanted.interface) as redirect:
        redirect.add(sock)
        print(json.dumps({"ready": wanted.interface, "mode": redirect.mode}), flush=True)
        while not wanted.count or read_so_far < wanted.count:
            sock.wait(1.0)
            for frame in sock.receive():
                packet = read(frame)
                if packet is None:
                    continue
                read_so_far += 1
                line = {"outer": packet.outer, "tunnel": packet.tunnel, "vni": packet.vni, "bytes": len(frame)}
                line |= {"options": [[of, kind, data.hex()] for of, kind, data in packet.options]}
                ends = addresses(packet.inner)
                if ends is not None:
                    line["inner"] = [str(ip_address(end)) for end in ends]
                print(json.dumps(line), flush=True)
                answer = echo(packet.inner)
                if answer is not None:
                    sock.send([answer])


if __name__ == "__main__":
    main()
