# SPDX-License-Identifier: Apache-2.0
"""The data plane's connections as an engine: dataplane/gateway/connection.h in the kernel, one frame at a time.

A VLAN is a tenant, as in `world.nat_pipeline`; the program around the connections is that of
tests/dataplane/gateway_nat.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mizar.gateway.flow_table import FlowTable
from mizar.gateway.sweep import Sweep
from mizar.kernel.gateway_keeper import Keeper
from mizar.kernel.gateway_tables import tick
from mizar.pipeline.interpreter.machine import Outcome, Verdict
from mizar.pipeline.nat import NatRules
from tests.dataplane.gateway_nat import Gateway

_ERA_NS = 1_000_000 * 1_000_000_000
"""From test to test time jumps ahead, so that no note of a fragment is met again."""


@dataclass
class Kernel:
    """Rules in the maps of a loaded program, and no connections."""

    gateway: Gateway
    keeper: Keeper
    nat: NatRules
    era: int
    found: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.gateway.write(self.nat)

    def run(self, frame: bytes, now_ns: int) -> Outcome:
        """One frame with a tag; the tenant stands in the source MAC while the program runs."""
        self._at(now_ns)
        meta = 0x1000 + int.from_bytes(frame[14:16], "big")
        seen = self.gateway.run(frame[:12] + frame[16:], meta)
        if seen.meta is None:
            self.found[seen.reason] += 1
            return Outcome(Verdict.DROP, frame, meta, reason=seen.reason)
        tag = b"\x81\x00" + (seen.meta & 0xFFF).to_bytes(2, "big")
        return Outcome(Verdict.EGRESS, seen.frame[:6] + frame[6:12] + tag + seen.frame[12:], seen.meta)

    def sweep(self, now_ns: int) -> None:
        """As the gateway's process does."""
        self._at(now_ns)
        Sweep(FlowTable(self.gateway.tables, self.keeper, lambda: tick(self.gateway.now_ns))).run()

    def reasons(self) -> Counter[str]:
        """Of every frame that was dropped."""
        return self.found

    def told(self) -> set[tuple[str, int]]:
        """By the counters of tenants, which events go along with."""
        found = set()
        for meta, tenant in self.gateway.tables.nat_tenants.items():
            found |= {("QUOTA_EXCEEDED", meta)} if tenant["refused"] else set()
            found |= {("PORTS_EXHAUSTED", meta)} if tenant["exhausted"] else set()
        return found

    def _at(self, now_ns: int) -> None:
        self.gateway.now_ns = now_ns + self.era * _ERA_NS
