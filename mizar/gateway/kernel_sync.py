# SPDX-License-Identifier: Apache-2.0
"""What the kernel translated becomes a hot connection, and the two end together.

Called by the gateway's process: with each event of the kernel's conntrack, now and then with all of its connections,
and for each connection that the flow table ended. Once it is hot, the kernel sees no packet of a connection: its
entry there is given the time-out of a hot one, and goes when that has gone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from mizar.gateway.entries import NAMES, Connection
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.judge import allows
from mizar.kernel.conntrack import DESTINATION_NAT, SOURCE_NAT, Conntrack, Entry, Event, Tuple
from mizar.model.errors import ConflictError, ExhaustedError
from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import NatRules

_log = logging.getLogger(__name__)
REFRESH_S = 30.0
"""How often all connections of the kernel are looked at."""
MARGIN_S = 120
"""By how much the kernel's entry outlives a hot connection that nobody refreshes."""


@dataclass
class KernelSync:
    """Between the kernel's connections of one namespace and the flow table. `nat` are the rules in force."""

    table: FlowTable
    conntrack: Conntrack
    nat: NatRules
    installed: int = 0
    refused: int = 0
    _known: dict[Flow, Entry] = field(default_factory=dict)

    def told(self, event: Event) -> None:
        """One connection began or ended in the kernel."""
        flows = translated(event.entry, self.nat)
        if flows is None:
            return
        if event.ended:
            self._known.pop(flows[0], None)
            found = self.table.find(flows[0])
            if found is not None and found.becomes == flows[1]:
                self.table.end(found)
            return
        self._install(event.entry, flows)

    def refresh(self) -> None:
        """Compares all: hot connections are kept in the kernel, others end there; those that were missed are
        installed."""
        limits, now = self.table.limits(), self.table.clock()
        known: dict[Flow, Entry] = {}
        for entry in self.conntrack.entries():
            flows = translated(entry, self.nat)
            if flows is None:
                if entry.mark and entry.status & (SOURCE_NAT | DESTINATION_NAT):
                    self.conntrack.delete(entry)  # no rule makes it any more
                continue
            found = self.table.find(flows[0])
            if found is None:
                if flows[0] in self._known:
                    self.conntrack.delete(entry)
                else:
                    self._install(entry, flows)
            elif found.becomes == flows[1]:
                known[flows[0]] = entry
                if self.table.alive(found, limits, now) and entry.timeout_s < self._time_s() // 2:
                    self.conntrack.keep(entry, self._time_s())
        self._known |= known

    def ended(self, connection: Connection) -> None:
        """The flow table has ended it: so does the kernel, and its port is free again."""
        entry = self._known.pop(connection.original, None)
        if entry is not None:
            self.conntrack.delete(entry)

    def _install(self, entry: Entry, flows: tuple[Flow, Flow]) -> None:
        try:
            self.table.install(*flows, self.nat)
        except (ConflictError, ExhaustedError) as error:
            self.refused += 1
            _log.warning("connection-refused flow=%s reason=%s", flows[0], error)
            self.conntrack.delete(entry)
            return
        self.installed += 1
        self._known[flows[0]] = entry
        self.conntrack.keep(entry, self._time_s())

    def _time_s(self) -> int:
        times = self.nat.timeouts
        return max(times.udp_s, times.icmp_s, times.tcp_s) + MARGIN_S


def translated(entry: Entry, nat: NatRules) -> tuple[Flow, Flow] | None:
    """A connection's first flow and what it becomes; None for one that no rule makes: of the kernel itself, or of
    rules that are gone. Whose it is outside says the rule that makes it."""
    if not entry.status & (SOURCE_NAT | DESTINATION_NAT) or not entry.mark:
        return None
    first, last = _flow(entry.original), _flow(entry.reply)
    if first is None or last is None:
        return None
    becomes = last.reversed()
    for outside in {rule.outside for _, rule in nat.rules()}:
        if entry.status & DESTINATION_NAT:
            pair = replace(first, meta=outside), replace(becomes, meta=entry.mark)
        else:
            pair = replace(first, meta=entry.mark), replace(becomes, meta=outside)
        if allows(nat, *pair):
            return pair
    return None


def _flow(end: Tuple) -> Flow | None:
    name = NAMES.get(end.protocol)
    if name is None:
        return None
    source, destination = int.from_bytes(end.source, "big"), int.from_bytes(end.destination, "big")
    return Flow(0, end.version, name, source, destination, end.source_port, end.destination_port)
