# SPDX-License-Identifier: Apache-2.0
"""How full the pools are: of each address its fullest port space, counted along the walk through the connections. Pure.

Called by the flow table's walk and read for the forecast. With endpoint-independent mapping an address has one space
for each protocol, else one for each protocol and destination; the fullest is the one that will refuse first. What turns
round inside of the gateway (hairpin) is not counted. Never keeps more than MOST spaces.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from heapq import nlargest
from ipaddress import ip_address

from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.nat import Mapping, Masquerade, NatRules

MOST = 1 << 18
SHOWN = 16
_Space = tuple[int, int, int, str, int, int]
"""Metadata, version and address outside, protocol, and destination and port, 0 for endpoint-independent mapping."""


@dataclass
class PoolUse:
    """`uses` is of the last whole walk: the fullest addresses by name, with ports in use and ports."""

    nat: NatRules
    uses: dict[str, tuple[int, int]] = field(default_factory=dict)
    _spaces: Counter[_Space] = field(default_factory=Counter)
    _mapped: set[tuple[_Space, int]] = field(default_factory=set)
    _rules: dict[tuple[int, int, int], list[Masquerade]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rule in self.nat.masquerade:
            for address in rule.addresses:
                self._rules.setdefault((rule.outside, rule.version, int(address)), []).append(rule)

    @property
    def counts(self) -> bool:
        """Whether there is anything to count."""
        return bool(self._rules)

    def met(self, original: Flow, becomes: Flow) -> None:
        """A connection that lives."""
        outer = becomes.meta, becomes.version, becomes.source
        for rule in self._rules.get(outer, ()):
            if original.meta not in rule.inside or not rule.ports[0] <= becomes.source_port <= rule.ports[1]:
                continue
            mapped = rule.mapping is Mapping.ENDPOINT_INDEPENDENT
            target = (0, 0) if mapped else (becomes.destination, becomes.destination_port)
            if becomes.protocol.startswith("icmp"):
                target = (target[0], 0)  # its port is the query's id, which is the port that is in use
            space = (*outer, becomes.protocol, *target)
            if len(self._spaces) >= MOST and space not in self._spaces:
                return
            if mapped and (space, becomes.source_port) in self._mapped:
                return
            if mapped:
                self._mapped.add((space, becomes.source_port))
            self._spaces[space] += 1

    def walked(self) -> None:
        """The walk is at its end: what it met is what is in use."""
        fullest: dict[str, tuple[int, int]] = {}
        for (meta, version, address, protocol, _, _), used in self._spaces.items():
            ports = max(rule.ports[1] - rule.ports[0] + 1 for rule in self._rules[meta, version, address])
            name = ip_address(address) if version == 4 else ip_address(address.to_bytes(16, "big"))
            key = f"ports of {name} in {meta:#x}, {protocol}"
            fullest[key] = max(fullest.get(key, (0, ports)), (used, ports))
        self.uses = dict(nlargest(SHOWN, fullest.items(), key=lambda one: one[1][0] / one[1][1]))
        self._spaces.clear()
        self._mapped.clear()
