# SPDX-License-Identifier: Apache-2.0
"""Steps as lines of C: calls of what dataplane/gateway has by hand. Called by the groups. Pure.

A step that fails ends the way with its drop; what only this target can fail at is counted under `NO_ROOM`.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from mizar.model.errors import InvalidError
from mizar.pipeline.description import Pipeline, Spot, TunnelEnd
from mizar.pipeline.headers import TUNNELS
from mizar.pipeline.steps import (
    Count,
    Decap,
    Drop,
    Encap,
    Limit,
    PopVlan,
    PushVlan,
    Queue,
    SetMeta,
    SetVid,
    SetVni,
    Step,
    Stop,
    Table,
    Trap,
)
from mizar.pipeline.xdp.conditions import number
from mizar.pipeline.xdp.numbers import Numbers

NO_ROOM = "no room in the buffer"
"""Head room that the driver does not give, or headers behind the first buffer."""
QUEUES = 64
SECOND_NS = 1_000_000_000
_INLINE_TABLE = 32
"""Tables up to so many entries are code, longer ones stand in a map."""
_TICK_NS = 10_000_000
"""The longest tick of a kernel (HZ=100); time in ticks costs a quarter of exact time."""


@dataclass
class Steps:
    """Writes the steps of one pipeline, and collects what they need around them."""

    pipeline: Pipeline
    counters: Numbers
    limits: Numbers
    exact: bool
    tables: Numbers
    ends: dict[str, list[str]] = field(default_factory=dict)
    long: dict[str, Table] = field(default_factory=dict)

    def lines(self, here: Spot, step: Step) -> list[str]:
        """The C of a step that is neither a goto nor about connections."""
        match step:
            case Stop():
                return ["return WAY_EGRESS;"]
            case Trap():
                return ["return WAY_KERNEL;"]
            case Queue():
                if step.number >= QUEUES:
                    raise InvalidError(f"{here}: XDP has queues up to {QUEUES - 1}, found {step.number}")
                return [f"return WAY_QUEUE + {step.number};"]
            case Drop():
                return [self.drop(f"{here}: drop")]
            case Count():
                return [self._count(step)]
            case Limit():
                return self._limit(step)
            case PopVlan() | PushVlan() | Decap():
                call = {PopVlan: "pop_vlan", PushVlan: "push_vlan", Decap: "decap"}[type(step)]
                return self._or_no_room(f"{call}(ctx, p)")
            case Encap():
                return self._encap(here, step)
            case SetMeta():
                return self._set_meta(here, step)
            case SetVni() | SetVid():
                return self._set_field(here, step)
        raise AssertionError(f"unknown step {step}")

    def drop(self, name: str) -> str:
        """Ends the way with a counted drop."""
        return f"return gateway_drop(p, {self.counters.of(name)});"

    def _or_no_room(self, call: str) -> list[str]:
        return [f"if (!{call})", f"\t{self.drop(NO_ROOM)}"]

    def _count(self, step: Count) -> str:
        counter = self.counters.of(step.name)
        if step.per_meta:
            return f"count_meta(p, {counter}, {self.counters.of(f'{step.name} overflow')});"
        return f"count(p, {counter});"

    def _limit(self, step: Limit) -> list[str]:
        burst = step.burst * SECOND_NS
        full_ns = -(-burst // step.packets_per_s)
        call = "limit_meta" if step.per_meta else "limit"
        exact = "true" if self.exact else "false"
        asked = (
            f"if (!{call}(p, {self.limits.of(step.name)}, {step.packets_per_s}, {step.burst} * TOKEN, "
            f"{full_ns}ull, {exact}))"
        )
        exceeded = f"{step.name} exceeded"
        if not step.per_meta:
            return [asked, f"\t{self.drop(exceeded)}"]
        counter, overflow = self.counters.of(exceeded), self.counters.of(f"{exceeded} overflow")
        return [f"{asked} {{", f"\tcount_meta(p, {counter}, {overflow});", f"\t{self.drop(exceeded)}", "}"]

    def _encap(self, here: Spot, step: Encap) -> list[str]:
        end = self.pipeline.tunnel(step.to)
        header = fixed_header(step, end)
        name = f"END_{len(self.ends)}"
        text = ", ".join(f"{word:#018x}" for word in _words(header))
        known = [key for key, value in self.ends.items() if value[1] == text]
        if known:
            name = known[0]
        else:
            self.ends[name] = [f"{end.name}, {'vlan + ' if step.vlan else ''}{step.tunnel}", text]
        return [
            "if (is_too_long(p))",
            f"\t{self.drop(f'{here}: too long')}",
            *self._or_no_room(f"encap(ctx, p, {name}, {len(header)})"),
        ]

    def _set_meta(self, here: Spot, step: SetMeta) -> list[str]:
        get = "get_vni" if step.source == "vni" else "get_vid"
        lines = self._or_no_room(f"{get}(ctx, p, &number)")
        if step.table is not None:
            return [*lines, *self._table(here, step.table), "set_meta(p, number);"]
        return [*lines, f"set_meta(p, number + {number(step.add)});" if step.add else "set_meta(p, number);"]

    def _set_field(self, here: Spot, step: SetVni | SetVid) -> list[str]:
        call = "set_vni" if isinstance(step, SetVni) else "set_vid"
        if step.table is None:
            return self._or_no_room(f"{call}(ctx, p, p->meta)")
        return ["number = p->meta;", *self._table(here, step.table), *self._or_no_room(f"{call}(ctx, p, number)")]

    def _table(self, here: Spot, table: Table) -> list[str]:
        """`number` becomes its value."""
        missing = self.drop(f"{here}: not in the table")
        if len(table.entries) > _INLINE_TABLE:
            name = f"of {len(table.entries)} entries, {hashlib.sha256(repr(table.entries).encode()).hexdigest()[:16]}"
            self.long[name] = table
            return [f"if (!table_get({self.tables.of(name)}, number, &number))", f"\t{missing}"]
        lines = ["switch (number) {"]
        for key, value in table.entries:
            lines += [f"case {number(key)}:", f"\tnumber = {number(value)};", "\tbreak;"]
        return [*lines, "default:", f"\t{missing}", "}"]


def needs_exact_time(limit: Limit) -> bool:
    """Whether what comes in during two ticks may be more than the burst: then ticks would refuse what should pass."""
    return limit.burst * SECOND_NS < 2 * _TICK_NS * limit.packets_per_s


def fixed_header(step: Encap, end: TunnelEnd) -> bytes:
    """The headers of raw encap with lengths of 0, and the IPv4 checksum of that; contracts/wire.md."""
    tunnel = b"\x08\0\0\0\0\0\0\0" if step.tunnel == "vxlan" else b"\0\0\x65\x58\0\0\0\0"
    udp = struct.pack(">HHHH", end.source_port, TUNNELS[step.tunnel], 0, 0)
    ip = b"\x45\0\0\0\0\0\x40\0\x40\x11\0\0" + end.source.packed + end.destination.packed
    ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
    tag = struct.pack(">HH", 0x8100, end.vid or 0) if step.vlan else b""
    eth = end.destination_mac.to_bytes(6, "big") + end.source_mac.to_bytes(6, "big")
    return eth + tag + b"\x08\0" + ip + udp + tunnel


def _words(header: bytes) -> list[int]:
    """Eight bytes each, as a little-endian CPU has to write them."""
    padded = header + bytes(-len(header) % 8)
    return [int.from_bytes(padded[at : at + 8], "little") for at in range(0, len(padded), 8)]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
