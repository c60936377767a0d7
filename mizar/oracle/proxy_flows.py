# SPDX-License-Identifier: Apache-2.0
"""ProxyFlows of proxied endpoints, as a value: what a droplet knew before a packet, and what it knows after it.

A flow has two entries, one for each side of its proxy (contracts/dataplane.h, proxy_flows). Time is not looked at: that
a flow ends by being idle is the daemon's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

EMBRYOS, CANDIDATES, PORT_TRIES, FIRST_CHOSEN_PORT = 64, 16, 16, 1024


@dataclass(frozen=True, slots=True)
class FlowKey:
    """What a packet of a flow bears when it comes to a side of its proxy."""

    vni: int
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    protocol: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Where it goes on the other side: from `local_port` there to `remote`."""

    slot: int
    remote: bytes
    local_port: int
    remote_port: int
    used: bool = False
    """Whether a packet has come from this side."""
    fin: bool = False
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """How many flows a proxy has begun, let go and refused; its newest ones, and which of them to look at next."""

    begun: int = 0
    evicted: int = 0
    refused: int = 0
    cursor: int = 0
    embryos: Mapping[int, FlowKey] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProxyFlows:
    """All flows of a droplet."""

    entries: Mapping[FlowKey, Flow] = field(default_factory=dict)
    usage: Mapping[int, Usage] = field(default_factory=dict)

    def using(self, slot: int) -> Usage:
        """What is known of one proxy's flows."""
        return self.usage.get(slot, Usage())

    def put(self, key: FlowKey, flow: Flow) -> ProxyFlows:
        """With one entry more, or another one."""
        return replace(self, entries={**self.entries, key: flow})

    def without(self, *keys: FlowKey) -> ProxyFlows:
        """With entries less."""
        return replace(self, entries={key: flow for key, flow in self.entries.items() if key not in keys})

    def counted(self, slot: int, usage: Usage) -> ProxyFlows:
        """With other numbers of one proxy."""
        return replace(self, usage={**self.usage, slot: usage})
