# SPDX-License-Identifier: Apache-2.0
"""A namespace's TCP accepts cookies that were made for it elsewhere.

The kernel believes a cookie only for about two minutes after it has made one itself for that listener
(tcp_synq_no_recent_overflow(), net/ipv4/syncookies.c). So it is made to: for an instant, every SYN in the namespace is
answered with a cookie (net.ipv4.tcp_syncookies = 2), and each listener gets one SYN from its own address, of which no
connection comes and of which its program learns nothing. Called by the daemon, on any thread. What a namespace holds is
its tenant's to fill: no more of it is read than is asked for.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from itertools import islice
from pathlib import Path

from mizar.kernel.namespaces import Namespace

Listener = tuple[int, int]
"""Family (4 or 6) and port."""
MOST = 512
"""Listeners of a namespace, of each family of sockets: those beyond are not prepared."""
_SETTING = Path("/proc/sys/net/ipv4/tcp_syncookies")
_LISTENS = "0A"
_SOURCE_PORT, _SYN = 9, 2
_TCP = struct.Struct("!HHIIBBHHH")


def prime(namespace: Namespace, addresses: Sequence[str], done: Collection[Listener]) -> set[Listener]:
    """Prepares the listeners that are not among `done`; returns all that there are. `addresses`: the endpoint's."""
    return namespace.run(lambda: _prime(addresses, done))


def _prime(addresses: Sequence[str], done: Collection[Listener]) -> set[Listener]:
    there = {(family, port) for family, port in _listeners() if any(_version(one) == family for one in addresses)}
    fresh = there - set(done)
    if not fresh:
        return there
    before = _SETTING.read_text().strip()
    _SETTING.write_text("2")
    try:
        for family, port in sorted(fresh):
            for address in (one for one in addresses if _version(one) == family):
                _send(address, port)
    finally:
        _SETTING.write_text(before if before != "0" else "1")
    return there


def _listeners() -> set[Listener]:
    found: set[Listener] = set()
    for name, families in (("tcp", (4,)), ("tcp6", (4, 6))):  # one of IPv6 may take IPv4 as well
        path = Path(f"/proc/thread-self/net/{name}")
        with contextlib.ExitStack() as stack:
            for line in islice(stack.enter_context(path.open()), 1, MOST + 1) if path.exists() else ():
                fields = line.split()
                if (
                    fields[3] != _LISTENS
                ):  # the kernel lists those that listen first (tcp_seq_next(), net/ipv4/tcp_ipv4.c)
                    break
                found |= {(family, int(fields[1].rpartition(":")[2], 16)) for family in families}
    return found


def _send(address: str, port: int) -> None:
    packed = ip_address(address).packed
    kind = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    header = _TCP.pack(_SOURCE_PORT, port, 1, 0, 5 << 4, _SYN, 1024, 0, 0)
    pseudo = packed * 2 + struct.pack("!II", len(header), socket.IPPROTO_TCP)
    header = header[:16] + struct.pack("!H", _sum(pseudo + header)) + header[18:]
    with socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind((address, 0))
        raw.sendto(header, (address, 0))


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _version(address: str) -> int:
    return ip_address(address).version
