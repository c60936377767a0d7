# SPDX-License-Identifier: Apache-2.0
"""A connection as the data plane has it: two entries, made from a flow and what it becomes, and read back. Pure.

Called by the flow table. The sums are those that contracts/gateway.h tells: what an incremental checksum adds.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Any

from mizar.kernel.layout import Fields
from mizar.pipeline.interpreter.connection import Flow

PROTOCOLS = {"tcp": 6, "udp": 17, "icmp4": 1, "icmp6": 58}
NAMES = {number: name for name, number in PROTOCOLS.items()}

ORIGINAL, ANSWERED, FIN, PEER_FIN, RESET, PEER_RESET = 1, 2, 4, 8, 16, 32
FIXED, MAPPED, INSTALLED, GONE = 512, 1024, 2048, 0x8000
"""Those of enum connection_flag that user space asks for; a test compares them with the contract."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection: the flow of its first packet as it came, and as it went on. `stamps`: ticks, of both directions."""

    original: Flow
    becomes: Flow
    tenant: int
    flags: int
    reply_flags: int
    stamps: tuple[int, int]

    @property
    def state(self) -> str:
        """In a word: new, established or closing."""
        if closing(self.flags):
            return "closing"
        return "established" if self.flags & ANSWERED else "new"


def closing(flags: int) -> bool:
    """FINs of both sides, or a RST of one."""
    return flags & (FIN | PEER_FIN) == FIN | PEER_FIN or bool(flags & (RESET | PEER_RESET))


def pair(
    original: Flow, becomes: Flow, *, tenant: int, stamp: int, flags: int, rules: int
) -> tuple[tuple[Fields, Fields], tuple[Fields, Fields]]:
    """Key and value of the first direction, and of its twin."""
    both = flags & ~ORIGINAL
    reply, undone = becomes.reversed(), original.reversed()
    facts = {"stamp": stamp, "tenant": tenant, "rules": rules}
    return (
        (key(original), _value(original, becomes, flags=both | ORIGINAL, **facts)),
        (key(reply), _value(reply, undone, flags=both, **facts)),
    )


def key(flow: Flow) -> Fields:
    """The key of a direction, in connections4 or connections6."""
    return {**_ends(flow), "protocol": PROTOCOLS[flow.protocol]}


def twin(flow: Flow, value: Fields) -> Flow:
    """The other direction's flow, from a key as a flow and its value."""
    return becomes_of(flow, value).reversed()


def becomes_of(flow: Flow, value: Fields) -> Flow:
    """What a direction's packets become."""
    return _flow(value, flow.version, flow.protocol)


def flow_of(fields: Fields) -> Flow:
    """The flow of a key."""
    names = ("src_be", 4) if "src_be" in fields else ("src", 6)
    return _flow(fields, names[1], NAMES[fields["protocol"]])


def _flow(fields: Fields, version: int, protocol: str) -> Flow:
    if version == 4:
        source, destination = _host32(fields["src_be"]), _host32(fields["dst_be"])
    else:
        source, destination = (int.from_bytes(fields[name], "big") for name in ("src", "dst"))
    ports = _host16(fields["src_port_be"]), _host16(fields["dst_port_be"])
    return Flow(fields["meta"], version, protocol, source, destination, *ports)


def _ends(flow: Flow) -> Fields:
    ports = {"src_port_be": _host16(flow.source_port), "dst_port_be": _host16(flow.destination_port)}
    if flow.version == 4:
        return {"meta": flow.meta, "src_be": _host32(flow.source), "dst_be": _host32(flow.destination), **ports}
    addresses = {"src": flow.source.to_bytes(16, "big"), "dst": flow.destination.to_bytes(16, "big")}
    return {"meta": flow.meta, **addresses, **ports}


def _value(flow: Flow, becomes: Flow, **facts: Any) -> Fields:
    addresses = _sum(_addresses(flow), _addresses(becomes))
    if flow.protocol == "icmp4":
        whole = _sum(_ports(flow)[:2], _ports(becomes)[:2])
    elif flow.protocol == "icmp6":
        whole = _sum(_addresses(flow) + _ports(flow)[:2], _addresses(becomes) + _ports(becomes)[:2])
    else:
        whole = _sum(_addresses(flow) + _ports(flow), _addresses(becomes) + _ports(becomes))
    return {**_ends(becomes), "address_sum": addresses, "whole_sum": whole, **facts}


def _sum(old: bytes, new: bytes) -> int:
    total = 0
    form = f"={len(old) // 2}H"
    for before, after in zip(struct.unpack(form, old), struct.unpack(form, new), strict=True):
        if before != after:
            total += (~before & 0xFFFF) + after
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _addresses(flow: Flow) -> bytes:
    length = 4 if flow.version == 4 else 16
    return flow.source.to_bytes(length, "big") + flow.destination.to_bytes(length, "big")


def _ports(flow: Flow) -> bytes:
    return flow.source_port.to_bytes(2, "big") + flow.destination_port.to_bytes(2, "big")


def _host32(number: int) -> int:
    return int.from_bytes(number.to_bytes(4, "big"), sys.byteorder)


def _host16(number: int) -> int:
    return int.from_bytes(number.to_bytes(2, "big"), sys.byteorder)
