# SPDX-License-Identifier: Apache-2.0
"""Endpoint-independent mappings: inner end ↔ outer end, and whom an inner end has sent to (RFC 4787 REQ-1, REQ-8).

A mapping lives as long as a connection that began with it from inside. Called by the table.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.interpreter.nat_connection import Connection
from mizar.pipeline.nat import Filtering, Masquerade

End = tuple[int, int, str, int, int]
"""Metadata, IP version, protocol, address and port: of an inner end, or of the outer one that stands for it."""


def source_end(flow: Flow) -> End:
    """The end that a flow comes from."""
    return flow.meta, flow.version, flow.protocol, flow.source, flow.source_port


def destination_end(flow: Flow) -> End:
    """The end that a flow goes to."""
    return flow.meta, flow.version, flow.protocol, flow.destination, flow.destination_port


@dataclass
class Mappings:
    """Both ends of each, the connections that hold it, and with how many of them it has a contact."""

    outer: dict[End, End] = field(default_factory=dict)
    inner: dict[End, End] = field(default_factory=dict)
    holders: dict[End, dict[Connection, None]] = field(default_factory=dict)
    contacts: Counter[tuple[End, int]] = field(default_factory=Counter)

    def hold(self, connection: Connection, inner: End, outer: End, contact: int) -> None:
        """One more connection from an inner end, to an address."""
        self.outer[inner], self.inner[outer] = outer, inner
        self.holders.setdefault(inner, {})[connection] = None
        self.contacts[outer, contact] += 1

    def release(self, connection: Connection, inner: End, contact: int) -> None:
        """One connection less; the last one takes the mapping along."""
        outer = self.outer[inner]
        del self.holders[inner][connection]
        self.contacts[outer, contact] -= 1
        if not self.contacts[outer, contact]:
            del self.contacts[outer, contact]
        if not self.holders[inner]:
            del self.holders[inner], self.outer[inner], self.inner[outer]

    def entered(self, rule: Masquerade, flow: Flow) -> End | None:
        """The inner end that a flow from outside may begin a connection with, by the rule's filter."""
        outer = destination_end(flow)
        inner = self.inner.get(outer)
        if inner is None or rule.filtering is Filtering.ADDRESS_AND_PORT:
            return None
        if rule.filtering is Filtering.ADDRESS and not self.contacts[outer, flow.source]:
            return None
        return inner
