# SPDX-License-Identifier: Apache-2.0
"""The user-space side of the flow table: install, find, list, end, judge.

Called by the gateway's process: its slow paths install, its sweep ends what is too old, a changed file what is allowed
no more. The maps are the state; nothing is kept here but where the walk for the use of pools stands. It never
changes an entry that the data plane may be writing: it makes new ones and removes whole ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mizar.gateway.entries import (
    ANSWERED,
    INSTALLED,
    ORIGINAL,
    Connection,
    becomes_of,
    closing,
    flow_of,
    key,
    pair,
    twin,
)
from mizar.gateway.judge import allows, tenant_of
from mizar.gateway.pool_use import PoolUse
from mizar.kernel.connection_table import ConnectionTable
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import GatewayTables, tick
from mizar.kernel.layout import Fields
from mizar.model.errors import ConflictError
from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import NatRules

Ended = Callable[[Connection], None]
_LINES = 16
"""What a step over some thousand lines counts in a walk: it takes as long as so many connections."""


@dataclass
class FlowTable:
    """Connections in the data plane's maps. `clock` gives ticks."""

    tables: GatewayTables
    keeper: Keeper
    clock: Callable[[], int] = tick
    ended: Ended | None = None
    """Is told of every connection that this side ends."""
    pools: PoolUse | None = None
    """Is told of every connection that the walk meets."""
    _walk: Iterator[tuple[Flow, Fields] | None] | None = None

    def install(self, original: Flow, becomes: Flow, nat: NatRules, flags: int = 0) -> bool:
        """Makes a connection that somebody else translated; False when it is there already.

        Raises ConflictError when one of its ends belongs to another connection, and ExhaustedError when the tenant has
        as many as its quota allows, or the maps are full. Then nothing is left behind.
        """
        tenant = tenant_of(nat, original, becomes)
        rules = (self.tables.nat_settings.get(0) or {}).get("rules", 0)
        first, second = pair(original, becomes, tenant=tenant, stamp=self.clock(), flags=flags | INSTALLED, rules=rules)
        try:
            self.keeper.install(original.version, first, second)
        except ConflictError:
            there = self._table(original).get(first[0])
            if there is not None and becomes_of(original, there) == becomes:
                return False
            raise
        return True

    def find(self, flow: Flow) -> Connection | None:
        """The connection of a flow, in either direction; dead ones too."""
        value = self._table(flow).get(key(flow))
        if value is None:
            return None
        if not value["flags"] & ORIGINAL:
            flow, value = twin(flow, value), self._table(flow).get(key(twin(flow, value))) or {}
        return self.connection(flow, value) if value else None

    def listed(self) -> Iterator[Connection]:
        """Every connection that lives."""
        limits, now = self.limits(), self.clock()
        for flow, value in self._originals():
            found = self.connection(flow, value)
            if alive(found, limits, now):
                yield found

    def end(self, connection: Connection, outlived: Fields | None = None) -> bool:
        """Removes it; False when it was gone, or, with the value that it has `outlived`, has begun anew."""
        original, reply = connection.original, connection.becomes.reversed()
        if not self.keeper.remove(original.version, key(original), key(reply), outlived):
            return False
        if self.ended is not None:
            self.ended(connection)
        return True

    def count(self, budget: int) -> None:
        """Looks at so many more connections for the use of pools. Begins again behind the last; what begins meanwhile
        may be met in this walk or in the next."""
        if self.pools is None or not self.pools.counts:
            return
        limits, now, looked = self.limits(), self.clock(), 0
        if self._walk is None:
            self._walk = self._all()
        while looked < budget:
            try:
                one = next(self._walk)
            except StopIteration:
                self._walk = None
                self.pools.walked()
                return
            if one is None or not one[1]["flags"] & ORIGINAL:
                looked += _LINES if one is None else 0
                continue
            looked += 1
            found = self.connection(*one)
            if alive(found, limits, now):
                self.pools.met(found.original, found.becomes)

    def judge(self, nat: NatRules) -> int:
        """Ends every connection that these rules do not allow; returns how many."""
        found = [one for one in self.listed() if not allows(nat, one.original, one.becomes)]
        return sum(self.end(one) for one in found)

    @staticmethod
    def alive(connection: Connection, limits: Fields, now: int) -> bool:
        """As the function; for who has a table in hand."""
        return alive(connection, limits, now)

    def limits(self) -> Fields:
        """The time-outs in force, in ticks."""
        return self.tables.nat_settings.get(0) or {}

    def _originals(self) -> Iterator[tuple[Flow, Fields]]:
        return (one for one in self._all() if one is not None and one[1]["flags"] & ORIGINAL)

    def _all(self) -> Iterator[tuple[Flow, Fields] | None]:
        """Both directions' entries, and None where many lines have been looked at."""
        for table in (self.tables.connections4, self.tables.connections6):
            keys, values = table.codecs
            for one in table.walk():
                yield None if one is None else (flow_of(keys.unpack(one[0])), values.unpack(one[1]))

    def connection(self, flow: Flow, value: Fields) -> Connection:
        """From the entry of its original direction."""
        becomes = becomes_of(flow, value)
        other = self._table(flow).get(key(becomes.reversed())) or {"flags": 0, "stamp": value["stamp"]}
        stamps = value["stamp"], other["stamp"]
        return Connection(flow, becomes, value["tenant"], value["flags"], other["flags"], stamps)

    def _table(self, flow: Flow) -> ConnectionTable:
        return self.tables.connections4 if flow.version == 4 else self.tables.connections6


@contextmanager
def reading(tables: GatewayTables) -> Iterator[FlowTable]:
    """A flow table over open maps, which end with the block."""
    try:
        with Keeper(tables.maps) as keeper:
            yield FlowTable(tables, keeper)
    finally:
        for fd in tables.maps.values():
            os.close(fd)


def alive(connection: Connection, limits: Fields, now: int) -> bool:
    """Whether its time-out has not passed since the newest stamp of its two entries (contracts/gateway.h)."""
    flags = connection.flags
    kind = connection.original.protocol
    if kind == "tcp":
        limit: int = limits.get("tcp_transitory" if closing(flags) or not flags & ANSWERED else "tcp", 0)
    else:
        limit = limits.get("udp" if kind == "udp" else "icmp", 0)
    idle: int = min((now - stamp) & 0xFFFFFFFF for stamp in connection.stamps)
    return idle <= limit
