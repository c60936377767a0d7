# SPDX-License-Identifier: Apache-2.0
"""The sweep: ends connections whose time is up, in parts that hold nobody up.

Called by the gateway's process. Lines are looked at in the kernel (dataplane/gateway_sweep.c), millions a second, and
what was removed there is told where somebody asks; entries in the hash, which are few, are found here. It must
never end a connection that lives by contracts/gateway.h, whoever looks.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from math import inf

from mizar.gateway.entries import GONE, MAPPED, ORIGINAL, Connection, becomes_of, flow_of, key
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.judge import address_of
from mizar.gateway.rules import mapped
from mizar.kernel.connection_table import ConnectionTable
from mizar.kernel.gateway_keeper import SWEEP_KEYS
from mizar.kernel.layout import Fields, constant, offsets, struct_codec

_FAR = 4096
"""Entries in the hash that are looked at together."""
_MAKING = 2
"""Ticks in which a mapping may be without its first connection."""
_LONG_S, _REST = 0.05, 10
"""A look at all mappings that took longer rests so many times as long."""


class Sweep:
    """One walk after the other. `whole`: the last one has come to its end."""

    def __init__(self, table: FlowTable) -> None:
        self._table = table
        self._walk: Iterator[int] | None = None
        self.whole = True
        self._mappings_after = 0.0

    def run(self, seconds: float = inf) -> int:
        """Goes on with the walk, for so long or to its end; returns how many connections it ended."""
        until, ended = time.monotonic() + seconds, 0
        if self._walk is None:
            self._walk = self._steps()
        self.whole = False
        for count in self._walk:
            ended += count
            if time.monotonic() >= until:
                return ended
        self._walk, self.whole = None, True
        return ended

    def _steps(self) -> Iterator[int]:
        tables = self._table.tables
        for table in (tables.connections4, tables.connections6):
            place = 0
            while place < table.lines:
                place, count = self._lines(table, place)
                yield count
            yield from self._far(table)
        mapped_at_all = next(tables.nat_mappings.items(), None) is not None
        if mapped_at_all and time.monotonic() >= self._mappings_after:
            begun = time.monotonic()
            self._expire_mappings()
            took = time.monotonic() - begun
            self._mappings_after = begun + took * _REST if took > _LONG_S else 0.0

    def _lines(self, table: ConnectionTable, place: int) -> tuple[int, int]:
        limits, now = self._table.limits(), self._table.clock()
        place, count, swept = self._table.keeper.sweep(table.version, place, now, limits, tell=self._tells)
        self._tell(swept)
        return place, count

    @property
    def _tells(self) -> bool:
        return self._table.ended is not None

    def _tell(self, swept: Iterable[Fields]) -> None:
        for one in swept:
            if self._table.ended is not None:
                self._table.ended(_connection(one))

    def _far(self, table: ConnectionTable) -> Iterator[int]:
        """Of the hash, only those go to the kernel that may be too old by their own stamp."""
        at = {field: offset for field, offset, _ in offsets(f"connection{table.version}")}
        flags, stamp = struct.Struct("=H"), struct.Struct("=I")
        limits, now = self._table.limits(), self._table.clock()
        least = min(limits.get(name, 0) for name in ("udp", "icmp", "tcp", "tcp_transitory"))
        old: list[bytes] = []
        for number, (packed, value) in enumerate(table.far.raw_items(), 1):
            found = flags.unpack_from(value, at["flags"])[0]
            idle = (now - stamp.unpack_from(value, at["stamp"])[0]) & 0xFFFFFFFF
            if found & ORIGINAL and not found & GONE and idle > least:
                old.append(packed)
            if number % _FAR == 0 or len(old) == SWEEP_KEYS:
                yield self._end_far(table.version, old)
                old = []
        yield self._end_far(table.version, old)

    def _end_far(self, version: int, old: Sequence[bytes]) -> int:
        if not old:
            return 0
        limits, now = self._table.limits(), self._table.clock()
        count, swept = self._table.keeper.sweep_far(version, old, now, limits, tell=self._tells)
        self._tell(swept)
        return count

    def _expire_mappings(self) -> None:
        """An endpoint-independent mapping ends with the last connection that its inner end began, a contact with the
        last one to it: what comes in from outside prolongs neither (RFC 4787 REQ-6, RFC 7857 7)."""
        now, used, contacts = self._table.clock(), set(), set()
        for one in self._table.listed():
            if one.flags & MAPPED:
                used.add(_inner(one))
                contacts.add((_inner(one), mapped(address_of(one.original.version, one.original.destination))))
        table = self._table.tables.nat_mappings
        for found, value in list(table.items()):
            if (now - value["stamp"]) & 0xFFFFFFFF <= _MAKING:
                continue
            end = (found["meta"], found["addr"], found["port_be"], found["protocol"])
            if found["kind"] != constant("MAPPING_INNER"):
                end = (value["meta"], value["addr"], value["port_be"], found["protocol"])
            in_use = end in used
            if found["kind"] == constant("MAPPING_CONTACT"):
                in_use = (end, found["contact"]) in contacts
            if not in_use:
                table.delete(found)


def _connection(swept: Fields) -> Connection:
    """Of struct gateway_swept."""
    keys, values = (struct_codec(f"connection{swept['version']}{part}") for part in ("_key", ""))
    flow = flow_of(keys.unpack(swept["key"][: keys.size]))
    value = values.unpack(swept["value"][: values.size])
    stamps = value["stamp"], swept["twin_stamp"]
    return Connection(flow, becomes_of(flow, value), value["tenant"], value["flags"], swept["twin_flags"], stamps)


def _inner(connection: Connection) -> tuple[int, bytes, int, int]:
    """The inner end of a mapped connection, as nat_mappings has it."""
    found, original = key(connection.original), connection.original
    address = mapped(address_of(original.version, original.source))
    return original.meta, address, found["src_port_be"], found["protocol"]
