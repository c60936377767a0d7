# SPDX-License-Identifier: Apache-2.0
"""A load balancer in mode nat (docs/load-balancer.md): which member the kernel's rules give a new connection.

The kernel's own choice, written anew: nft's `jhash ... mod ... seed` (net/netfilter/nft_hash.c, include/linux/jhash.h)
over the client's address, or its address and port. Asked by the daemon of the instance, for traces. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mizar.oracle.tables import in_prefix

SEED, _START, _MOST = 0x4D5A, 0xDEADBEEF, 0xFFFFFFFF
_REGISTER = 4
"""Bytes: what a field of a concatenation is filled up to, with zero."""


@dataclass(frozen=True, slots=True)
class Client:
    """One direction of a connection: addresses as packed bytes, ports as numbers."""

    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class NatBalancer:
    """`listeners`: protocol and port → the members' port. `members`: those that take new connections, and their
    weights, in order. `full`: nothing new is taken."""

    public: tuple[bytes, ...]
    listeners: dict[tuple[int, int], int]
    members: tuple[tuple[bytes, int], ...]
    refused: tuple[tuple[bytes, int], ...] = ()
    by_client: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a new connection goes; `why` not, where nowhere."""

    member: bytes = b""
    port: int = 0
    why: str = ""


def choose(balancer: NatBalancer, client: Client) -> Choice:
    """What becomes of the first packet of a connection, as the rules stand one behind the other."""
    if any(in_prefix(client.source, *prefix) for prefix in balancer.refused):
        return Choice(why="Its source is of the VPC, of a peer or of what is behind it: nobody outside can be it.")
    port = balancer.listeners.get((client.protocol, client.destination_port))
    if client.destination not in balancer.public or port is None:
        return Choice(why="No listener takes it.")
    if balancer.full:
        return Choice(why="The load balancer has as many connections as its quota lets it have.")
    taking = [(one, weight) for one, weight in balancer.members if len(one) == len(client.destination)]
    if not taking:
        return Choice(why="No member takes new connections.")
    data = client.source
    if not balancer.by_client:
        data += struct.pack("!H", client.source_port).ljust(_REGISTER, b"\0")
    return Choice(_at(taking, scaled(jhash(data, SEED), sum(weight for _, weight in taking))), port)


def _at(taking: Sequence[tuple[bytes, int]], place: int) -> bytes:
    for member, weight in taking:
        if place < weight:
            return member
        place -= weight
    raise AssertionError("a place behind the last")


def scaled(value: int, places: int) -> int:
    """reciprocal_scale() of include/linux/kernel.h."""
    return value * places >> 32


def jhash(data: bytes, seed: int) -> int:
    """jhash() of include/linux/jhash.h, on a machine of little-endian order."""
    a = b = c = _START + len(data) + seed & _MOST
    while len(data) > 12:
        x, y, z = struct.unpack_from("<III", data)
        a, b, c = _mixed(a + x & _MOST, b + y & _MOST, c + z & _MOST)
        data = data[12:]
    if not data:
        return c
    x, y, z = struct.unpack("<III", data.ljust(12, b"\0"))
    return _final(a + x & _MOST, b + y & _MOST, c + z & _MOST)


def _rolled(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & _MOST


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for by in (4, 6, 8, 16, 19, 4):
        a = (a - c & _MOST) ^ _rolled(c, by)
        c = c + b & _MOST
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for by in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rolled(b, by) & _MOST
        a, b, c = b, c, a
    return b
